"""What decord and torchcodec share: PyAV looks at the file first and says what frame i is."""

import importlib
import importlib.metadata
import os
import sys
from abc import abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from vidgn.data.decode.base import Box, FrameSink, ResolvedClip, VideoReader
from vidgn.data.decode.pyav import PyavReader

_LOOKS = (11, 3, 16, 7, 15)  # sixteenths of a video
_SAME = 3.0  # mean grey levels: of one frame, conversions to RGB differ by less, but for odd heights
_verdicts: dict[tuple[str, str, int, int], str | None] = {}  # of files without a kept opening
_FRAMES_AT_ONCE = 32  # whole RGB frames that are held before they are cropped
_UNSEEKABLE = {"mpegts": "MPEG-TS", "mpeg": "MPEG-PS"}  # no index: seeking by time misses


def distrust_any(guide: PyavReader) -> str | None:
    """Why no decoder but PyAV can be trusted with this file, None if one may."""
    if guide.timeline is None:
        return "needs a usable time stamp on every packet"
    if guide.timeline.doubts_keyframes:
        return "may believe in keyframes that are none"
    if guide.num_streams > 1:
        return f"may read another of the {guide.num_streams} video streams"
    if guide.orientation.is_mirrored:
        return "knows no mirrored pictures"
    if guide.container_format in _UNSEEKABLE:
        return f"misses frames when it seeks in {_UNSEEKABLE[guide.container_format]}"
    return None


class GuardedReader(VideoReader):
    """A decoder that gives whole RGB frames by number. `guide`: the same file, open in PyAV; taken over."""

    decoder_num_frames: int
    _reader: Any  # of the decoder's own library
    _failures: tuple[type[Exception], ...] = ()

    def __init__(self, guide: PyavReader) -> None:
        super().__init__(guide.path)
        self.guide = guide
        self.height, self.width, self.nominal_fps = guide.height, guide.width, guide.nominal_fps

    @property
    def num_frames(self) -> int:
        return self.guide.num_frames

    @property
    def known_num_frames(self) -> int | None:
        return self.guide.known_num_frames

    def shown_seconds(self) -> list[float]:
        return self.guide.shown_seconds()

    @staticmethod
    @abstractmethod
    def load() -> Any:
        """The library, ImportError or OSError where it is not installed."""

    @staticmethod
    @abstractmethod
    def distrust(guide: PyavReader) -> str | None:
        """Why this decoder can't be trusted with the file that `guide` has open, None if it can."""

    @abstractmethod
    def _frames(self, numbers: list[int]) -> np.ndarray:
        """Whole frames, uint8 (T, H, W, 3), RGB, rotation applied."""

    def close(self) -> None:
        del self._reader
        self.guide.close()

    def disagreement(self) -> str | None:
        """How this decoder's view of the file differs from PyAV's, None if it does not."""
        if self.decoder_num_frames != self.num_frames:
            return f"{self.decoder} counts {self.decoder_num_frames} frames, PyAV {self.num_frames}"
        return self._wrong_frame()

    @abstractmethod
    def version(self) -> str:
        """Of the library that decodes."""

    def _wrong_frame(self) -> str | None:
        """Compare a few frames, in an order in which each has to be sought.

        A file is looked at once a process, and no more where the same version has looked at it for an index.
        """
        version, verdict = self.guide.verdicts.get(self.decoder, ("", None))
        if version == self.version():
            return verdict
        found = os.stat(self.path)
        key = (self.decoder, self.path, found.st_size, found.st_mtime_ns)
        if key not in _verdicts:
            last, timeline = self.num_frames - 1, self.guide.timeline
            wrong = next(filter(None, (self._wrong_at(last * part // 16) for part in _LOOKS)), None)
            if self.guide.timeline is not timeline:
                wrong = f"{self.decoder} believes in keyframes or time stamps that are wrong"
            elif self.guide.is_interlaced:
                wrong = f"{self.decoder} mixes the colours of an interlaced picture's two fields"
            _verdicts[key] = wrong
        self.guide.verdicts[self.decoder] = (self.version(), _verdicts[key])
        return _verdicts[key]

    def _wrong_at(self, number: int) -> str | None:
        def whole(reader: VideoReader) -> list[ResolvedClip]:
            box = Box(0, 0, reader.height, reader.width)
            return [ResolvedClip((number,), box, reader.height, reader.width, flip=False)]

        (ours,), (theirs,) = self.guide.read_planned(whole), self.read(whole(self))
        is_same = ours.shape == theirs.shape and np.abs(ours.astype(np.int16) - theirs).mean() < _SAME
        return None if is_same else f"{self.decoder} gives another frame {number}"

    def _deliver(self, wanted: list[int], boxes: Sequence[Box], sink: FrameSink) -> None:
        for first in range(0, len(wanted), _FRAMES_AT_ONCE):
            numbers = wanted[first : first + _FRAMES_AT_ONCE]
            with self._errors_named():
                frames_THWC = self._frames(numbers)
            if len(frames_THWC) != len(numbers):
                raise self.error(f"{self.decoder} gives {len(frames_THWC)} frames for {len(numbers)}")
            if frames_THWC.shape[1:] != (self.height, self.width, 3):
                raise self.error(
                    f"{self.decoder} gives {frames_THWC.shape[1]}x{frames_THWC.shape[2]} pixels where its header says "
                    f"{self.height}x{self.width}; transcode it (vidgn data transcode)"
                )
            self.num_decoded += len(numbers)
            for number, frame_HWC in zip(numbers, frames_THWC, strict=True):
                for box in boxes:
                    if sink.wants(number, box):
                        rows = slice(box.top, box.top + box.height)
                        sink.put(number, box, frame_HWC[rows, box.left : box.left + box.width])

    @contextmanager
    def _errors_named(self) -> Generator[None]:
        try:
            yield
        except self._failures as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise self.error(f"{self.decoder} can't read it ({lines[0]})") from None


class DecordReader(GuardedReader):
    """See VideoReader. decord 0.6.0 was last released in 2021; `distrust` says what it can't be trusted with."""

    decoder = "decord"

    def __init__(self, guide: PyavReader) -> None:
        """Open the same file a second time, with this library.

        Raises:
            DecodeError: the video can't be read.
            ImportError: where decord is not installed.
        """
        super().__init__(guide)
        decord = self.load()
        decord.logging.set_level(decord.logging.QUIET)
        self._failures = (RuntimeError, decord.DECORDError, IndexError)
        with self._errors_named():
            self._reader = decord.VideoReader(self.path, ctx=decord.cpu(0), num_threads=1)
            self.decoder_num_frames = len(self._reader)

    @staticmethod
    def load() -> Any:
        """The module."""
        import decord

        return decord

    def version(self) -> str:
        """decord's: FFmpeg is in it."""
        return importlib.metadata.version("decord")

    def _frames(self, numbers: list[int]) -> np.ndarray:
        return self._reader.get_batch(numbers).asnumpy()

    @staticmethod
    def distrust(guide: PyavReader) -> str | None:
        """Why decord can't be trusted with this file, None if it can."""
        timeline = guide.timeline
        reason = distrust_any(guide)
        if reason is not None or timeline is None:
            return f"decord {reason}"
        if guide.codec == "av1":
            return "decord 0.6.0 knows no AV1"
        if timeline.is_open_gop():
            return "decord returns wrong frames on open GOPs"
        if timeline.has_discarded:
            return "decord ignores edit lists"
        return None


class TorchcodecReader(GuardedReader):
    """See VideoReader. Seeks exactly: the file's packets are scanned once when it is opened."""

    decoder = "torchcodec"

    def __init__(self, guide: PyavReader) -> None:
        """Open the same file a second time, with this library.

        Raises:
            DecodeError: the video can't be read.
            ImportError: where torchcodec or FFmpeg's libraries are not installed.
        """
        super().__init__(guide)
        decoders = self.load()
        self._failures = (RuntimeError, ValueError, IndexError)
        with self._errors_named():
            self._reader = decoders.VideoDecoder(
                self.path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
            )
            self.decoder_num_frames = len(self._reader)

    @staticmethod
    def load() -> Any:
        """The module of its decoders."""
        return import_torchcodec()

    def version(self) -> str:
        """Torchcodec's and that of the system's FFmpeg."""
        ffmpeg = getattr(sys.modules["torchcodec"], "ffmpeg_major_version", "unknown")
        return f"{importlib.metadata.version('torchcodec')} FFmpeg {ffmpeg}"

    def _frames(self, numbers: list[int]) -> np.ndarray:
        return self._reader.get_frames_at(numbers).data.numpy()

    @staticmethod
    def distrust(guide: PyavReader) -> str | None:
        """Why torchcodec can't be trusted with this file, None if it can."""
        reason = distrust_any(guide)
        if reason is not None:
            return f"torchcodec {reason}"
        if guide.timeline is not None and guide.timeline.has_discarded:
            return "torchcodec counts frames that an edit list discards"
        return None


def import_torchcodec() -> Any:
    """The module `torchcodec.decoders`.

    Raises:
        ImportError: where torchcodec or FFmpeg's libraries are not installed, each time that it is asked for.
    """
    try:
        decoders = importlib.import_module("torchcodec.decoders")
        found = getattr(sys.modules["torchcodec"], "ffmpeg_major_version", "unknown")
    except RuntimeError:  # what versions before 0.17 raise for libraries that are not there, over many lines
        found = decoders = None
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
            del sys.modules[name]  # half imported: the next import would succeed, and every use of it fail
    if found is None:  # later ones import without FFmpeg, and fail where a video is opened
        raise ImportError("libtorchcodec does not load")
    return decoders


READERS: dict[str, type[GuardedReader]] = {"decord": DecordReader, "torchcodec": TorchcodecReader}
