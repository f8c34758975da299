"""Files that are whole or not there: write beside, flush to disk, rename, flush the directory. And locks on files."""

import errno
import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from vidgn.errors import CheckpointError

LEASE_SECONDS = 120  # where the file system has no locks: after so long a silence a lock's owner is gone
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def write_atomic(path: Path, write: Callable[[BinaryIO], object], *, alone: bool = True) -> None:
    """Let `write` fill a file next to `path`, then put it in place. On any error `path` is as it was.

    Args:
        alone: no other process writes `path` now, so that what a kill leaves beside it is overwritten by the next
            write.

    Raises:
        OSError: disk full, no permission, after removing the partial file.
    """
    partial = path.with_name(f".{path.name}.{'' if alone else secrets.token_hex(4) + '.'}partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_text(path: Path, text: str, *, alone: bool = True) -> None:
    """`write_atomic` for text, in which file names that are not UTF-8 stay the bytes they are."""
    write_atomic(path, lambda f: f.write(text.encode(errors="surrogateescape")), alone=alone)


def write_json(path: Path, value: Any, *, alone: bool = True) -> None:
    """`write_atomic` for JSON; NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n", alone=alone)


def read_json(path: Path) -> Any:
    """The value in a JSON file of ours.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): put it back from a copy, or train anew with tag=NAME"
        ) from None


def sync_directory(path: Path) -> None:
    """Make renames in `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def one_at_a_time(path: Path, *, on_wait: Callable[[], object] = lambda: None) -> Generator[None]:
    """A lock by `path`, a folder or a file to be made: one process at a time is inside.

    The kernel releases the lock of a process that dies. `on_wait` is called where another one is inside.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if try_lock(handle) is False:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def try_lock(handle: int, *, shared: bool = False) -> bool | None:
    """Lock an open file, until it is closed or the process ends.

    Returns:
        Whether it is this process's now; None on a file system without locks.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock on `path`; on a file system without locks, whether it was touched lately.

    Raises:
        FileNotFoundError: there is no such file.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        is_ours = try_lock(handle, shared=True)
    finally:
        os.close(handle)
    return silent_seconds(path) <= LEASE_SECONDS if is_ours is None else not is_ours


def silent_seconds(path: Path) -> float:
    """Seconds since `path` was last written or touched, by the file server's own clock: those of hosts differ.

    Where nothing can be written beside it, by this host's.

    Raises:
        FileNotFoundError: there is no such file.
    """
    touched = path.stat().st_mtime
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            return os.fstat(probe.fileno()).st_mtime - touched
    except OSError:
        return time.time() - touched
