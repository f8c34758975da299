"""Rank status: what each rank is doing, so that a rank that waits can name the rank it waits for.

A status is a line of text and the number of lines before it. Ranks report the same lines in the same order, so the rank
with the fewest is the one that the others wait for. Status goes to the group's store, for the other ranks, and into
memory shared with the launching process and its other ranks, which must end when one of them dies.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Protocol

from vidgn.distributed.environment import print_of_cell
from vidgn.processes import is_zombie, lives

_STATUS_BYTES = 256
_FAILURE_BYTES = 4096
_DONE = "done"
_SECONDS_BETWEEN_CHECKS = 0.5
_SECONDS_TO_BE_REAPED = 5.0  # for the launching process to take note of a rank that has ended
_GRACE_SECONDS = 2.0  # for a rank to learn by itself, from a broken connection, that another is gone


class Store(Protocol):
    """The part of torch's store that is used."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...


class RankStatusTable:
    """The status of each rank of this machine, in shared memory that outlives the rank."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._bytes = multiprocessing.get_context("spawn").RawArray("c", size * _STATUS_BYTES)
        self._failure = multiprocessing.get_context("spawn").RawArray("c", _FAILURE_BYTES)
        self._mine: int | None = None
        self._start = ""
        self.has_hung_up = False  # see `hung_up_where_torch_hangs`

    def register(self, local_rank: int, *, start: str) -> None:
        """Make a line this rank's, as it begins. From then on the rank ends if another of its start dies.

        Args:
            start: which start of the group the rank is of.
        """
        self._mine, self._start = local_rank, start
        self.report("starting")
        threading.Thread(target=self._watch, name="vidgn-rank-status", daemon=True).start()

    def report(self, status: str) -> None:
        """Replace this rank's line."""
        if self._mine is None:
            return
        line = f"{self._start} {os.getpid()} {status}".encode()[: _STATUS_BYTES - 1]
        offset = self._mine * _STATUS_BYTES
        self._bytes[offset : offset + _STATUS_BYTES] = line.ljust(_STATUS_BYTES, b"\0")

    def done(self) -> None:
        """Report that this rank ends as it should."""
        self.report(_DONE)

    def record_failure(self, why: str) -> None:
        """Keep an error that the next start of the group would end in again, so that it does not try."""
        self._failure.value = why.encode()[: _FAILURE_BYTES - 1]

    def recorded_failure(self) -> str | None:
        """The error that a rank of an earlier start has recorded."""
        return self._failure.value.decode(errors="replace") or None

    def kill(self) -> None:
        """Kill all ranks at once."""
        for local_rank in range(self._size):
            _, pid, status = self._read(local_rank)
            if pid and status != _DONE:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def last_status(self, local_rank: int) -> str | None:
        """What a rank reported last."""
        return self._read(local_rank)[2]

    @contextmanager
    def hung_up_where_torch_hangs(self) -> Generator[None]:
        """Send the launching process's main thread SIGHUP where it waits for a rank that was killed as it ended.

        A rank that has returned sleeps until all have. torch wakes the sleepers through an event, and waits for ever
        for one of them that is killed meanwhile. `has_hung_up` tells that it was sent.
        """
        over = threading.Event()
        thread = threading.Thread(target=self._watch_ends, args=(over,), name="vidgn-ends", daemon=True)
        if threading.current_thread() is threading.main_thread():
            thread.start()
        try:
            yield
        finally:
            over.set()

    def _watch_ends(self, over: threading.Event) -> None:
        seconds = 0.0
        while not over.wait(_SECONDS_BETWEEN_CHECKS):
            ranks = [self._read(local_rank) for local_rank in range(self._size)]
            is_hung = all(status == _DONE for *_, status in ranks) and any(is_zombie(pid) for _, pid, _ in ranks)
            seconds = seconds + _SECONDS_BETWEEN_CHECKS if is_hung else 0.0
            if seconds > _SECONDS_TO_BE_REAPED:
                self.has_hung_up = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)
                return

    def _read(self, local_rank: int) -> tuple[str, int, str | None]:
        offset = local_rank * _STATUS_BYTES
        text = self._bytes[offset : offset + _STATUS_BYTES].rstrip(b"\0").decode(errors="replace")
        start, _, rest = text.partition(" ")
        pid, _, status = rest.partition(" ")
        return start, int(pid or 0), status or None

    def _watch(self) -> None:
        while True:
            if (dead := self._dead_rank()) is not None:
                time.sleep(_GRACE_SECONDS)
                if self._dead_rank() != dead:  # its line was being written when it was read
                    continue
                print_of_cell(f"local rank {self._mine} ends: local rank {dead} is gone")
                os._exit(1)
            time.sleep(_SECONDS_BETWEEN_CHECKS)

    def _dead_rank(self) -> int | None:
        for other in range(self._size):
            start, pid, status = self._read(other)
            if other != self._mine and start == self._start and status != _DONE and not lives(pid):
                return other
        return None


_table: RankStatusTable | None = None  # a process is one rank


def use_table(table: RankStatusTable, local_rank: int, *, start: str) -> None:
    """Make `table` the one that this process's status goes to."""
    global _table
    _table = table
    table.register(local_rank, start=start)


class RankStatusReporter:
    """Reports the status of one rank of a group, and knows which others are behind it."""

    def __init__(self, store: Store, *, rank: int, world_size: int, timeout_seconds: float) -> None:
        self._store, self.rank, self._world_size = store, rank, world_size
        self._count, self._status, self._since, self._has_printed = 0, "", time.monotonic(), False
        self._timeout_seconds = timeout_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vidgn-waits", daemon=True)
        self._thread.start()

    def report(self, status: str) -> None:
        """This rank's status from now on. Every rank reports the same lines."""
        self._count += 1
        self._status, self._since, self._has_printed = status, time.monotonic(), False
        self._store.set(f"at/{self.rank}", f"{self._count} {status}")
        if _table is not None:
            _table.report(status)

    def waits_for(self) -> str | None:
        """The ranks that are not yet where this one is, with their status; None if there is none."""
        behind: list[str] = []
        for rank in range(self._world_size):
            if rank == self.rank:
                continue
            count, status = self._of(rank)
            if count < self._count:
                behind.append(f"rank {rank} ({status})")
        return f"rank {self.rank} ({self._status}) waits for {', '.join(behind)}" if behind else None

    def close(self) -> None:
        self._over.set()

    def _of(self, rank: int) -> tuple[int, str]:
        if not self._store.check([f"at/{rank}"]):
            return 0, "starting"
        count, _, status = self._store.get(f"at/{rank}").decode().partition(" ")
        return int(count), status

    def _watch(self) -> None:
        """Print once for each wait, half-way to the time-out, which ranks it is for.

        Some back ends end the process at the time-out without a word.
        """
        while not self._over.wait(min(5.0, self._timeout_seconds / 10)):
            waited_seconds = time.monotonic() - self._since
            if self._has_printed or waited_seconds < self._timeout_seconds / 2:
                continue
            try:
                waits = self.waits_for()
            except RuntimeError:  # the store is gone, and this rank soon will be
                return
            if waits is not None:
                self._has_printed = True
                print_of_cell(f"{waits}, for {waited_seconds:.0f} s so far")
