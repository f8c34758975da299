"""Hydra's launchers as a sweep uses them: what they can run, each cell's share of this machine, jobs sent elsewhere."""

import importlib.util
import os
import signal
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from vidgn.config.compose import Composition
from vidgn.errors import ConfigError
from vidgn.processes import children, lives

_PLUGINS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "hydra-joblib-launcher"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "'vidgn[slurm]'"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "'vidgn[slurm]'"),
}

_SIDE_BY_SIDE = ("joblib", "submitit_local")


def check_plugin(launcher: str) -> None:
    """Raise ConfigError where Hydra's plugin for a launcher is not installed."""
    module, package = _PLUGINS.get(launcher, (None, None))
    if module is None:
        return
    try:
        there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        raise ConfigError(f"hydra/launcher={launcher} is not installed: pip install {package}")


def check_sweep_launch(composition: Composition) -> None:
    """What a launcher can't do with the cells of a sweep.

    Raises:
        ConfigError: with the command to use instead.
    """
    configs, launcher = composition.configs, composition.launcher
    if launcher == "submitit_slurm":
        shapes = sorted({(c.launch.nnodes, c.launch.nproc_per_node) for c in configs})
        if len(shapes) > 1:
            raise ConfigError(
                f"cells of one job array ask for the same nodes, these for launch.nnodes, launch.nproc_per_node of "
                f"{' and '.join(map(str, shapes))}: sweep them one after the other"
            )
    elif any(c.launch.nnodes > 1 for c in configs):
        raise ConfigError(
            f"launch.nnodes={max(c.launch.nnodes for c in configs)} with -m needs hydra/launcher=submitit_slurm, which "
            f"starts every node of a cell; hydra/launcher={launcher} has this machine alone"
        )
    if launcher in _SIDE_BY_SIDE:
        _division(composition)


# -- this machine, shared --------------------------------------------------------------------------------------------


@contextmanager
def shared_machine(composition: Composition) -> Generator[list[str]]:
    """Divide GPUs and cores among the cells that run here at the same time.

    Returns:
        Overrides for Hydra.

    Raises:
        ConfigError: where there are too few GPUs.
    """
    from vidgn.distributed.environment import SLOTS, Slots

    if composition.launcher not in _SIDE_BY_SIDE:
        yield []
        return
    count, devices = _division(composition)
    with tempfile.TemporaryDirectory(prefix="vidgn-sweep-") as folder:
        for slot in range(count):
            Path(folder, f"slot-{slot:04d}").touch()
        os.environ[SLOTS] = Slots(folder, devices).dump()
        try:
            yield [f"hydra.launcher.n_jobs={count}"] if composition.launcher == "joblib" else []
        finally:
            del os.environ[SLOTS]


def _division(composition: Composition) -> tuple[int, tuple[str, ...]]:
    """Cells at a time, and each one's CUDA_VISIBLE_DEVICES."""
    from vidgn.distributed.ranks import num_gpus
    from vidgn.processes import num_cores

    ranks = max(c.launch.nproc_per_node for c in composition.configs)
    num = max(num_gpus(c) for c in composition.configs)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [d.strip() for d in visible.split(",")][:num] if visible and num else [str(i) for i in range(num)]
    fit = max(1, (len(gpus) or num_cores()) // ranks)
    asked = -1 if composition.launcher == "submitit_local" else composition.side_by_side
    if asked == 0 or asked is None:
        raise ConfigError("hydra.launcher.n_jobs=0: cells at a time, at least 1, or -1 for as many as fit")
    count = min(fit if asked < 0 else asked, len(composition.configs))
    if gpus and count * ranks > len(gpus):
        too_few = f"{count} cells side by side x {ranks} processes need {count * ranks} GPUs, here are {len(gpus)}"
        instead = f"launch.nproc_per_node={len(gpus)}" if ranks > len(gpus) else f"hydra.launcher.n_jobs={fit}"
        raise ConfigError(f"{too_few}: write {instead}")
    return count, tuple(",".join(gpus[slot * ranks : (slot + 1) * ranks]) for slot in range(count))


# -- jobs of submitit ------------------------------------------------------------------------------------------------


class Jobs:
    """The jobs that submitit has started since this was made: it makes a folder for each, named by its id."""

    def __init__(self, folder: Path, *, slurm: bool) -> None:
        self._folder, self._slurm = folder, slurm
        self._before = set(self._names())

    def _names(self) -> list[str]:
        names = [p.name for p in self._folder.iterdir()] if self._folder.is_dir() else []
        return [name for name in names if name[0].isdigit()]  # submitit has a folder of its own there, too

    def ids(self) -> list[str]:
        """Slurm's array ids; process ids of submitit's local controllers."""
        return sorted({name.split("_")[0] for name in self._names() if name not in self._before})

    def alive(self) -> bool:
        """Whether any of them is running, waiting, or not yet quite gone."""
        ids = self.ids()
        if not self._slurm:
            return any(lives(int(i)) for i in ids)
        if not ids:
            return False
        asked = subprocess.run(["squeue", "-h", "-o", "%i", "-j", ",".join(ids)], capture_output=True, text=True)
        if asked.returncode != 0:
            return "Invalid job id" not in asked.stderr  # forgotten; else the controller does not answer just now
        return bool(asked.stdout.strip())

    def drop_waiting(self) -> None:
        """Take those that have not begun out of the queue."""
        if self._slurm and self.ids():
            subprocess.run(["scancel", "--state=PENDING", *self.ids()], capture_output=True)

    def cancel(self) -> None:
        """End all of them now."""
        if self._slurm:
            if self.ids():
                subprocess.run(["scancel", *self.ids()], capture_output=True)
            return
        for controller in self.ids():  # each ends with its task, ranks end with theirs
            for task in children(int(controller)):
                with suppress(ProcessLookupError):
                    os.kill(task, signal.SIGKILL)
