"""What a difference between arms is worth: pure functions over counts and per-video outcomes.

Videos are the same for both arms, so everything is paired. Two kinds of chance enter: which videos happen to be in the
test set, and how training happened to go (a seed's two runs). `gap_interval` covers both; `paired_difference` covers
the videos alone, and so speaks of these networks and of no others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import stdtr, stdtrit

from vidgn.rng_streams import Tag, stream

LEVEL = 0.95
POWER = 0.80
_RESAMPLES = 10_000
_LEAST = 1 / 4  # of the mean square over videos: a variance estimate is never less


@dataclass(frozen=True)
class PairedDifference:
    """Arm less baseline on the same videos, in points (percent of videos)."""

    points: float
    low: float  # ends of the bootstrap interval over videos
    high: float
    num_videos: int
    discordant: float  # fraction of videos decided otherwise, mean over seeds
    detectable: float | None  # points seen with POWER at two-sided 1 - LEVEL; None where no video was decided otherwise


@dataclass(frozen=True)
class OverSeeds:
    """Mean and sample deviation over seeds; `deviation` is None for one seed."""

    mean: float
    deviation: float | None
    num_seeds: int


@dataclass(frozen=True)
class GapInterval:
    """Arm less baseline over videos and training runs together, in points.

    `run_deviation`: of the difference of two runs of one seed through training alone, estimated. `detectable`: the true
    difference that a study like this one sees with POWER at two-sided 1 - LEVEL.
    """

    points: float
    low: float
    high: float
    error: float  # standard error
    freedom: float  # degrees of
    p: float  # two-sided, of a true difference of 0
    run_deviation: float
    num_runs: int
    detectable: float


@dataclass(frozen=True)
class Spread:
    """Variances of a per-video difference, as fractions squared: of training runs, of videos, and what is left."""

    runs: float
    videos: float
    rest: float


def paired_difference(
    correct_V: np.ndarray, baseline_V: np.ndarray, *, discordant: float, seed: int = 0
) -> PairedDifference:
    """Difference of two arms on V videos, with its interval over videos: what is true of these networks.

    Shape: (V,) shares of runs in which each video was right. Resampling is over videos: a video takes its runs along.
    """
    assert correct_V.shape == baseline_V.shape
    assert correct_V.size > 0
    change_V = correct_V - baseline_V
    low, high = bootstrap_interval(change_V, seed=seed)
    return PairedDifference(
        points=100 * float(change_V.mean()),
        low=100 * low,
        high=100 * high,
        num_videos=len(change_V),
        discordant=discordant,
        detectable=_points(detectable_difference(float(np.mean(change_V**2)), len(change_V))),
    )


def gap_interval(folds_SV: Sequence[np.ndarray]) -> GapInterval | None:
    """The interval of a gap over videos and training runs; None where a single pair of runs can't tell the two apart.

    Shape: of each fold (most studies have one) the per-video differences, (S, V) in {-1, 0, 1}; folds have videos of
    their own. The model is the crossed one of Searle, Casella and McCulloch (Variance Components, 1992, 4.3): the
    difference of seed s on video v is gap + run_s + video_v + rest_sv, all random. With mean squares A over runs, B
    over videos and E of the rest, the mean's variance is (A + B - E) / (S V), and the interval is Student's with
    Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946), but for nu (total / A)^p in the place of his
    nu (total / A)^2: p = 2 - 1.45 / sqrt(nu) * (1 - 9 / D), nu = S - 1, where a run decides D videos otherwise than its
    pair. His claims many degrees of freedom just where A is small by chance: with two seeds such intervals hold the gap
    in as few as 87 % of studies where they say 95 (shown in test_statistics.py). Where D is small A can't be as small:
    a run's mean moves by whole videos. Both numbers are fitted to the worlds of bench/verdict.py.

    One run in each of several folds: the folds' means are the sample, whose deviation covers runs and videos at once;
    a variance is never taken for less than a part of what the videos alone make.
    """
    sizes = np.array([fold.shape[1] for fold in folds_SV], dtype=np.float64)
    shares_F, means_F = sizes / sizes.sum(), np.array([fold.mean() for fold in folds_SV])
    points = float(shares_F @ means_F)
    num_runs = sum(fold.shape[0] for fold in folds_SV)
    if all(fold.shape[0] > 1 for fold in folds_SV):
        squares = [_mean_squares(fold) for fold in folds_SV]
        return _crossed(folds_SV, shares_F, squares, points, num_runs)
    if len(folds_SV) == 1:
        return None
    freedom = len(folds_SV) - 1
    variance = float((shares_F**2 * (means_F - points) ** 2).sum() * len(folds_SV) / freedom)
    of_videos = sum(share**2 * float(fold.var()) / fold.size for share, fold in zip(shares_F, folds_SV, strict=True))
    variance = max(variance, _LEAST * of_videos)  # folds that come out alike by chance
    return _interval(points, math.sqrt(variance), freedom, run_deviation=math.nan, num_runs=num_runs)


def _mean_squares(difference_SV: np.ndarray) -> tuple[float, float, float]:
    """Over runs, over videos, and of the rest."""
    num_runs, num_videos = difference_SV.shape
    run_S, video_V, mean = difference_SV.mean(axis=1), difference_SV.mean(axis=0), difference_SV.mean()
    over_runs = num_videos * float(((run_S - mean) ** 2).sum()) / (num_runs - 1)
    over_videos = num_runs * float(((video_V - mean) ** 2).sum()) / max(1, num_videos - 1)
    whole = float((difference_SV.astype(np.float64) ** 2).sum()) - num_runs * num_videos * float(mean) ** 2
    rest = whole - over_runs * (num_runs - 1) - over_videos * (num_videos - 1)
    return over_runs, over_videos, max(0.0, rest) / ((num_runs - 1) * max(1, num_videos - 1))


def _crossed(
    folds_SV: Sequence[np.ndarray],
    shares_F: np.ndarray,
    squares: Sequence[tuple[float, float, float]],
    points: float,
    num_runs: int,
) -> GapInterval:
    freedoms_F = np.array([fold.shape[0] - 1 for fold in folds_SV], dtype=np.float64)
    videos_F = np.array([fold.shape[1] for fold in folds_SV], dtype=np.float64)
    scale_F = shares_F**2 / ((freedoms_F + 1) * videos_F)
    runs_F, of_videos_F, rest_F = (scale_F * np.array(part) for part in zip(*squares, strict=True))
    variance = max(float((runs_F + of_videos_F - rest_F).sum()), _LEAST * float(of_videos_F.sum()))
    freedom = 1.0
    if variance > 0:
        parts = [
            (float((runs_F**2 / freedoms_F).sum()), float(runs_F.sum())),
            (float((of_videos_F**2 / np.maximum(1, videos_F - 1)).sum()), 0.0),
            (float((rest_F**2 / (freedoms_F * np.maximum(1, videos_F - 1))).sum()), 0.0),
        ]
        of_runs, total_runs = parts[0]
        inverse = sum(part for part, _ in parts[1:]) / variance**2
        if of_runs > 0:
            nu = total_runs**2 / of_runs  # of the folds' runs together
            otherwise = sum(np.count_nonzero(fold) / fold.shape[0] for fold in folds_SV)
            inverse += min(1.0, total_runs / variance) ** _exponent(nu, otherwise) / nu
        freedom = max(1.0, 1 / inverse) if inverse else 1e6
    excess = [max(0.0, a - e) / v for (a, _, e), v in zip(squares, videos_F, strict=True)]
    return _interval(
        points, math.sqrt(variance), freedom, run_deviation=math.sqrt(float(shares_F @ excess)), num_runs=num_runs
    )


def _exponent(nu: float, otherwise: float) -> float:
    """The p of `gap_interval`: a run decides `otherwise` videos otherwise than its pair."""
    return 2 - 1.45 / math.sqrt(nu) * max(0.0, 1 - 9 / otherwise)


def _interval(points: float, error: float, freedom: float, *, run_deviation: float, num_runs: int) -> GapInterval:
    """All in points, from fractions."""
    quantile = float(stdtrit(freedom, (1 + LEVEL) / 2))
    p = 2 * float(stdtr(freedom, -abs(points) / error)) if error else float(points == 0)
    return GapInterval(
        points=100 * points,
        low=100 * (points - quantile * error),
        high=100 * (points + quantile * error),
        error=100 * error,
        freedom=freedom,
        p=p,
        run_deviation=100 * run_deviation,
        num_runs=num_runs,
        detectable=100 * (quantile + float(stdtrit(freedom, POWER))) * error,
    )


def holm(probabilities: Sequence[float]) -> list[float]:
    """Each p adjusted for there being several. Source: Holm, Scandinavian Journal of Statistics 6, 1979."""
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    adjusted, least = [1.0] * len(order), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * probabilities[index]))
        adjusted[index] = least
    return adjusted


def spread_of(difference_SV: np.ndarray) -> Spread:
    """The variances that a pilot's (S, V) differences show; needs two seeds."""
    over_runs, over_videos, rest = _mean_squares(difference_SV)
    num_runs, num_videos = difference_SV.shape
    return Spread(max(0.0, over_runs - rest) / num_videos, max(0.0, over_videos - rest) / num_runs, rest)


