"""One pool of worker processes for reading, checking, indexing and transcoding. A hung or killed worker costs its item.

Each worker has a queue of a few items in a known order, so the parent knows which one it works on. Past the time limit
the worker is killed and the item fails. A worker that dies by itself costs its item too, after some tries,
since the machine may have killed it through no fault of the item.
"""

import contextlib
import mmap
import os
import pickle
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Literal, Protocol, TypeVar

from vidgn.data.loading.fork_server import ForkServer, fork_server
from vidgn.data.loading.worker import READY, Function, Job
from vidgn.errors import VidgnError

Item = TypeVar("Item")
# error: a DecodeError. refused: another VidgnError. bug: any other exception. crash: the worker died.
Failure = Literal["error", "refused", "bug", "timeout", "memory", "crash"]

_START_SECONDS = 120.0  # for a worker to start, the imports of its fork server included
_TICK_SECONDS = 1.0
_MAX_FAILED_STARTS = 3


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """What became of an item: the function's `value`, or a `failure` with its `reason`.

    `buffer`: the item's shared memory, valid until the next call of `wait`.
    """

    item: Item
    value: Any = None
    failure: Failure | None = None
    reason: str = ""
    buffer: memoryview = field(default_factory=lambda: memoryview(b""))

    @property
    def reason_line(self) -> str:
        """The reason in one line: of a bug, the last of its traceback."""
        return self.reason.rstrip().rpartition("\n")[2]


@dataclass(frozen=True)
class Limits:
    """What one item may take; address space is counted on top of what the worker needs for itself."""

    timeout_seconds: float = 60.0
    memory_mib: int | None = 4096


class Pool(Protocol[Item]):
    """What `InlinePool` and `WorkerPool` have in common. Used from one thread, but for `wake`."""

    @property
    def wants_items(self) -> bool:
        """Whether another item would be worked on soon."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether items are waiting or being worked on."""
        ...

    def submit(self, item: Item) -> None:
        """Add an item to the end of the queue."""
        ...

    def wait(self) -> list[Outcome[Item]]:
        """Items that are done: at least one, unless woken or a second has passed."""
        ...

    def wake(self) -> None:
        """Make `wait` return soon."""
        ...

    def close(self) -> None:
        """End all work now."""
        ...


@dataclass
class _Entry(Generic[Item]):
    item: Item
    num_deaths: int = 0  # workers that died on it


@dataclass
class _Worker(Generic[Item]):
    server: ForkServer
    connection: Connection
    memory: memoryview
    free_slots: list[int]
    queue: deque[tuple[int, _Entry[Item]]] = field(default_factory=deque)  # (slot, entry), the first is worked on
    pid: int = 0
    handle: int | None = None  # pidfd, once it is ready: a number may be another process by the time it is killed
    seconds: float = 0.0  # spent on the first of the queue, or on starting, as far as this pool was there to see


