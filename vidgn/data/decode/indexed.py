"""An open video file as FFmpeg demuxes and decodes it in one thread: packets, frames in turn, how they are shown."""

import time
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import av.error
from av.sidedata.sidedata import Type as SideData
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vidgn.data.decode import container
from vidgn.data.decode.base import OUT_OF_MEMORY, VideoReader, check_file, check_size, decode_error
from vidgn.data.decode.container import errors_named, open_container, reason_of
from vidgn.data.decode.openings import Opening
from vidgn.data.decode.pixels import AS_CODED, Orientation
from vidgn.data.decode.timeline import Damage, PacketInfo, Timeline, build_timeline

if TYPE_CHECKING:
    Packet = av.Packet[VideoStream]  # generic in its stub alone

# Codecs that honour skip_frame=NONREF exactly; the tests compare each with a decode of every frame.
_SKIPPING = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video"})
# Codecs whose word on keyframes holds, beside those that have nothing else; all others are decoded from the start.
_MPEG4_LIKE = frozenset({"mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "flv1", "h263", "h263p"})
_KEYED = _MPEG4_LIKE | {
    "h264",
    "hevc",
    "av1",
    "vp8",
    "vp9",
    "mpeg2video",
    "mpeg1video",
    "wmv3",
    "vc1",
    "theora",
    "ffv1",
}
_MAX_DELAY = 64  # packets that a decoder may hold before their pictures come out


class IndexedVideo(VideoReader):
    """A file and the list of its packets. Without usable time stamps, frames are counted as they come out."""

    timeline: Timeline | None = None
    failed = False  # the packet decoded last
    last_error: str | None = None  # FFmpeg's last word on a packet that did not decode

    def __init__(self, path: str, *, timeout_seconds: float | None = None, known: Opening | None = None) -> None:
        """Open the file and index its packets, unless what they tell is `known`.

        Raises:
            DecodeError: for anything that is not a local video file with at least one frame.
        """
        super().__init__(check_file(path))
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._timeout_seconds = timeout_seconds
        self._can_seek = True
        self._num_frames: int | None = None
        self.verdicts: dict[str, tuple[str, str | None]] = dict(known.verdicts) if known else {}
        self._open()
        try:
            self._index(known)
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
        if self._context.name == "hevc":  # else it fills damaged pictures with what its memory holds, and says nothing
            self._context.options = {**self._context.options, "err_detect": "explode"}

    def _index(self, known: Opening | None) -> None:
        context = self._context
        check_size(context.height, context.width, self.error)
        self.codec = context.codec.canonical_name
        self.container_format = self._container.format.name
        self.nominal_fps = float(self._stream.average_rate or 0)
        if known is not None:
            self.timeline, self._can_seek, self.num_streams = known.timeline, known.can_seek, known.num_streams
            self.orientation, self._num_frames = known.orientation, known.num_frames
            self._set_size(*known.coded_size)
            return
        self.timeline = self._read_timeline()
        if self.timeline is not None:
            self._set_num_frames(len(self.timeline.shown_pts))
        self.num_streams = len(container.video_streams(self._container))
        self.orientation = self._find_orientation()
        self._set_size(context.height, context.width)

    def opening(self) -> Opening:
        """What this reader knows of its file by now."""
        return Opening(
            self.timeline,
            self._can_seek,
            self.orientation,
            self.coded_size,
            self.num_streams,
            self._num_frames,
            self.verdicts,
        )

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

    @property
    def known_num_frames(self) -> int | None:
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
        return [] if self.timeline is None else self.timeline.seconds(self.tick_seconds)

    @property
    def time_base(self) -> Fraction:
        """The unit of the stream's time stamps, in seconds."""
        return self._stream.time_base or Fraction(1, 1000)

    @property
    def tick_seconds(self) -> float:
        """The unit of the stream's time stamps."""
        return float(self.time_base)

    def _read_timeline(self) -> Timeline | None:
        if self._context.has_b_frames and self._container.format.name == "avi":
            return None  # AVI has no time stamps, and FFmpeg's guesses fail where decode and display order differ
        packets = []
        with errors_named(self.path):
            for packet in self._demux():
                if packet is not None:
                    packets.append(PacketInfo(packet.pts, packet.is_keyframe, packet.is_discard, packet.dts))
                    if packet.has_sidedata("encryption_info"):
                        raise self.error("is encrypted; decrypt it with the program that it was made for")
                self._check_deadline()
        self._is_fresh = False
        if not packets:
            raise self.error("its video stream holds no frames; fetch it again")
        timeline = build_timeline(packets)
        if timeline is None:
            return None
        if self._context.pix_fmt == "pal8":
            self._can_seek = False  # the palette comes with the first packet of an opened file, and where it changes
            return timeline.from_start()
        codec = self._context.codec
        if codec.canonical_name not in _KEYED and not codec.intra_only:
            return timeline.from_start()
        if timeline.leading() or not packets[0].is_keyframe:
            return self._drop_undecodable_start(timeline)
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
        first = next(self.frames(), None)
        return AS_CODED if first is None else orientation_of(first, self.path)

    def frames(self) -> Iterator[av.VideoFrame]:
        """Every frame, in the order shown, errors passed over: what a full sequential decode gives."""
        for frame, _ in self.judged_frames():
            yield frame

    def judged_frames(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """The same, each with whether it can be trusted: see Damage."""
        self._rewind()
        self._context.skip_frame = "DEFAULT"
        damage, num_sent = Damage(), 0
        with errors_named(self.path):
            for packet in self._demux():
                frames = self._decode(packet)
                if self.failed:
                    damage.add(num_sent)
                num_sent += 1
                for frame in frames:
                    yield frame, self._is_sound(frame, damage, num_sent)

    def _is_sound(self, frame: av.VideoFrame, damage: Damage, num_sent: int = 0) -> bool:
        """`num_sent`: packets that the decoder has been given; without times, the frame is of one of them."""
        order = None if self.timeline is None or frame.pts is None else self.timeline.order_of.get(frame.pts)
        key, corrupt = bool(frame.key_frame), frame.is_corrupt
        if order is None:
            return damage.is_sound(num_sent, is_corrupt=corrupt, is_keyframe=key, earliest=num_sent - _MAX_DELAY)
        return damage.is_sound(order, is_corrupt=corrupt, is_keyframe=key)

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
        self.failed = False
        try:
            frames = self._context.decode(packet)
        except av.error.EOFError:
            return []
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise self.error(OUT_OF_MEMORY) from None
            self.failed, self.last_error = True, reason_of(error)
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


def orientation_of(frame: av.VideoFrame, path: str) -> Orientation:
    """How a decoded frame is to be turned and mirrored.

    Raises:
        DecodeError: that can't be told.
    """
    parts = cast(Iterable[Any], frame.side_data)  # its stub makes a mapping of it
    try:
        matrices = [bytes(part) for part in parts if part.type == SideData.DISPLAYMATRIX]
    except ValueError:  # side data that PyAV has no name for hide the others
        raise decode_error(
            path,
            "may have to be turned, and carries data in which that can't be looked up; write it anew with another "
            "program",
        ) from None
    return Orientation.of_matrix(matrices[0]) if matrices else AS_CODED
