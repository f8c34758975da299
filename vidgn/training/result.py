"""The end of a run, and any later test: scores of the split as files, the run's result and its model."""

from typing import Any

import yaml

from vidgn.atomic_files import read_json
from vidgn.config.fingerprint import DATA_ROWS, fingerprint, pair_fingerprint
from vidgn.config.schema import Config
from vidgn.data.datasets.manifest import Manifest
from vidgn.distributed.ranks import Ranks
from vidgn.models.weights import save_model
from vidgn.runs.checkpoint import versions
from vidgn.runs.directory import RunDirectory
from vidgn.runs.kept_rows import other_files
from vidgn.training.bn_stats import statistics_used
from vidgn.training.state import RunState
from vidgn.training.step import Scores, Task


def test_name(config: Config, identity: dict[str, Any], rows: Manifest) -> str:
    """Files of a test in the run's directory, without their endings: what is not the run's own is in the name.

    That is rows of other data, other files of the same names, and another number of steps that BN's statistics are
    taken of.

    Args:
        identity: of the test.
        rows: that are tested.
    """
    name = f"tests/{config.views.name}-{statistics_used(config) or 'none'}"
    own = yaml.safe_load((config.run_dir / "config.yaml").read_text())["bn_stats_steps"]
    if statistics_used(config) == "precise" and config.bn_stats_steps != own:
        name += f"-{config.bn_stats_steps}steps"
    digest = identity[DATA_ROWS]
    if read_json(config.run_dir / "identity.json")[DATA_ROWS] != digest:
        return f"{name}-{digest[:8]}"
    return f"{name}-{digest[:8]}" if (digest := other_files(config, rows)) else name


def items(config: Config) -> str:
    """What the data set is made of."""
    return "images" if config.data.format in ("imagenet", "coco") else "videos"


def write_test(
    task: Task,
    state: RunState,
    *,
    ranks: Ranks,
    run: RunDirectory,
    identity: dict[str, Any],
    is_result: bool,
) -> None:
    """Make the configured test and write its files. Only the first rank writes.

    Args:
        identity: of the test.
        is_result: it is the run's own test: model.safetensors, with the statistics it was tested with, and result.json
            are written too.
    """
    config = task.config
    with task.tested(config.views) as scores:
        if not ranks.is_first:
            return
        result = _result(task, state, scores, identity)
        name = test_name(config, identity, task.val_rows)
        for ending, content in scores.files().items():
            run.write_whole(f"{name}{ending}", content)
        run.write_whole(f"{name}.json", {**result, "unreadable": list(scores.unreadable)})
        if is_result:
            run.retry_on_full_disk(lambda: _save_model(task, state), "model.safetensors")
            run.write_whole("result.json", result)
            (run.path / "error.txt").unlink(missing_ok=True)  # of a start that was refused meanwhile
    use = f" ({result['bn_stats']})" if result["bn_stats"] else ""
    unreadable = f", {len(scores.unreadable)} unreadable" if scores.unreadable else ""
    skipped = f"; {state.num_skipped} training steps were skipped as not finite" if state.num_skipped else ""
    run.log(
        f"{config.views.name}{use}: {scores.line()} "
        f"of {scores.num_videos} {items(config)}{unreadable} (in {name}.json){skipped}"
    )


def _result(task: Task, state: RunState, scores: Scores, identity: dict[str, Any]) -> dict[str, Any]:
    """What result.json and tests/*.json hold; nothing in it depends on the machine or the clock."""
    config = task.config
    assert scores.num_videos == len(task.val_rows), "every video of the manifest, once"
    return {
        **scores.numbers,
        "num_videos": scores.num_videos,
        "num_unreadable": len(scores.unreadable),
        "num_missing": task.val_rows.num_missing,
        "views": config.views.name,
        "bn_stats": statistics_used(config),
        "frames": config.frames,
        "clips_per_gpu": config.clips_per_gpu,
        "gpus": config.gpus,
        "norm": config.norm.kind,
        "model": config.model.name,
        "data": config.data.name,
        "classes": len(task.val_rows.classes),
        "transcoded_as": sorted({*task.train_rows.transcoded_as, *task.val_rows.transcoded_as}),
        "seed": config.seed,
        "precision": config.trainer.precision,
        "steps": state.step,
        "num_substituted": state.num_substituted,
        "num_skipped": state.num_skipped,
        "plan_digest": f"{state.digest:032x}",
        "weights": config.weights,
        "input_mean": list(task.input_mean),
        "input_std": list(config.data.std),
        "fingerprint": fingerprint(identity),
        "pair_fingerprint": pair_fingerprint(identity),
        "versions": versions(),
    }


def _save_model(task: Task, state: RunState) -> None:
    save_model(
        task.model,
        task.config.run_dir / "model.safetensors",
        config=task.config,
        classes=task.train_rows.classes,
        input_mean=task.input_mean,
        trained_steps=state.step,
    )
