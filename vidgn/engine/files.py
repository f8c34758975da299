"""Patience with a disk that is full for a while."""

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

from vidgn.errors import CheckpointError

_ATTEMPTS = 5
_Result = TypeVar("_Result")


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
