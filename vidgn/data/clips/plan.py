"""Which frames, which crop, which flip: clips are planned before any file is opened.

A plan is a pure function of (tag, seed, position) and holds fractions and flags only. Resolving it against a video's
size gives frame numbers and a box of source pixels, which is all that a decoder needs. Cutting a box of `crop / scale`
source pixels and resizing it to `crop` is the same clip as resizing the whole frame and cropping, at half the cost.
"""

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

import numpy as np

from vidgn.config.schema import DataConfig, ViewsConfig
from vidgn.data.decode.base import Box, ResolvedClip
from vidgn.rng_streams import Tag, stream

TEST_SCALE = 256 / 224  # short side at test for each pixel of the training crop (NLN: 256 for 224)
IMAGE_AREA = (0.08, 1.0)  # of a random resized crop (Szegedy et al. 2015, as in torchvision)
IMAGE_ASPECT = (3 / 4, 4 / 3)
_IMAGE_ATTEMPTS = 10
_NUM_DRAWS = 5 + 2 * _IMAGE_ATTEMPTS


@dataclass(frozen=True)
class ClipPlan:
    """A training clip before its video is known. Fractions in [0, 1).

    `resized`: (area, aspect) fractions, one pair an attempt, of a random resized crop; empty for video clips, which
    scale the short side by `scale` and crop at (`top`, `left`).
    `offsets`: where in its part of the video each frame lies, with data.sampling=segments; empty without.

    Example:
        >>> import vidgn
        >>> (planned,) = vidgn.plan(vidgn.load_config(), [0])
        >>> isinstance(planned, vidgn.ClipPlan), 0 <= planned.top <= 1
        (True, True)
    """

    start: float
    scale: float
    top: float
    left: float
    flip: bool
    resized: tuple[tuple[float, float], ...] = ()
    offsets: tuple[float, ...] = ()


def plan_clip(
    seed: int, position: int, *, tag: Tag = Tag.CLIP, flip: bool, augment: str = "video", parts: int = 0
) -> ClipPlan:
    """The training clip at `position`.

    Args:
        flip: mirror every second clip.
        augment: `video` or `image`.
        parts: equal parts of the video that give one frame each; 0: a clip of frames that follow each other.
    """
    draws = stream(tag, seed, position).random(_NUM_DRAWS + parts).tolist()
    start, scale, top, left, mirror = draws[:5]
    pairs = tuple(zip(draws[5:_NUM_DRAWS:2], draws[6:_NUM_DRAWS:2], strict=True)) if augment == "image" else ()
    return ClipPlan(start, scale, top, left, flip and mirror < 0.5, pairs, tuple(draws[_NUM_DRAWS:]))


class ClipSizes(TypedDict):
    """The sizes that a plan is resolved against: of the video as shown, and of training clips."""

    num_frames: int
    height: int
    width: int
    frames: int
    stride: int
    short_side: tuple[int, int]
    crop: int


def resolve_clip(
    plan: ClipPlan,
    *,
    num_frames: int,
    height: int,
    width: int,
    frames: int,
    stride: int,
    short_side: tuple[int, int],
    crop: int,
) -> ResolvedClip:
    """The plan on a video of `num_frames` frames of (height, width) pixels, sizes after rotation.

    The start is uniform over the raw frames at which the clip's whole span of frames * stride fits; a shorter video
    starts at 0 and wraps around. The short side is a uniform integer of `short_side`, ends included (both as NLN).
    """
    start = _pick(plan.start, max(num_frames - frames * stride, 0) + 1)
    if plan.resized:
        box = _resized_crop(plan, height=height, width=width)
    else:
        low, high = short_side
        box = _crop_box(height, width, side=low + _pick(plan.scale, high - low + 1), crop=crop)
        box = Box(
            _pick(plan.top, height - box.height + 1), _pick(plan.left, width - box.width + 1), box.height, box.width
        )
    indices = clip_indices(start, num_frames, frames, stride)
    if plan.offsets:
        indices = part_indices(num_frames, plan.offsets)
    return ResolvedClip(indices, box, crop, crop, plan.flip)


