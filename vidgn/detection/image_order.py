"""Which image belongs to a position of training, and how it is changed: pure functions of seed, epoch and position."""

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vidgn.config.schema import DataConfig
from vidgn.rng_streams import Tag, stream


@dataclass(frozen=True)
class ImagePlan:
    """How the image at a position is shown. `short_side`: pixels that it is scaled to."""

    flip: bool
    short_side: int


def image_plan(data: DataConfig, seed: int, position: int, *, tag: Tag = Tag.CLIP) -> ImagePlan:
    """The plan of a position."""
    flip, scale = stream(tag, seed, position).random(2).tolist()
    low, high = data.short_side
    return ImagePlan(data.flip and flip < 0.5, low + int(scale * (high - low + 1)))


class ImageOrder:
    """Rows by position, wide images with wide ones: the images of a virtual GPU are padded to one size.

    An epoch is every row once. Where it does not begin with a virtual GPU, its first images complete the last one of
    the epoch before. What no full virtual GPU of one kind is left for comes at both ends of the epoch.
    """

    def __init__(self, is_wide: np.ndarray, *, group: int, seed: int, tag: Tag = Tag.ORDER) -> None:
        """`is_wide`: (rows,) booleans; `group`: images of a virtual GPU."""
        self._is_wide, self._group, self._seed, self._tag = is_wide, group, seed, tag
        self._epoch = lru_cache(maxsize=4)(self._arrange)

    def row(self, position: int) -> int:
        """The row at a position, 0 on."""
        epoch, item = divmod(position, len(self._is_wide))
        return int(self._epoch(epoch)[item])

    def _arrange(self, epoch: int) -> np.ndarray:
        num, group = len(self._is_wide), self._group
        drawn = stream(self._tag, self._seed, epoch).permutation(num)
        head = min(-epoch * num % group, num)  # images that complete a virtual GPU of the epoch before
        most, place = (num - head) // group, np.empty(num, np.int64)
        place[drawn] = np.arange(num)
        full: list[np.ndarray] = []
        for kind in (drawn[self._is_wide[drawn]], drawn[~self._is_wide[drawn]]):
            full += np.split(kind[: len(kind) // group * group], len(kind) // group) if len(kind) >= group else []
        full = sorted(full, key=lambda rows: place[rows[0]])[:most]
        inside = np.concatenate(full) if full else np.empty(0, np.int64)
        rest = drawn[~np.isin(drawn, inside)]
        return np.concatenate([rest[:head], inside, rest[head:]])


def image_digest(position: int, row_id: str, plan: ImagePlan, size: tuple[int, int]) -> int:
    """128-bit hash of an image trained on: where, which, how. Sums modulo 2**128 know no order.

    Args:
        size: height and width of the file.
    """
    packed = struct.pack("<q?qqq", position, plan.flip, plan.short_side, *size)
    name = row_id.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(packed + name, digest_size=16).digest(), "little")
