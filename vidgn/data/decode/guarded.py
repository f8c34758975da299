"""What decord and torchcodec share: PyAV looks at the file first and says what frame i is."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from vidgn.data.decode.base import FrameSink, VideoReader
from vidgn.data.decode.pyav import PyavReader
from vidgn.data.plan import Box

_FRAMES_AT_ONCE = 32  # whole RGB frames that are held before they are cropped
_UNSEEKABLE = {"mpegts": "MPEG-TS", "mpeg": "MPEG-PS"}  # no index: seeking by time misses


def distrust_any(guide: PyavReader) -> str | None:
    """Why no decoder but PyAV can be trusted with this file, None if one may."""
    if guide.timeline is None:
        return "needs a usable time stamp on every packet"
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
        self.height, self.width = guide.height, guide.width

    @property
    def num_frames(self) -> int:
        return self.guide.num_frames

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
        return None

    def _deliver(self, wanted: list[int], boxes: Sequence[Box], sink: FrameSink) -> None:
        for first in range(0, len(wanted), _FRAMES_AT_ONCE):
            numbers = wanted[first : first + _FRAMES_AT_ONCE]
            with self._errors_named():
                frames_THWC = self._frames(numbers)
            if frames_THWC.shape[1:] != (self.height, self.width, 3):
                raise self.error(
                    f"{self.decoder} gives {frames_THWC.shape[1]}x{frames_THWC.shape[2]} pixels where its header says "
                    f"{self.height}x{self.width}; use data.decoder=pyav"
                )
            self.num_decoded += len(numbers)
            for number, frame_HWC in zip(numbers, frames_THWC, strict=True):
                for box in boxes:
                    if sink.wants(number, box):
                        rows = slice(box.top, box.top + box.height)
                        sink.put(number, box, frame_HWC[rows, box.left : box.left + box.width])

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise self.error(f"{self.decoder} can't read it ({lines[0]})") from None
