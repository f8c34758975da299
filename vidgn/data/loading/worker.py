"""Reader processes: a nursery that has imported the decoders once, and the readers it forks, each in milliseconds.

Importing torch costs seconds a process, and forking a training process is unsafe (threads, CUDA); so the nursery is a
fresh, single-threaded interpreter. It lives as long as the process that uses it. Readers write clips straight into
shared memory. Ctrl-C and SIGTERM are for the trainer alone: readers ignore them and die with their parents.
"""

import atexit
import ctypes
import itertools
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

READY = -1  # slot number of a reader's first message
_FILES_BETWEEN_TRIMS = 256
_QUIET = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


class Nursery:
    """The parent's end. `start_reader` may be called from any thread."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        package = str(Path(__file__).resolve().parents[3])
        quiet = ",".join(str(int(number)) for number in _QUIET)
        code = (
            f"import signal; [signal.signal(n, signal.SIG_IGN) for n in ({quiet})]; import sys; "
            f"sys.path.insert(0, {package!r}); from vidgn.data.loading.worker import tend; tend({theirs.fileno()})"
        )
        # Readers have one thread each, and no reader may open a CUDA context.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                process_group=0,
            )
        self._socket = ours
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start_reader(self, connection_fd: int, memory_fd: int) -> None:
        """Asks for a reader that talks on `connection_fd` and writes to `memory_fd`; its first message has its id.

        Does not wait. Where the nursery dies instead, the other end of the connection is closed.
        """
        with self._lock:
            socket.send_fds(self._socket, [b"+"], [connection_fd, memory_fd])

    def close(self) -> None:
        """Ends the nursery and with it its readers."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


_nurseries: dict[int, Nursery] = {}  # by process id: a forked child must not share its parent's
_nursery_lock = threading.Lock()
_exiting = threading.Event()


def nursery() -> Nursery:
    """This process's nursery, started on first use."""
    with _nursery_lock:
        if _exiting.is_set():
            raise RuntimeError("the process is about to exit")
        found = _nurseries.get(os.getpid())
        if found is None or not found.alive:
            found = _nurseries[os.getpid()] = Nursery()
        return found


@atexit.register
def _close_nursery() -> None:
    with _nursery_lock:
        _exiting.set()
        found = _nurseries.pop(os.getpid(), None)
    if found is not None:
        found.close()


def tend(socket_fd: int) -> NoReturn:
    """Main loop of the nursery: a reader for each request, until the parent is gone."""
    import vidgn.data.clips.read  # noqa: F401  (imported once, inherited by every reader)
    from vidgn.data.decode import preload

    preload()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # readers are reaped by the kernel
    requests = socket.socket(fileno=socket_fd)
    while True:
        message, fds, _, _ = socket.recv_fds(requests, 1, 2)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            _read_forever(Connection(fds[0]), fds[1])
        for fd in fds:
            os.close(fd)


def _read_forever(connection: Connection, memory_fd: int) -> NoReturn:
    """Main loop of a reader: (slot, offset, task) in; (slot, kind, text) out."""
    try:
        _die_with_parent()
        memory = mmap.mmap(memory_fd, 0)
        connection.send((READY, "ready", str(os.getpid())))
        for count in itertools.count(1):
            slot, offset, task = pickle.loads(connection.recv_bytes())
            connection.send((slot, *_read(task, memory, offset)))
            if count % _FILES_BETWEEN_TRIMS == 0:
                _trim_heap()
    except (EOFError, OSError):
        os._exit(0)  # the parent has closed its end
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _read(task, memory: mmap.mmap, offset: int) -> tuple[str, str]:
    import numpy as np

    from vidgn.data.clips.read import read_clips
    from vidgn.errors import DecodeError, VidgnError

    shape = (task.num_clips, *task.geometry.clip_shape)
    out_VTHWC = np.frombuffer(memory, np.uint8, int(np.prod(shape)), offset).reshape(shape)
    try:
        read_clips(task, out_VTHWC)
    except DecodeError as error:
        return "unreadable", str(error)
    except VidgnError as error:
        return "refused", str(error)
    except Exception:
        return "bug", f"reading {task.row.path}:\n{traceback.format_exc()}"
    return "ok", ""


def _trim_heap() -> None:
    """Give back what frames of ever other sizes have left between them: a kilobyte a file, without end."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(0)
