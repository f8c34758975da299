"""Every frame of a video in the order shown, from one pass of decoding: of a file, or of a source as it comes."""

import contextlib
import itertools
import os
import stat
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import av
import av.error
import numpy as np
from av.container import InputContainer

from vidgn.data.decode.base import IMAGE_EXTENSIONS, Box, check_size, decode_error
from vidgn.data.decode.container import INCOMING_OPTIONS, reason_of, video_streams
from vidgn.data.decode.indexed import orientation_of
from vidgn.data.decode.pixels import Converter, shown_crops
from vidgn.data.decode.pyav import PyavReader
from vidgn.data.decode.timeline import Damage
from vidgn.errors import DecodeError

_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt", "http", "https")
_LOOK_SECONDS = 0.02  # between looks at a pipe or file that has nothing new
_MAX_DELAY = 64  # packets that a decoder may hold before their pictures come out


@dataclass(frozen=True)
class ShownFrame:
    """Frame `number` of a video. `seconds`: its time stamp. `crops`: pixels of boxes; None: it does not decode."""

    number: int
    seconds: float
    crops: Callable[[Sequence[Box]], list[np.ndarray]] | None


class FrameStream(Protocol):
    """Frames of one open video, in turn.

    `height`, `width`: as shown. `frame_seconds`: how far frames lie apart, on average.
    """

    path: str
    height: int
    width: int
    frame_seconds: float

    @property
    def all_seconds(self) -> Sequence[float] | None:
        """When each frame is shown; None where that is not known before they are decoded."""
        ...

    @property
    def ended(self) -> str | None:
        """Why a source was taken to be over that did not say so; None for a plain end."""
        ...

    def frames(self) -> Iterator[ShownFrame]:
        """Numbers follow each other, from 0 on."""
        ...

    def close(self) -> None: ...


class FileFrames:
    """Frames of a whole file, with the numbers, times and pixels that PyavReader gives them. See FrameStream."""

    ended = None

    def __init__(self, path: str) -> None:
        """Read the list of its packets.

        Raises:
            DecodeError: for anything that is not a local video file with at least one frame, or has no times.
        """
        if os.path.isdir(path) or os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS:
            raise decode_error(
                path,
                "is images, which have no times to cut windows by; make a video of them: ffmpeg -framerate 25 -i ...",
            )
        self.path, self._reader = path, PyavReader(path)
        with contextlib.suppress(DecodeError):  # what is said of the window that the frame is in
            self._reader.read_frames([0])  # settles size, keyframes and the order of time stamps
        self.height, self.width = self._reader.height, self._reader.width
        self.all_seconds = self._reader.shown_seconds() or None
        if self.all_seconds is None and not self._reader.nominal_fps:
            self.close()
            raise decode_error(path, "has no times of its frames, by which windows are cut; give a video that has")
        if self.all_seconds is None:
            self.frame_seconds = 1 / self._reader.nominal_fps
        else:
            count = max(1, len(self.all_seconds) - 1)
            self.frame_seconds = (self.all_seconds[-1] - self.all_seconds[0]) / count

    def close(self) -> None:
        self._reader.close()

    def frames(self) -> Iterator[ShownFrame]:
        """In the order shown; those that do not decode are there without pixels.

        Raises:
            DecodeError: where the size changes.
        """
        timeline, decoded = self._reader.timeline, self._reader.judged_frames()
        if timeline is None or self.all_seconds is None:
            for number, (frame, is_sound) in enumerate(decoded):
                yield ShownFrame(number, number / self._reader.nominal_fps, self._crops(frame) if is_sound else None)
            return
        number = 0
        for frame, is_sound in decoded:
            found = -1 if frame.pts is None else timeline.frame_number(frame.pts)
            if not number <= found < len(timeline.shown_pts) or timeline.shown_pts[found] != frame.pts:
                continue
            for lost in range(number, found):
                yield ShownFrame(lost, self.all_seconds[lost], None)
            yield ShownFrame(found, self.all_seconds[found], self._crops(frame) if is_sound else None)
            number = found + 1
        for lost in range(number, len(self.all_seconds)):
            yield ShownFrame(lost, self.all_seconds[lost], None)

    def _crops(self, frame: av.VideoFrame) -> Callable[[Sequence[Box]], list[np.ndarray]]:
        return lambda boxes: self._reader.crops(frame, boxes)


class LiveFrames:
    """Frames of a source as they come, from the first whole one on. See FrameStream."""

    all_seconds = None

    def __init__(self, source: str, *, patience_seconds: float) -> None:
        """Wait for its first frame.

        Args:
            source: a URL, a pipe, a camera, or a file that is being written.
            patience_seconds: without a byte, a pipe, camera or URL has stalled and a file is whole.

        Raises:
            DecodeError: it can't be opened, is no video, or has stalled.
        """
        self.path, self._patience_seconds = source, patience_seconds
        self._incoming = None if _is_url(source) or _is_camera(source) else _Incoming(source, patience_seconds)
        try:
            self._container = self._open()
            found = video_streams(self._container)
            if not found:
                self._container.close()
                raise decode_error(source, "has no video stream that can be decoded; look at what sends it")
            self._stream = found[0]
        except BaseException:
            self._close_incoming()
            raise
        self._converter, self._frames = Converter(), self._decoded()
        try:
            first = next((frame for frame, is_sound in self._frames if is_sound), None)
            if first is None:
                raise decode_error(source, "no frame in its video stream decodes; look at what sends it")
            self._orientation = orientation_of(first, source)
            self._size = (first.height, first.width)
            self.height, self.width = self._orientation.shown_size(self._size)
            check_size(self.height, self.width, lambda reason: decode_error(source, reason))
            self._first, rate = first, float(self._stream.average_rate or self._stream.guessed_rate or 0)
            if first.pts is None and not rate:
                raise decode_error(source, "has no times of its frames, by which windows are cut; send MPEG-TS")
        except BaseException:
            self.close()
            raise
        self.frame_seconds = 1 / rate if rate else 0.0

    @property
    def ended(self) -> str | None:
        """Of a file that was being written."""
        return None if self._incoming is None else self._incoming.ended

    def close(self) -> None:
        self._frames.close()
        self._container.close()
        self._close_incoming()

    def frames(self) -> Iterator[ShownFrame]:
        """As they come; those that can't be trusted are there without pixels.

        Raises:
            DecodeError: it has stalled, or its size changes, or its time stamps go back.
        """
        last, tick_seconds = -np.inf, float(self._stream.time_base or 0.001)
        for number, (frame, is_sound) in enumerate(itertools.chain(((self._first, True),), self._frames)):
            if (frame.height, frame.width) != self._size:
                raise decode_error(self.path, "changes the size of its pictures; start again to go on")
            seconds = number * self.frame_seconds if frame.pts is None else frame.pts * tick_seconds
            if seconds <= last:
                raise decode_error(
                    self.path, f"its time stamps go back from {last:.3f} to {seconds:.3f} s; start again to go on"
                )
            last = seconds
            yield ShownFrame(number, seconds, self._crops(frame) if is_sound else None)

    def _crops(self, frame: av.VideoFrame) -> Callable[[Sequence[Box]], list[np.ndarray]]:
        return lambda boxes: shown_crops(self._converter, self._orientation, frame, boxes)

    def _decoded(self) -> Generator[tuple[av.VideoFrame, bool]]:
        """Each frame, with whether it can be trusted: see Damage."""
        context, damage, num_sent = self._stream.codec_context, Damage(), 0
        context.thread_count = 1
        with self._errors_named():
            for packet in self._container.demux(self._stream):
                try:
                    frames = context.decode(packet if packet.size else None)
                except av.error.EOFError:
                    return
                except av.error.InvalidDataError:
                    damage.add(num_sent)
                    frames = []
                num_sent += 1
                for frame in frames:
                    earliest = num_sent - _MAX_DELAY
                    key, corrupt = bool(frame.key_frame), frame.is_corrupt
                    is_sound = damage.is_sound(num_sent, is_corrupt=corrupt, is_keyframe=key, earliest=earliest)
                    yield frame, is_sound

    def _open(self) -> InputContainer:
        with self._errors_named():
            if self._incoming is not None:
                return av.open(self._incoming, options=INCOMING_OPTIONS, metadata_errors="ignore", mode="r")
            if _is_camera(self.path):
                return av.open(self.path, format=_camera_format(self.path), timeout=self._patience_seconds, mode="r")
            options = {"rtsp_transport": "tcp"} if self.path.startswith("rtsp") else {}
            return av.open(
                self.path, options=options, timeout=self._patience_seconds, metadata_errors="ignore", mode="r"
            )

    @contextlib.contextmanager
    def _errors_named(self) -> Generator[None]:
        try:
            yield
            self._raise_of_incoming()
        except av.error.ExitError:
            raise _stalled(self.path, self._patience_seconds) from None
        except (av.error.FFmpegError, ValueError, OSError) as error:
            if isinstance(error, DecodeError):
                raise
            self._raise_of_incoming()
            mend = "send or record it as MPEG-TS or Matroska, whose frames can be read before the end"
            if self._incoming is None:
                mend = "look at its address and at what sends it"
            raise decode_error(self.path, f"can't be read as it comes ({reason_of(error)}); {mend}") from None

    def _raise_of_incoming(self) -> None:
        if self._incoming is not None and self._incoming.raised is not None:
            raise self._incoming.raised

    def _close_incoming(self) -> None:
        if self._incoming is not None:
            self._incoming.close()


