"""The default decoder: FFmpeg through PyAV, one thread, exact to the bit.

What it does not do is what makes it fast: packets outside [keyframe before the first wanted frame, last wanted frame]
are not decoded; pictures that are not wanted and that no other refers to are skipped; frames not wanted are not
converted; pixels outside the box are never touched.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import av.error
from av.sidedata.sidedata import Type as SideData
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.stream import VideoStream

from vidgn.data.decode import container
from vidgn.data.decode.base import (
    OUT_OF_MEMORY,
    Box,
    FrameSink,
    HeaderSizeError,
    VideoReader,
    check_file,
    check_size,
)
from vidgn.data.decode.container import errors_named, open_container, reason_of
from vidgn.data.decode.pixels import AS_CODED, Converter, Orientation
from vidgn.data.decode.timeline import PacketInfo, Segment, Timeline, build_timeline

if TYPE_CHECKING:
    Packet = av.Packet[VideoStream]  # generic in its stub alone

# Codecs that honour skip_frame=NONREF exactly; the tests compare each with a decode of every frame.
_SKIPPING = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video"})
_SEEK_AT_LEAST = 32  # packets; below that it is cheaper to read and drop them


class _NoKeyframe(Exception):  # noqa: N818  # not an error: it decodes from the start
    """A packet that the container calls a keyframe is none."""


class PyavReader(VideoReader):
    """See VideoReader. Where a container has no usable time stamps, frames are counted as they come out."""

    decoder = "pyav"
    last_error: str | None = None  # FFmpeg's last word on a packet that did not decode

    def __init__(self, path: str, *, timeout_seconds: float | None = None) -> None:
        """Open the file and index its packets.

        Raises:
            DecodeError: for anything that is not a local video file with at least one frame.
        """
        super().__init__(check_file(path))
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._timeout_seconds = timeout_seconds
        self._converter = Converter()
        self._can_seek = True
        self._num_frames: int | None = None
        self._open()
        try:
            self._index()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._container.close()

    def _open(self) -> None:
        self._container, self._stream = open_container(self.path, self._timeout_seconds)
        self._context: VideoCodecContext = self._stream.codec_context
        self._is_fresh = True
        self._can_skip = self._context.name in _SKIPPING

    def _index(self) -> None:
        context = self._context
        check_size(context.height, context.width, self.error)
        self.codec = context.codec.canonical_name
        self.container_format = self._container.format.name
        self.timeline = self._read_timeline()
        if self.timeline is not None:
            self._set_num_frames(len(self.timeline.shown_pts))
        self.num_streams = len(container.video_streams(self._container))
        self.orientation = self._find_orientation()
        self._set_size(context.height, context.width)

    def _set_size(self, height: int, width: int) -> None:
        self.coded_size = (height, width)
        self.height, self.width = self.orientation.shown_size(self.coded_size)

    @property
    def num_frames(self) -> int:
        """Without time stamps they are counted by decoding all, once, when first asked for."""
        if self._num_frames is None:
            self._set_num_frames(sum(1 for _ in self.frames()))
        assert self._num_frames is not None
        return self._num_frames

    def _set_num_frames(self, num_frames: int) -> None:
        if not num_frames:
            raise self.error("no frame in its video stream decodes; fetch it again")
        self._num_frames = num_frames

    def _check_numbers(self, wanted: Sequence[int]) -> None:
        if self._num_frames is not None or wanted[0] < 0:
            super()._check_numbers(wanted)

    def shown_seconds(self) -> list[float]:
        """When each frame is shown, in seconds from the container's zero; empty without time stamps."""
        return [] if self.timeline is None else [pts * self.tick_seconds for pts in self.timeline.shown_pts]

    @property
    def time_base(self) -> Fraction:
        """The unit of the stream's time stamps, in seconds."""
        return self._stream.time_base or Fraction(1, 1000)

    @property
    def tick_seconds(self) -> float:
        """The unit of the stream's time stamps."""
        return float(self.time_base)

    @property
    def nominal_fps(self) -> float:
        """The rate the container claims, 0 if none."""
        return float(self._stream.average_rate or 0)

    def _read_timeline(self) -> Timeline | None:
        if self._context.has_b_frames and self._container.format.name == "avi":
            return None  # AVI has no time stamps, and FFmpeg's guesses fail where decode and display order differ
        packets = []
        with errors_named(self.path):
            for packet in self._demux():
                if packet is not None:
                    packets.append(PacketInfo(packet.pts, packet.is_keyframe, packet.is_discard, packet.dts))
                self._check_deadline()
        self._is_fresh = False
        if not packets:
            raise self.error("its video stream holds no frames; fetch it again")
        timeline = build_timeline(packets)
        if timeline is not None and self._context.pix_fmt == "pal8":
            self._can_seek = False  # the palette comes with the first packet of an opened file, and where it changes
            return timeline.from_start()
        if timeline is not None and (timeline.leading() or not packets[0].is_keyframe):
            timeline = self._drop_undecodable_start(timeline)
        return timeline

    def _drop_undecodable_start(self, timeline: Timeline) -> Timeline:
        """Frames before the first keyframe may never come out: decode up to that keyframe to see which."""
        if not timeline.keyframes:
            return timeline
        key_pts = timeline.pts_of[timeline.keyframes[0]]
        seen = set()
        for frame in self.frames():
            if frame.pts is None or frame.pts >= key_pts:
                break
            if not frame.is_corrupt:
                seen.add(frame.pts)
        return timeline.without({pts for pts in timeline.leading() if pts not in seen})

    def _find_orientation(self) -> Orientation:
        """How a frame is to be turned and mirrored."""
        if not container.may_be_rotated(self.path, self._container.format.name):
            return AS_CODED
        for frame in self.frames():
            parts = cast(Iterable[Any], frame.side_data)  # its stub makes a mapping of it
            matrices = [bytes(part) for part in parts if part.type == SideData.DISPLAYMATRIX]
            return Orientation.of_matrix(matrices[0]) if matrices else AS_CODED
        return AS_CODED

    def frames(self) -> Iterator[av.VideoFrame]:
        """Every frame, in the order shown, errors passed over: what a full sequential decode gives."""
        self._rewind()
        self._context.skip_frame = "DEFAULT"
        with errors_named(self.path):
            for packet in self._demux():
                yield from self._decode(packet)

    def _demux(self) -> "Iterator[Packet | None]":
        """Packets of the video stream; at the end None, on which the decoder gives what it still holds."""
        for packet in self._container.demux(self._stream):
            if packet.size:  # an empty packet would end decoding
                yield packet
        yield None

    def _rewind(self) -> None:
        if not self._is_fresh:
            self.close()
            self._open()
        self._is_fresh = False

    def _deliver(self, wanted: list[int], boxes: Sequence[Box], sink: FrameSink) -> None:
        coded = [(box, self.orientation.box_before(box, self.coded_size)) for box in boxes]

        def emit(number: int, frame: av.VideoFrame) -> None:
            if change := self.size_change(frame):
                if self.settle_size():
                    raise HeaderSizeError(f"{self.path}: its pictures have another size than its header says")
                raise self.error(f"{change}; transcode it (vidgn data transcode)")
            needed = [(box, source) for box, source in coded if sink.wants(number, box)]
            for (box, _), pixels in zip(
                needed, self._converter.crops(frame, [source for _, source in needed]), strict=True
            ):
                sink.put(number, box, self.orientation.applied(pixels))

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

    def _deliver_by_count(self, wanted: list[int], emit: Callable[[int, av.VideoFrame], None]) -> list[int]:
        remaining = set(wanted)
        for number, frame in enumerate(self.frames()):
            if number in remaining:
                emit(number, frame)
                remaining.discard(number)
            if not remaining:
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
            return self._deliver_segments(timeline, wanted, noted)
        except _NoKeyframe:
            self.timeline = timeline = timeline.from_start()
            return self._deliver_segments(timeline, [number for number in wanted if number not in given], emit)

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
        order_of, context, skipping = timeline.order_of, self._context, None
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
                if is_last and packet is not None:
                    frames += self._decode(None)
                for frame in frames:
                    if unseen_key is not None and (frame.pts == unseen_key or frame.pts in remaining):
                        if frame.pts != unseen_key or not self._is_keyframe(frame):
                            raise _NoKeyframe
                        unseen_key = None
                    if frame.pts in remaining and not frame.is_corrupt:
                        remaining.discard(frame.pts)
                        emit(timeline.frame_number(frame.pts), frame)
                if is_last:
                    break
        return sorted(remaining)

    def _is_keyframe(self, frame: av.VideoFrame) -> bool:
        """Whether the codec itself says that decoding may start here; H.264's plain I pictures are no such place."""
        is_intra = frame.pict_type in (PictureType.I, PictureType.SI) and self._context.name not in ("h264", "hevc")
        return bool(frame.key_frame) or is_intra

    def settle_size(self) -> bool:
        """Decode the first frame and take its size.

        Returns:
            Whether the header has another.
        """
        first = next(self.frames(), None)
        is_other = first is not None and self.size_change(first) is not None
        if first is not None:
            self._set_size(first.height, first.width)
        return is_other

    def _decode(self, packet: "Packet | None") -> list[av.VideoFrame]:
        self._check_deadline()
        try:
            frames = self._context.decode(packet)
        except av.error.EOFError:
            return []
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise self.error(OUT_OF_MEMORY) from None
            self.last_error = reason_of(error)
            return []
        self.num_decoded += len(frames)
        return frames

    def size_change(self, frame: av.VideoFrame) -> str | None:
        """How the size of a decoded frame departs from the header's, None if it does not."""
        if (frame.height, frame.width) == self.coded_size:
            return None
        height, width = self.coded_size
        return f"changes its size from {height}x{width} to {frame.height}x{frame.width}"

    def _check_deadline(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise self.error(
                f"took longer than {self._timeout_seconds:g} s; raise data.timeout_seconds or leave it out"
            )
