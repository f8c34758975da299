"""What launchers leave in the environment: ranks, nodes, a share of the machine. Read without torch."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vidgn.config.schema import Config
from vidgn.errors import ConfigError
from vidgn.processes import num_cores

_GROUP = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SLOTS = "VIDGN_SLOTS"  # json of Slots, set by a sweep that runs cells side by side
CELL = "VIDGN_CELL"  # name of a cell beside others: log.txt has its lines, the terminal has those of the sweep
_SECONDS_BETWEEN_CHECKS = 0.5
_held_slot: int | None = None  # a file descriptor: locked until this process ends


# -- ranks ----------------------------------------------------------------------------------------------------------


def ranks_are_set() -> bool:
    """Whether torchrun, srun or another launcher has already made this process a rank.

    Raises:
        ConfigError: where only half of torch's variables are there.
    """
    there = [k for k in _GROUP if k in os.environ]
    if "RANK" in there and int(os.environ.get("WORLD_SIZE", "1")) > 1 and len(there) < len(_GROUP):
        missing = [k for k in _GROUP if k not in there]
        raise ConfigError(
            f"the launcher has set {', '.join(there)} but not {', '.join(missing)}: ranks need all four to meet "
            f"(MASTER_ADDR: the first node's name, MASTER_PORT: a free port there)"
        )
    return len(there) == len(_GROUP)


def is_first_rank() -> bool:
    """Whether this process speaks for the group that others started; true without a group."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def adopt_slurm_ranks(config: Config) -> None:
    """Where `srun` has started one task per rank, say so in torch's variables. One task per node is left alone.

    Raises:
        ConfigError: where the tasks are neither one per node nor one per rank.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if "RANK" in os.environ or tasks == 1 or tasks == config.launch.nnodes:
        return
    if config.launch.nproc_per_node > 1 or config.launch.nnodes > 1:
        raise ConfigError(
            f"srun has started {tasks} tasks, but launch.nnodes={config.launch.nnodes} and launch.nproc_per_node="
            f"{config.launch.nproc_per_node}: start one task per node (srun --ntasks-per-node=1, launch.nnodes=the "
            f"nodes), or one per GPU with launch.nnodes=1 launch.nproc_per_node=1"
        )
    environment = os.environ
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = str(tasks)
    environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
    environment.setdefault("MASTER_ADDR", first_slurm_host(environment["SLURM_STEP_NODELIST"]))
    environment.setdefault("MASTER_PORT", str(slurm_port()))


def first_slurm_host(nodelist: str) -> str:
    """The first name of a Slurm node list such as `gpu[03-07,12]`; `scontrol` knows how to read it.

    Raises:
        ConfigError: where it can't be asked.
    """
    if "[" not in nodelist:
        return nodelist.split(",")[0]
    try:
        names = subprocess.run(
            ["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"scontrol can't say which nodes {nodelist} are ({error}): write launch.rendezvous=HOST:PORT"
        ) from None
    return names.split()[0]


def slurm_port() -> int:
    """A port that goes with the job step: the same on all its nodes, another for the next job."""
    job, step = int(os.environ.get("SLURM_JOB_ID", "0")), int(os.environ.get("SLURM_STEP_ID", "0"))
    return 20_000 + (job * 7 + step) % 10_000


# -- this cell's share of the machine --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slots:
    """Cells side by side on one machine: a lock file and GPUs for each."""

    folder: str
    devices: tuple[str, ...]  # CUDA_VISIBLE_DEVICES of each slot; empty: a machine without GPUs

    def dump(self) -> str:
        return json.dumps({"folder": self.folder, "devices": self.devices})


def take_slot(go_on: Callable[[], bool] = lambda: True) -> bool:
    """Make one of the sweep's slots this process's for as long as it lives, with its GPUs. Alone: nothing to do.

    Waits until one is free, as long as `go_on()`.

    Returns:
        Whether there is something to go on with.
    """
    text = os.environ.get(SLOTS)
    if text is None or _held_slot is not None:
        return go_on()
    slots = Slots(**json.loads(text))
    while go_on():
        if _take_free_slot(slots):
            return True
        time.sleep(_SECONDS_BETWEEN_CHECKS)
    return False


def _take_free_slot(slots: Slots) -> bool:
    global _held_slot
    for file, devices in zip(sorted(Path(slots.folder).glob("slot-*")), slots.devices, strict=True):
        handle = os.open(file, os.O_RDWR)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _held_slot = handle
            if devices:
                os.environ["CUDA_VISIBLE_DEVICES"] = devices
            return True
        os.close(handle)
    return False


def print_of_cell(text: str) -> None:
    """A line on stderr that log.txt has not; of a cell beside others with its name."""
    name = os.environ.get(CELL)
    print(text if name is None else f"{name}: {text}", file=sys.stderr, flush=True)


def cells_side_by_side() -> int:
    """How many cells of a sweep share this machine's cores."""
    text = os.environ.get(SLOTS)
    return 1 if text is None else len(json.loads(text)["devices"])


def threads_per_rank(config: Config) -> int:
    """Threads of a rank: launch.threads, or this machine's cores divided by all ranks of all cells on it."""
    if config.launch.threads != "auto":
        return config.launch.threads
    if "SLURM_STEP_NUM_TASKS" in os.environ and "SLURM_CPUS_PER_TASK" in os.environ and ranks_are_set():
        tasks_own_cores = os.environ.get("LOCAL_WORLD_SIZE") is None  # one task a rank: its cores are its own
        if tasks_own_cores:
            return max(1, int(os.environ["SLURM_CPUS_PER_TASK"]))
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1" if ranks_are_set() else str(config.launch.nproc_per_node)))
    return max(1, num_cores() // (ranks * cells_side_by_side()))