class _Incoming:
    """Bytes of a pipe, or of a file that is being written, as they come; what PyAV reads a container from.

    `raised`: what ended it, Ctrl-C included. PyAV does not let every exception out of the middle of a read.
    """

    def __init__(self, path: str, patience_seconds: float) -> None:
        self.name, self._patience_seconds = path, patience_seconds
        self.ended: str | None = None
        self.raised: BaseException | None = None
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise decode_error(path, f"can't be opened ({error.strerror})") from None
        self._is_pipe = stat.S_ISFIFO(os.fstat(self._file).st_mode)
        self._has_begun = False

    def read(self, size: int) -> bytes:
        """What is there of the next `size` bytes: at least one; none at the end."""
        try:
            return b"" if self.raised else self._read(size)
        except BaseException as error:
            self.raised = error
            return b""

    def _read(self, size: int) -> bytes:
        began = time.monotonic()
        while True:
            is_empty = False
            try:
                if found := os.read(self._file, size):
                    self._has_begun = True
                    return found
            except BlockingIOError:
                is_empty = True
            if self._is_pipe and self._has_begun and not is_empty:
                return b""  # whoever wrote has closed it
            if time.monotonic() - began > self._patience_seconds:
                if self._is_pipe or not self._has_begun:
                    raise _stalled(self.name, self._patience_seconds)
                self.ended = f"has not grown for {self._patience_seconds:g} s, which is taken for its end"
                return b""
            time.sleep(_LOOK_SECONDS)

    def close(self) -> None:
        os.close(self._file)


def open_in_turn(source: str | os.PathLike[str], *, live: bool = False, patience_seconds: float = 10.0) -> FrameStream:
    """A file, or a source without a known end: a URL, a pipe, a camera; with `live`, a file that is being written.

    Raises:
        DecodeError: it can't be opened, is no video, or has stalled for so many seconds.
    """
    name = os.fspath(source)
    return LiveFrames(name, patience_seconds=patience_seconds) if live or is_endless(name) else FileFrames(name)


def is_endless(source: str) -> bool:
    """Whether it is known to have no length: a URL, a pipe or a camera."""
    try:
        return _is_url(source) or _is_camera(source) or stat.S_ISFIFO(os.stat(source).st_mode)
    except (OSError, ValueError):
        return False


def _is_url(source: str) -> bool:
    scheme, found, _ = source.partition("://")
    return bool(found) and scheme.lower() in _SCHEMES


def _is_camera(source: str) -> bool:
    return source.startswith("/dev/video")


def _camera_format(path: str) -> str:
    for name in ("v4l2", "video4linux2"):
        if name in av.formats_available:
            return name
    raise decode_error(
        path,
        "cameras are not in this build of PyAV; pipe it: ffmpeg -f v4l2 -i "
        f"{path} -f mpegts - | vidgn predict RUN /dev/stdin --windows 2",
    )


def _stalled(source: str, seconds: float) -> DecodeError:
    return decode_error(source, f"gave nothing for {seconds:g} s; look at what sends it, or raise --patience")
