"""One cell from start to result: claim the directory, train, test, write what the report reads."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from vidgn.atomic_files import read_json, write_json, write_text
from vidgn.config.build import to_plain
from vidgn.config.fingerprint import policy
from vidgn.config.schema import Config
from vidgn.data.clips.order import mirrored_labels
from vidgn.data.datasets.listing import SPLITS
from vidgn.data.datasets.manifest import Manifest
from vidgn.data.datasets.splits import check_splits
from vidgn.distributed.environment import CELL, ranks_are_set, threads_per_rank
from vidgn.distributed.launcher import launch
from vidgn.distributed.ranks import Ranks, joined, statistics_process_group, world_size_of
from vidgn.distributed.scaling import traffic
from vidgn.distributed.signals import RankStopFlag, StopFlag, listening, stopped_with_sweep
from vidgn.errors import ConfigError, StopRequested, VidgnError
from vidgn.geometry import Geometry, order_of_sums
from vidgn.memory.fit import fitting_geometry
from vidgn.models.weights import load_weights
from vidgn.models.weights.formats import Triple
from vidgn.preflight import check_before_start
from vidgn.report.read.history import layout_changes, policy_changes, read_starts
from vidgn.report.show.markdown import plural
from vidgn.runs import directory
from vidgn.runs.checkpoint import versions
from vidgn.runs.directory import RunDirectory
from vidgn.runs.identity import identity_of, weights_file
from vidgn.runs.kept_rows import is_moved, keep_rows, kept_rows, rows_of
from vidgn.runs.lock import Owner, locked, remove_left_lock
from vidgn.runs.loggers import Logged
from vidgn.training.audit import audit, audit_table
from vidgn.training.bn_stats import statistics_used
from vidgn.training.loop import Trainer
from vidgn.training.norm_kernels import choose_norm_kernels, ways_on_gpu
from vidgn.training.optim import total_steps
from vidgn.training.result import items, write_test
from vidgn.training.setup import DTYPES, check_bf16, make_model, memory_format, place_model, set_precision, set_threads
from vidgn.training.state import RunState
from vidgn.training.step import Layout, Task, TrainStep
from vidgn.training.tasks import TASKS


def run(config: Config) -> dict[str, Any]:
    """Train and test one cell; go on where it was stopped; leave it alone where it is done.

    Returns:
        What is in result.json; empty on a node that can't see it.

    Raises:
        VidgnError: if the user's input, data or files are at fault.
        StopRequested: when a signal stopped it with everything saved.
    """
    check_before_start(config)
    stop = StopFlag()
    with listening(stop), stopped_with_sweep(stop):
        if stop.is_set():
            raise StopRequested("stopped before it began")
        if ranks_are_set():
            outcome = work_as_rank(config, RankStopFlag(stop), work="train")
        elif config.launch.nnodes > 1:  # the first rank claims the directory: which node has it shows when they meet
            outcome = launch(config, stop, partial(work_as_rank, config, work="train"))
        else:
            outcome = _claim_and_train(config, stop)
    _finish(outcome)
    result = config.run_dir / "result.json"
    return read_json(result) if result.exists() else {}


def _claim_and_train(config: Config, stop: StopFlag) -> str | None:
    with ExitStack() as held:
        owner = _claim(config, held)
        if owner is None:
            return None
        if world_size_of(config) == 1:
            return work_as_rank(config, RankStopFlag(stop), work="train", owner=owner)
        return launch(config, stop, partial(work_as_rank, config, work="train", owner=owner))


def evaluate_run(config: Config) -> None:
    """Test a finished run with the views and statistics in `config`; the result goes to its tests/.

    Raises:
        VidgnError: as `run`.
    """
    check_before_start(config, is_test=True)
    stop = StopFlag()
    with listening(stop):
        if world_size_of(config) == 1 or ranks_are_set():
            outcome = work_as_rank(config, RankStopFlag(stop), work="test")
        else:
            outcome = launch(config, stop, partial(work_as_rank, config, work="test"))
    _finish(outcome)


def work_as_rank(
    config: Config, stop: RankStopFlag, *, work: Literal["train", "test"], owner: Owner | None = None
) -> str | None:
    """All that one rank does in a cell.

    Args:
        owner: of the directory's lock, where the launching process has it; else the first rank of a training takes it.

    Returns:
        None when done, else why it stopped with everything saved.
    """
    threads = set_threads(config)
    set_precision(config)
    with joined(config, stop.is_set) as ranks, ExitStack() as held:
        if config.trainer.precision == "bf16":
            check_bf16(config, ranks.device)
        if work == "train" and owner is None and (owner := _first_claims(config, ranks, held)) is None:
            return None
        train, val = ranks.from_first(_rows(config, is_test=work == "test") if ranks.is_first else None)
        identified = identity_of(config, train, val, is_test=work == "test")
        logged, writes = Logged.of(config, identified), ranks.is_first
        run_directory = RunDirectory(
            config.run_dir, writes=writes, stop=stop, identity=identified, owner=owner, logged=logged
        )
        try:
            model, input_mean = _first_model(config, train, run_directory, ranks, is_test=work == "test")
            norm_kernels = choose_norm_kernels(config, model, ranks, log=run_directory.log)
            geometry = fitting_geometry(config, ranks, num_classes=len(train.classes), is_test=work == "test")
            layout = Layout(geometry, ranks, statistics_process_group(geometry))
            state = RunState(total_steps(config, len(train)))
            task = _task_type(config)(
                config,
                model,
                train=train,
                val=val,
                layout=layout,
                run=run_directory,
                state=state,
                input_mean=input_mean,
            )
            update = TrainStep(config, model, task, layout)
            if work == "train":
                trainer = Trainer(config, task=task, update=update, state=state, ranks=ranks, run=run_directory)
                trainer.resume()
                here = _machine(config, ranks, geometry, threads=threads)
                here |= ways_on_gpu(config, ranks, norm_kernels, log=run_directory.log)
                _announce(task, state, geometry, ranks, run_directory, here)
                trainer.train()
                run_directory.close()
            else:
                state.load_last(update, task, ranks=ranks, run=run_directory)
            write_test(task, state, ranks=ranks, run=run_directory, identity=identified, is_result=work == "train")
            ranks.barrier()  # the first has written the result
        except StopRequested as stopped:
            run_directory.log(str(stopped))
            return str(stopped)
        finally:
            run_directory.close()
    return None


# -- before ---------------------------------------------------------------------------------------------------------


def _claim(config: Config, held: ExitStack) -> Owner | None:
    """Read the data's annotation, make the directory this experiment's, and lock it for as long as `held` is open.

    Returns:
        The owner of the lock; None where nothing is left to do.
    """
    path = config.run_dir
    if (path / "result.json").exists():
        train, val = rows_of(config, "train"), rows_of(config, "val")
        directory.claim(path, identity_of(config, train, val, is_test=False))
        remove_left_lock(path)
        (path / "error.txt").unlink(missing_ok=True)
        _check_test(config)
        if CELL not in os.environ:
            print(f"{path} is done; vidgn evaluate {path} tests it in other ways")
        return None
    log, notes = _log_to(path), list[str]()  # said once the directory is known to be this experiment's
    train, val = rows_of(config, "train", log=notes.append), rows_of(config, "val", log=notes.append)
    identified = identity_of(config, train, val, is_test=False)
    if kept_rows(path, "train") is None:
        notes += check_splits(train, val, config.data)
        mirrored_labels(train.classes, config.data)
    path.mkdir(parents=True, exist_ok=True)
    owner = held.enter_context(locked(path, log))
    directory.claim(path, identified)
    for note in notes:
        log(note)
    keep_rows(path, "train", train)
    keep_rows(path, "val", val)
    write_text(path / "config.yaml", yaml.safe_dump(to_plain(config), sort_keys=False))
    (path / "error.txt").unlink(missing_ok=True)
    return owner


def _check_test(config: Config) -> None:
    """Training has nothing to do for a run that is done, so it can't test it in another way either."""
    result = read_json(config.run_dir / "result.json")
    asked = {"views": config.views.name, "bn_stats": statistics_used(config)}
    if any(value != result.get(key) for key, value in asked.items()):
        told = " ".join(f"{key}={value}" for key, value in asked.items() if value is not None)
        tested = " ".join(f"{key}={result[key]}" for key in asked if result.get(key) is not None)
        path = config.run_dir
        raise ConfigError(f"{path} is done, and was tested with {tested}: vidgn evaluate {path} {told} tests it so")


def _rows(config: Config, *, is_test: bool) -> tuple[Manifest, Manifest]:
    """The rows of both splits. A run that trains has them from its start, which has listed the files."""
    if is_test:
        train, val = (rows_of(config, split, is_test=True, log=print) for split in SPLITS)
        for note in check_splits(train, val, config.data) if is_moved(config) else []:
            print(note)
        return train, val
    train, val = kept_rows(config.run_dir, "train"), kept_rows(config.run_dir, "val")
    assert train is not None
    assert val is not None
    return train, val


def _first_claims(config: Config, ranks: Ranks, held: ExitStack) -> Owner | None:
    """The same where no one process has launched all ranks: the first rank does it and tells the others."""
    outcome: Owner | VidgnError | None = None
    if ranks.is_first:
        try:
            outcome = _claim(config, held)
        except VidgnError as error:
            outcome = error
    outcome = ranks.gather(outcome)[0]
    if isinstance(outcome, VidgnError):
        raise outcome
    return outcome


def _first_model(
    config: Config, train: Manifest, run: RunDirectory, ranks: Ranks, *, is_test: bool
) -> tuple[Any, Triple | None]:
    """The network as step 0 has it, audited; and the input mean that came with its weights.

    Without its weights where a checkpoint will replace them.
    """
    model = _new_model(config, num_classes=len(train.classes))
    input_mean = None
    if (path := weights_file(config, is_test=is_test)) is not None:
        body = model.body if config.model.detector else model
        report = load_weights(body, path, std=config.data.std, classes=train.classes)
        input_mean = report.input_mean
        run.log(str(report))
    audited = audit(model, config)
    if ranks.is_first and not (run.path / "audit.json").exists():
        write_json(run.path / "audit.json", audited)
        run.log(audit_table(audited))
    return place_model(model, config, ranks.device), input_mean


