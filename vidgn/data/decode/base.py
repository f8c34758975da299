"""What every decoder shares: its interface, what it is asked for, the limits, and how RGB frames become a clip."""

import bisect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from vidgn.errors import DecodeError

MAX_SIDE = 16384  # pixels; beyond it a header is broken or hostile
MAX_PIXELS = 2**26
_MAX_POINTER = 1024  # bytes
_SAME_SECONDS = 1e-6  # what rounding leaves of a time that was asked for
_FRAMES_AT_ONCE = 8  # that are resized together
IMAGE_EXTENSIONS = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp"})
OPENINGS_ENDING = ".openings"  # of a table of openings.py, behind the name of its annotation
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
OUT_OF_MEMORY = "needs more memory than it may take"


class HeaderSizeError(DecodeError):
    """The pictures have another size than the header says. The reader knows the right one by now."""


@dataclass(frozen=True)
class Box:
    """Whole source pixels, after display rotation; never beyond the frame."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class ResolvedClip:
    """What a decoder carries out: frames of one video, each cut to `box`, resized to (height, width), then flipped.

    `frame_indices` are in presentation order of the file, in the order wanted; they may repeat and wrap around.
    """

    frame_indices: tuple[int, ...]
    box: Box
    height: int
    width: int
    flip: bool


class VideoReader(ABC):
    """One open video. Frame i is the i-th frame in presentation order, display rotation applied.

    `num_frames`, `height`, `width`: of the video as shown. `decoder`: the one at work, which is PyAV where the one
    asked for can't be trusted on this file (`fallback_reason` says why). `num_decoded`: frames decoded so far.
    """

    decoder: str
    height: int
    width: int
    num_decoded: int = 0
    nominal_fps: float = 0.0  # the rate that the container claims, 0 if none
    fallback_reason: str | None = None

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    @abstractmethod
    def num_frames(self) -> int:
        """Frames of the video as shown."""

    @property
    def known_num_frames(self) -> int | None:
        """`num_frames`, None where they would have to be counted by decoding."""
        return self.num_frames

    def shown_seconds(self) -> list[float]:
        """When each frame is shown, in seconds from the container's zero; empty without time stamps."""
        return []

    @abstractmethod
    def _deliver(self, wanted: list[int], boxes: Sequence[Box], sink: "FrameSink") -> None:
        """Give `sink` the pixels of every box of every wanted frame (sorted, unique), in any order of frames."""

    @abstractmethod
    def close(self) -> None: ...

    def read(self, clips: Sequence[ResolvedClip]) -> list[np.ndarray]:
        """The frames of all `clips`, from one pass over the file.

        Returns:
            One uint8 array of shape (T, H, W, 3), RGB, for each clip.

        Raises:
            DecodeError: naming the file and the reason.
        """
        wanted = sorted({index for clip in clips for index in clip.frame_indices})
        if not wanted:
            return []
        self._check_numbers(wanted)
        for clip in clips:
            self._check_box(clip.box)
        sink = FrameSink(clips)
        self._deliver(wanted, sink.boxes, sink)
        return sink.finish()

    def read_all(self, out_THWC: np.ndarray) -> None:
        """Every frame as shown, into uint8 (num_frames, height, width, 3).

        Raises:
            DecodeError: if one does not decode.
        """
        box = Box(0, 0, self.height, self.width)
        self._deliver(list(range(self.num_frames)), (box,), ArraySink(out_THWC, box))

    def read_frames(self, numbers: Sequence[int]) -> np.ndarray:
        """Whole frames by number, in the order asked for, from one pass: uint8 (T, H, W, 3), RGB.

        Raises:
            DecodeError: for a number that it has not, or a frame that does not decode.
        """

        def whole(video: VideoReader) -> list[ResolvedClip]:
            box = Box(0, 0, video.height, video.width)
            return [ResolvedClip(tuple(numbers), box, video.height, video.width, flip=False)]

        return self.read_planned(whole)[0]

    def number_at(self, seconds: float) -> int:
        """Number of the frame that is on the screen `seconds` after the first one came: the last stays.

        Raises:
            DecodeError: if the file has no time stamps, or before the first frame.
        """
        shown = self.shown_seconds()
        if not shown or seconds < 0:
            raise self.error(
                f"no frame at {seconds:g} s: it has " + ("frames from 0 s on" if shown else "no time stamps")
            )
        return bisect.bisect_right([s - shown[0] for s in shown], seconds + _SAME_SECONDS) - 1

    def read_planned(self, plan: "Callable[[VideoReader], Sequence[ResolvedClip]]") -> list[np.ndarray]:
        """`read` of what `plan` makes of this video's size; made anew where the header says a wrong one."""
        try:
            return self.read(plan(self))
        except HeaderSizeError:
            return self.read(plan(self))

    def error(self, reason: str) -> DecodeError:
        return decode_error(self.path, reason)

    def _check_numbers(self, wanted: Sequence[int]) -> None:
        if wanted[0] < 0 or wanted[-1] >= self.num_frames:
            index = wanted[0] if wanted[0] < 0 else wanted[-1]
            raise self.error(
                f"frame {index} asked for, but it has {self.num_frames} frames; make its index anew (vidgn data index)"
            )

    def _check_box(self, box: Box) -> None:
        inside = box.top >= 0 and box.left >= 0 and box.height >= 1 and box.width >= 1
        if not (inside and box.top + box.height <= self.height and box.left + box.width <= self.width):
            raise self.error(
                f"box {box} lies outside its {self.height}x{self.width} pixels (height x width); "
                "make its index anew (vidgn data index)"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class FrameSink:
    """Takes source pixels of (frame, box) in any order of frames, and hands out clips.

    Every (frame, box) is resized at most once a size, however many clips share it.
    """

    def __init__(self, clips: Sequence[ResolvedClip]) -> None:
        self._out_NTHWC: list[np.ndarray] = []
        self._resizers: dict[Box, dict[tuple[int, int], _Resizer]] = {}
        for clip in clips:
            out_THWC = np.empty((len(clip.frame_indices), clip.height, clip.width, 3), np.uint8)
            self._out_NTHWC.append(out_THWC)
            resizers = self._resizers.setdefault(clip.box, {})
            size = (clip.height, clip.width)
            if size not in resizers:
                resizers[size] = _Resizer(clip.box, *size)
            resizers[size].add(clip, out_THWC)
        self.boxes = tuple(self._resizers)

    def put(self, index: int, box: Box, pixels_HWC: np.ndarray) -> None:
        """The pixels of `box` in frame `index`, uint8."""
        for resizer in self._resizers[box].values():
            resizer.put(index, pixels_HWC)

    def wants(self, index: int, box: Box) -> bool:
        return any(index in resizer.places for resizer in self._resizers[box].values())

    def finish(self) -> list[np.ndarray]:
        """The clips' frames, each (T, H, W, 3) uint8, contiguous and shared with no other clip."""
        for resizers in self._resizers.values():
            for resizer in resizers.values():
                resizer.flush()
        return self._out_NTHWC


class ArraySink(FrameSink):
    """Takes whole frames, each to its own place."""

    def __init__(self, out_THWC: np.ndarray, box: Box) -> None:
        super().__init__(())
        self._out_THWC = out_THWC
        self.boxes = (box,)

    def put(self, index: int, box: Box, pixels_HWC: np.ndarray) -> None:
        self._out_THWC[index] = pixels_HWC

    def wants(self, index: int, box: Box) -> bool:
        return True


class _Resizer:
    """One box to one size, a few frames at a time, so that they stay in the processor's cache."""

    def __init__(self, box: Box, height: int, width: int) -> None:
        self.places: dict[int, list[tuple[np.ndarray, int, bool]]] = {}  # frame -> (clip, slot, mirrored)
        self._size = (height, width)
        self._is_plain = (box.height, box.width) == self._size
        self._source_THWC = np.empty((_FRAMES_AT_ONCE, box.height, box.width, 3), np.uint8)
        self._held: list[int] = []

    def add(self, clip: ResolvedClip, out_THWC: np.ndarray) -> None:
        for slot, index in enumerate(clip.frame_indices):
            self.places.setdefault(index, []).append((out_THWC, slot, clip.flip))
        self._is_plain = self._is_plain and not clip.flip

    def put(self, index: int, pixels_HWC: np.ndarray) -> None:
        if index not in self.places:
            return
        if self._is_plain:
            for out_THWC, slot, _ in self.places[index]:
                out_THWC[slot] = pixels_HWC
            return
        self._source_THWC[len(self._held)] = pixels_HWC
        self._held.append(index)
        if len(self._held) == _FRAMES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        if not self._held:
            return
        resized_THWC = resize(self._source_THWC[: len(self._held)], *self._size)
        flipped_THWC = None
        for number, index in enumerate(self._held):
            for out_THWC, slot, flip in self.places[index]:
                if flip and flipped_THWC is None:
                    flipped_THWC = mirrored(resized_THWC)
                chosen_THWC = flipped_THWC if flip else resized_THWC
                assert chosen_THWC is not None
                out_THWC[slot] = chosen_THWC[number]
        self._held.clear()


def mirrored(frames_THWC: np.ndarray) -> np.ndarray:
    """Left and right swapped. torch does it ten times faster than numpy copies reversed rows of three bytes."""
    import torch

    frames_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
    return np.ascontiguousarray(frames_TCHW.flip(3).permute(0, 2, 3, 1).numpy())


def resize(frames_THWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resizing of uint8 frames, antialiased, corners not aligned: the one that all decoders share."""
    if frames_THWC.shape[1:3] == (height, width):
        return frames_THWC
    import torch  # seconds to import, and looking at files needs none of it
    import torch.nn.functional as F

    frames_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
    resized_TCHW = F.interpolate(frames_TCHW, size=(height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized_TCHW.permute(0, 2, 3, 1).numpy())


def decode_error(path: str, reason: str) -> DecodeError:
    return DecodeError(f"{path}: {reason}")


def check_file(path: str | os.PathLike[str]) -> str:
    """The path as a string, if a non-empty regular file is there.

    Raises:
        DecodeError: the video can't be read.
    """
    name = os.fspath(path)
    try:
        size = os.stat(name).st_size
    except (OSError, ValueError) as error:
        raise decode_error(name, f"can't be opened ({getattr(error, 'strerror', None) or error})") from None
    if not os.path.isfile(name):
        raise decode_error(name, "is not a file; give the path of one video")
    if size == 0:
        raise decode_error(name, "is empty (0 bytes); fetch it again")
    if size < _MAX_POINTER and _starts_with(name, LFS_POINTER):
        raise decode_error(name, "is a pointer of Git LFS, not the file itself; fetch it with git lfs pull")
    return name


def _starts_with(path: str, start: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False


def check_size(height: int, width: int, error: Callable[[str], DecodeError]) -> None:
    """Raises what `error` makes where the size is missing or beyond what any real video has."""
    if height <= 0 or width <= 0:
        raise error(
            f"its video stream has no size: there are no pictures in it, or they have more than {MAX_PIXELS} pixels, "
            "which are not read; fetch it again, or write it smaller with another program"
        )
    if height > MAX_SIDE or width > MAX_SIDE or height * width > MAX_PIXELS:
        raise error(f"claims {height}x{width} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all are read")
