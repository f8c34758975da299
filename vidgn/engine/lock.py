"""One run, one writer: a lock file that says who, on which host, and that it is still alive."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vidgn.errors import ConfigError

_BEAT_SECONDS = 15
_STALE_SECONDS = 120  # a lock of another host that has not been touched for so long has lost its owner


@contextmanager
def locked(run_dir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold `run_dir/lock.json` while the run lives; touched every 15 s so that other hosts can tell.

    A lock whose process is gone (this host), whose beat has stopped (other hosts) or that an earlier start of the same
    batch job left behind is taken over, and said so.
    Raises: ConfigError where another run holds it.
    """
    path = run_dir / "lock.json"
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            owner = _read(path)
            reason = _is_stale(path, owner)
            if reason is None:
                raise ConfigError(
                    f"{run_dir} is being written by another run: process {owner.get('pid')} on {owner.get('host')}, "
                    f"since {owner.get('started')}. Wait for it, or give this one tag=NAME"
                ) from None
            say(f"taking over the lock of process {owner.get('pid')} on {owner.get('host')}: {reason}")
            path.unlink(missing_ok=True)
    with os.fdopen(handle, "w") as file:
        json.dump(_me(), file)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        if _read(path).get("pid") == os.getpid():
            path.unlink(missing_ok=True)


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": _process_started(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _is_stale(path: Path, owner: dict[str, Any]) -> str | None:
    """Why the owner is gone, None while it may live."""
    if owner.get("job") and owner["job"] == os.environ.get("SLURM_JOB_ID") and owner.get("pid") != os.getpid():
        return "an earlier start of this batch job"
    if owner.get("host") == socket.gethostname():
        started = _process_started(owner["pid"])
        return "that process is gone" if started is None or started != owner.get("process_started") else None
    probe = path.with_name(f".lock-probe-{socket.gethostname()}-{os.getpid()}")
    probe.touch()  # the file server's own time: clocks of hosts differ
    try:
        silent_seconds = probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return "it was just given up"
    finally:
        probe.unlink()
    return f"no sign of life for {silent_seconds:.0f} s" if silent_seconds > _STALE_SECONDS else None


def _process_started(pid: int) -> str | None:
    """The kernel's start time of a process, so that a reused pid is told apart; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() or not _alive(pid) else "alive"
    fields = stat.rsplit(")", 1)[1].split()
    return None if fields[0] == "Z" else fields[19]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(_BEAT_SECONDS):
        try:
            os.utime(path)
        except OSError:
            return
