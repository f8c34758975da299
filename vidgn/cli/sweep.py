"""A sweep: the list of its cells, every cell that can be run, and the report at the end whatever happened."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from vidgn.config.compose import Composition
from vidgn.config.schema import Config, run_name
from vidgn.errors import VidgnError


def run_sweep(composition: Composition, run_all: Callable[[], int]) -> int:
    """Check and list the cells, let Hydra run them, write the report.

    Returns: 0 if every cell is done, 75 if a signal stopped the sweep, else 1.
    """
    from vidgn.engine.run import check_before_start

    for cell, config in zip(composition.cells, composition.configs, strict=True):
        try:
            check_before_start(config)
        except VidgnError as error:
            raise type(error)(f"{error} (in the cell {' '.join(cell)})") from None
    studies = sorted({Path(c.runs_dir) / c.study for c in composition.configs})
    for study in studies:
        _list_cells(study, [c for c in composition.configs if Path(c.runs_dir) / c.study == study])
    try:
        run_all()
    except Exception as error:  # each cell's own is in its error.txt; here it only decides that the exit code is not 0
        _say_unless_a_cells(error, composition)
    finally:
        for study in studies:
            _report(study)
    failed = [c for c in composition.configs if not (c.run_dir / "result.json").exists()]
    for config in failed:
        file = config.run_dir / "error.txt"
        print(f"{config.run_dir}: {file.read_text().strip() if file.exists() else 'not finished'}", file=sys.stderr)
    return 1 if failed else 0


def _list_cells(study: Path, configs: list[Config]) -> None:
    """study.json: every cell ever asked for, so that a missing one can be named."""
    study.mkdir(parents=True, exist_ok=True)
    file = study / "study.json"
    known = {c["run_name"]: c for c in json.loads(file.read_text())["cells"]} if file.exists() else {}
    for config in configs:
        values = {
            "frames": config.frames,
            "clips_per_gpu": config.clips_per_gpu,
            "gpus": config.gpus,
            "norm": config.norm.kind,
            "model": config.model.name,
            "seed": config.seed,
        }
        known[run_name(config)] = {"run_name": run_name(config), "values": values}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({"cells": list(known.values())}, indent=1) + "\n")
    partial.replace(file)


def _say_unless_a_cells(error: Exception, composition: Composition) -> None:
    if not any((c.run_dir / "error.txt").exists() for c in composition.configs):
        print(f"vidgn train: {' '.join(str(error).split())}", file=sys.stderr)


def _report(study: Path) -> None:
    from vidgn.report.study import write_report

    try:
        print(write_report(study))
    except VidgnError as error:
        print(f"no report: {error}", file=sys.stderr)
