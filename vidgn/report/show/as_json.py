"""A report for machines."""

import math
from dataclasses import asdict
from typing import Any

from vidgn.report.analyse.analysis import Analysis
from vidgn.report.analyse.arms import Arm, Column
from vidgn.report.analyse.gap import Comparison
from vidgn.report.analyse.statistics import GapInterval
from vidgn.report.read import published
from vidgn.report.read.study import Cell

FORMAT_VERSION = 2

_FROM_RESULT = (
    "num_videos",
    "num_unreadable",
    "num_missing",
    "views",
    "bn_stats",
    "steps",
    "plan_digest",
)


def as_json(analysis: Analysis) -> dict[str, Any]:
    """Plain containers. Accuracy in percent, differences in points of accuracy (for images too), arm less baseline."""
    return {
        "format_version": FORMAT_VERSION,
        "study": analysis.study.name,
        "baseline": analysis.baseline,
        "num_classes": analysis.num_classes,
        "cells": [_cell(c) for c in analysis.study.cells],
        "columns": [_column(analysis, c) for c in analysis.columns],
        "gaps": [{**_comparison(g), "is_gap": g.is_gap} for g in analysis.gaps],
        "changes_with_batch": [_comparison(c) for c in analysis.changes],
        "group_sizes": [
            {
                "model": g.model,
                "frames": g.frames,
                "tag": g.tag,
                "slots_per_step": g.slots_per_step,
                "arms": {n: {str(s): _arm(a) for s, a in by_size.items()} for n, by_size in g.arms.items()},
            }
            for g in analysis.groups
        ],
        "faults": list(analysis.faults),
        "published": {"source": published.SOURCE, "cells": [asdict(p) for p in analysis.published]},
    }


def _cell(cell: Cell) -> dict[str, Any]:
    entry = {
        "run_name": cell.run_name,
        "state": cell.state,
        "model": cell.model,
        "norm": cell.norm,
        "frames": cell.frames,
        "clips_per_gpu": cell.clips_per_gpu,
        "gpus": cell.gpus,
        "tag": cell.tag,
        "fold": cell.fold,
        "seed": cell.seed,
        "step": cell.progress.step,
        "steps_total": cell.progress.steps_total,
        "error": cell.progress.error,
    }
    return entry | ({k: cell.result.get(k) for k in (*cell.headlines, *_FROM_RESULT)} if cell.result else {})


def _column(analysis: Analysis, column: Column) -> dict[str, Any]:
    first, second = analysis.measure.keys
    arms = {n: _arm(analysis.arms[column, n]) for n in analysis.norms if (column, n) in analysis.arms}
    beside = {n: analysis.published_for(column, n) for n in analysis.norms}
    return {
        **asdict(column),
        "arms": arms,
        "published": {n: {first: p.top1, second: p.top5} for n, p in beside.items() if p},
    }


def _arm(arm: Arm) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "runs": [c.run_name for c in arm.done],
        "served_by": [c.run_name for c in arm.borrowed],
        "open": [c.run_name for c in arm.open],
    }
    if arm.done:
        first, second = arm.done[0].headlines
        entry |= {first: asdict(arm.first), second: asdict(arm.second)}
    return entry


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "arm": {"norm": comparison.arm.norm, **asdict(comparison.arm.column)},
        "baseline": {"norm": comparison.baseline.norm, **asdict(comparison.baseline.column)},
        "state": comparison.state,
        "seeds": list(comparison.seeds),
        "folds": list(comparison.folds),
        "points": asdict(comparison.points) if comparison.points else None,
        "videos": asdict(comparison.videos) if comparison.videos else None,
        "interval": _interval(comparison.interval),
        "p_adjusted": comparison.p_adjusted,
        "no_interval": comparison.no_interval or None,
        "refused": list(comparison.refused),
        "remarks": list(comparison.remarks),
    }


def _interval(interval: GapInterval | None) -> dict[str, Any] | None:
    """None stands for what is not known: JSON has no NaN."""
    if interval is None:
        return None
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(interval).items()}
