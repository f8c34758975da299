"""Signals that ask a run to stop: the launching process hears them, every rank reads one flag."""

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

_ASK = (signal.SIGTERM, signal.SIGUSR1)
_ALL = (*_ASK, signal.SIGINT)


class Stop:
    """A flag that spawned ranks share. Once set it stays set.

    One byte of shared memory without a lock: a handler may run, and a rank may be killed, at any instruction.
    """

    def __init__(self) -> None:
        self._byte = multiprocessing.get_context("spawn").RawValue("b", 0)

    def is_set(self) -> bool:
        return bool(self._byte.value)

    def set(self) -> None:
        self._byte.value = 1


class RankStop:
    """A rank's view of the launcher's flag, and a flag of its own for signals sent to the rank itself."""

    def __init__(self, shared: Stop) -> None:
        self._shared, self._own = shared, False

    def is_set(self) -> bool:
        return self._own or self._shared.is_set()

    def listen(self) -> None:
        """SIGTERM and SIGUSR1 to this rank set its flag, those that came before included (`blocked_in_children`).

        Ctrl-C is the launching process's to hear.
        """
        for number in _ASK:
            signal.signal(number, self._hear)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)

    def _hear(self, *_: object) -> None:
        self._own = True


class _Hearing:
    """What this process has heard, and the flags to set when it does."""

    def __init__(self) -> None:
        self.stops: list[Stop] = []
        self.last: int | None = None
        self.num_interrupts = 0
        self.end_at_once: Callable[[], None] = lambda: None

    def hear(self, number: int, _: object) -> None:
        self.last = number
        self.num_interrupts += number == signal.SIGINT
        if self.num_interrupts > 1:
            self.end_at_once()
            raise KeyboardInterrupt
        for stop in self.stops:
            stop.set()
        if number == signal.SIGINT:  # not by print(), which may be what was interrupted
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")


_hearing = _Hearing()


def heard_last() -> int | None:
    """The number of the last signal that asked this process to stop."""
    return _hearing.last


@contextmanager
def heard(stop: Stop) -> Iterator[None]:
    """SIGTERM, SIGUSR1 and the first Ctrl-C set `stop`; the second Ctrl-C raises KeyboardInterrupt at once.

    May be nested: a signal sets every flag, and one that was heard before sets the inner flag at once.
    """
    if threading.current_thread() is not threading.main_thread():  # whoever owns that one decides
        yield
        return
    if any(outer.is_set() for outer in _hearing.stops):
        stop.set()
    _hearing.stops.append(stop)
    before = {number: signal.signal(number, _hearing.hear) for number in _ALL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _hearing.stops.remove(stop)
        if not _hearing.stops:
            _hearing.num_interrupts = 0


@contextmanager
def ended_by_second_interrupt(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` at the second Ctrl-C: for processes that would take their time over it."""
    _hearing.end_at_once = end
    try:
        yield
    finally:
        _hearing.end_at_once = lambda: None


def _start_tracker() -> None:
    """Start Python's resource tracker, deaf to what batch systems send to all processes of a job: it would die of it.

    Later, by the first child, is too late: starting it unblocks SIGINT and SIGTERM.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def blocked_in_children() -> Iterator[None]:
    """Processes started inside begin with these signals blocked: one that comes early is kept until they listen.

    This process goes on hearing them, by a thread that does nothing else.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _start_tracker()
    over = threading.Event()
    ear = threading.Thread(target=over.wait, name="vidgn-ear", daemon=True)
    ear.start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        over.set()
        ear.join()


_WANTED = "VIDGN_WANTED"
_SECONDS_BETWEEN_LOOKS = 0.5


@contextmanager
def wanted(folder: Path) -> Iterator[Path]:
    """Cells started inside are wanted, until the file is removed or the block ends.

    Returns:
        The file.
    """
    file = folder / f".wanted-{socket.gethostname()}-{os.getpid()}"
    file.touch()
    os.environ[_WANTED] = str(file.resolve())
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)
        del os.environ[_WANTED]


def is_wanted() -> bool:
    """Whether this cell's sweep, if it is of one, has not been stopped."""
    file = os.environ.get(_WANTED)
    return file is None or os.path.exists(file)


@contextmanager
def stopped_with_sweep(stop: Stop) -> Iterator[None]:
    """Set `stop` once the sweep no longer wants this cell."""
    if _WANTED not in os.environ:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            if not is_wanted():
                stop.set()
                return

    watcher = threading.Thread(target=watch, name="vidgn-wanted", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
