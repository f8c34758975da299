"""What a worker process does: one function call after another, on items that its parent sends."""

import ctypes
import itertools
import mmap
import os
import pickle
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from vidgn.errors import DecodeError, VidgnError

READY = "ready"  # kind of a worker's first message
_ITEMS_BETWEEN_TRIMS = 256
_MIB = 2**20

# Given an item and its part of the shared memory, which may be empty. Importable by name.
Function = Callable[[Any, memoryview], Any]


@dataclass(frozen=True)
class Job:
    """One call: of `function`, on `item`, with `num_bytes` of shared memory from `offset` on.

    `memory_mib`: address space that the call may take on top of what the worker has; None: no limit.
    """

    function: Function
    item: Any
    offset: int
    num_bytes: int
    memory_mib: int | None


def work(connection: Connection, memory_fd: int) -> NoReturn:
    """Main loop of a worker: a pickled Job in, (kind, value) out, until the parent has closed its end."""
    try:
        memory = memoryview(mmap.mmap(memory_fd, 0)) if os.fstat(memory_fd).st_size else memoryview(b"")
        connection.send((READY, os.getpid()))
        is_limited = False
        for count in itertools.count(1):
            job: Job = pickle.loads(connection.recv_bytes())
            if job.memory_mib is not None and not is_limited:
                _limit_memory(job.memory_mib)
                is_limited = True
            connection.send(_call(job, memory))
            if count % _ITEMS_BETWEEN_TRIMS == 0:
                _trim_heap()
    except (EOFError, OSError):
        os._exit(0)  # the parent has closed its end
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _call(job: Job, memory: memoryview) -> tuple[str, Any]:
    """Kind of the outcome, and the function's value or what went wrong."""
    try:
        return "ok", job.function(job.item, memory[job.offset : job.offset + job.num_bytes])
    except MemoryError:
        return "memory", f"needs more than {job.memory_mib} MiB"
    except DecodeError as error:
        return "error", str(error)
    except VidgnError as error:
        return "refused", str(error)
    except Exception:
        return "bug", traceback.format_exc()


def _limit_memory(memory_mib: int) -> None:
    try:
        with open("/proc/self/statm") as file:
            own = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return  # no such limits on this system
    limit = own + memory_mib * _MIB
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _trim_heap() -> None:
    """Give back what frames of ever other sizes leave between them: a kilobyte a file, without end."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)
