"""Frames to a file: H.264 in whatever container the name asks for."""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

from vidgn.data.decode.container import reason_of
from vidgn.data.decode.pixels import AS_CODED
from vidgn.data.decode.pyav import PyavReader
from vidgn.errors import DecodeError

# Without x264's macroblock tree: with it the same small pictures give other bytes now and then.
_X264 = {"crf": "18", "preset": "veryfast", "g": "250", "x264-params": "mbtree=0"}

# With FFmpeg's quick ways, pictures that go by RGB come out a level darker.
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
_UNSPECIFIED = 2  # ITU-T H.273's number; its 0 is RGB
_SCALED: dict[str, Any] = {"interpolation": Interpolation.BICUBIC | _EXACT, "threads": 1}


def write_video(path: str, frames_THWC: np.ndarray, *, fps: int = 25) -> None:
    """Encodes RGB frames, uint8 (T, H, W, 3) with even H and W, as H.264 (yuv420p, closed GOP) on one thread.

    The same frames give the same bytes.
    """
    num_frames, height, width, channels = frames_THWC.shape
    assert num_frames
    assert channels == 3
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=dict(_X264))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


Draw = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Recoding:
    """H.264, yuv420p. `short_side` in pixels: smaller videos keep their size. `keyframe_distance` in frames, at most.

    `crf`: x264's quality, 0 (lossless) to 51. `fast`: what decodes fastest, for about the same bytes: x264's tune
    fastdecode (no deblocking, no CABAC, plain predictions) and no picture that waits for another B picture.
    """

    short_side: int
    keyframe_distance: int
    crf: int = 20
    preset: str = "medium"
    fast: bool = False

    def __str__(self) -> str:
        # What is made otherwise must be named otherwise.
        profile = "fast" if self.fast else "small"
        size = f"short side {self.short_side}, GOP {self.keyframe_distance}"
        return f"{profile}, colours as in the source, {size}, crf {self.crf}, {self.preset}"


def recode(source: str, target: str, recoding: Recoding, draw: Draw | None = None) -> int:
    """Writes `source` to the MP4 `target` by way of a temporary file beside it; frames keep their number and times.

    Args:
        draw: what is made of each RGB frame, uint8 (H, W, 3) as shown, and its seconds after the first.

    Returns:
        The number of frames.

    Raises:
        DecodeError: where not every frame decodes or the target can't be written.
    """
    folder, name = os.path.split(os.path.abspath(target))
    partial = os.path.join(folder, f".{name}.part")
    with PyavReader(source) as reader:
        try:
            os.makedirs(folder, exist_ok=True)
            num_frames = _write(reader, partial, recoding, draw)
            with PyavReader(partial) as written:
                if not num_frames == reader.num_frames == written.num_frames:
                    raise reader.error(
                        f"{num_frames} of {reader.num_frames} frames decode, {written.num_frames} were written; "
                        "see what is wrong with it (vidgn data check)"
                    )
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, target)
        except (OSError, av.error.FFmpegError) as error:
            raise DecodeError(
                f"{target}: can't be written ({reason_of(error)}); free space or choose another folder"
            ) from None
        finally:
            if os.path.exists(partial):
                os.unlink(partial)
    return num_frames


def _write(reader: PyavReader, partial: str, recoding: Recoding, draw: Draw | None) -> int:
    reader.settle_size()
    rate = Fraction(reader.nominal_fps or 25).limit_denominator(100_000)
    height, width = _size(reader, recoding.short_side)
    options = {"crf": str(recoding.crf), "preset": recoding.preset, "x264-params": "open-gop=0"}
    if recoding.fast:
        options |= {"tune": "fastdecode", "x264-params": "open-gop=0:b-pyramid=0"}
    num_frames = 0
    with av.open(partial, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = height, width
        stream.codec_context.gop_size = recoding.keyframe_distance
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = _time_base(reader, rate)
        for frame in _upright(reader, height, width, draw):
            if not num_frames:  # how its numbers are colours: else HD's come out as those of small pictures
                stream.pix_fmt = frame.format.name
                stream.codec_context.colorspace = frame.colorspace or _UNSPECIFIED
                stream.codec_context.color_range = frame.color_range
            frame.time_base = stream.codec_context.time_base
            if reader.timeline is None:
                frame.pts = num_frames
            else:
                frame.pts = reader.timeline.shown_pts[num_frames] - reader.timeline.shown_pts[0]
            frame.pict_type = 0  # the encoder's own choice, not the source's
            container.mux(stream.encode(frame))
            num_frames += 1
        container.mux(stream.encode())
    return num_frames


def _time_base(reader: PyavReader, rate: Fraction) -> Fraction:
    return 1 / rate if reader.timeline is None else reader.time_base


def _size(reader: PyavReader, short_side: int) -> tuple[int, int]:
    """Even height and width as shown, the shorter one `short_side` unless the video is smaller."""
    scale = min(1.0, short_side / min(reader.height, reader.width))
    height, width = (max(2, 2 * round(side * scale / 2)) for side in (reader.height, reader.width))
    return height, width


def _upright(reader: PyavReader, height: int, width: int, draw: Draw | None) -> Iterator[av.VideoFrame]:
    """Good frames in the order shown, scaled and turned, and drawn on."""
    orientation = reader.orientation
    coded_height, coded_width = orientation.shown_size((height, width))
    expected = None if reader.timeline is None else set(reader.timeline.shown_pts)
    shown = reader.shown_seconds()
    numbers = itertools.count()
    for frame, is_sound in reader.judged_frames():
        if not is_sound or (expected is not None and frame.pts not in expected):
            continue
        if orientation == AS_CODED and draw is None and frame.format.name.startswith("yuv"):
            full_range = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
            yield frame.reformat(width, height, "yuvj420p" if full_range else "yuv420p", **_SCALED)
        else:
            rgb = frame.reformat(coded_width, coded_height, "rgb24", **_SCALED)
            rgb_HWC = np.ascontiguousarray(orientation.applied(rgb.to_ndarray()), dtype=np.uint8)
            if draw is not None:
                number = next(numbers)
                rgb_HWC = draw(rgb_HWC, shown[number] - shown[0] if shown else number / (reader.nominal_fps or 25))
            yield av.VideoFrame.from_ndarray(rgb_HWC, format="rgb24").reformat(format="yuv420p", **_SCALED)
