"""A real Slurm of one node, on its own ports and in its own folder: munged, slurmctld and slurmd as our children."""

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from tests.launch.commands import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")

_CONF = """\
ClusterName=vidgn
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=30
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """What of Slurm and munge is not installed."""
    return [p for p in PROGRAMS if shutil.which(p, path=_path()) is None]


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


class Slurm:
    """`env` has what Slurm's commands need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}

    def ask(self, *command: str) -> str:
        """Output of one of Slurm's commands, stripped."""
        return subprocess.run(
            command, env=self.env, capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()

    def start_now(self, job: str) -> None:
        """Let a requeued job start at once, but not before the node has let go of its last start: that would fail."""
        (number,) = re.findall(r"^JobId=(\d+)", self.ask("scontrol", "show", "job", job))
        wait_until(lambda: not _at_work(number), 60, lambda: f"job {job} is still on the node")
        time.sleep(2)  # the node has still to tell the controller, which fails a start that comes before that
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def queue(self) -> list[str]:
        """`id state` of every job that is not over."""
        return self.ask("squeue", "-h", "-r", "-o", "%i %T").splitlines()


def _at_work(number: str) -> bool:
    """Whether one of Slurm's step daemons is there for a job."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if entry.read_bytes().startswith(f"slurmstepd: [{number}.".encode()):
                return True
    return False


@contextmanager
def slurm() -> Iterator[Slurm]:
    """Brought up on entry; on exit every job is cancelled and every daemon gone."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="vidgn-slurm-", dir="/tmp"))  # sockets want a short path
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        cluster = Slurm(folder)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        text = _CONF.format(
            host=socket.gethostname().split(".")[0],
            controller_port=_free_port(),
            node_port=_free_port(),
            user=getpass.getuser(),
            folder=folder,
        )
        (folder / "slurm.conf").write_text(text)
        files = [f"--{n}={folder}/munge.{n.split('-')[0]}" for n in ("pid-file", "log-file", "seed-file")]
        munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}", *files]
        _daemon(stack, cluster, munged)
        _wait_until(lambda: (folder / "munge.socket").exists(), "munged did not open its socket", folder)
        _daemon(stack, cluster, ["slurmctld", "-D", "-f", str(folder / "slurm.conf")])
        _daemon(stack, cluster, ["slurmd", "-D", "-f", str(folder / "slurm.conf")])
        _wait_until(lambda: _is_idle(cluster), "the node did not come up", folder)
        stack.callback(_cancel_all, cluster)
        yield cluster


def _daemon(stack: ExitStack, cluster: Slurm, command: list[str]) -> None:
    with open(cluster.folder / f"{command[0]}.out", "w") as log:
        process = subprocess.Popen(command, env=cluster.env, stdout=log, stderr=subprocess.STDOUT)
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _cancel_all(cluster: Slurm) -> None:
    subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=cluster.env, timeout=30, check=False)
    _wait_until(lambda: not cluster.queue(), "jobs would not end", cluster.folder, seconds=60)


def _is_idle(cluster: Slurm) -> bool:
    answer = subprocess.run(["sinfo", "-h", "-o", "%T"], env=cluster.env, capture_output=True, text=True, timeout=60)
    return answer.stdout.strip() == "idle"


def _wait_until(holds, what: str, folder: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            said = "\n".join(f"{p.name}: {p.read_text()[-2000:]}" for p in folder.glob("*.out"))
            raise TimeoutError(f"{what} in {seconds} s\n{said}")
        time.sleep(0.1)


def _free_port() -> int:
    with closing(socket.socket()) as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]
