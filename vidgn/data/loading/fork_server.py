"""A fork server: one process that has imported what workers need, and forks each of them in milliseconds.

Importing torch takes seconds, and forking a training process is unsafe (threads, CUDA), so the server is a fresh
interpreter with one thread. It ends with the process that uses it, and its workers end with it.

multiprocessing has a fork server, which can't keep what is promised here. It inherits the environment, and workers must
not see a GPU; each of its workers runs the program's __main__ module again; a start waits for ever for a server whose
imports hang; and it dies of the signals that batch systems send to all processes of a job.
"""

import atexit
import contextlib
import importlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from vidgn.data.loading.worker import work
from vidgn.processes import die_with_parent, without_collection

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)  # they are for the parent
_SECONDS_TO_DIE = 5.0
_EXIT = struct.Struct("<qi")  # process id and wait status of a worker that has ended


class ForkServer:
    """The parent's end. May be used from any thread."""

    def __init__(self, preload: Sequence[str]) -> None:
        """Start the server. Does not wait for its imports.

        Args:
            preload: names of the modules that the server imports before it forks a worker.
        """
        self._socket, theirs = socket.socketpair()
        ignored = ",".join(str(int(number)) for number in _IGNORED)
        code = (
            f"import signal; [signal.signal(n, signal.SIG_IGN) for n in ({ignored})]; import sys; "
            f"sys.path[:0] = [{str(Path(__file__).resolve().parents[3])!r}]; "
            f"from vidgn.data.loading.fork_server import serve; serve({theirs.fileno()}, {list(preload)!r})"
        )
        # A worker has one thread, and may not open a CUDA context.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                process_group=0,
            )
        self._exits: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def start_worker(self, connection_fd: int, memory_fd: int) -> None:
        """Ask for a worker that talks on `connection_fd` and has `memory_fd` mapped. Does not wait for it.

        It works in what is the current folder now, where this process may not have been when the server began.

        Where the server dies instead, the other end of the connection is closed.

        Raises:
            ConnectionError: if the server has died.
        """
        folder_fd = os.open(".", os.O_PATH | os.O_DIRECTORY)
        try:
            with self._lock:
                socket.send_fds(self._socket, [b"+"], [connection_fd, memory_fd, folder_fd])
        finally:
            os.close(folder_fd)

    def exit_status(self, pid: int, *, seconds: float) -> int | None:
        """Wait status of a worker that has ended; None if the server does not tell it within `seconds`."""
        end = time.monotonic() + seconds
        with self._lock:
            while pid not in self._exits:
                self._socket.settimeout(max(0.01, end - time.monotonic()))
                try:
                    message = self._socket.recv(_EXIT.size, socket.MSG_WAITALL)
                except OSError:
                    return None
                finally:
                    self._socket.settimeout(None)
                if len(message) < _EXIT.size:
                    return None
                ended, status = _EXIT.unpack(message)
                self._exits[ended] = status
            return self._exits.pop(pid)

    def close(self) -> None:
        """End the server, and with it its workers."""
        self._socket.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kernel may not let it die, on a hung disk
            self._process.wait(_SECONDS_TO_DIE)


_servers: dict[tuple[int, tuple[str, ...]], ForkServer] = {}  # a forked child must not share its parent's
_servers_lock = threading.Lock()
_exiting = threading.Event()


def fork_server(preload: tuple[str, ...]) -> ForkServer:
    """This process's server with these modules, started on first use."""
    with _servers_lock:
        if _exiting.is_set():
            raise RuntimeError("the process is about to exit")
        key = os.getpid(), preload
        if key not in _servers or not _servers[key].lives:
            _servers[key] = ForkServer(preload)
        return _servers[key]


@atexit.register
def _close_servers() -> None:
    with _servers_lock:
        _exiting.set()
        mine = [key for key in _servers if key[0] == os.getpid()]
        for server in [_servers.pop(key) for key in mine]:
            server.close()


def serve(socket_fd: int, preload: Sequence[str]) -> NoReturn:
    """Main function of the server: fork a worker for each request, until the parent is gone."""
    with without_collection():
        for module in preload:
            importlib.import_module(module)  # imported once, inherited by every worker
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    requests, own = socket.socket(fileno=socket_fd), os.getpid()
    # A worker may end just before a call that would wait: its signal must not be missed, so it comes as a byte to read.
    wakened, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([requests, wakened], [], [])
        if wakened in ready:
            os.read(wakened, 4096)
            _report_exits(requests)
        if requests not in ready:
            continue
        try:
            message, fds, _, _ = socket.recv_fds(requests, 1, 3)
        except ConnectionResetError:  # killed before it had read how its last workers ended
            os._exit(0)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            os.close(wakened)
            os.close(waker)
            die_with_parent(own)
            os.fchdir(fds[2])
            os.close(fds[2])
            work(Connection(fds[0]), fds[1])
        for fd in fds:
            os.close(fd)


def _report_exits(requests: socket.socket) -> None:
    """Reap workers that have ended and tell the parent how; a parent that does not listen is not waited for."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with contextlib.suppress(OSError):
                requests.send(_EXIT.pack(*ended), socket.MSG_DONTWAIT)