def resolve_views(
    views: ViewsConfig,
    *,
    num_frames: int,
    height: int,
    width: int,
    frames: int,
    stride: int,
    short_side: tuple[int, int],
    crop: int,
    plan: ClipPlan | None = None,
    sampling: str = "clip",
) -> tuple[ResolvedClip, ...]:
    """All views of a test video, clip by clip, the crops of one clip together.

    With `sampling` segments, clip j has of each of `frames` parts the frame at (j + 1/2) / clips.

    `crop` and `short_side` are those of training; `plan` is the clip where `views.plan` is `training`.
    Clips start at floor(j * num_frames / clips) and wrap around; crops lie along the longer side (NLN).
    """
    if views.plan == "training":
        assert plan is not None
        assert views.clips == 1
        clip = resolve_clip(
            plan,
            num_frames=num_frames,
            height=height,
            width=width,
            frames=frames,
            stride=stride,
            short_side=short_side,
            crop=crop,
        )
        return (clip,)
    side = short_side_at_test(crop)
    size = view_size(views, crop)
    centre = _crop_box(height, width, side=side, crop=size)
    boxes = _boxes_along(height, width, centre, count=views.crops)
    if sampling == "segments":
        clips = [part_indices(num_frames, ((j + 0.5) / views.clips,) * frames) for j in range(views.clips)]
    else:
        starts = (j * num_frames // views.clips for j in range(views.clips))
        clips = [clip_indices(start, num_frames, frames, stride) for start in starts]
    return tuple(ResolvedClip(indices, box, size, size, False) for indices in clips for box in boxes)


def short_side_at_test(crop: int) -> int:
    """Short side of the scaled frame at test, in pixels: 256 for a training crop of 224."""
    return round(crop * TEST_SCALE)


def view_size(views: ViewsConfig, crop: int) -> int:
    """Height and width of a view in pixels, for a training crop of `crop`."""
    return short_side_at_test(crop) if views.crop == "scaled" and views.plan == "uniform" else crop


def clip_indices(start: int, num_frames: int, frames: int, stride: int) -> tuple[int, ...]:
    """`frames` frame numbers from `start`, `stride` apart, modulo `num_frames`."""
    return tuple((start + i * stride) % num_frames for i in range(frames))


def part_indices(num_frames: int, offsets: Sequence[float]) -> tuple[int, ...]:
    """One frame number of each of as many equal parts as there are `offsets`, fractions of a part (TSN)."""
    return tuple(_pick((part + offset) / len(offsets), num_frames) for part, offset in enumerate(offsets))


def balanced_row_at(seed: int, position: int, rows_of_class: Sequence[np.ndarray], *, tag: Tag = Tag.ORDER) -> int:
    """Row at `position` where classes come equally often, and within a class its videos.

    Positions go through all classes in an order drawn anew each time; each class goes through its own permutations.

    Args:
        rows_of_class: row numbers of each class that has any.
    """
    time, place = divmod(position, len(rows_of_class))
    chosen = int(_part_permutation(int(tag), seed, time, 0, len(rows_of_class))[place])
    rows = rows_of_class[chosen]
    epoch, item = divmod(time, len(rows))
    return int(rows[_part_permutation(int(tag), seed, epoch, 1 + chosen, len(rows))[item]])


@lru_cache(maxsize=1024)
def _part_permutation(tag: int, seed: int, epoch: int, part: int, num: int) -> np.ndarray:
    return stream(Tag(tag), seed, epoch, part).permutation(num)


def row_at(seed: int, position: int, num_rows: int, *, tag: Tag = Tag.ORDER) -> int:
    """Row at `position`: item position % num_rows of the permutation of epoch position // num_rows."""
    epoch, item = divmod(position, num_rows)
    return int(_permutation(int(tag), seed, epoch, num_rows)[item])


@lru_cache(maxsize=4)
def _permutation(tag: int, seed: int, epoch: int, num_rows: int) -> np.ndarray:
    return stream(Tag(tag), seed, epoch).permutation(num_rows)


def substitute_row(seed: int, position: int, attempt: int, num_rows: int) -> int:
    """The row that stands in at `position` where `attempt` rows before it could not be read."""
    return int(stream(Tag.SUBSTITUTE, seed, position, attempt).integers(num_rows))


def video_position(position: int, *, clips_per_video: int, slots_per_step: int) -> int:
    """Which draw of the video order the clip at `position` belongs to.

    A step of S slots draws V = S / clips_per_video videos; slot s shows video s % V of them. Copies of a video lie V
    slots apart, hence on different virtual GPUs while clips_per_video <= gpus.
    """
    step, slot = divmod(position, slots_per_step)
    videos = slots_per_step // clips_per_video
    return step * videos + slot % videos


def plan_digest(position: int, row_id: str, plan: ClipPlan, resolved: int) -> int:
    """128-bit hash of a clip trained on: where, of which row, and how. Sums modulo 2**128 know no order.

    `resolved`: a hash of what the plan came to on the video.
    """
    numbers = (plan.start, plan.scale, plan.top, plan.left, *(x for pair in plan.resized for x in pair), *plan.offsets)
    packed = struct.pack(f"<q?Q{len(numbers)}d", position, plan.flip, resolved, *numbers)
    name = row_id.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(packed + name, digest_size=16).digest(), "little")


