"""What a worker does with one file: open it, and read all clips that are asked of it. Needs no torch of its own."""

import hashlib
import math
import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vidgn.config.schema import DataConfig, ViewsConfig
from vidgn.data.clips.plan import ClipPlan, ClipSizes, resolve_clip, resolve_views, view_size
from vidgn.data.datasets.listing import is_image
from vidgn.data.datasets.manifest import Row
from vidgn.data.decode.base import OPENINGS_ENDING, ResolvedClip
from vidgn.errors import DecodeError

if TYPE_CHECKING:
    from vidgn.data.decode import VideoReader

_SAME_TIME = 1e-3  # of a tick: time stamps are rounded


def default_cache() -> str:
    """Where frames are kept unless data.cache says another folder."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vidgn", "frames")


def openings_beside(*annotations: str | None) -> list[str]:
    """Where `vidgn data index` keeps what it knows of opening the videos of these."""
    return [path + OPENINGS_ENDING for path in annotations if path is not None]


@dataclass(frozen=True)
class ClipGeometry:
    """What all clips of a run share. `short_side` and `crop` are those of training; `stride` in raw frames."""

    frames: int
    stride: int
    short_side: tuple[int, int]
    crop: int
    views: ViewsConfig | None  # None: training clips
    decoder: str
    timeout_seconds: float
    fps: float | None = None  # frames are counted at this rate, by their time stamps; None: as the video has them
    sampling: str = "clip"
    cache: tuple[str, int] | None = None  # folder of kept frames, and the bytes that it may hold
    openings: tuple[str, ...] = ()  # tables beside the annotations

    @staticmethod
    def of(data: DataConfig, *, frames: int, stride: int, views: ViewsConfig | None = None) -> "ClipGeometry":
        return ClipGeometry(
            frames,
            stride,
            data.short_side,
            data.crop,
            views,
            data.decoder,
            data.timeout_seconds,
            data.fps,
            data.sampling,
            (data.cache or default_cache(), int(data.cache_gb * 1e9)) if data.cache_gb else None,
            tuple(table for table in openings_beside(data.train, data.val) if os.path.isfile(table)),
        )

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3) of one clip as it comes out."""
        size = view_size(self.views, self.crop) if self.views else self.crop
        return (self.frames, size, size, 3)


@dataclass(frozen=True)
class ReadTask:
    """One opening of one file. `key` tells the caller which one it is.

    `plans`: the training clips to read; at test the one plan of `views.plan=training`, or none.
    """

    key: int
    row: Row
    plans: tuple[ClipPlan, ...]
    geometry: ClipGeometry

    @property
    def num_clips(self) -> int:
        views = self.geometry.views
        return views.clips * views.crops if views else len(self.plans)

    @property
    def num_bytes(self) -> int:
        """Of all its clips."""
        return self.num_clips * math.prod(self.geometry.clip_shape)


def read_clips(task: ReadTask, out_VTHWC: np.ndarray) -> list[int]:
    """Read the task's clips into `out_VTHWC`, uint8 (num_clips, T, H, W, 3).

    Returns:
        A 64-bit hash of each: which frames of how many, which box of which size.

    Raises:
        DecodeError: if the file can't be read as asked; the message names it.
    """
    path, geometry = task.row.path, task.geometry
    try:
        _check_unchanged(task.row)
        with _open(path, geometry) as reader:
            _check_length(task.row, reader)
            resolved: tuple[ResolvedClip, ...] = ()

            def plan(reader: "VideoReader") -> tuple[ResolvedClip, ...]:
                nonlocal resolved
                resolved = _resolve(task, reader)
                return resolved

            for slot, clip_THWC in enumerate(reader.read_planned(plan)):
                out_VTHWC[slot] = clip_THWC
            size = (task.row.num_frames or reader.num_frames, reader.height, reader.width)
            return [clip_hash(clip, size) for clip in resolved]
    except (OSError, MemoryError) as error:
        raise DecodeError(f"{path}: {error or type(error).__name__}") from error


