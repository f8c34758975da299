"""One run, one writer: a lock file that names its process and host, with a heartbeat for other hosts."""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vidgn.atomic_files import one_at_a_time, silent_seconds
from vidgn.errors import ConfigError
from vidgn.processes import STALE_SECONDS, is_still, lives, started

HEARTBEAT_SECONDS = 15


class LockedError(ConfigError):
    """Another run writes the directory: nothing in it may be touched."""


@contextmanager
def locked(run_dir: Path, log: Callable[[str], None]) -> Generator[None]:
    """Hold `run_dir/lock.json` while the run lives. Its heartbeat, a touch every 15 s, is for other hosts.

    A stale lock is taken over, and the log says so: its process is gone (on this host), its heartbeat has stopped (on
    another host), or an earlier start of the same batch job has left it.

    Raises:
        LockedError: if another run holds it.
    """
    path, me = run_dir / "lock.json", _me()
    while not _create(path, me):
        owner = _read(path)
        reason = _is_stale(path, owner)
        if reason is None:
            raise LockedError(
                f"{run_dir} is being written by another run: process {owner.get('pid')} on {owner.get('host')}, "
                f"since {owner.get('started')}. Wait for it, or give this one tag=NAME"
            )
        if _remove(path, owner):
            log(f"taking over the lock of process {owner.get('pid')} on {owner.get('host')}: {reason}")
    remove_stale_locks(run_dir)
    stop = threading.Event()
    heartbeat = threading.Thread(target=_heartbeat, args=(path, stop), name="vidgn-lock", daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        stop.set()
        heartbeat.join()
        _remove(path, me)


def remove_stale_locks(run_dir: Path) -> None:
    """Remove the locks of killed processes of this host, and their temporary files. A lock that is held stays."""
    for left in run_dir.glob(".lock-*"):
        mine = re.fullmatch(re.escape(_beside_prefix()) + r"(\d+)-\d+", left.name)  # not those of a host node-2 on node
        if mine is not None and not lives(int(mine[1])):
            left.unlink(missing_ok=True)
    path = run_dir / "lock.json"
    owner = _read(path)
    if owner and _is_stale(path, owner) is not None:
        _remove(path, owner)


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": started(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "job_restarts": os.environ.get("SLURM_RESTART_COUNT", "0"),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _create(path: Path, me: dict[str, Any]) -> bool:
    """Put `me` at `path` unless something is there: a link appears whole, and on NFS too for one process only."""
    mine = _beside(path)
    mine.write_text(json.dumps(me))
    try:
        _link(mine, path)
    except FileExistsError:
        return False
    finally:
        mine.unlink()
    return True


def _link(source: Path, target: Path) -> None:
    """A link, or on file systems without them a copy that is exclusive all the same.

    Raises:
        FileExistsError: it is there already.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        with open(target, "x") as file:
            file.write(source.read_text())


def _remove(path: Path, owner: dict[str, Any]) -> bool:
    """Remove the lock if it is still `owner`'s: another process may have taken it over meanwhile, and keeps it.

    Returns:
        Whether this process removed it.
    """
    with one_at_a_time(path.parent):
        if _read(path) != owner:
            return False
        path.unlink(missing_ok=True)
        return True


def _beside_prefix() -> str:
    return f".lock-{socket.gethostname()}-"


def _beside(path: Path) -> Path:
    return path.with_name(f"{_beside_prefix()}{os.getpid()}-{threading.get_ident()}")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_stale(path: Path, owner: dict[str, Any]) -> str | None:
    """Why the owner is gone, None while it may live."""
    if owner.get("host") == socket.gethostname():
        gone = not is_still(int(owner.get("pid", 0)), owner.get("process_started"))
        return "that process is gone" if gone else None
    me = _me()
    if owner.get("job") and owner["job"] == me["job"] and owner.get("job_restarts") != me["job_restarts"]:
        return "an earlier start of this batch job"
    try:
        silent = silent_seconds(path)
    except FileNotFoundError:
        return "it was just given up"
    return f"no sign of life for {silent:.0f} s" if silent > STALE_SECONDS else None


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)
