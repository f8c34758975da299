"""A sweep: list its cells, run every cell that can be run, and write the report at the end whatever happened."""

import functools
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from vidgn.atomic_files import one_at_a_time, read_json, write_json
from vidgn.cli.launchers import Jobs, check_sweep_launch, shared_machine
from vidgn.cli.sweep_progress import SweepProgress
from vidgn.config.compose import Composition
from vidgn.config.fingerprint import fingerprint
from vidgn.config.schema import Config, full_tag, run_name
from vidgn.distributed.environment import threads_per_rank
from vidgn.distributed.signals import StopFlag, listening, signals_blocked_in_children, stop_token
from vidgn.errors import EXIT_AGAIN, VidgnError
from vidgn.processes import without_collection
from vidgn.report.read.run_state import json_or_none

_SECONDS_BETWEEN_CHECKS = 0.2
_SECONDS_OF_GRACE = 25.0  # in which a launcher should have noticed that its jobs are gone


class _WaitIsOver(Exception):  # noqa: N818  # not an error
    """Nothing is left to wait for in Hydra's launcher."""


class _LauncherWait:
    """The wait in Hydra's launcher. The signal handler `leave` raises _WaitIsOver only while it lasts."""

    def __init__(self) -> None:
        self._lasts = False

    def run(self, run_all: Callable[[], int]) -> None:
        self._lasts = True
        try:
            run_all()
        finally:
            self._lasts = False

    def leave(self, *_: object) -> None:
        if self._lasts:
            self._lasts = False
            raise _WaitIsOver


def run_sweep(composition: Composition, run_all: Callable[[list[str]], int]) -> int:
    """Check and list the cells, let Hydra run them (`run_all` takes more overrides), write the report.

    SIGTERM, SIGUSR1 and the first Ctrl-C ask every cell to save and stop, and wait for that; a second Ctrl-C does not.

    Returns:
        0 if every cell is done, 75 if a signal stopped the sweep, else 1.
    """
    check_sweep_launch(composition)
    _check_cells(composition)
    studies = sorted({Path(c.runs_dir) / c.study for c in composition.configs})
    for study in studies:
        study.mkdir(parents=True, exist_ok=True)
    stop, old_errors = StopFlag(), _errors(composition)
    names, outlives = {c.run_dir.name for c in composition.configs}, composition.launcher == "submitit_slurm"
    with stop_token(studies[0], cells=names, outlives=outlives) as token:
        for study in studies:
            _list_cells(study, [c for c in composition.configs if Path(c.runs_dir) / c.study == study])
        try:
            with shared_machine(composition) as overrides, listening(stop):
                for study in studies:
                    _record_threads(study, composition)
                _run_cells(composition, lambda: run_all(overrides), token, stop)
        finally:
            refused = _refused(composition)
            for study in studies:
                _list_cells(study, [c for c in composition.configs if Path(c.runs_dir) / c.study == study], refused)
                _report(study)
    return _print_unfinished(composition, old_errors, refused, stopped=stop.is_set())


def _check_cells(composition: Composition) -> None:
    with without_collection():
        from vidgn.preflight import check_before_start

    for cell, config in zip(composition.cells, composition.configs, strict=True):
        try:
            check_before_start(config, here=composition.launcher != "submitit_slurm")
        except VidgnError as error:
            raise type(error)(f"{error} (in the cell {' '.join(cell)})") from None


def _run_cells(composition: Composition, run_all: Callable[[], int], token: Path, stop: StopFlag) -> None:
    """Let Hydra run the cells until they are done or stopped. Returns only when none of them lives.

    Cells in other processes get no Ctrl-C. This process does, and removes the stop token to stop them.
    """
    jobs, wait = None, _LauncherWait()
    if composition.jobs_folder is not None:
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # read when submitit is imported; vidgn listens to USR1
        logging.getLogger("submitit").setLevel(logging.ERROR)  # it warns every minute of a Slurm without accounting
        jobs = Jobs(composition.jobs_folder, slurm=composition.launcher == "submitit_slurm")
    progress = None if composition.launcher == "basic" else SweepProgress(composition.configs)
    apart = signals_blocked_in_children() if composition.launcher != "basic" else nullcontext()
    try:
        with _watched(stop, token, jobs, wait, progress), apart:
            try:
                wait.run(run_all)
            except _WaitIsOver:
                pass
            except Exception as error:  # a cell's own is in its error.txt
                _print_unless_from_a_cell(error, composition)
            while jobs is not None and jobs.alive():  # one job's end may have ended the launcher's wait for the rest
                time.sleep(1)
    except KeyboardInterrupt:
        if jobs is not None:
            jobs.cancel()
        raise


