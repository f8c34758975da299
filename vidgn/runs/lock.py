"""One run, one writer. The kernel holds the lock and releases it with its process, whatever host and PID namespace.

`lock.json` is the file that is locked; what it says of its owner is for messages. On a file system without such locks
it is a lease: touched every 15 s, and another's once it was silent for two minutes.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vidgn.atomic_files import LEASE_SECONDS, silent_seconds, try_lock, write_json
from vidgn.errors import ConfigError

HEARTBEAT_SECONDS = 15
_SECONDS_OF_A_LOOK = 1.0  # for as long whoever asks whether the lock is held may hold it
_SECONDS_TO_SETTLE = 1.0  # in which of several that take over a lease the last one shows

Owner = Mapping[str, Any]


class LockedError(ConfigError):
    """Another run writes the directory: nothing in it may be touched."""


@contextmanager
def locked(run_dir: Path, log: Callable[[str], None]) -> Generator[Owner]:
    """Hold `run_dir/lock.json` while the run lives.

    Yields:
        The owner as the file names it: `check_held` knows it again.

    Raises:
        LockedError: if another run holds it.
    """
    path, owner = run_dir / "lock.json", _me()
    handle = _take(path, owner, log)
    over = threading.Event()
    heartbeat = threading.Thread(target=_beat, args=(path, over), name="vidgn-lock", daemon=True)
    if handle is None:
        log(f"{run_dir} is on a file system without locks: its lock is a lease, given up after {LEASE_SECONDS} s")
        heartbeat.start()
    try:
        yield owner
    finally:
        over.set()
        if handle is None:
            heartbeat.join()
        if read_owner(path) == owner:
            path.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def check_held(run_dir: Path, owner: Owner) -> None:
    """Check that `owner` still holds the lock, before it writes.

    Raises:
        LockedError: if its lock is gone, or another run's.
    """
    there = read_owner(run_dir / "lock.json")
    if there != owner:
        whose = f"is now {_words(there)}'s" if there else "is gone"
        raise LockedError(
            f"the lock {run_dir / 'lock.json'} {whose}: this run has stopped before it wrote anything more. "
            f"See that no other run writes there, and start the same command again to go on"
        )


def remove_left_lock(run_dir: Path) -> None:
    """Remove the lock that a killed process has left. One that is held stays."""
    path = run_dir / "lock.json"
    with suppress(LockedError, FileNotFoundError):
        handle = os.open(path, os.O_RDWR)
        try:
            if try_lock(handle) and _is_same(path, handle):
                path.unlink()
        finally:
            os.close(handle)


def read_owner(path: Path) -> dict[str, Any]:
    """What a lock file says of its owner; nothing where it can't be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "token": secrets.token_hex(8),
    }


def _words(owner: Owner) -> str:
    return f"process {owner.get('pid')} on {owner.get('host')}" if owner else "another process"


def _take(path: Path, owner: Owner, log: Callable[[str], None]) -> int | None:
    """Make the lock `owner`'s.

    Returns:
        The file descriptor that holds it, None for a lease.
    """
    give_up = time.monotonic() + _SECONDS_OF_A_LOOK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        is_ours = try_lock(handle)
        if is_ours and _is_same(path, handle):
            break
        os.close(handle)
        if is_ours is None:
            _take_lease(path, owner, log)
            return None
        if not is_ours and time.monotonic() > give_up:
            raise LockedError(_refusal(path))
        time.sleep(0.02)
    if before := read_owner(path):
        log(f"taking over the lock of {_words(before)}, which is gone")
    os.truncate(handle, 0)
    os.pwrite(handle, json.dumps(owner).encode(), 0)
    return handle


def _is_same(path: Path, handle: int) -> bool:
    """Whether the open file is the one at `path`, and not one that its holder has removed since."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _take_lease(path: Path, owner: Owner, log: Callable[[str], None]) -> None:
    before = read_owner(path)
    if before:
        silent = silent_seconds(path)
        if silent <= LEASE_SECONDS:
            left = LEASE_SECONDS - silent
            raise LockedError(f"{_refusal(path)}; should it be gone, its lease ends {left:.0f} s from now")
        log(f"taking over the lease of {_words(before)}: no sign of life for {silent:.0f} s")
    write_json(path, owner, alone=False)
    time.sleep(_SECONDS_TO_SETTLE)
    if read_owner(path) != owner:
        raise LockedError(_refusal(path))


def _refusal(path: Path) -> str:
    owner = read_owner(path)
    since = f", since {owner['since']}" if "since" in owner else ""
    return (
        f"{path.parent} is being written by another run: {_words(owner)}{since}. Wait for it, or give this one tag=NAME"
    )


def _beat(path: Path, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)
