"""What a difference between arms is worth: pure functions over counts and per-video outcomes.

Videos are the same for both arms, so everything is paired. Two kinds of chance are kept apart: which videos happen to
be in the test set (the bootstrap and the detectable difference) and which seed a network was trained with (deviation
over seeds, sign flips).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from vidgn.rng_streams import Tag, stream

LEVEL = 0.95
POWER = 0.80
_RESAMPLES = 10_000
_MAX_ENUMERATED_SEEDS = 16


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
class SignFlip:
    """Two-sided paired sign-flip test over seeds. `best` is the smallest p this many seeds can reach."""

    p: float
    best: float
    num_seeds: int


def paired_difference(correct_SV: np.ndarray, baseline_SV: np.ndarray, *, seed: int = 0) -> PairedDifference:
    """Difference of two arms over seeds S and videos V, with its interval over videos.

    Shape: both (S, V) booleans, same videos in the same order. Resampling is over videos: a video takes its seeds
    along, so the interval covers the choice of videos and not the choice of seeds.
    """
    assert correct_SV.shape == baseline_SV.shape
    assert correct_SV.size > 0
    num_seeds, num_videos = correct_SV.shape
    change_SV = correct_SV.astype(np.int64) - baseline_SV.astype(np.int64)
    change_V = change_SV.sum(axis=0)  # in units of 1/S
    low, high = bootstrap_interval(change_V / num_seeds, seed=seed)
    return PairedDifference(
        points=100 * float(change_V.sum()) / (num_seeds * num_videos),
        low=100 * low,
        high=100 * high,
        num_videos=num_videos,
        discordant=float(np.abs(change_SV).mean()),
        detectable=_points(detectable_difference(float(np.mean((change_V / num_seeds) ** 2)), num_videos)),
    )


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


def sign_flip_test(differences: Sequence[float]) -> SignFlip | None:
    """Chance of a mean this far from 0 if each seed's difference were as likely to have the other sign.

    All 2^S sign patterns up to 16 seeds, 2^16 drawn ones beyond. Two-sided, so S seeds can't go below 2^(1-S): 0.25
    with 3 seeds, 0.031 with 6. Returns None for fewer than two seeds.
    """
    values_S = np.asarray(differences, dtype=np.float64)
    num_seeds = len(values_S)
    if num_seeds < 2:
        return None
    patterns = 1 << min(num_seeds, _MAX_ENUMERATED_SEEDS)
    if num_seeds <= _MAX_ENUMERATED_SEEDS:
        signs_PS = 1 - 2 * ((np.arange(patterns)[:, None] >> np.arange(num_seeds)) & 1)
    else:
        signs_PS = 1 - 2 * stream(Tag.BOOTSTRAP, 0, num_seeds).integers(0, 2, size=(patterns, num_seeds))
        signs_PS[0] = 1  # what was observed is one of the patterns
    means_P = np.abs(signs_PS @ values_S)
    tolerance = 1e-12 * np.abs(values_S).sum()
    return SignFlip(float(np.mean(means_P >= means_P[0] - tolerance)), best_sign_flip_p(num_seeds), num_seeds)


def best_sign_flip_p(num_seeds: int) -> float:
    """The smallest two-sided p a sign-flip test over `num_seeds` pairs can reach."""
    return min(1.0, 2.0 ** (1 - num_seeds))


def seeds_for(p: float) -> int:
    """Pairs of seeds a sign-flip test needs to be able to reach `p`."""
    return math.ceil(1 - math.log2(p))


def wilson_interval(num_correct: int, num_videos: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a proportion, as fractions. Source: Wilson 1927."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, scale = num_correct / num_videos, 1 + z * z / num_videos
    middle = (share + z * z / (2 * num_videos)) / scale
    half = z * math.sqrt(share * (1 - share) / num_videos + z * z / (4 * num_videos**2)) / scale
    return middle - half, middle + half


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction
