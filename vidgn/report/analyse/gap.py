"""The difference of two arms, measured run by run and video by video."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vidgn.report.analyse.arms import Arm, run_of
from vidgn.report.analyse.average_precision import compare_aps
from vidgn.report.analyse.comparison import align, shared_ids
from vidgn.report.analyse.statistics import (
    LEVEL,
    GapInterval,
    OverSeeds,
    PairedDifference,
    gap_interval,
    over_seeds,
    paired_difference,
)
from vidgn.report.read.study import Cell

Outcomes = tuple[list[str], np.ndarray, np.ndarray]
State = Literal["apart", "apart here", "not seen", "not comparable", "unknown"]


@dataclass(frozen=True)
class Comparison:
    """One arm against another on the same videos; `points` is top-1 of `arm` less `baseline`, over common seeds."""

    arm: Arm
    baseline: Arm
    runs: tuple[tuple[int, int], ...]  # (fold, seed) of each pair of runs
    points: OverSeeds | None
    videos: PairedDifference | None  # of these networks; None without per-video scores
    interval: GapInterval | None  # over videos and runs; None with one pair of runs
    refused: tuple[str, ...] = ()  # what differs, where it is no gap; `seed N: ...` where only some seeds are refused
    remarks: tuple[str, ...] = ()
    p_adjusted: float | None = None  # of `interval`, for as many as the study has
    by_seed: tuple[float, ...] = ()  # points of each of `seeds`
    no_interval: str = ""  # why there is neither, over runs nor over videos

    @property
    def is_gap(self) -> bool:
        return self.points is not None

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({seed for _, seed in self.runs}))

    @property
    def folds(self) -> tuple[int, ...]:
        """Of data with folds; else one."""
        return tuple(sorted({fold for fold, _ in self.runs}))

    @property
    def state(self) -> State:
        """What may be said: they are apart; these networks are, others may not be; nothing is seen; no gap; unknown."""
        if not self.is_gap:
            return "not comparable"
        if self.videos is None:
            return "unknown"
        if self.videos.low <= 0 <= self.videos.high:
            return "not seen"
        is_apart = self.p_adjusted is not None and self.p_adjusted < 1 - LEVEL
        return "apart" if is_apart else "apart here"


def pairs_of(comparison: Comparison) -> list[tuple[Cell, Cell]]:
    """The cells that a comparison is of, one pair a run."""
    ours, theirs = ({run_of(c): c for c in a.done} for a in (comparison.arm, comparison.baseline))
    return [(ours[run], theirs[run]) for run in comparison.runs]


def measured(arm: Arm, baseline: Arm, pairs: Sequence[tuple[Cell, Cell]], refused: tuple[str, ...]) -> Comparison:
    runs = tuple(run_of(one) for one, _ in pairs)
    if not pairs:
        return Comparison(arm, baseline, runs, None, None, None, refused)
    if arm.done[0].data_format == "coco":
        return _measure_aps(arm, baseline, pairs, refused)
    outcomes = [_outcomes(one, other) for one, other in pairs]
    known = [o for o in outcomes if o is not None]
    if len(known) < len(pairs):
        told = [(int((one.result or {})["num_videos"]), one.first - other.first) for one, other in pairs]
        by_seed = _by_seed(told, runs)
        why = "the scores of each video are not there, or none could be read by both"
        return Comparison(arm, baseline, runs, over_seeds(by_seed), None, None, refused, (), None, by_seed, why)
    by_fold = {n: [o for o, (fold, _) in zip(known, runs, strict=True) if fold == n] for n, _ in sorted(runs)}
    folds = [_crossed(of_fold) for of_fold in by_fold.values()]
    if not all(len(ids) for ids, _, _ in folds):
        why = "no video could be read in the tests of all runs"
        return Comparison(arm, baseline, runs, None, None, None, (*refused, why))
    told = [
        (len(ids), 100 * float(o.mean() - t.mean())) for ids, *of_arms in folds for o, t in zip(*of_arms, strict=True)
    ]
    by_seed = _by_seed(told, sorted(runs))
    points = over_seeds(by_seed)
    num_tested = sum(len({id for ids, _, _ in of_fold for id in ids}) for of_fold in by_fold.values())
    num_left_out = num_tested - sum(len(ids) for ids, _, _ in folds)
    remarks = (f"{num_left_out} videos that not every run's test has are left out",) if num_left_out else ()
    if len({id for ids, _, _ in folds for id in ids}) < sum(len(ids) for ids, _, _ in folds):
        why = "a video is in the tests of several folds"
        return Comparison(arm, baseline, runs, points, None, None, refused, remarks, None, by_seed, why)
    mean_V = [
        np.concatenate([fold.mean(axis=0) for fold in of_arm]) for of_arm in zip(*(f[1:] for f in folds), strict=True)
    ]
    discordant = float(np.average([np.mean(o != t) for _, o, t in folds], weights=[len(ids) for ids, _, _ in folds]))
    videos = paired_difference(mean_V[0], mean_V[1], discordant=discordant)
    interval = gap_interval([o.astype(np.int8) - t.astype(np.int8) for _, o, t in folds])
    return Comparison(arm, baseline, runs, points, videos, interval, refused, remarks, by_seed=by_seed)


def _measure_aps(arm: Arm, baseline: Arm, pairs: Sequence[tuple[Cell, Cell]], refused: tuple[str, ...]) -> Comparison:
    """Of detectors: box AP, with its intervals over images."""
    runs = tuple(run_of(one) for one, _ in pairs)
    found = [(one.matches(), other.matches()) for one, other in pairs]
    known = tuple((one["box"], other["box"]) for one, other in found if one is not None and other is not None)
    of_same = len(known) == len(pairs) and all(np.array_equal(one.ids, other.ids) for one, other in known)
    compared = compare_aps(known) if of_same else None
    if compared is None:
        by_seed = _by_seed([(1, one.first - other.first) for one, other in pairs], runs)
        why = "the matches of each image are not there, or of other images, or of images without objects"
        return Comparison(arm, baseline, runs, over_seeds(by_seed), None, None, refused, (), None, by_seed, why)
    by_seed = _by_seed([(1, points) for points in compared.by_pair], runs)
    return Comparison(
        arm, baseline, runs, over_seeds(by_seed), compared.images, compared.interval, refused, by_seed=by_seed
    )


def crossed_differences(gap: Comparison) -> list[np.ndarray]:
    """Of each fold, the (S, V) differences that `gap` was measured on; none without per-video scores."""
    known = [(run_of(one)[0], _outcomes(one, other)) for one, other in pairs_of(gap)]
    folds = [[o for f, o in known if f == fold and o is not None] for fold in gap.folds]
    crossed = [_crossed(outcomes) for outcomes in folds if outcomes]
    return [o.astype(np.int8) - t.astype(np.int8) for _, o, t in crossed]


def _by_seed(told: Sequence[tuple[int, float]], runs: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """One difference a seed, by rising seed, of (videos, points) of each run: its folds' by their videos."""
    found: dict[int, list[tuple[int, float]]] = {}
    for part, (_, seed) in zip(told, runs, strict=True):
        found.setdefault(seed, []).append(part)
    return tuple(sum(n * points for n, points in found[s]) / sum(n for n, _ in found[s]) for s in sorted(found))


def _crossed(outcomes: Sequence[Outcomes]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(ids, (S, V), (S, V)) of one fold's runs on the videos that all of them have."""
    common = set.intersection(*(set(ids) for ids, _, _ in outcomes))
    ids = [id for id in outcomes[0][0] if id in common]
    rows = []
    for own, ours_V, theirs_V in outcomes:
        place = {id: row for row, id in enumerate(own)}
        order = [place[id] for id in ids]
        rows.append((ours_V[order], theirs_V[order]))
    return ids, np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])


def _outcomes(one: Cell, other: Cell) -> Outcomes | None:
    """(ids, (V,), (V,)): which videos both could be told of, and whether each was right."""
    videos = one.videos(), other.videos()
    if videos[0] is None or videos[1] is None:
        return None
    aligned = align(videos[0], videos[1])
    return None if aligned is None or not len(aligned[0]) else (shared_ids(videos[0], videos[1]), *aligned)
