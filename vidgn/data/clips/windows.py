"""The clips of windows that lie along a video, out of one pass of decoding, in memory that does not grow with it.

Window k is the segment [k * stride, k * stride + seconds) from the first frame on, and its clips are those that a test
has of such a segment. The last window is the first one that holds the video's last frame, and may be shorter. A stretch
without a frame is said once. Limits are rounded to microseconds.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vidgn.data.clips.read import ClipGeometry, at_rate, clips_among, slack_seconds
from vidgn.data.decode.base import Box, ResolvedClip, decode_error, resize
from vidgn.data.decode.in_turn import FrameStream, ShownFrame
from vidgn.errors import ConfigError

_MOST_BYTES = 4 * 2**30  # of frames that windows of a source without a known length wait with
_DIGITS = 6


@dataclass(frozen=True)
class WindowRule:
    """Where windows lie: `seconds` long, `stride_seconds` from start to start."""

    seconds: float
    stride_seconds: float

    def __post_init__(self) -> None:
        for name, value in (("--windows", self.seconds), ("--stride", self.stride_seconds)):
            if not (math.isfinite(value) and value >= 0.001):
                raise ConfigError(f"{name} {value:g}: give seconds, 0.001 or more, such as 2")

    def limits(self, number: int) -> tuple[float, float]:
        """Start and end of window `number`, in seconds from the first frame on."""
        start = round(number * self.stride_seconds, _DIGITS)
        return start, round(start + self.seconds, _DIGITS)

    def count(self, shown_seconds: Sequence[float]) -> int:
        """Windows of a video without gaps whose frames are shown then: up to the first that holds the last one."""
        lasting = shown_seconds[-1] - shown_seconds[0]
        return 1 + max(0, math.floor((lasting - self.seconds) / self.stride_seconds) + 1)


@dataclass(frozen=True)
class WindowClips:
    """One window. `end_seconds` of the last one is when its last frame is over.

    `clips_VTHWC`: uint8; None where it can't be read, for the reason `error`.
    """

    start_seconds: float
    end_seconds: float
    num_frames: int
    clips_VTHWC: np.ndarray | None
    error: str | None = None


@dataclass
class _Open:
    """A window that has begun. `wanted`: numbers of the frames that its clips take; None: not known before its end."""

    limits: tuple[float, float]
    first: int
    clips: tuple[ResolvedClip, ...] | None
    wanted: frozenset[int] | None
    seconds: list[float] = field(default_factory=list)


class _Frames:
    """Cut and resized pixels of the frames that open windows wait for, by number; None: it does not decode."""

    def __init__(self, stream: FrameStream, geometry: ClipGeometry) -> None:
        views = clips_among(range(1), geometry, height=stream.height, width=stream.width)
        self._boxes: tuple[Box, ...] = tuple(dict.fromkeys(clip.box for clip in views))
        self._size = (views[0].height, views[0].width)
        self._path, self._held = stream.path, dict[int, list[np.ndarray] | None]()
        self._most = _MOST_BYTES // (len(self._boxes) * math.prod(self._size) * 3)

    def put(self, frame: ShownFrame) -> None:
        """Take its pixels now: the decoder goes on."""
        if frame.crops is None:
            self._held[frame.number] = None
            return
        cut = frame.crops(self._boxes)
        self._held[frame.number] = [resize(np.ascontiguousarray(p)[None], *self._size)[0].copy() for p in cut]
        if len(self._held) > self._most:
            raise decode_error(
                self._path,
                f"its windows hold more than {_MOST_BYTES / 2**30:g} GiB of frames; give a smaller --windows",
            )

    def forget(self, before: int) -> None:
        """Those with smaller numbers."""
        while self._held and next(iter(self._held)) < before:
            del self._held[next(iter(self._held))]

    def lost(self, clips: Sequence[ResolvedClip]) -> int | None:
        """The first frame of `clips` that does not decode."""
        return min((n for clip in clips for n in clip.frame_indices if self._held[n] is None), default=None)

    def stacked(self, clips: Sequence[ResolvedClip]) -> np.ndarray:
        """(V, T, H, W, 3)."""
        place = {box: number for number, box in enumerate(self._boxes)}
        out_VTHWC = np.empty((len(clips), len(clips[0].frame_indices), *self._size, 3), np.uint8)
        for clip, clip_THWC in zip(clips, out_VTHWC, strict=True):
            for frame_HWC, number in zip(clip_THWC, clip.frame_indices, strict=True):
                pixels = self._held[number]
                assert pixels is not None
                frame_HWC[:] = pixels[place[clip.box]]
        return out_VTHWC


class WindowReader:
    """The windows of one stream, in order."""

    def __init__(self, stream: FrameStream, geometry: ClipGeometry, rule: WindowRule) -> None:
        """Nothing is decoded before the first window is asked for.

        Args:
            geometry: with views of a uniform plan.
        """
        self._stream, self._geometry, self._rule = stream, geometry, rule
        self._slack = slack_seconds(stream.frame_seconds)
        self._held = _Frames(stream, geometry)

    def __iter__(self) -> Iterator[WindowClips]:
        """Each window once its last frame is there.

        Raises:
            DecodeError: if the stream can't be read on, or its windows hold too many frames.
        """
        waiting, begun, zero = deque[_Open](), 0, 0.0
        for frame in self._stream.frames():
            zero = frame.seconds if frame.number == 0 else zero
            while waiting and frame.seconds >= zero + waiting[0].limits[1] - self._slack:
                yield self._finished(waiting.popleft())
            if not waiting:
                begun, gap = self._skipped(begun, frame.seconds - zero)
                if gap is not None:
                    yield gap
            while frame.seconds >= zero + self._rule.limits(begun)[0] - self._slack:
                waiting.append(self._opened(self._rule.limits(begun), frame.number, zero))
                begun += 1
            self._held.forget(waiting[0].first if waiting else frame.number)
            for window in waiting:
                window.seconds.append(frame.seconds)
            if any(window.wanted is None or frame.number in window.wanted for window in waiting):
                self._held.put(frame)
        if waiting:
            window = waiting.popleft()
            over = round(window.seconds[-1] - zero + (self._stream.frame_seconds or math.inf), _DIGITS)
            yield self._finished(replace(window, limits=(window.limits[0], min(window.limits[1], over))))

    def _skipped(self, begun: int, seconds: float) -> tuple[int, WindowClips | None]:
        """The first window from `begun` on that is not over at `seconds`; and what was passed over, if windows were."""
        number = max(begun, math.floor((seconds - self._rule.seconds) / self._rule.stride_seconds))
        while seconds >= self._rule.limits(number)[1] - self._slack:
            number += 1
        if number == begun:
            return begun, None
        start, end = self._rule.limits(begun)[0], self._rule.limits(number - 1)[1]
        return number, WindowClips(start, end, 0, None, f"no frame is shown between {start:g} and {end:g} s")

    def _opened(self, limits: tuple[float, float], first: int, zero: float) -> _Open:
        times = self._stream.all_seconds
        if times is None:
            return _Open(limits, first, None, None)
        last = bisect_left(times, zero + limits[1] - self._slack)
        clips = self._clips(range(first, last), times[first:last])
        return _Open(limits, first, clips, frozenset(n for clip in clips for n in clip.frame_indices))

    def _clips(self, numbers: Sequence[int], seconds: Sequence[float]) -> tuple[ResolvedClip, ...]:
        taken = at_rate(numbers, seconds, self._geometry.fps)
        return clips_among(taken, self._geometry, height=self._stream.height, width=self._stream.width)

    def _finished(self, window: _Open) -> WindowClips:
        (start, end), count = window.limits, len(window.seconds)
        clips = window.clips or self._clips(range(window.first, window.first + count), window.seconds)
        lost = self._held.lost(clips)
        if lost is not None:
            return WindowClips(start, end, count, None, f"frame {lost} does not decode")
        return WindowClips(start, end, count, self._held.stacked(clips))
