"""What a detector's test has said of each image: which of its detections are right, at ten IoUs."""

import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from vidgn.errors import ManifestError

KINDS = ("box", "mask")
_COLUMNS = ("image", "category", "score", "right", "left_out", "objects")


@dataclass(frozen=True, eq=False)
class Matches:
    """D detections in V images, in COCOeval's order, for objects of all sizes and at most 100 detections an image.

    Attributes:
        ids: (V,) COCO's ids of the images.
        image: (D,) places in `ids`.
        category: (D,) numbers from 0.
        score: (D,) confidence.
        right: (D,) bits: whether it matches an object, at each of ten IoUs.
        left_out: (D,) bits: whether it counts neither way, at each of ten IoUs, as on a crowd.
        objects: (n, 3) image, category, number of objects.
    """

    ids: np.ndarray
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
            return {kind: Matches(found["ids"], *(found[f"{kind}_{c}"] for c in _COLUMNS)) for kind in KINDS}
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ManifestError(f"{path} holds no matches of detections ({error}); test the run again") from None
