"""What a difference of two APs is worth.

AP is no mean over images: one more false box in one image lowers the precision of all that score less. So it is taken
anew for each resample of images. The model over images and training runs is that of `gap_interval`, on jackknife
pseudo-values (Tukey 1958): what AP times the number of parts changes by without one part. It holds as far as AP is
smooth in its images, which it is where each category has many of them, and is not on a few dozen.
"""

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

from vidgn.report.analyse.statistics import LEVEL, POWER, GapInterval, PairedDifference, gap_interval
from vidgn.report.read.matches import Matches, Precision
from vidgn.rng_streams import Tag, stream

_RESAMPLES = 500
_PARTS = 200  # of the images, left out one at a time


@dataclass(frozen=True)
class ApDifference:
    """Arm less baseline in points of AP, on the images that both could read in every pair of runs.

    Attributes:
        by_pair: of each pair of runs.
        images: with its interval over images, the runs taken along; what is true of these networks.
        interval: over images and training runs; None with one pair.
    """

    by_pair: tuple[float, ...]
    images: PairedDifference
    interval: GapInterval | None


@cache
def compare_aps(pairs: tuple[tuple[Matches, Matches], ...]) -> ApDifference | None:
    """Arms on the same images, a pair a seed; None where no object is in an image that all could read.

    By a paired bootstrap of 500 resamples and by 200 parts left out: two minutes for two seeds on COCO's 5,000 images,
    so it is remembered.
    """
    common_V = np.logical_and.reduce([m.readable for pair in pairs for m in pair]).astype(np.float64)
    precisions = [(Precision(one), Precision(other)) for one, other in pairs]
    by_pair = tuple(100 * (one.ap(common_V) - other.ap(common_V)) for one, other in precisions)
    if any(points != points for points in by_pair):
        return None
    num = int(common_V.sum())
    generator = stream(Tag.BOOTSTRAP, 0)
    drawn = [generator.multinomial(num, common_V / num).astype(np.float64) for _ in range(_RESAMPLES)]
    resampled = [np.mean([one.ap(w) - other.ap(w) for one, other in precisions]) for w in drawn]
    resampled = [value for value in resampled if value == value]  # without an object in it a resample has no AP
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    normal = NormalDist()
    seen = (normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)) * float(np.std(resampled))
    discordant = float(np.mean([_decided_otherwise(one, other, common_V) for one, other in pairs]))
    points = float(np.mean(by_pair))
    images = PairedDifference(
        points, 100 * float(low), 100 * float(high), num, discordant, 100 * seen if seen else None
    )
    if len(pairs) == 1:
        return ApDifference(by_pair, images, None)
    values_SB = np.stack([_pseudo_values(one, common_V) - _pseudo_values(other, common_V) for one, other in precisions])
    return ApDifference(by_pair, images, gap_interval([values_SB]))


def _pseudo_values(precision: Precision, common_V: np.ndarray) -> np.ndarray:
    """(B,) of the images in B parts, about AP itself: their own mean is AP less a noisy estimate of its bias."""
    places = np.flatnonzero(common_V)
    parts = min(len(places), _PARTS)
    whole, left_out = precision.ap(common_V), []
    for part in range(parts):
        weights_V = common_V.copy()
        weights_V[places[part::parts]] = 0
        left_out.append(precision.ap(weights_V))
    left_out_B = np.nan_to_num(np.array(left_out), nan=whole)  # the part that has all objects
    return whole + (parts - 1) * (left_out_B.mean() - left_out_B)


def _decided_otherwise(one: Matches, other: Matches, common_V: np.ndarray) -> float:
    """Share of images in which the two find another number of objects, at an IoU of 0.5."""
    counts = [np.bincount(m.image[(m.right & ~m.left_out & 1) != 0], minlength=len(m.ids)) for m in (one, other)]
    return float((counts[0] != counts[1])[common_V > 0].mean())
