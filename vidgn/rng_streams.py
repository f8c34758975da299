"""Every source of randomness in vidgn: streams that are pure functions of what they are for.

There is no global generator and no worker generator. A stream is named by a tag and at most `_LENGTH` coordinates.
numpy seeds `(1, 2)` and `(1, 2, 0)` alike, so the key always has the same length and tags are never zero: two streams
coincide only if tag and coordinates do.
"""

from enum import IntEnum

import numpy as np

_LENGTH = 4


class Tag(IntEnum):
    """What a stream is for."""

    ORDER = 1  # (seed, epoch): permutation of the training rows
    CLIP = 2  # (seed, position): which frames, crop and flip of a training clip
    DROPOUT = 3  # (seed, step, slot): the mask of one clip
    SUBSTITUTE = 4  # (seed, position, attempt): the row that stands in for an unreadable one
    CURVE = 5  # (seed, row): the one clip of the validation curve
    BN_STATS = 6  # (seed, position): clips that BN statistics are recomputed on
    BN_STATS_ORDER = 7  # (seed, epoch): permutation for those clips
    INIT = 8  # (seed, index): initial weights of the index-th parameter tensor
    BOOTSTRAP = 9  # (seed,): resampling in reports
    SYNTHETIC = 10  # (seed, split, class, item): one synthetic video
    TEST_GROUPS = 11  # (seed,): test videos that share batch statistics
    BOXES = 12  # (seed, step, 2 * slot, + 1 of the heads): which boxes of an image a detector is trained on


def stream(tag: Tag, seed: int, *coordinates: int) -> np.random.Generator:
    """The generator named by `tag`, `seed` and `coordinates` (non-negative integers, three at most)."""
    assert len(coordinates) < _LENGTH
    assert min(seed, *coordinates, 0) >= 0
    # Coordinates are shifted by one so that the padding is not a coordinate: (t, s) differs from (t, s, 0).
    padding = (0,) * (_LENGTH - 1 - len(coordinates))
    return np.random.default_rng((int(tag), seed, *(c + 1 for c in coordinates), *padding))
