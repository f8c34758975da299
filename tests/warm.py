"""Starts of the real command without the seconds of importing torch: a server that has imported all forks each start.

What differs from `vidgn ...` in a shell: imports are done, and ranks are forks of their launching process, not spawned.
Processes, signals, sockets and files are the real ones.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


class Started:
    """A started command, its output in `log`. It leads a session, so that all it starts can be found and ended."""

    def __init__(self, warm: "Warm", pid: int, log: Path) -> None:
        self._warm, self.pid, self.log = warm, pid, log
        self.code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal, None while it runs."""
        if self.code is None:
            self.code = self._warm.ask({"poll": self.pid})
        return self.code

    def wait(self, seconds: float = 120) -> int:
        """The exit code. Everything is killed and the test fails if it takes longer."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill_all()
                raise AssertionError(f"still running after {seconds} s:\n{self.log.read_text()}")
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def processes(self) -> list[int]:
        """Everything alive of the session."""
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    fields = Path(f"/proc/{entry.name}/stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                if int(fields[3]) == self.pid and fields[0] not in "ZX":
                    found.append(int(entry.name))
        return sorted(found)

    def ranks(self) -> list[int]:
        """The ranks' process ids, in order of rank (they are started one after another)."""
        found = []
        for pid in self.processes():
            try:
                parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
                command = Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:
                continue
            if parent == self.pid and "resource_tracker" not in command:
                found.append(pid)
        return found

    def kill_all(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def assert_no_orphans(self, seconds: float = 10) -> None:
        """The launching process is gone: so is all that it started, soon."""
        end = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > end:
                left = {p: Path(f"/proc/{p}/cmdline").read_text().replace("\0", " ")[:200] for p in self.processes()}
                self.kill_all()
                raise AssertionError(f"left behind: {left}")
            time.sleep(0.01)


class Warm:
    """The server, as tests use it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(REPO),
                "TORCH_CPP_LOG_LEVEL": "ERROR",
            }
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=REPO,
                env=environment,
            )
        self._stream = ours.makefile("rw")
        self._ours = ours

    def ask(self, question: dict):
        self._stream.write(json.dumps(question) + "\n")
        self._stream.flush()
        return json.loads(self._stream.readline())

    def start(
        self, arguments: Sequence[str], *, folder: Path, patch: str = "", environment: dict[str, str] | None = None
    ) -> Started:
        """Run `vidgn ARGUMENTS` in `folder`. `patch`: Python run in the process before, for faults to be injected."""
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"start_{sum(1 for _ in folder.glob('start_*.txt')):03d}.txt"
        log.touch()
        question = {"start": list(arguments), "folder": str(folder), "log": str(log), "patch": patch}
        return Started(self, self.ask({**question, "environment": environment or {}}), log)

    def close(self) -> None:
        self._stream.close()
        self._ours.close()
        self._process.wait()


def serve(handle: int) -> None:
    """Fork for each start, tell exit codes, until the tests are gone."""
    import matplotlib.pyplot  # noqa: F401
    import torch.distributed.launcher.api as launcher
    import torch.utils.tensorboard  # noqa: F401

    class Forks(launcher.LaunchConfig):
        def __post_init__(self) -> None:
            super().__post_init__()
            self.start_method = "fork"

    launcher.LaunchConfig = Forks
    stream = socket.socket(fileno=handle).makefile("rw")
    for line in stream:
        question = json.loads(line)
        answer: int | None
        if "poll" in question:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = None if pid == 0 else os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                stream.close()
                _run(question)
        stream.write(json.dumps(answer) + "\n")
        stream.flush()


def _run(question: dict) -> None:
    os.setsid()
    os.chdir(question["folder"])
    os.environ.update(question["environment"])
    log = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        exec(question["patch"], {})
        from vidgn.cli.main import main

        code = main(question["start"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        import atexit

        atexit._run_exitfuncs()
        os._exit(code)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
