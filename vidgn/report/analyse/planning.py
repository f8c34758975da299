"""How many seeds a gap needs: the model of `gap_interval` asked before the runs are made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidgn.errors import ManifestError
from vidgn.report.analyse.analysis import analyse
from vidgn.report.analyse.gap import Comparison, crossed_differences
from vidgn.report.analyse.statistics import GapInterval, Spread, planned, spread_of
from vidgn.report.read.study import read_study

MOST_SEEDS = 1000
_PERSISTENT = 0.25  # of the videos decided otherwise, what does not change with the seed; a guess where no pilot tells


@dataclass(frozen=True)
class Plan:
    """`rows`: (seeds, interval to expect). `needed`: the first number of seeds that sees the gap, None if none does."""

    rows: tuple[tuple[int, GapInterval], ...]
    needed: int | None
    limit: float  # what could be seen with any number of seeds, in points


def plan(spread: Spread, *, num_videos: int, points: float) -> Plan:
    """Seeds for a gap of `points` on so many test videos."""

    def expected(seeds: int) -> GapInterval:
        return planned(spread, num_seeds=seeds, num_videos=num_videos)

    needed = next((seeds for seeds in range(2, MOST_SEEDS + 1) if expected(seeds).detectable <= points), None)
    shown = {2, 3, 5, 6, 10, 20} if needed is None else {2, 3, 5, 6, 10, 20, needed}
    rows = tuple((seeds, expected(seeds)) for seeds in sorted(shown))
    return Plan(rows, needed, expected(10**6).detectable)


def spread_of_noise(*, run_deviation: float, discordant: float) -> Spread:
    """From published noise.

    Args:
        run_deviation: of one network's accuracy from run to run, in points; a gap has two networks.
        discordant: percent of the videos that one arm's network gets right and the other's does not.
    """
    of_videos = discordant / 100
    return Spread(2 * (run_deviation / 100) ** 2, _PERSISTENT * of_videos, (1 - _PERSISTENT) * of_videos)


def spread_of_pilot(study_dir: str) -> tuple[Spread, Comparison]:
    """From the gap of a pilot that shows most noise.

    Raises:
        ManifestError: it has no gap with two seeds, per-video scores, and a video that was decided otherwise.
    """
    found: list[tuple[Spread, Comparison]] = []
    for gap in analyse(read_study(study_dir)).gaps:
        folds: Sequence[np.ndarray] = crossed_differences(gap)
        spreads = [spread_of(fold) for fold in folds if fold.shape[0] > 1 and fold.any()]
        found += [(spread, gap) for spread in spreads]
    if not found:
        raise ManifestError(
            f"{study_dir}: no gap of two seeds or more to plan from; give --run-deviation and --discordant instead"
        )
    return max(found, key=lambda pair: math.sqrt(pair[0].runs) + math.sqrt(pair[0].rest))
