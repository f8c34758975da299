"""From a feed of files to an iterator: a thread keeps a pool of readers busy, ahead of whoever iterates."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, Self, TypeVar

import torch

from vidgn.data.clips.read import ReadTask
from vidgn.data.loading.pool import Done, InlinePool, ReaderPool

Item = TypeVar("Item")


class Feed(Protocol[Item]):
    """What is to be read, and what becomes of it. Called from one thread at a time."""

    def more(self) -> list[ReadTask] | None:
        """Tasks of the next item or items; None at the end."""
        ...

    def accept(self, done: Done) -> list[ReadTask]:
        """Takes a file that was read, or failed; tasks that must be read instead."""
        ...

    def pop(self) -> Item | None:
        """The next item, if it is complete."""
        ...

    def ahead(self, ready: Iterable[Item]) -> int:
        """Clips (videos at test) asked for and not yet passed on, `ready` ones included, beyond the oldest item."""
        ...


class Stream(Generic[Item]):
    """Iterator over the items of a feed, read ahead by a thread that keeps the pool busy. A context manager."""

    def __init__(self, feed: Feed[Item], pool: InlinePool | ReaderPool, *, window: int) -> None:
        self._feed, self._pool, self._window = feed, pool, window
        self._ready: deque[Item] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._asked = True  # False once the feed has no more
        self._finished = self._closed = False
        self._device = torch.cuda.current_device() if getattr(feed, "pin_memory", False) else None
        self._thread: threading.Thread | None = None
        if isinstance(pool, ReaderPool):
            self._thread = threading.Thread(target=self._run, name="vidgn-loader", daemon=True)
            self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._thread is None:
            while not self._ready and not self._finished:
                self._step()
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
        """Ends reading now; nothing comes after. May be called twice."""
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
                self._step()
        except BaseException as error:
            with self._changed:
                self._error, self._finished = error, True
                self._changed.notify_all()

    def _step(self) -> None:
        """One round: ask for as much as the pool wants and the window allows, wait for files, pass on what is whole."""
        while self._asked and self._pool.wants_tasks and self._has_room():
            tasks = self._feed.more()
            self._asked = tasks is not None
            for task in tasks or ():
                self._pool.submit(task)
        if self._pool.busy or self._asked:
            for done in self._pool.wait():
                for task in self._feed.accept(done):
                    self._pool.submit(task)
        with self._changed:
            while (item := self._feed.pop()) is not None:
                self._ready.append(item)
            if not self._pool.busy and not self._asked:
                self._finished = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        if self._thread is None:
            return not self._ready and not self._pool.busy
        return self._feed.ahead(self._ready) < self._window