def planned(spread: Spread, *, num_seeds: int, num_videos: int) -> GapInterval:
    """The interval that a study of that size may expect around a gap of 0; its `detectable` is what it can see.

    Args:
        num_seeds: at least 2.
    """
    rest = spread.rest / (num_seeds * num_videos)
    of_runs = spread.runs / num_seeds + rest
    variance = spread.runs / num_seeds + spread.videos / num_videos + rest
    nu = num_seeds - 1
    otherwise = (spread.runs + spread.videos + spread.rest) * num_videos
    inverse = (of_runs / variance) ** _exponent(nu, otherwise) / nu if variance else 1.0
    return _interval(0.0, math.sqrt(variance), max(1.0, 1 / inverse), run_deviation=0.0, num_runs=num_seeds)


def bootstrap_interval(values_V: np.ndarray, *, seed: int = 0, level: float = LEVEL) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values_V`.

    The values of a paired difference are few (-1, 0, 1 for one seed), so a resample of videos is drawn as the counts of
    its distinct values: the same distribution at a cost that doesn't grow with the number of videos.
    """
    distinct, counts = np.unique(values_V, return_counts=True)
    draws = stream(Tag.BOOTSTRAP, seed).multinomial(len(values_V), counts / len(values_V), size=_RESAMPLES)
    means = draws @ distinct / len(values_V)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def detectable_difference(mean_square: float, num_videos: int) -> float | None:
    """The true difference (a fraction) that a paired test over videos finds with POWER at two-sided 1 - LEVEL.

    (z_{1-alpha/2} + z_power) * sqrt(mean_square / num_videos), where `mean_square` of the per-video difference is, for
    one seed, the fraction of videos decided otherwise (McNemar's test). Choice of videos alone: seeds come on top.
    Returns None where nothing was decided otherwise: there is no spread to judge by.
    """
    if mean_square == 0:
        return None
    normal = NormalDist()
    return (normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)) * math.sqrt(mean_square / num_videos)


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Mean and sample standard deviation (n - 1)."""
    array = np.asarray(values, dtype=np.float64)
    return OverSeeds(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))


def wilson_interval(num_correct: int, num_videos: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a proportion, as fractions. Source: Wilson 1927."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, scale = num_correct / num_videos, 1 + z * z / num_videos
    middle = (share + z * z / (2 * num_videos)) / scale
    half = z * math.sqrt(share * (1 - share) / num_videos + z * z / (4 * num_videos**2)) / scale
    return middle - half, middle + half


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction
