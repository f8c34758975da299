"""`vidgn evaluate RUN`: test a trained run, or all of a study, with other views or other BN statistics."""

import os
import sys
from pathlib import Path

from vidgn.cli.cell import print_errors_once
from vidgn.errors import ConfigError, VidgnError
from vidgn.processes import without_collection

SUMMARY = "test a trained run with other views or BN statistics"

_HELP = """usage: vidgn evaluate RUN|STUDY [KEY=VALUE ...] [--debug]

Tests the last checkpoint of a run (runs_dir/study/run_name) and writes tests/{views}-{bn_stats}.json and .csv there;
with other videos than the run's own, to a name that says so. Of a study: every run that is done, but for tests that are
there already; then its report is made anew.

  vidgn evaluate runs/study/i3d_r50_32f_8x8_bn_s0 views=center
  vidgn evaluate runs/study/i3d_r50_32f_8x8_bn_s0 bn_stats=ema
  vidgn evaluate runs/study bn_stats=precise,ema,batch     what BN loses in training, and what at test
  vidgn evaluate RUN launch.nproc_per_node=8
  torchrun --nproc-per-node=8 -m vidgn evaluate RUN      joins the ranks that are there

keys
  views=paper|center|curve|image   what is seen of a video
  bn_stats=precise|ema|batch       statistics BN tests with: recomputed, running averages, those of the test clips
  bn_stats_steps, data.root, data.train, data.val, data.classes, data.missing, data.workers,
  launch.*, trainer.device, trainer.clips_per_forward   as in vidgn train
"""


def run(argv: list[str]) -> int:
    """Test one run.

    Returns:
        The exit code of vidgn.cli.main.
    """
    if "-h" in argv or "--help" in argv:
        print(_HELP)
        return 0
    if not argv or "=" in argv[0]:
        print(_HELP)
        return 2
    return print_errors_once(lambda: _evaluate(Path(argv[0]), argv[1:]))


def _evaluate(path: Path, overrides: list[str]) -> int:
    """One run, or every run of a study that is done; each with every value that bn_stats lists."""
    plain = [text for text in overrides if not text.startswith("bn_stats=")]
    named = [text.removeprefix("bn_stats=") for text in overrides if text.startswith("bn_stats=")]
    values = named[-1].split(",") if named else []
    if (path / "config.yaml").is_file() or not path.is_dir():
        for value in values or [None]:
            _run(path, plain if value is None else [*plain, f"bn_stats={value}"])
        return 0
    from vidgn.report.read.study import read_study

    cells = [cell for cell in read_study(path).cells if cell.result]
    if not cells:
        raise ConfigError(
            f"{path}: no run of it is done, so none can be tested; vidgn status {path} says where they are"
        )
    failed = 0
    for number, cell in enumerate(cells, start=1):
        told = cell.result or {}
        views = next((text.removeprefix("views=") for text in plain if text.startswith("views=")), told["views"])
        for value in values if cell.has_statistics and values else [None]:
            name = f"{views}-{value or told.get('bn_stats') or 'none'}"
            moved = any(not text.startswith(("views=", "launch.", "trainer.")) for text in plain)
            if name in cell.tests() and not moved:
                continue
            print(f"{number}/{len(cells)} {cell.run_name}: {name}", flush=True)
            try:
                _run(cell.directory, plain if value is None else [*plain, f"bn_stats={value}"])
            except VidgnError as error:
                failed += 1
                print(f"{cell.run_name}: {error}", file=sys.stderr)
    from vidgn.cli.report_pictures import PICTURES
    from vidgn.report.show.report_files import write_report

    print(f"report: {write_report(path, pictures=PICTURES).report}")
    return 1 if failed else 0


def _run(path: Path, overrides: list[str]) -> int:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch is imported: its warnings come with stacks
    from vidgn.config.compose import config_of_test

    changed = config_of_test(path, overrides)
    from vidgn.distributed.environment import adopt_slurm_ranks

    adopt_slurm_ranks(changed)
    with without_collection():
        from vidgn.run import evaluate_run

    evaluate_run(changed)
    return 0
