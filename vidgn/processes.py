"""Processes of this machine, as the kernel tells of them."""

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def lives(pid: int) -> bool:
    """Whether there is such a process, and it is not a dead one that nobody has waited for."""
    fields = _stat(pid)
    return fields[0] not in "ZX" if fields else _answers(pid)


def is_zombie(pid: int) -> bool:
    """Whether it is dead and its parent has not waited for it."""
    return _stat(pid)[:1] == ["Z"]


def children(pid: int) -> list[int]:
    """Its living or dead children."""
    everyone = (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit())
    return [p for p in everyone if _stat(p)[1:2] == [str(pid)]]


def die_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent is gone, however that went; at once if it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name: state, parent, ...; empty where it is gone or can't be seen."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _answers(pid: int) -> bool:
    """Whether a signal would reach it: on systems without /proc, and where others' processes are hidden there."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return pid > 0


@contextmanager
def without_collection() -> Generator[None]:
    """Import much inside without looking for garbage: a fifth of the seconds that torch and what goes with it take."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # what is there now stays: it is not looked at again
        if was_enabled:
            gc.enable()


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
