"""Where each rank is: so that a rank that waits can say for whom, and a rank that died can be said where.

A note is a line of text and how many came before it. Ranks make the same notes in the same order, so the one with the
fewest is the one the others wait for. Notes go to the group's store, for the other ranks, and into memory shared with
the launching process and its other ranks, for which the death of one of them is the end too.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Protocol

from vidgn.processes import lives

_SLOT_BYTES = 256
_REFUSAL_BYTES = 4096
_DONE = "done"
_LOOK_SECONDS = 0.5
_GRACE_SECONDS = 2.0  # for a rank to hear by itself, from a broken connection, that another is gone


class Store(Protocol):
    """The part of torch's store that is used."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...


class Roll:
    """A line for each rank of this machine, in memory that outlives the rank."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._bytes = multiprocessing.get_context("spawn").RawArray("c", size * _SLOT_BYTES)
        self._refusal = multiprocessing.get_context("spawn").RawArray("c", _REFUSAL_BYTES)
        self._mine: int | None = None
        self._start = ""

    def sign(self, local_rank: int, *, start: str) -> None:
        """Called by a rank as it begins.

        Args:
            start: which start of the group it is of. Ends the rank if another dies.
        """
        self._mine, self._start = local_rank, start
        self.note("starting")
        threading.Thread(target=self._watch, name="vidgn-roll", daemon=True).start()

    def note(self, what: str) -> None:
        """Replace this rank's line."""
        if self._mine is None:
            return
        line = f"{self._start} {os.getpid()} {what}".encode()[: _SLOT_BYTES - 1]
        offset = self._mine * _SLOT_BYTES
        self._bytes[offset : offset + _SLOT_BYTES] = line.ljust(_SLOT_BYTES, b"\0")

    def done(self) -> None:
        """This rank ends as it should."""
        self.note(_DONE)

    def refuse(self, why: str) -> None:
        """Leave word for the next start of the group that it need not try: it would end in the same error."""
        self._refusal.value = why.encode()[: _REFUSAL_BYTES - 1]

    def refused(self) -> str | None:
        """What a rank has left for this start."""
        return self._refusal.value.decode(errors="replace") or None

    def kill(self) -> None:
        """End all ranks at once."""
        for local_rank in range(self._size):
            _, pid, what = self._read(local_rank)
            if pid and what != _DONE:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def last(self, local_rank: int) -> str | None:
        """What a rank noted last."""
        return self._read(local_rank)[2]

    def _read(self, local_rank: int) -> tuple[str, int, str | None]:
        offset = local_rank * _SLOT_BYTES
        text = self._bytes[offset : offset + _SLOT_BYTES].rstrip(b"\0").decode(errors="replace")
        start, _, rest = text.partition(" ")
        pid, _, what = rest.partition(" ")
        return start, int(pid or 0), what or None

    def _watch(self) -> None:
        while True:
            if (gone := self._gone()) is not None:
                time.sleep(_GRACE_SECONDS)
                if self._gone() != gone:  # its note was being written when it was read
                    continue
                print(f"local rank {self._mine} ends: local rank {gone} is gone", file=sys.stderr, flush=True)
                os._exit(1)
            time.sleep(_LOOK_SECONDS)

    def _gone(self) -> int | None:
        for other in range(self._size):
            start, pid, what = self._read(other)
            if other != self._mine and start == self._start and what != _DONE and not lives(pid):
                return other
        return None


_roll: Roll | None = None  # a process is one rank


def sign(roll: Roll, local_rank: int, *, start: str) -> None:
    """Make `roll` the one this process's notes go to."""
    global _roll
    _roll = roll
    roll.sign(local_rank, start=start)


class Whereabouts:
    """Notes of one rank of a group."""

    def __init__(self, store: Store, *, rank: int, world_size: int, timeout_seconds: float) -> None:
        self._store, self.rank, self._world_size = store, rank, world_size
        self._count, self._what, self._since, self._said = 0, "", time.monotonic(), False
        self._timeout_seconds = timeout_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vidgn-waits", daemon=True)
        self._thread.start()

    def note(self, what: str) -> None:
        """This rank is now at `what`. Every rank makes the same notes."""
        self._count += 1
        self._what, self._since, self._said = what, time.monotonic(), False
        self._store.set(f"at/{self.rank}", f"{self._count} {what}")
        if _roll is not None:
            _roll.note(what)

    def waits_for(self) -> str | None:
        """The ranks that are not yet where this one is, with where they are; None if there is none."""
        behind = []
        for rank in range(self._world_size):
            if rank == self.rank:
                continue
            count, what = self._of(rank)
            if count < self._count:
                behind.append(f"rank {rank} ({what})")
        return f"rank {self.rank} ({self._what}) waits for {', '.join(behind)}" if behind else None

    def close(self) -> None:
        self._over.set()

    def _of(self, rank: int) -> tuple[int, str]:
        if not self._store.check([f"at/{rank}"]):
            return 0, "starting"
        count, _, what = self._store.get(f"at/{rank}").decode().partition(" ")
        return int(count), what

    def _watch(self) -> None:
        """Say once a wait, half-way to the time-out, for whom it is: some back ends end the process without a word."""
        while not self._over.wait(min(5.0, self._timeout_seconds / 10)):
            waited_seconds = time.monotonic() - self._since
            if self._said or waited_seconds < self._timeout_seconds / 2:
                continue
            try:
                waits = self.waits_for()
            except RuntimeError:  # the store is gone, and this rank soon will be
                return
            if waits is not None:
                self._said = True
                print(f"{waits}, for {waited_seconds:.0f} s so far", file=sys.stderr, flush=True)
