"""COCO's average precision of weighted images, and what a difference of two is worth.

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
from vidgn.report.read.matches import Matches
from vidgn.rng_streams import Tag, stream

NUM_IOUS = 10
_RECALLS = np.linspace(0, 1, 101)
_RESAMPLES = 500
_PARTS = 200  # of the images, left out one at a time


@dataclass(frozen=True)
class _Category:
    """Detections of one category by falling score: (D,) images, (10, D) right and wrong; (n, 2) images and objects."""

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray


class Precision:
    """AP of one test as a function of how often each image counts."""

    def __init__(self, matches: Matches) -> None:
        self.num_images = len(matches.ids)
        bits = (1 << np.arange(NUM_IOUS))[:, None]
        self._categories: list[_Category] = []
        for number in np.unique(matches.objects[:, 1]):
            rows = np.flatnonzero(matches.category == number)
            rows = rows[np.argsort(-matches.score[rows], kind="mergesort")]  # equal scores stay in order, as COCOeval's
            last = np.flatnonzero(matches.right[rows] & ~matches.left_out[rows])[-1:] + 1
            rows = rows[: int(last.sum())]  # what scores less than all that are right lowers no precision
            counts = (matches.left_out[rows] & bits) == 0
            right = (matches.right[rows] & bits) != 0
            objects = matches.objects[matches.objects[:, 1] == number][:, [0, 2]]
            self._categories.append(_Category(matches.image[rows], right & counts, ~right & counts, objects))

    def ap(self, weights_V: np.ndarray | None = None) -> float:
        """AP as a fraction, mean over categories that have an object and over ten IoUs.

        Args:
            weights_V: how often each image counts; None: once.
        """
        weights_V = np.ones(self.num_images) if weights_V is None else weights_V
        found = [ap for category in self._categories if (ap := _ap(category, weights_V)) is not None]
        return float(np.mean(found)) if found else float("nan")


def _ap(category: _Category, weights_V: np.ndarray) -> float | None:
    num_objects = float(weights_V[category.objects[:, 0]] @ category.objects[:, 1])
    if num_objects == 0:
        return None
    weights_D = weights_V[category.image]
    right_TD = np.cumsum(category.right * weights_D, axis=1)
    wrong_TD = np.cumsum(category.wrong * weights_D, axis=1)
    precision_TD = right_TD / (right_TD + wrong_TD + np.spacing(1))
    precision_TD = np.maximum.accumulate(precision_TD[:, ::-1], axis=1)[:, ::-1]  # never less further down
    total = 0.0
    for right_D, precision_D in zip(right_TD, precision_TD, strict=True):
        places = np.searchsorted(right_D / num_objects, _RECALLS, side="left")
        total += float(precision_D[places[places < len(precision_D)]].sum())
    return total / (len(_RECALLS) * NUM_IOUS)


@cache
def compare_aps(pairs: tuple[tuple[Matches, Matches], ...]) -> tuple[PairedDifference, GapInterval | None]:
    """Arm less baseline on the same images, a pair a seed, in points of AP.

    Returns:
        The difference with its interval over images (a paired bootstrap of 500 resamples, the seeds' runs taken along),
        and the interval over images and training runs, None with one pair. Two minutes for two seeds on COCO's 5,000
        images, so it is remembered.
    """
    precisions = [(Precision(one), Precision(other)) for one, other in pairs]
    num = precisions[0][0].num_images
    generator = stream(Tag.BOOTSTRAP, 0)
    draws = [generator.multinomial(num, np.full(num, 1 / num)).astype(np.float64) for _ in range(_RESAMPLES)]
    resampled = [np.mean([one.ap(w) - other.ap(w) for one, other in precisions]) for w in draws]
    resampled = [value for value in resampled if value == value]  # without an object in it a resample has no AP
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    normal = NormalDist()
    seen = (normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)) * float(np.std(resampled))
    points = float(np.mean([one.ap() - other.ap() for one, other in precisions]))
    discordant = float(np.mean([_decided_otherwise(one, other) for one, other in pairs]))
    difference = PairedDifference(
        100 * points, 100 * float(low), 100 * float(high), num, discordant, 100 * seen if seen else None
    )
    if len(pairs) == 1:
        return difference, None
    values_SB = np.stack([_pseudo_values(one) - _pseudo_values(other) for one, other in precisions])
    return difference, gap_interval([values_SB])


def _pseudo_values(precision: Precision) -> np.ndarray:
    """(B,) of the images in B parts, about AP itself: their own mean is AP less a noisy estimate of its bias."""
    num = precision.num_images
    parts = min(num, _PARTS)
    left_out = [precision.ap((np.arange(num) % parts != part).astype(np.float64)) for part in range(parts)]
    left_out_B = np.array(left_out)
    return precision.ap() + (parts - 1) * (left_out_B.mean() - left_out_B)


def _decided_otherwise(one: Matches, other: Matches) -> float:
    """Share of images in which the two find another number of objects, at an IoU of 0.5."""
    counts = [np.bincount(m.image[(m.right & ~m.left_out & 1) != 0], minlength=len(m.ids)) for m in (one, other)]
    return float((counts[0] != counts[1]).mean())