class WorkerPool(Generic[Item]):
    """Worker processes, each with `slots` places for items and as many buffers of `slot_bytes` in shared memory."""

    def __init__(
        self,
        function: Function,
        *,
        workers: int,
        limits: Limits,
        preload: tuple[str, ...],
        slots: int = 1,
        slot_bytes: int = 0,
        max_deaths: int = 1,
    ) -> None:
        """Nothing is started before the first `wait`.

        Args:
            preload: modules that the fork server imports; pools with the same ones share it.
            max_deaths: workers that may die on an item before it fails.
        """
        self._function, self._limits, self._preload = function, limits, preload
        self._num_workers, self._slots, self._slot_bytes, self._max_deaths = workers, slots, slot_bytes, max_deaths
        self._waiting: deque[_Entry[Item]] = deque()
        self._workers: list[_Worker[Item]] = []
        self._lent: list[tuple[_Worker[Item], int]] = []  # slots whose outcomes have been handed out
        self._num_failed_starts = 0
        self._waker, self._wakened = socket.socketpair()
        self._waker.setblocking(False)
        self._last = time.monotonic()

    @property
    def wants_items(self) -> bool:
        return len(self._waiting) + sum(len(w.queue) for w in self._workers) < self._num_workers * self._slots

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting) or any(worker.queue for worker in self._workers)

    def submit(self, item: Item) -> None:
        self._waiting.append(_Entry(item))

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake anyway
            self._waker.send(b"!")

    def wait(self) -> list[Outcome[Item]]:
        """Items that are done, at least one unless woken or a second has passed.

        Raises:
            VidgnError: if a worker does not start.
        """
        for worker, slot in self._lent:
            worker.free_slots.append(slot)
        self._lent.clear()
        while len(self._workers) < self._num_workers:
            self._workers.append(self._start())
        self._send()
        ready = wait([self._wakened, *(worker.connection for worker in self._workers)], _TICK_SECONDS)
        elapsed, self._last = time.monotonic() - self._last, time.monotonic()
        if self._wakened in ready:
            self._wakened.recv(4096)
        outcomes: list[Outcome[Item]] = []
        for worker in list(self._workers):
            if worker.queue or worker.handle is None:
                # A process that was stopped for a while (a suspended job) must not blame its items.
                worker.seconds += min(elapsed, 2 * _TICK_SECONDS)
            if worker.connection in ready:
                outcomes += self._receive(worker)
            elif worker.handle is None and worker.seconds > _START_SECONDS:
                worker.server.close()
                raise VidgnError(
                    f"a worker process has not started within {_START_SECONDS:g} s: see what holds up imports (a slow "
                    f"or hung disk?) and start again"
                )
            elif worker.handle is not None and worker.seconds > self._limits.timeout_seconds:
                outcomes += self._give_up(worker)
        self._send()
        return outcomes

    def close(self) -> None:
        for worker in self._workers:
            _end(worker)
        self._workers.clear()
        self._waiting.clear()
        self._waker.close()
        self._wakened.close()

    def _start(self) -> _Worker[Item]:
        ours, theirs = socket.socketpair()
        connection = Connection(ours.detach())
        # Memory without a name: nothing to clean up, and /dev/shm may be small in a container.
        with theirs, os.fdopen(os.memfd_create("vidgn-items"), "wb") as file:
            num_bytes = self._slots * self._slot_bytes
            os.truncate(file.fileno(), num_bytes)
            memory = memoryview(mmap.mmap(file.fileno(), num_bytes)) if num_bytes else memoryview(b"")
            server = fork_server(self._preload)
            with contextlib.suppress(ConnectionError):  # the fork server has died: the connection says so
                server.start_worker(theirs.fileno(), file.fileno())
        return _Worker(server, connection, memory, list(range(self._slots)))

    def _send(self) -> None:
        """Hand items to the workers with the shortest queues."""
        for length in range(self._slots):
            for worker in self._workers:
                if self._waiting and worker.handle is not None and worker.free_slots and len(worker.queue) == length:
                    entry, slot = self._waiting.popleft(), worker.free_slots.pop()
                    if not worker.queue:
                        worker.seconds = 0.0
                    worker.queue.append((slot, entry))
                    offset, memory_mib = slot * self._slot_bytes, self._limits.memory_mib
                    job = Job(self._function, entry.item, offset, self._slot_bytes, memory_mib)
                    with contextlib.suppress(OSError):  # it has died: the next wait learns of it
                        worker.connection.send_bytes(pickle.dumps(job))

    def _receive(self, worker: _Worker[Item]) -> list[Outcome[Item]]:
        outcomes: list[Outcome[Item]] = []
        try:
            while worker.connection.poll():
                kind, value = worker.connection.recv()
                worker.seconds = 0.0
                if kind == READY:
                    worker.pid, worker.handle = value, os.pidfd_open(value)
                    self._num_failed_starts = 0
                    continue
                slot, entry = worker.queue.popleft()
                self._lent.append((worker, slot))
                if kind == "ok":
                    offset = slot * self._slot_bytes
                    buffer = worker.memory[offset : offset + self._slot_bytes]
                    outcomes.append(Outcome(entry.item, value, buffer=buffer))
                    continue
                outcomes.append(Outcome(entry.item, failure=kind, reason=value))
                if kind == "memory":  # a process that ran out of memory once is not trusted again
                    self._remove(worker)
                    break
        except (EOFError, OSError):
            outcomes += self._take_over(worker)
        return outcomes

    def _take_over(self, worker: _Worker[Item]) -> list[Outcome[Item]]:
        """After a worker has died by itself: its item fails or is tried again, the rest of its queue goes to others."""
        status = worker.server.exit_status(worker.pid, seconds=1.0) if worker.pid else None
        if worker.handle is None:
            self._num_failed_starts += 1
            if self._num_failed_starts >= _MAX_FAILED_STARTS:
                raise VidgnError(
                    f"{_MAX_FAILED_STARTS} worker processes in a row died before they began ({_how_it_died(status)}): "
                    f"is memory short? Start again with fewer"
                )
        outcomes: list[Outcome[Item]] = []
        if worker.queue:
            _, entry = worker.queue[0]
            entry.num_deaths += 1
            if entry.num_deaths >= self._max_deaths:
                worker.queue.popleft()
                outcomes.append(Outcome(entry.item, failure="crash", reason=_how_it_died(status)))
        self._remove(worker)
        return outcomes

    def _give_up(self, worker: _Worker[Item]) -> list[Outcome[Item]]:
        """A worker is over the time limit: it is killed, and its item fails."""
        _, entry = worker.queue.popleft()
        self._remove(worker)
        return [Outcome(entry.item, failure="timeout", reason=f"took longer than {self._limits.timeout_seconds:g} s")]

    def _remove(self, worker: _Worker[Item]) -> None:
        """End a worker, and put what it has not worked on back to the front of the queue."""
        self._workers.remove(worker)
        _end(worker)
        self._waiting.extendleft(reversed([entry for _, entry in worker.queue]))


