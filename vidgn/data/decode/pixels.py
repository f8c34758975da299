"""From decoded YUV frames to RGB pixels of a box, touching nothing outside it."""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter

from vidgn.data.decode.base import Box

# Chroma shifts (across, down) of formats whose even-aligned crop converts to the very bytes that the whole frame
# would give there: FFmpeg's direct converters, which look at no neighbour.
_CROPPED_FORMATS = {"yuv420p": (1, 1), "yuvj420p": (1, 1), "yuv422p": (1, 0), "yuvj422p": (1, 0)}


class Converter:
    """Keeps FFmpeg's conversion tables from frame to frame."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def crops(self, frame: av.VideoFrame, boxes: Sequence[Box]) -> Iterator[np.ndarray]:
        """RGB pixels, uint8 (H, W, 3), of each box of `frame`; equal to the same box of the whole converted frame."""
        shifts = _CROPPED_FORMATS.get(frame.format.name)
        # Rows of an interlaced picture belong to two fields by turns, which FFmpeg converts apart.
        if shifts is None or frame.interlaced_frame or frame.height % 2 or frame.width % 2:
            rgb_HWC = _pixels(self._to_rgb(frame))
            for box in boxes:
                yield rgb_HWC[box.top : box.top + box.height, box.left : box.left + box.width]
            return
        planes = [_plane(plane) for plane in frame.planes]
        for box in boxes:
            top, left = box.top & ~1, box.left & ~1
            bottom, right = (box.top + box.height + 1) & ~1, (box.left + box.width + 1) & ~1
            rgb_HWC = _pixels(self._to_rgb(_cropped(frame, planes, shifts, top, left, bottom, right)))
            top, left = box.top - top, box.left - left
            yield rgb_HWC[top : top + box.height, left : left + box.width]

    def _to_rgb(self, frame: av.VideoFrame) -> av.VideoFrame:
        return self._reformatter.reformat(frame, frame.width, frame.height, "rgb24", threads=1)


class Orientation(NamedTuple):
    """How a coded frame becomes the one shown: rows and columns exchanged, then mirrored."""

    transpose: bool
    mirror_x: bool  # left and right
    mirror_y: bool  # top and bottom

    @classmethod
    def of_matrix(cls, matrix: bytes) -> "Orientation":
        """That of a display matrix (ISO/IEC 14496-12): nine int32, x' = a x + c y, y' = b x + d y; turns by 90 degrees.

        Other angles are rounded.
        """
        a, b, _, c, d = struct.unpack("=5i", matrix[:20])
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    @property
    def is_mirrored(self) -> bool:
        """Whether no rotation gives it."""
        return sum(self) % 2 == 1

    def shown_size(self, coded_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width)."""
        height, width = coded_size
        return (width, height) if self.transpose else (height, width)

    def box_before(self, box: Box, coded_size: tuple[int, int]) -> Box:
        """`box` of a frame as shown, in the frame as coded."""
        height, width = self.shown_size(coded_size)
        top = height - box.top - box.height if self.mirror_y else box.top
        left = width - box.left - box.width if self.mirror_x else box.left
        return Box(left, top, box.width, box.height) if self.transpose else Box(top, left, box.height, box.width)

    def applied(self, pixels_HWC: np.ndarray) -> np.ndarray:
        """The pixels as shown; a view."""
        shown_HWC = pixels_HWC.swapaxes(0, 1) if self.transpose else pixels_HWC
        return shown_HWC[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


AS_CODED = Orientation(transpose=False, mirror_x=False, mirror_y=False)


def shown_crops(
    converter: Converter, orientation: Orientation, frame: av.VideoFrame, boxes: Sequence[Box]
) -> list[np.ndarray]:
    """RGB pixels, uint8 (H, W, 3), of each box of a decoded frame; boxes and pixels are of the frame as shown."""
    size = (frame.height, frame.width)
    coded = [orientation.box_before(box, size) for box in boxes]
    return [orientation.applied(pixels_HWC) for pixels_HWC in converter.crops(frame, coded)]


def _plane(plane: VideoPlane) -> np.ndarray:
    return np.frombuffer(cast(Any, plane), np.uint8).reshape(-1, plane.line_size)


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) view of an rgb24 frame."""
    plane = frame.planes[0]
    rows = np.frombuffer(cast(Any, plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width * 3].reshape(frame.height, frame.width, 3)


def _cropped(
    frame: av.VideoFrame,
    planes: Sequence[np.ndarray],
    shifts: tuple[int, int],
    top: int,
    left: int,
    bottom: int,
    right: int,
) -> av.VideoFrame:
    """A frame that shows rows [top, bottom) and columns [left, right) of another one's planes, nothing copied."""
    across, down = shifts
    luma = planes[0][top:bottom, left:right]
    chroma = [plane[top >> down : bottom >> down, left >> across : right >> across] for plane in planes[1:3]]
    cropped = av.VideoFrame.from_dlpack(
        (luma, *chroma), format=frame.format.name, width=right - left, height=bottom - top
    )
    cropped.colorspace = frame.colorspace
    cropped.color_range = frame.color_range
    return cropped
