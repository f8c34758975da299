"""Where a gap comes from: class by class, video by video."""

import math
from collections import Counter
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from vidgn.report.analyse.comparison import paired_rows
from vidgn.report.analyse.gap import Comparison, pairs_of
from vidgn.report.analyse.statistics import LEVEL

_MOST_FLIPS = 12
_MOST_PAIRS = 10


@dataclass(frozen=True)
class ClassRow:
    """One class over all pairs of runs. `arm`, `baseline`: percent right. `won`, `lost`: videos, mean over the runs.

    `low`, `high`: 95 % interval of the difference over the class's videos, in points; these networks'.
    """

    name: str
    num_videos: int
    arm: float
    baseline: float
    won: float
    lost: float
    low: float
    high: float

    @property
    def points(self) -> float:
        return self.arm - self.baseline


@dataclass(frozen=True)
class Flip:
    """A video that one arm gets right and the other does not, in the first pair of runs."""

    id: str
    label: str
    arm: str  # what it says
    arm_score: float
    baseline: str
    baseline_score: float


@dataclass(frozen=True)
class Origin:
    """Of one gap. `mean_class`: accuracy as the mean over classes, of either arm. `absent`: classes without a video.

    `confusions`: (label, said, by the arm, by the baseline) with the most change, videos a run.
    """

    rows: tuple[ClassRow, ...]
    mean_class: tuple[float, float]
    absent: tuple[str, ...]
    confusions: tuple[tuple[str, str, float, float], ...]
    flips: tuple[Flip, ...]
    num_flips: int


def origin_of(gap: Comparison) -> Origin | None:
    """What a gap is made of; None without per-video scores."""
    right: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    said: tuple[Counter[tuple[int, int]], Counter[tuple[int, int]]] = (Counter(), Counter())
    flips, num_flips, names, num_runs = list[Flip](), 0, tuple[str, ...](), 0
    for one, other in pairs_of(gap):
        ours, theirs = one.videos(), other.videos()
        rows = None if ours is None or theirs is None else paired_rows(ours, theirs)
        if ours is None or theirs is None or rows is None:
            continue
        num_runs += 1
        names = names or one.class_names() or other.class_names()
        both = (ours.rank[rows[0]] < 0) == (theirs.rank[rows[1]] < 0)
        rows = rows[0][both], rows[1][both]
        label_V = ours.labels[rows[0]]
        correct = ours.correct[rows[0]], theirs.correct[rows[1]]
        for label in np.unique(label_V):
            of_class = label_V == label
            right.setdefault(int(label), []).append((correct[0][of_class], correct[1][of_class]))
        for counter, scores, places in ((said[0], ours, rows[0]), (said[1], theirs, rows[1])):
            wrong = (scores.rank[places] > 0) & (scores.prediction[places] >= 0)
            counter.update(zip(label_V[wrong].tolist(), scores.prediction[places][wrong].tolist(), strict=True))
        if num_runs == 1:
            changed = np.flatnonzero(correct[0] != correct[1])
            num_flips = len(changed)
            sure = np.nan_to_num(ours.score[rows[0]]) + np.nan_to_num(theirs.score[rows[1]])
            for place in sorted(changed.tolist(), key=lambda p: (-float(sure[p]), p))[:_MOST_FLIPS]:
                first, second = int(rows[0][place]), int(rows[1][place])
                flips.append(
                    Flip(
                        ours.ids[first],
                        _name(names, int(ours.labels[first])),
                        _name(names, int(ours.prediction[first])),
                        float(ours.score[first]),
                        _name(names, int(theirs.prediction[second])),
                        float(theirs.score[second]),
                    )
                )
    if not right:
        return None
    found = tuple(_row(_name(names, label), runs) for label, runs in sorted(right.items()))
    changes = sorted({*said[0], *said[1]}, key=lambda pair: (-abs(said[0][pair] - said[1][pair]), pair))
    confusions = tuple(
        (_name(names, label), _name(names, other), said[0][label, other] / num_runs, said[1][label, other] / num_runs)
        for label, other in changes[:_MOST_PAIRS]
        if said[0][label, other] != said[1][label, other]
    )
    mean_class = float(np.mean([row.arm for row in found])), float(np.mean([row.baseline for row in found]))
    absent = tuple(name for label, name in enumerate(names) if label not in right)
    return Origin(found, mean_class, absent, confusions, tuple(flips), num_flips)


def _row(name: str, runs: list[tuple[np.ndarray, np.ndarray]]) -> ClassRow:
    won = float(np.mean([(ours & ~theirs).sum() for ours, theirs in runs]))
    lost = float(np.mean([(theirs & ~ours).sum() for ours, theirs in runs]))
    accuracies = [100 * float(np.mean([pair[arm].mean() for pair in runs])) for arm in (0, 1)]
    changes = [ours.astype(np.float64) - theirs for ours, theirs in runs]
    is_whole = len({len(change) for change in changes}) == 1
    per_video = np.mean(changes, axis=0) if is_whole else np.concatenate(changes)
    num_videos = len(per_video)
    half = math.nan
    if num_videos > 1:
        z = NormalDist().inv_cdf((1 + LEVEL) / 2)
        half = 100 * z * float(per_video.std(ddof=1)) / math.sqrt(num_videos)
    points = accuracies[0] - accuracies[1]
    return ClassRow(name, num_videos, accuracies[0], accuracies[1], won, lost, points - half, points + half)


def _name(names: tuple[str, ...], label: int) -> str:
    if label < 0:
        return "?"
    return names[label] if label < len(names) else str(label)
