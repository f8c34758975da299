"""Work on files that may hang, crash or eat all memory: each in a worker process with limits, replaced when it dies."""

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Generic, Literal, TypeVar

from vidgn.errors import VidgnError

T = TypeVar("T")
Failure = Literal["error", "timeout", "memory", "crash"]
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What one item may take; address space is counted on top of what the worker needs for itself."""

    timeout_seconds: float = 60.0
    memory_mib: int = 4096


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """`value` of the function for `item`, or `failure` and `reason`."""

    item: T
    value: Any = None
    failure: Failure | None = None
    reason: str = ""


def run_isolated(
    function: Callable[[T], Any], items: Iterable[T], *, workers: int, limits: Limits
) -> Iterator[Outcome[T]]:
    """`function(item)` for every item, by `workers` processes, in order of completion.

    `function` must be importable by name; a VidgnError of its own is the failure `error`. Leaving the loop early
    (Ctrl-C too) ends all workers at once.

    Raises:
        RuntimeError: rather than leave an item out.
    """
    results: queue.Queue[Outcome[T] | None] = queue.Queue(maxsize=2 * workers)
    source = _Shared(iter(items))
    keepers = [_Keeper(function, source, results, limits) for _ in range(workers)]
    for keeper in keepers:
        keeper.start()
    num_done = 0
    try:
        while any(keeper.is_alive() for keeper in keepers) or not results.empty():
            with contextlib.suppress(queue.Empty):
                if (outcome := results.get(timeout=0.5)) is not None:
                    num_done += 1
                    yield outcome
        if source.num_taken != num_done or source.take() is not None:
            raise RuntimeError(f"{workers} workers gave {num_done} outcomes for more items")
    finally:
        for keeper in keepers:
            keeper.stop()
        for keeper in keepers:
            keeper.join(5)


class _Shared(Generic[T]):
    """One iterator, many threads."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._lock = threading.Lock()
        self.num_taken = 0

    def take(self) -> tuple[T] | None:
        with self._lock:
            for item in self._items:
                self.num_taken += 1
                return (item,)
            return None


class _Keeper(threading.Thread, Generic[T]):
    """A thread that keeps one worker process busy and starts a new one when it is lost."""

    def __init__(
        self,
        function: Callable[[T], Any],
        source: _Shared[T],
        results: "queue.Queue[Outcome[T] | None]",
        limits: Limits,
    ) -> None:
        super().__init__(daemon=True)
        self._function, self._source, self._results, self._limits = function, source, results, limits
        self._process: Any = None
        self._process_lock = threading.Lock()  # Ctrl-C may come while it is started or ended
        self._pipe: Connection | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set() and (taken := self._source.take()) is not None:
            outcome = self._work(taken[0])
            if not self._stopped.is_set():
                self._results.put(outcome)
        self._end()
        if not self._stopped.is_set():
            self._results.put(None)  # wakes the reader

    def stop(self) -> None:
        self._stopped.set()
        while not self._results.empty():  # frees a keeper that waits to put
            self._results.get_nowait()
        with self._process_lock:
            if self._process is not None:
                self._process.kill()

    def _work(self, item: T) -> Outcome[T]:
        try:
            pipe = self._pipe or self._begin()
            if self._stopped.is_set():  # while the worker was starting
                return Outcome(item, None, "error", "stopped")
            pipe.send(item)
            if not pipe.poll(self._limits.timeout_seconds):
                self._end()
                return Outcome(item, None, "timeout", f"took longer than {self._limits.timeout_seconds:g} s")
            value, failure, reason = pipe.recv()
        except (EOFError, OSError) as error:
            if self._process is None:
                self._end()
                return Outcome(item, None, "crash", f"no worker could be started for it ({error})")
            self._process.join(5)
            how = _how_it_died(self._process.exitcode)
            self._end()
            return Outcome(item, None, "crash", how)
        if failure == "memory":
            self._end()  # a process that ran out of memory once is not trusted again
        return Outcome(item, value, failure, reason)

    def _begin(self) -> Connection:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._function, self._limits.memory_mib), daemon=True)
        with self._process_lock:
            process.start()
            self._process = process
        theirs.close()
        self._pipe.recv()  # imports are done: only the item itself is timed
        return self._pipe

    def _end(self) -> None:
        with self._process_lock:
            if self._process is not None:
                self._process.kill()
                self._process.join()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
        self._pipe = None


def _serve(pipe: Connection, function: Callable[[Any], Any], memory_mib: int) -> None:
    """Main of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    _limit_memory(memory_mib)
    pipe.send("ready")
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            answer = (function(item), None, "")
        except MemoryError:
            answer = (None, "memory", f"needs more than {memory_mib} MiB")
        except VidgnError as error:
            answer = (None, "error", str(error))
        pipe.send(answer)


def _limit_memory(memory_mib: int) -> None:
    try:
        import resource

        with open("/proc/self/statm") as file:
            own = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return  # no such limits on this system
    limit = own + memory_mib * MIB
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _how_it_died(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"ended its worker (exit code {exitcode})"
    try:
        return f"crashed the decoder ({signal.Signals(-exitcode).name})"
    except ValueError:
        return f"crashed the decoder (signal {-exitcode})"