def map_in_workers(
    function: Callable[[Item], Any],
    items: Iterable[Item],
    *,
    workers: int,
    limits: Limits,
    preload: tuple[str, ...] = (),
) -> Iterator[Outcome[Item]]:
    """`function(item)` for every item, in order of completion; it must be importable by name.

    Leaving the loop early (Ctrl-C too) ends all workers at once.

    Raises:
        RuntimeError: rather than leave an item out.
    """
    pool = WorkerPool[Item](_WithoutBuffer(function), workers=workers, limits=limits, preload=preload)
    left, num_done, is_over = iter(items), 0, False
    try:
        while True:
            while pool.wants_items and not is_over:
                for item in left:
                    pool.submit(item)
                    break
                else:
                    is_over = True
            if not pool.is_busy:
                break
            for outcome in pool.wait():
                num_done += 1
                yield outcome
        if not is_over and next(left, None) is not None:
            raise RuntimeError(f"{workers} workers gave {num_done} outcomes for more items")
    finally:
        pool.close()


class _WithoutBuffer:
    """A function of an item alone, as a worker calls it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(self, item: Any, buffer: memoryview) -> Any:
        del buffer
        return self._function(item)


def _end(worker: _Worker[Any]) -> None:
    worker.connection.close()  # one that is not ready yet ends by itself
    if worker.handle is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker.handle, signal.SIGKILL)
        os.close(worker.handle)


def _how_it_died(status: int | None) -> str:
    """From the wait status of a worker."""
    code = None if status is None else os.waitstatus_to_exitcode(status)
    if code is None or code >= 0:
        return f"ended its worker (exit code {code})"
    try:
        return f"crashed the decoder ({signal.Signals(-code).name})"
    except ValueError:
        return f"crashed the decoder (signal {-code})"
