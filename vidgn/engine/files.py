"""Files that are whole or not there: write beside, flush to disk, rename, flush the directory."""

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from vidgn.errors import CheckpointError

_ATTEMPTS = 5
_Result = TypeVar("_Result")


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file next to `path`, then put it in place. On any error `path` is as it was.

    Raises: OSError (disk full, no permission), after removing the partial file.
    """
    partial = path.with_name(f".{path.name}.partial")
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


def write_text(path: Path, text: str) -> None:
    """`write_atomic` for text."""
    write_atomic(path, lambda f: f.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` for JSON; NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file of ours."""
    return json.loads(path.read_text())


def sync_directory(path: Path) -> None:
    """Make renames in `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for want of space: the disk's, or the user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def with_patience(write: Callable[[], _Result], what: str, *, say: Callable[[str], None]) -> _Result:
    """Call `write`, which writes a file whole or not at all; on a full disk say so once, wait and try again.

    Waits VIDGN_DISK_FULL_WAIT seconds (30) between attempts, five in all.
    Returns: what `write` does. Raises: CheckpointError if the disk stays full; any other OSError at once.
    """
    wait_seconds = float(os.environ.get("VIDGN_DISK_FULL_WAIT", "30"))
    for attempt in range(_ATTEMPTS):
        try:
            return write()
        except OSError as error:
            if not is_disk_full(error):
                raise
            if attempt == 0:
                say(f"no space for {what}: what was saved before stays; trying again every {wait_seconds:g} s")
            if attempt < _ATTEMPTS - 1:
                time.sleep(wait_seconds)
    raise CheckpointError(
        f"no space for {what} after {_ATTEMPTS} attempts: free some (trainer.keep=1 needs less) and start again, "
        f"it goes on from the last checkpoint"
    )