def plan_for(data: DataConfig, seed: int, position: int, *, frames: int, tag: Tag = Tag.CLIP) -> ClipPlan:
    """`plan_clip` under the augmentation of `data`, for a clip of `frames` frames."""
    parts = frames if data.sampling == "segments" else 0
    return plan_clip(seed, position, tag=tag, flip=data.flip, augment=data.augment, parts=parts)


def _pick(fraction: float, count: int) -> int:
    """An integer of [0, count), uniform where `fraction` is."""
    return min(int(fraction * count), count - 1)


def _crop_box(height: int, width: int, *, side: int, crop: int) -> Box:
    """The centre box that shows crop x crop pixels of a frame scaled to short side `side`."""
    short = min(height, width)
    size = min(max(round(crop * short / side), 1), short)
    return Box((height - size) // 2, (width - size) // 2, size, size)


def _boxes_along(height: int, width: int, centre: Box, *, count: int) -> tuple[Box, ...]:
    """One centre box, or three: first edge, centre, last edge of the longer side."""
    if count == 1:
        return (centre,)
    if height > width:
        tops = (0, centre.top, height - centre.height)
        return tuple(Box(top, centre.left, centre.height, centre.width) for top in tops)
    lefts = (0, centre.left, width - centre.width)
    return tuple(Box(centre.top, left, centre.height, centre.width) for left in lefts)


def _resized_crop(plan: ClipPlan, *, height: int, width: int) -> Box:
    """A random resized crop: area and log aspect uniform; the first that fits, else the centre."""
    low, high = (math.log(aspect) for aspect in IMAGE_ASPECT)
    for area_fraction, aspect_fraction in plan.resized:
        area = height * width * (IMAGE_AREA[0] + area_fraction * (IMAGE_AREA[1] - IMAGE_AREA[0]))
        aspect = math.exp(low + aspect_fraction * (high - low))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return Box(_pick(plan.top, height - h + 1), _pick(plan.left, width - w + 1), h, w)
    w = max(1, min(width, round(height * IMAGE_ASPECT[1])))
    h = max(1, min(height, round(width / IMAGE_ASPECT[0])))
    return Box((height - h) // 2, (width - w) // 2, h, w)
