"""The default decoder: FFmpeg through PyAV, one thread, exact to the bit.

What it does not do is what makes it fast: packets outside [keyframe before the first wanted frame, last wanted frame]
are not decoded; pictures that are not wanted and that no other refers to are skipped; frames not wanted are not
converted; pixels outside the box are never touched.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import av
import av.error
import numpy as np
from av.video.frame import PictureType

from vidgn.data.decode.base import Box, FrameSink, HeaderSizeError
from vidgn.data.decode.container import errors_named
from vidgn.data.decode.indexed import IndexedVideo
from vidgn.data.decode.openings import Opening
from vidgn.data.decode.pixels import Converter, shown_crops
from vidgn.data.decode.timeline import Damage, Segment, Timeline

if TYPE_CHECKING:
    from vidgn.data.decode.indexed import Packet

_FRAMES_IN_ORDER = 32  # that are looked at to see whether a file's time stamps are those of its pictures
_SEEK_AT_LEAST = 32  # packets; below that it is cheaper to read and drop them


class _NoKeyframe(Exception):  # noqa: N818  # not an error: it decodes from the start
    """A packet that the container calls a keyframe is none."""


class _NoTimes(Exception):  # noqa: N818  # not an error: frames are counted
    """Pictures come out in another order than their time stamps say."""


class PyavReader(IndexedVideo):
    """See VideoReader. Where a container has no usable time stamps, frames are counted as they come out."""

    decoder = "pyav"
    is_interlaced = False  # a picture read so far

    def __init__(self, path: str, *, timeout_seconds: float | None = None, known: Opening | None = None) -> None:
        """Open the file and index its packets, unless what they tell is `known`.

        Raises:
            DecodeError: for anything that is not a local video file with at least one frame.
        """
        super().__init__(path, timeout_seconds=timeout_seconds, known=known)
        self._converter = Converter()
        self._is_in_order = False

    def _deliver(self, wanted: list[int], boxes: Sequence[Box], sink: FrameSink) -> None:
        def emit(number: int, frame: av.VideoFrame) -> None:
            needed = [box for box in boxes if sink.wants(number, box)]
            for box, pixels_HWC in zip(needed, self.crops(frame, needed), strict=True):
                sink.put(number, box, pixels_HWC)

        if self.timeline is None:
            missing = self._deliver_by_count(wanted, emit)
        else:
            missing = self._deliver_by_pts(self.timeline, wanted, emit)
        if missing:
            detail = f": {self.last_error}" if self.last_error else ""
            raise self.error(
                f"frame {missing[0]} of {self.num_frames} does not decode{detail}; fetch it again, or let an index "
                "say which frames decode (vidgn data index)"
            )

    def crops(self, frame: av.VideoFrame, boxes: Sequence[Box]) -> list[np.ndarray]:
        """RGB pixels, uint8 (H, W, 3), of each box of a decoded frame, boxes and pixels as shown.

        Raises:
            HeaderSizeError: for a frame of another size than the header says; the reader knows the right one by now.
            DecodeError: for a frame of another size than those before.
        """
        self.is_interlaced = self.is_interlaced or bool(frame.interlaced_frame)
        if change := self.size_change(frame):
            if self.settle_size():
                raise HeaderSizeError(f"{self.path}: its pictures have another size than its header says")
            raise self.error(f"{change}; transcode it (vidgn data transcode)")
        return shown_crops(self._converter, self.orientation, frame, boxes)

    def _deliver_by_count(self, wanted: list[int], emit: Callable[[int, av.VideoFrame], None]) -> list[int]:
        remaining, last = set(wanted), wanted[-1]
        for number, (frame, is_sound) in enumerate(self.judged_frames()):
            if number in remaining and is_sound:
                emit(number, frame)
                remaining.discard(number)
            if number >= last or not remaining:
                break
        return sorted(remaining)

    def _deliver_by_pts(
        self, timeline: Timeline, wanted: list[int], emit: Callable[[int, av.VideoFrame], None]
    ) -> list[int]:
        given: set[int] = set()

        def noted(number: int, frame: av.VideoFrame) -> None:
            emit(number, frame)
            given.add(number)

        try:
            try:
                left = self._deliver_segments(timeline, wanted, noted)
            except _NoKeyframe:
                self.timeline = timeline = timeline.from_start()
                left = self._deliver_segments(timeline, [number for number in wanted if number not in given], emit)
            self._check_order(timeline)
        except _NoTimes:
            self.timeline = None
            return self._deliver_by_count(wanted, emit)
        return left

    def _check_order(self, timeline: Timeline) -> None:
        """A codec that reorders pictures, in a file whose time stamps do not: once, see how they come out."""
        if self._is_in_order or not self._context.has_b_frames or not timeline.is_as_coded():
            return
        frames = itertools.islice(self.frames(), _FRAMES_IN_ORDER)
        if any(a > b for a, b in itertools.pairwise(f.pts for f in frames if f.pts is not None)):
            raise _NoTimes
        self._is_in_order = True

    def _deliver_segments(
        self, timeline: Timeline, wanted: list[int], emit: Callable[[int, av.VideoFrame], None]
    ) -> list[int]:
        missing: list[int] = []
        packets: Iterator[Packet | None] = iter(())
        position = None  # order of the next packet; None: unknown, so seek
        for segment in timeline.segments(wanted):
            if position is None or not 0 <= segment.first - position < _SEEK_AT_LEAST:
                packets = self._packets_from(timeline, segment.first)
            else:
                self._context.flush_buffers()
            left = self._decode_segment(timeline, segment, packets, emit)
            position = None if left else segment.last + 1
            if left:
                left = self._decode_again(timeline, segment, left, emit)
            missing += [timeline.frame_number(pts) for pts in left]
        return missing

    def _decode_again(
        self, timeline: Timeline, segment: Segment, left: list[int], emit: Callable[[int, av.VideoFrame], None]
    ) -> list[int]:
        """Frames that did not come out: again from the keyframe before, then from the start, nothing skipped."""
        earlier = timeline.keyframe_before(segment.first)
        for first in dict.fromkeys((earlier, 0)):
            self._can_skip = self._can_skip and first > 0
            again = Segment(first, segment.last, left)
            left = self._decode_segment(timeline, again, self._packets_from(timeline, first), emit)
            if not left:
                return []
        return left

    def _packets_from(self, timeline: Timeline, order: int) -> "Iterator[Packet | None]":
        """Packets from `order`, a keyframe, or from any packet before it; read from the start where seeking fails."""
        self._is_fresh = False
        if self._can_seek:
            try:
                self._container.seek(timeline.pts_of[order], stream=self._stream)
                packets = self._demux()
                first = next(packets)
                if first is not None and first.pts is not None and timeline.order_of.get(first.pts, order + 1) <= order:
                    return itertools.chain((first,), packets)
            except (av.error.FFmpegError, OverflowError):
                pass
            self._can_seek = False
        self._rewind()
        return self._demux()

    def _decode_segment(
        self,
        timeline: Timeline,
        segment: Segment,
        packets: "Iterator[Packet | None]",
        emit: Callable[[int, av.VideoFrame], None],
    ) -> list[int]:
        """Decode the packets of `segment`, emit its frames, return the pts that did not come out.

        Raises:
            _NoKeyframe: if it does not begin with one, whatever the container says.
        """
        remaining = set(segment.pts)
        unseen_key = timeline.pts_of[segment.first] if segment.first else None  # all begin with the first packet
        order_of, context, skipping, damage = timeline.order_of, self._context, None, Damage()
        last_pts = None
        with errors_named(self.path):
            for packet in packets:
                pts = None if packet is None else packet.pts
                order = order_of.get(pts, -1) if pts is not None else -1
                if order < segment.first and packet is not None:
                    continue
                skip = self._can_skip and pts not in remaining
                if skip is not skipping:
                    context.skip_frame = "NONREF" if skip else "DEFAULT"
                    skipping = skip
                frames = self._decode(packet)
                is_last = packet is None or order >= segment.last
                if self.failed:
                    damage.add(order)
                if is_last and packet is not None:
                    frames += self._decode(None)
                for frame in frames:
                    if last_pts is not None and frame.pts is not None and frame.pts < last_pts:
                        raise _NoTimes
                    last_pts = frame.pts
                    if unseen_key is not None and (frame.pts == unseen_key or frame.pts in remaining):
                        if frame.pts != unseen_key or not self._is_keyframe(frame):
                            raise _NoKeyframe
                        unseen_key = None
                    if self._is_sound(frame, damage) and frame.pts in remaining:
                        remaining.discard(frame.pts)
                        emit(timeline.frame_number(frame.pts), frame)
                if is_last:
                    break
        return sorted(remaining)

    def _is_keyframe(self, frame: av.VideoFrame) -> bool:
        """Whether the codec itself says that decoding may start here; H.264's plain I pictures are no such place."""
        is_intra = frame.pict_type in (PictureType.I, PictureType.SI) and self._context.name not in ("h264", "hevc")
        return bool(frame.key_frame) or is_intra
