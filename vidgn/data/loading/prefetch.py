"""From a source of files to an iterator: a thread keeps a pool of workers busy, ahead of whoever iterates."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch

from vidgn.data.clips.read import ReadTask
from vidgn.data.loading.pool import Outcome, Pool
from vidgn.data.loading.worker import Function
from vidgn.errors import ConfigError, DecodeError

Item = TypeVar("Item")
Task = TypeVar("Task")


class ReadSource(Protocol[Item]):
    """What is to be read, and what is made of it. Called from one thread at a time."""

    pin_memory: bool

    def next_reads(self) -> list[ReadTask] | None:
        """The reads of the next item or items; None at the end."""
        ...

    def complete(self, outcome: Outcome[ReadTask]) -> list[ReadTask]:
        """Take over a file that was read, or failed; the reads that must be made instead."""
        ...

    def next_ready(self) -> Item | None:
        """The next item, if it is complete."""
        ...

    def num_ahead(self, ready: Iterable[Item]) -> int:
        """Clips (videos at test) asked for and not yet handed out, `ready` ones included, beyond the oldest item."""
        ...


class InlinePool(Generic[Task]):
    """No processes: `wait` works on one item, here and now, without limits."""

    def __init__(self, function: Function, *, buffer_bytes: Callable[[Task], int]) -> None:
        self._function, self._buffer_bytes = function, buffer_bytes
        self._items: deque[Task] = deque()

    @property
    def wants_items(self) -> bool:
        return not self._items

    @property
    def is_busy(self) -> bool:
        return bool(self._items)

    def submit(self, item: Task) -> None:
        self._items.append(item)

    def wait(self) -> list[Outcome[Task]]:
        if not self._items:
            return []
        item = self._items.popleft()
        buffer = np.empty(self._buffer_bytes(item), np.uint8).data
        try:
            return [Outcome(item, self._function(item, buffer), buffer=buffer)]
        except DecodeError as error:
            return [Outcome(item, failure="error", reason=str(error))]

    def wake(self) -> None:
        pass

    def close(self) -> None:
        self._items.clear()


class Prefetch(Generic[Item]):
    """Iterator over the items of a source, read ahead by a thread that keeps the pool busy. A context manager."""

    def __init__(self, source: ReadSource[Item], pool: Pool[ReadTask], *, window: int) -> None:
        """Begin to read, unless the pool has no processes.

        Args:
            window: how many clips (videos at test) may be asked for ahead of the oldest item.
        """
        self._source, self._pool, self._window = source, pool, window
        self._ready: deque[Item] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._has_more = True  # False once the source has no more reads
        self._finished = self._closed = False
        self._device = torch.cuda.current_device() if source.pin_memory else None
        self._thread: threading.Thread | None = None
        if not isinstance(pool, InlinePool):
            self._thread = threading.Thread(target=self._run, name="vidgn-prefetch", daemon=True)
            self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._thread is None:
            while not self._ready and not self._finished:
                self._advance()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._finished)
            if self._ready:
                item = self._ready.popleft()
                self._pool.wake()
                return item
        error, self._error = self._error, None
        self.close()
        if error is not None:
            raise error
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End reading now; nothing comes after. May be called twice."""
        if self._closed:
            return
        self._closed = self._finished = True
        if self._thread is not None:
            self._pool.wake()
            self._thread.join()
        self._pool.close()
        self._ready.clear()

    def _run(self) -> None:
        try:
            if self._device is not None:
                torch.cuda.set_device(self._device)  # pinned memory belongs to a context: not to that of device 0
            while not self._finished:
                self._advance()
        except BaseException as error:
            with self._changed:
                self._error, self._finished = error, True
                self._changed.notify_all()

    def _advance(self) -> None:
        """Ask for as much as the pool takes and the window allows, wait for files, hand out what is complete."""
        while self._has_more and self._pool.wants_items and self._may_ask():
            reads = self._source.next_reads()
            self._has_more = reads is not None
            for read in reads or ():
                self._pool.submit(read)
        if self._pool.is_busy or self._has_more:
            for outcome in self._pool.wait():
                if outcome.failure == "refused":
                    raise ConfigError(outcome.reason)
                if outcome.failure == "bug":
                    raise RuntimeError(f"reading {outcome.item.row.path}:\n{outcome.reason}")
                for read in self._source.complete(outcome):
                    self._pool.submit(read)
        with self._changed:
            while (item := self._source.next_ready()) is not None:
                self._ready.append(item)
            if not self._pool.is_busy and not self._has_more:
                self._finished = True
            self._changed.notify_all()

    def _may_ask(self) -> bool:
        if self._thread is None:
            return not self._ready and not self._pool.is_busy
        return self._source.num_ahead(self._ready) < self._window
