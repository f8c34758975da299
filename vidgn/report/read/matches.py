"""What a detector's test has said of each image: which of its detections are right, at ten IoUs; and AP from that."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vidgn.errors import ManifestError

KINDS = ("box", "mask")
NUM_IOUS = 10
_ROUNDED = 0.006  # points: a result may be rounded to 0.01
_RECALLS = np.linspace(0, 1, 101)
_COLUMNS = ("image", "category", "score", "right", "left_out", "objects")


@dataclass(frozen=True, eq=False)
class Matches:
    """D detections in V images, in COCOeval's order, for objects of all sizes and at most 100 detections an image.

    Attributes:
        ids: (V,) COCO's ids of the images.
        readable: (V,) booleans: whether the test could read them; those that it could not are missed.
        image: (D,) places in `ids`.
        category: (D,) numbers from 0.
        score: (D,) confidence.
        right: (D,) bits: whether it matches an object, at each of ten IoUs.
        left_out: (D,) bits: whether it counts neither way, at each of ten IoUs, as on a crowd.
        objects: (n, 3) image, category, number of objects.
    """

    ids: np.ndarray
    readable: np.ndarray
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    right: np.ndarray
    left_out: np.ndarray
    objects: np.ndarray


@cache
def read_matches(path: Path, mtime_ns: int) -> dict[str, Matches]:
    """Of boxes and of masks. `mtime_ns` only tells versions apart.

    Raises:
        OSError: if the file is not there.
        ManifestError: if it is not such a file.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
            return {
                kind: Matches(found["ids"], found["readable"], *(found[f"{kind}_{c}"] for c in _COLUMNS))
                for kind in KINDS
            }
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ManifestError(f"{path} holds no matches of detections ({error}); test the run again") from None


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
        """AP as a fraction, mean over categories that have an object and over ten IoUs; NaN where none has.

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
def ap_of(matches: Matches) -> float:
    """AP of a test, in percent."""
    return 100 * Precision(matches).ap()


def ap_fault(result: Mapping[str, Any], matches: Mapping[str, Matches] | None) -> str | None:
    """How a result contradicts the matches of its test, None where it does not or they are not there."""
    for kind, of_kind in (matches or {}).items():
        told, counted = result[f"{kind}_ap"], ap_of(of_kind)
        if not abs(told - counted) <= _ROUNDED:
            return f"result.json says {kind} AP {told:.2f}, its matches {counted:.2f}"
    return None