def _new_model(config: Config, *, num_classes: int) -> Any:
    if config.model.detector:
        from vidgn.detection.networks import build_detector

        return build_detector(config, num_classes=num_classes).to(dtype=DTYPES[config.trainer.precision])
    return make_model(config, num_classes=num_classes)


def _task_type(config: Config) -> Callable[..., Task]:
    if config.model.detector:
        from vidgn.detection.task import DetectionTask

        return DetectionTask
    return TASKS[config.data.augment]


def _announce(task: Task, state: RunState, g: Geometry, ranks: Ranks, run: RunDirectory, here: dict[str, Any]) -> None:
    """Write machine.json, and log where and on what this start runs; whether bits may differ from the start before."""
    if not ranks.is_first:
        return
    config, sent = task.config, traffic(task.model, g)
    here |= {"steps_total": state.total_steps, "communication": asdict(sent)}
    before = directory.add_start(config.run_dir, {**here, "from_step": state.step, "policy": policy(config)})
    for manifest, name in ((task.train_rows, "training"), (task.val_rows, "validation")):
        missing = f", {manifest.num_missing} missing" if manifest.num_missing else ""
        bad = f", {len(manifest.unreadable)} left out as the list marks them" if manifest.unreadable else ""
        run.log(f"{len(manifest)} {name} {items(config)}{missing}{bad}, {len(manifest.classes)} classes")
    run.log(
        f"{config.run_dir}: {state.total_steps} steps of {g.slots_per_step} clips; "
        f"{g.world_size} x {here['device']}, {plural(g.forwards_per_step, 'forward')} of {g.clips_per_forward} a step, "
        f"{plural(g.groups_per_forward, 'statistics group')} each"
    )
    if config.launch.threads == "auto" and (share := threads_per_rank(config)) != here["threads"]:
        run.log(
            f"{here['threads']} threads a rank, with which this run or its sweep began; a rank's share of the cores is "
            f"{share} now: launch.threads={share} takes it and moves the last bits"
        )
    if g.world_size > 1:
        run.log(str(sent))
    if before is not None:
        for change in policy_changes([before, {"from_step": state.step, "policy": policy(config)}]):
            run.log(str(change))
        for change in layout_changes(read_starts(config.run_dir)[-2:]):
            run.log(change)


def _machine(config: Config, ranks: Ranks, geometry: Geometry, *, threads: int) -> dict[str, Any]:
    """What this start of the run runs on, for machine.json. Equal entries give equal bytes."""
    gpu = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else None
    return {
        "world_size": ranks.world_size,
        "device": ranks.device.type,
        "gpu": gpu,
        "threads": threads,
        "clips_per_forward": geometry.clips_per_forward,
        "sums": order_of_sums(config, geometry),
        "memory_format": str(memory_format(config, ranks.device)).removeprefix("torch."),
        "activation_memory": config.trainer.activation_memory,
        "compile": config.trainer.compile,
        "deterministic": config.trainer.deterministic,
        "versions": versions(),
    }


def _finish(outcome: str | None) -> None:
    if outcome is not None:
        raise StopRequested(outcome)


def _log_to(path: Path) -> Any:
    return RunDirectory(path, writes=True, stop=StopFlag()).log