@contextmanager
def _watched(
    stop: StopFlag, file: Path, jobs: Jobs | None, wait: _LauncherWait, progress: SweepProgress | None
) -> Generator[None]:
    """Show how far it is, remove the stop token `file` once `stop` is set, leave a launcher whose jobs are gone."""
    main, over = os.getpid(), threading.Event()

    def watch() -> None:
        alive_at = None
        next_check = time.monotonic() + 5
        while not over.wait(_SECONDS_BETWEEN_CHECKS):
            if progress is not None:
                progress.show()
            if stop.is_set():
                file.unlink(missing_ok=True)
                if jobs is not None:
                    jobs.drop_waiting()
                    os.kill(main, signal.SIGUSR2)
                return
            if jobs is not None and time.monotonic() > next_check:
                if jobs.alive():
                    alive_at = time.monotonic()
                elif alive_at is not None and time.monotonic() - alive_at > _SECONDS_OF_GRACE:
                    os.kill(main, signal.SIGUSR2)
                    return
                next_check = time.monotonic() + 5

    before = signal.signal(signal.SIGUSR2, wait.leave) if jobs is not None else None
    watcher = threading.Thread(target=watch, name="vidgn-sweep", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        if progress is not None:
            progress.close()
        if jobs is not None:
            signal.signal(signal.SIGUSR2, before)


def _refused(composition: Composition) -> dict[Path, str]:
    """Cells whose directory holds another experiment, with the reason: what is there is not their result."""
    from vidgn.data.datasets.annotations import read_listing
    from vidgn.runs.identity import why_refused

    read = functools.cache(read_listing)  # cells share their data
    found: dict[Path, str] = {}
    for config in composition.configs:
        with suppress(VidgnError):  # data that is gone, or a weights file: the cell itself has said so
            if (reason := why_refused(config, read)) is not None:
                found[config.run_dir] = reason
    return found


def _list_cells(study: Path, configs: list[Config], refused: Mapping[Path, str] | None = None) -> None:
    """study.json: every cell ever asked for, so that a missing one can be named. Other sweeps may add theirs now."""
    file = study / "study.json"
    with one_at_a_time(study / ".study.lock"):
        known, others = _listed(file)
        for config in configs:
            values = {
                "frames": config.frames,
                "clips_per_gpu": config.clips_per_gpu,
                "gpus": config.gpus,
                "norm": config.norm.kind,
                "model": config.model.name,
                "tag": full_tag(config.tag, config.data.fold),
                "seed": config.seed,
            }
            known[run_name(config)] = {"run_name": run_name(config), "values": values}
            if reason := (refused or {}).get(config.run_dir):
                holds = fingerprint(read_json(config.run_dir / "identity.json"))
                known[run_name(config)]["refused"] = {"reason": reason, "holds": holds}
        write_json(file, {**others, "cells": list(known.values())}, alone=False)


def _listed(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cells by name, and what else is there; nothing where the file is absent or was not written by a sweep."""
    try:
        found = read_json(file)
        return {c["run_name"]: c for c in found["cells"]}, {k: v for k, v in found.items() if k != "cells"}
    except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError):
        return {}, {}


def _record_threads(study: Path, composition: Composition) -> None:
    """What launch.threads=auto is in this study, by number of ranks: the same side by side and one after another."""
    from vidgn.distributed.ranks import world_size_of

    if composition.launcher == "submitit_slurm":  # its jobs have cores of their own
        return
    by_ranks = {str(world_size_of(c)): threads_per_rank(c) for c in composition.configs if c.launch.threads == "auto"}
    with one_at_a_time(study / ".study.lock"):
        found = read_json(study / "study.json")
        write_json(study / "study.json", {**found, "threads": {**by_ranks, **found.get("threads", {})}}, alone=False)


def _errors(composition: Composition) -> dict[Path, tuple[int, str]]:
    """What made cells fail, with the time of its writing, by run directory."""
    files = {c.run_dir: c.run_dir / "error.txt" for c in composition.configs}
    return {run: (f.stat().st_mtime_ns, f.read_text().strip()) for run, f in files.items() if f.exists()}


def _print_unless_from_a_cell(error: Exception, composition: Composition) -> None:
    from vidgn.distributed.ranks import error_of_kind
    from vidgn.errors import StopRequested

    raised = re.findall(r"^\w[\w.]*(?:Error|Exception): .*", str(error), re.MULTILINE)  # submitit quotes a traceback
    line = raised[-1] if raised else f"{type(error).__name__}: {' '.join(str(error).split())}"
    kind, _, message = line.partition(": ")
    is_a_cells = any(message and message in text for _, text in _errors(composition).values())
    if not isinstance(error, StopRequested) and not is_a_cells:
        is_ours = error_of_kind(f"{kind.rpartition('.')[2]}: {message}") is not None
        print(f"vidgn train: {(message if is_ours else line)[:500]}", file=sys.stderr)


def _print_unfinished(
    composition: Composition,
    old_errors: dict[Path, tuple[int, str]],
    refused: Mapping[Path, str],
    *,
    stopped: bool,
) -> int:
    """A line for each cell without a result of its own; one that failed at an earlier start has not failed at this one.

    Returns:
        The exit code.
    """
    for reason in refused.values():
        print(reason, file=sys.stderr)
    there = [c.run_dir for c in composition.configs if c.run_dir not in refused]
    errors = _errors(composition)
    new = {run for run, told in errors.items() if told != old_errors.get(run)}
    undone = [run for run in there if run in new or json_or_none(run / "result.json") is None]
    waiting = 0
    for run in undone:
        if stopped and run not in new:
            waiting += 1
        else:
            print(f"{run}: {errors[run][1] if run in errors else 'not finished'}", file=sys.stderr)
    if waiting:
        print(f"vidgn train: stopped, {waiting} cells to go: the same command goes on with them", file=sys.stderr)
    return (EXIT_AGAIN if waiting else 1) if undone else int(bool(refused))


def _report(study: Path) -> None:
    from vidgn.cli.report_pictures import PICTURES
    from vidgn.report.show.report_files import write_report

    try:
        print(write_report(study, pictures=PICTURES), flush=True)  # before the lines about cells, which go to stderr
    except VidgnError as error:
        print(f"no report: {error}", file=sys.stderr)
