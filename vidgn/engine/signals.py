"""Signals that ask a run to stop: the launching process hears them, every rank reads one flag."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ASK = (signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """A flag that spawned ranks share. Once set it stays set."""

    def __init__(self) -> None:
        self._event: Any = multiprocessing.get_context("spawn").Event()

    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()


class RankStop:
    """A rank's view of the launcher's flag, and a flag of its own for signals sent to the rank itself."""

    def __init__(self, shared: Stop) -> None:
        self._shared, self._own = shared, False

    def is_set(self) -> bool:
        return self._own or self._shared.is_set()

    def listen(self) -> None:
        """SIGTERM and SIGUSR1 to this rank set its flag; Ctrl-C is the launching process's to hear."""
        for number in _ASK:
            signal.signal(number, self._hear)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _hear(self, *_: object) -> None:
        self._own = True


@contextmanager
def heard(stop: Stop) -> Iterator[None]:
    """SIGTERM, SIGUSR1 and the first Ctrl-C set `stop`; the second Ctrl-C raises KeyboardInterrupt at once."""

    def ask(*_: object) -> None:
        stop.set()

    def interrupt(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("\nstopping after this step; Ctrl-C again stops at once", flush=True)

    try:
        before = {number: signal.signal(number, ask) for number in _ASK}
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    except ValueError:  # not the main thread: whoever owns it decides
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
