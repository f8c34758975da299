"""What asks a run to stop: signals, and the stop token of a sweep.

The launching process handles signals, and every rank reads one flag. A stop token is a file that lies in the study's
folder while its sweep goes on. The process that sweeps names it in the environment, which reaches cells in this
process, in a launcher's workers and in batch jobs alike. Once it is removed, running cells save and stop, and the
others do not start. Cells of this machine do so too when the process that sweeps is gone, which holds a lock on it.
"""

import json
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

from vidgn.atomic_files import is_held, one_at_a_time, try_lock
from vidgn.errors import ConfigError

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_HANDLED = (*_STOP_SIGNALS, signal.SIGINT)
_STOP_TOKEN = "VIDGN_STOP_TOKEN"
_OWNER_LIVES = "VIDGN_STOP_TOKEN_HELD"  # set where cells end with the process that sweeps
_SECONDS_BETWEEN_CHECKS = 0.5


class StopFlag:
    """A flag that spawned ranks share. Once set it stays set.

    One byte of shared memory without a lock: a handler may run, and a rank may be killed, at any instruction.
    """

    def __init__(self) -> None:
        self._byte = multiprocessing.get_context("spawn").RawValue("b", 0)

    def is_set(self) -> bool:
        return bool(self._byte.value)

    def set(self) -> None:
        self._byte.value = 1


class RankStopFlag:
    """A rank's view of the launcher's flag, and a flag of its own for signals sent to the rank itself."""

    def __init__(self, shared: StopFlag) -> None:
        self._shared, self._own = shared, False

    def is_set(self) -> bool:
        return self._own or self._shared.is_set()

    def listen(self) -> None:
        """Let SIGTERM and SIGUSR1 to this rank set its flag, also those that `signals_blocked_in_children` has kept.

        Ctrl-C is left to the launching process.
        """
        for number in _STOP_SIGNALS:
            signal.signal(number, self._handle)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)

    def _handle(self, *_: object) -> None:
        self._own = True


class _Handler:
    """The signals that have come to this process, and the flags to set when one does."""

    def __init__(self) -> None:
        self.stops: list[StopFlag] = []
        self.last: int | None = None
        self.num_interrupts = 0
        self.end_at_once: Callable[[], None] = lambda: None

    def handle(self, number: int, _: object) -> None:
        self.last = number
        self.num_interrupts += number == signal.SIGINT
        if self.num_interrupts > 1:
            self.end_at_once()
            raise KeyboardInterrupt
        for stop in self.stops:
            stop.set()
        if number == signal.SIGINT:  # not by print(), which may be what was interrupted
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")


_handler = _Handler()


def last_signal() -> int | None:
    """The number of the last signal that asked this process to stop."""
    return _handler.last


@contextmanager
def listening(stop: StopFlag) -> Generator[None]:
    """Let SIGTERM, SIGUSR1 and the first Ctrl-C set `stop`, and the second Ctrl-C raise KeyboardInterrupt at once.

    May be nested: a signal sets every flag, and one that came before sets the inner flag at once.
    """
    if threading.current_thread() is not threading.main_thread():  # its owner decides
        yield
        return
    if any(outer.is_set() for outer in _handler.stops):
        stop.set()
    _handler.stops.append(stop)
    before = {number: signal.signal(number, _handler.handle) for number in _HANDLED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _handler.stops.remove(stop)
        if not _handler.stops:
            _handler.num_interrupts = 0


@contextmanager
def ended_by_second_interrupt(end: Callable[[], None]) -> Generator[None]:
    """Call `end` at the second Ctrl-C, for processes that would end late by themselves."""
    _handler.end_at_once = end
    try:
        yield
    finally:
        _handler.end_at_once = lambda: None


def _start_tracker() -> None:
    """Start Python's resource tracker with SIGUSR1 blocked: batch systems send it to all processes of a job.

    It must not be left to the first child: starting the tracker unblocks SIGINT and SIGTERM.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def signals_blocked_in_children() -> Generator[None]:
    """Start processes inside with these signals blocked: one that comes early is kept until they listen.

    This process still gets them, by a thread that does nothing else.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _start_tracker()
    over = threading.Event()
    receiver = threading.Thread(target=over.wait, name="vidgn-signals", daemon=True)
    receiver.start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        over.set()
        receiver.join()


@contextmanager
def stop_token(folder: Path, *, cells: Iterable[str], outlives: bool) -> Generator[Path]:
    """A stop token for the cells started inside. It is removed at the end, or by the caller to stop them.

    Args:
        cells: their names.
        outlives: cells go on when this process is killed, as batch jobs do.

    Yields:
        The token's file.

    Raises:
        ConfigError: if another living process sweeps one of the cells.
    """
    with one_at_a_time(folder):
        _check_tokens(folder, set(cells))
        file = folder / f".stop-token-{socket.gethostname()}-{os.getpid()}"
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        is_locked = try_lock(handle)
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "cells": sorted(cells),
            "ends_with_owner": is_locked is True and not outlives,
        }
        os.pwrite(handle, json.dumps(owner).encode(), 0)
    os.environ[_STOP_TOKEN] = str(file.resolve())
    if is_locked and not outlives:
        os.environ[_OWNER_LIVES] = "1"
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)
        del os.environ[_STOP_TOKEN]
        os.environ.pop(_OWNER_LIVES, None)


def _check_tokens(folder: Path, cells: set[str]) -> None:
    """Refuse cells that another process sweeps; remove the tokens of processes that were killed."""
    for file in folder.glob(".stop-token-*"):
        try:
            is_alive, owner = is_held(file), json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if is_alive and (shared := sorted(cells & set(owner["cells"]))):
            raise ConfigError(
                f"{len(shared)} of these cells are swept by process {owner['pid']} on {owner['host']} (first: "
                f"{shared[0]}): wait for it, vidgn status {folder} shows how far it is; or write study=NAME"
            )
        if not is_alive and owner["ends_with_owner"]:
            file.unlink(missing_ok=True)


def sweep_goes_on() -> bool:
    """Whether this cell's sweep, if it is of one, has not been stopped."""
    file = os.environ.get(_STOP_TOKEN)
    if file is None:
        return True
    try:
        return is_held(Path(file)) if _OWNER_LIVES in os.environ else os.path.exists(file)
    except FileNotFoundError:
        return False


def is_left_behind() -> bool:
    """Whether the process that sweeps this cell was killed: nobody waits for the cell's result any more."""
    file = os.environ.get(_STOP_TOKEN)
    return file is not None and not sweep_goes_on() and os.path.exists(file)


@contextmanager
def stopped_with_sweep(stop: StopFlag) -> Generator[None]:
    """Set `stop` once the token of this cell's sweep is gone."""
    if _STOP_TOKEN not in os.environ:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_SECONDS_BETWEEN_CHECKS):
            if not sweep_goes_on():
                stop.set()
                return

    watcher = threading.Thread(target=watch, name="vidgn-stop-token", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
