"""`vidgn train`: one run, or with -m a sweep that ends with its report. Hydra's command line.

Every cell is composed and checked here before Hydra starts the first; what can't run costs one line.
"""

import os
import sys
import textwrap
from contextlib import redirect_stderr
from typing import Any, TextIO, cast

from vidgn.cli.cell import print_errors_once
from vidgn.errors import ConfigError, VidgnError
from vidgn.processes import without_collection

SUMMARY = "train and test one run; with -m a sweep, ending with its report"

_HELP = """usage: vidgn train [-m] [KEY=VALUE ...] [--cfg job] [--debug]

Trains what conf/ describes, then tests it. Started again, a stopped run goes on and a finished one is left alone.

  vidgn train model=i3d_tiny data=synthetic frames=8 span=16 trainer.epochs=5
  vidgn train data=csv data.root=videos data.train=train.csv data.val=val.csv weights=r50_gn.safetensors
  vidgn train -m frames=32,64 clips_per_gpu=8,4 norm=bn,gn seed=0,1,2     every combination, then the report
  vidgn train -m sweep=demo                                               a ready-made sweep (demo, paper, ...)
  vidgn train launch.nproc_per_node=8                                     8 processes on this machine
  vidgn train -m hydra/launcher=joblib launch.nproc_per_node=2 ...        cells side by side, GPUs and cores divided
  vidgn train -m hydra/launcher=submitit_slurm launch.nnodes=2 launch.nproc_per_node=8 ...    one job array on Slurm
  torchrun --nproc-per-node=8 -m vidgn train ...                          joins the ranks that are there; not with -m

options
  -m, --multirun       run every combination of values given with commas
  --cfg job            print the composed configuration and stop (--cfg hydra: Hydra's own)
  --debug              show the traceback of an error

exit codes
  0 done · 1 an error, or a cell of a sweep has failed · 2 usage · 75 stopped, start the same command again to go on
  SIGTERM, SIGUSR1 and Ctrl-C save after the step in progress and exit with 75; a second Ctrl-C stops at once (130).

groups   (vidgn train GROUP=OPTION)
{groups}
Often used: frames, span, clips_per_gpu, gpus, norm, seed, study, tag, weights, bn_stats, trainer.epochs,
trainer.max_steps, trainer.precision, data.root, data.train, data.val, launch.nproc_per_node.
"""


def run(argv: list[str]) -> int:
    """Check every cell, hand over to Hydra, end a sweep with its report.

    Returns:
        The exit code of vidgn.cli.main.
    """
    if "-h" in argv or "--help" in argv:
        print(_HELP.format(groups=_groups()))
        return 0
    return print_errors_once(lambda: _run(argv))


def _run(argv: list[str]) -> int:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch is imported: its warnings come with stacks
    from vidgn.cli.launchers import check_plugin
    from vidgn.config.compose import compose_all

    overrides = [a for a in argv if not a.startswith("-")]
    only_shown = any(a in ("--cfg", "-c", "--info", "-i") or a.startswith(("--cfg=", "--info=")) for a in argv)
    if only_shown:
        overrides = [o for o in overrides if "=" in o]
    for override in overrides:
        if override.startswith("hydra/launcher="):
            check_plugin(override.partition("=")[2])
    multirun = "-m" in argv or "--multirun" in argv
    composition = compose_all(overrides, multirun=multirun)
    if only_shown:
        return _hydra(argv)
    from vidgn.distributed.environment import adopt_slurm_ranks, ranks_are_set

    adopt_slurm_ranks(composition.configs[0])
    if not composition.is_sweep:
        if composition.launcher != "basic":
            raise ConfigError(
                f"hydra/launcher={composition.launcher} is for sweeps: add -m (of one cell, if there is one), as in "
                f"vidgn train -m {' '.join(overrides)}"
            )
        with without_collection():
            from vidgn.preflight import check_before_start

        check_before_start(composition.configs[0])
        from vidgn.cli.cell import run_config

        run_config(composition.configs[0])  # what Hydra would do for one cell, without its own lines about errors
        return 0
    if ranks_are_set():
        raise ConfigError(_refuse_sweep(overrides))
    from vidgn.cli.sweep import run_sweep

    return run_sweep(composition, lambda more: _hydra([*argv, *more]))


def _refuse_sweep(overrides: list[str]) -> str:
    here = os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])
    others = " ".join(o for o in overrides if not o.startswith("launch.nproc_per_node="))
    return (
        f"-m can't run as one of the {os.environ['WORLD_SIZE']} ranks that torchrun or srun has started: each would "
        f"sweep by itself. Start it once, and it starts the ranks of every cell: vidgn train -m "
        f"launch.nproc_per_node={here} {others}"
    )


def _hydra(argv: list[str]) -> int:
    """Hydra's own main, its errors raised as they are."""
    import hydra
    from hydra.errors import HydraException

    from vidgn.cli.cell import run_cell
    from vidgn.config.compose import config_dir, one_line, register_resolvers

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, and let vidgn.cli.main print the one line
    register_resolvers()
    sys.argv = ["vidgn", *argv]
    try:
        with redirect_stderr(cast(TextIO, _WithoutHydrasLine(sys.stderr))):
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(run_cell)()
    except VidgnError:
        raise
    except HydraException as error:
        raise ConfigError(one_line(error)) from error
    return 0


class _WithoutHydrasLine:
    """stderr, but for Hydra's list of all overrides of a cell that failed: its own line says more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith("Error executing job with overrides") else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _groups() -> str:
    from vidgn.config.compose import config_dir

    lines: list[Any] = []
    for group in ("model", "norm", "data", "views", "optim", "sweep"):
        options = ", ".join(sorted(p.stem for p in (config_dir() / group).glob("*.yaml")))
        lines += textwrap.wrap(options, 110, initial_indent=f"  {group:<8} ", subsequent_indent=11 * " ")
    return "\n".join(lines) + "\n"
