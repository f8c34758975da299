"""What a video file really is, by decoding all of it: the frames that come out, not those that a header claims."""

import itertools
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from vidgn.data.decode.base import OUT_OF_MEMORY
from vidgn.data.decode.image import ImageReader
from vidgn.data.decode.pyav import PyavReader
from vidgn.data.listing import is_image
from vidgn.errors import DecodeError

OK = "ok"
DAMAGED = "damaged"  # some frames decode; num_frames counts those before the first that does not
UNREADABLE = "unreadable"
MEMORY = "memory"
_EVEN = 0.001  # of the median: time stamps of a constant rate are rounded, and differ by so much or one tick


@dataclass(frozen=True)
class Probe:
    """One file. `num_frames`: frames that really decode, from the first on. Sizes in pixels, after rotation.

    `flags`: any of vfr, open_gop, edit_list, rotated, late_start, no_timestamps.
    `distrusted`: (decoder, why) of decoders that will give way to PyAV on this file.
    """

    status: str
    reason: str = ""
    num_frames: int = 0
    height: int = 0
    width: int = 0
    fps: float = 0.0
    duration_seconds: float = 0.0
    codec: str = ""
    flags: tuple[str, ...] = ()
    distrusted: tuple[tuple[str, str], ...] = field(default=())


def probe(path: str | os.PathLike[str]) -> Probe:
    """Decode the whole file and say what it holds; an image is a video of one frame.

    Never raises DecodeError: what is wrong is in the answer.
    """
    name = os.fspath(path)
    try:
        if is_image(name):
            with ImageReader(name) as image:
                return Probe(OK, num_frames=1, height=image.height, width=image.width, codec=image.codec)
        with PyavReader(name) as reader:
            return _look(reader)
    except DecodeError as error:
        reason = str(error).removeprefix(f"{name}: ")
        return Probe(MEMORY if reason == OUT_OF_MEMORY else UNREADABLE, reason)


def _look(reader: PyavReader) -> Probe:
    from vidgn.data.decode import decord, torchcodec

    num_good, reason = _decode_all(reader)
    if num_good == 0:
        return Probe(UNREADABLE, f"none of its {reader.num_frames} frames decodes", codec=reader.codec)
    seconds = reader.shown_seconds()
    fps = _rate(seconds) or reader.nominal_fps
    doubts = [("decord", decord.distrust(reader)), ("torchcodec", torchcodec.distrust(reader))]
    return Probe(
        status=OK if reason is None else DAMAGED,
        reason=reason or "",
        num_frames=num_good,
        height=reader.height,
        width=reader.width,
        fps=round(fps, 3),
        duration_seconds=round(num_good / fps, 3) if fps else 0.0,
        codec=reader.codec,
        flags=_flags(reader, seconds),
        distrusted=tuple((decoder, why) for decoder, why in doubts if why is not None),
    )


def _decode_all(reader: PyavReader) -> tuple[int, str | None]:
    """(frames before the first that does not decode, what is wrong with that one); no frame is converted."""
    timeline = reader.timeline
    good: set[int] = set()
    num_good = 0
    for frame in reader.frames():
        if change := reader.size_change(frame):
            return num_good, change
        if frame.is_corrupt:
            reader.last_error = reader.last_error or "a picture is damaged"
        elif timeline is None:
            num_good += 1
        elif frame.pts is not None:
            good.add(frame.pts)
            while num_good < reader.num_frames and timeline.shown_pts[num_good] in good:
                num_good += 1
    if num_good == reader.num_frames:
        return num_good, None
    lost = reader.num_frames - (num_good if timeline is None else len(good.intersection(timeline.shown_pts)))
    detail = f" ({reader.last_error})" if reader.last_error else ""
    return num_good, f"{lost} of {reader.num_frames} frames do not decode, frame {num_good} is the first{detail}"


def _flags(reader: PyavReader, seconds: Sequence[float]) -> tuple[str, ...]:
    timeline = reader.timeline
    if timeline is None:
        return (*(("rotated",) if reader.rotation else ()), "no_timestamps")
    found = {
        "vfr": not _is_even(seconds, reader.tick_seconds),
        "open_gop": timeline.is_open_gop(),
        "edit_list": timeline.has_discarded,
        "rotated": reader.rotation != 0,
        "late_start": seconds[0] > 1.5 * (seconds[1] - seconds[0] if len(seconds) > 1 else 0.1),
    }
    return tuple(flag for flag, holds in found.items() if holds)


def _rate(seconds: Sequence[float]) -> float:
    """Mean frames per second between the first and the last frame, 0 if that can't be told."""
    return (len(seconds) - 1) / (seconds[-1] - seconds[0]) if len(seconds) > 1 else 0.0


def _is_even(seconds: Sequence[float], tick_seconds: float) -> bool:
    gaps = [later - earlier for earlier, later in itertools.pairwise(seconds)]
    if len(gaps) < 2:
        return True
    middle = statistics.median(gaps)
    return max(abs(gap - middle) for gap in gaps) <= max(1.01 * tick_seconds, _EVEN * middle)