def clip_hash(clip: ResolvedClip, size: tuple[int, int, int]) -> int:
    """`size`: (frames, height, width) of the video as shown. Copies of other sizes give other clips of one plan."""
    box = (clip.box.top, clip.box.left, clip.box.height, clip.box.width)
    numbers = (*size, *box, clip.height, clip.width, clip.flip, *clip.frame_indices)
    packed = struct.pack(f"<{len(numbers)}q", *numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def _check_unchanged(row: Row) -> None:
    if row.num_bytes is None or not os.path.isfile(row.path):  # what is not there is said where it is opened
        return
    if (now := os.stat(row.path).st_size) != row.num_bytes:
        raise DecodeError(
            f"{row.path}: has {now} bytes, and had {row.num_bytes} when its index was made or the run began; put the "
            "old file back, or begin anew with another index or tag"
        )


def _check_length(row: Row, reader: "VideoReader") -> None:
    known = reader.known_num_frames
    if row.num_frames is not None and known is not None and row.num_frames > known:
        raise DecodeError(
            f"{row.path}: has {known} frames, and its annotation says num_frames={row.num_frames}; make its index anew "
            "(vidgn data index)"
        )


def read_into(task: ReadTask, buffer: memoryview) -> list[int]:
    """`read_clips` as a worker does it, into shared memory."""
    return read_clips(task, clips_in(buffer, task))


def clips_in(buffer: memoryview, task: ReadTask) -> np.ndarray:
    """The clips of a task where `read_into` has put them: uint8 (num_clips, T, H, W, 3), no copy."""
    return np.frombuffer(buffer, np.uint8, task.num_bytes).reshape(task.num_clips, *task.geometry.clip_shape)


def _open(path: str, geometry: ClipGeometry) -> "VideoReader":
    from vidgn.data.decode import open_cached, open_frames, open_image, open_video

    if os.path.isdir(path):
        return open_frames(path)
    if is_image(path):
        return open_image(path)
    decoder, seconds = geometry.decoder, geometry.timeout_seconds
    if geometry.cache is None or decoder not in ("auto", "pyav"):
        return open_video(path, decoder=decoder, timeout_seconds=seconds, openings=geometry.openings)
    folder, limit = geometry.cache
    return open_cached(path, timeout_seconds=seconds, folder=folder, limit_bytes=limit, openings=geometry.openings)


def _resolve(task: ReadTask, reader: "VideoReader") -> tuple[ResolvedClip, ...]:
    # An index has counted the frames that decode; the container may claim more, or not say how many there are.
    geometry, num_frames = task.geometry, task.row.num_frames or reader.num_frames
    numbers: Sequence[int] = range(num_frames)
    if geometry.fps is not None or task.row.segment is not None:
        numbers = _part_of(reader, num_frames, geometry.fps, task.row)
    return clips_among(numbers, geometry, height=reader.height, width=reader.width, plans=task.plans)


def clips_among(
    numbers: Sequence[int], geometry: ClipGeometry, *, height: int, width: int, plans: Sequence[ClipPlan] = ()
) -> tuple[ResolvedClip, ...]:
    """The clips of a video, or of a part of it, whose frames have these `numbers`; sizes are those of the video."""
    sizes: ClipSizes = {
        "num_frames": len(numbers),
        "height": height,
        "width": width,
        "frames": geometry.frames,
        "stride": geometry.stride,
        "short_side": geometry.short_side,
        "crop": geometry.crop,
    }
    if geometry.views is None:
        clips = tuple(resolve_clip(plan, **sizes) for plan in plans)
    else:
        clips = resolve_views(geometry.views, **sizes, plan=plans[0] if plans else None, sampling=geometry.sampling)
    return tuple(replace(clip, frame_indices=tuple(numbers[k] for k in clip.frame_indices)) for clip in clips)


def _part_of(reader: "VideoReader", num_frames: int, fps: float | None, row: Row) -> Sequence[int]:
    """The frames of a segment, counted from the first frame on; at `fps`, the last one shown by each tick."""
    segment, first, last = row.segment, 0, num_frames
    if segment is not None and row.segment_unit == "frames":
        first, last = int(segment[0]), int(segment[1])
        if last > num_frames:
            raise reader.error(f"has {num_frames} frames, and a segment ends at {last}; mend end_frame of its row")
        if fps is None:
            return range(first, last)
    seconds = reader.shown_seconds()[:num_frames]
    if not seconds and reader.nominal_fps:
        seconds = [number / reader.nominal_fps for number in range(num_frames)]
    if not seconds:
        raise reader.error(
            "has no times of its frames, by which data.fps or a segment takes them; give a video that has"
        )
    if segment is not None and row.segment_unit == "seconds":
        slack = slack_seconds((seconds[-1] - seconds[0]) / max(1, len(seconds) - 1))
        first, last = (bisect_left(seconds, seconds[0] + end - slack) for end in segment)
        if first == last:
            raise reader.error(
                f"has no frame between {segment[0]:g} and {segment[1]:g} s; mend start and end of its row"
            )
    return at_rate(range(first, last), seconds[first:last], fps)


def slack_seconds(frame_seconds: float) -> float:
    """How much before a limit a frame still counts as on it, for frames so far apart: time stamps are rounded."""
    return _SAME_TIME * frame_seconds


def at_rate(numbers: Sequence[int], seconds: Sequence[float], fps: float | None) -> Sequence[int]:
    """Of frames that are shown at `seconds`, the last one shown by each tick of `fps`; all of them without."""
    if fps is None:
        return numbers
    ticks = range(int((seconds[-1] - seconds[0]) * fps + _SAME_TIME) + 1)
    return [numbers[bisect_right(seconds, seconds[0] + (tick + _SAME_TIME) / fps) - 1] for tick in ticks]
