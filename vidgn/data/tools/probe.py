"""What a video file really is, by decoding all of it: the frames that come out, not those that a header claims."""

import itertools
import os
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from vidgn.data.datasets.listing import is_image
from vidgn.data.datasets.sources import Source, Sources
from vidgn.data.decode import openings, taken_over
from vidgn.data.decode.base import OUT_OF_MEMORY, Box, ResolvedClip, VideoReader
from vidgn.data.decode.image import FramesReader, ImageReader
from vidgn.data.decode.pixels import AS_CODED
from vidgn.data.decode.pyav import PyavReader
from vidgn.data.loading.pool import Limits, map_in_workers
from vidgn.errors import DecodeError

OK = "ok"
DAMAGED = "damaged"  # some frames decode; num_frames counts those before the first that does not
UNREADABLE = "unreadable"
MEMORY = "memory"
_EVEN = 0.001  # of the median: time stamps of a constant rate are rounded, and differ by so much or one tick


@dataclass(frozen=True)
class Probe:
    """One file. `num_frames`: frames that really decode, from the first on. Sizes in pixels, after rotation.

    `flags`: any of vfr, open_gop, edit_list, late_start, no_timestamps, rotated, mirrored, video_streams (several).
    `distrusted`: (decoder, why) of decoders that will give way to PyAV on this file.
    `opening`: (digest, packed opening) for a table of openings.py, None where it must be found anew each time.
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
    opening: tuple[str, bytes] | None = None


def probe(path: str | os.PathLike[str], *, decoders: Sequence[str] = ()) -> Probe:
    """Decode the whole file and say what it holds; an image is a video of one frame.

    `decoders` are looked at, beside PyAV, for the verdicts of its opening.

    Never raises DecodeError: what is wrong is in the answer.
    """
    name = os.fspath(path)
    try:
        if os.path.isdir(name):
            with FramesReader(name) as frames:
                for number in range(frames.num_frames):
                    _read_alone(frames, number)
                return Probe(OK, "", frames.num_frames, frames.height, frames.width, codec=frames.codec)
        if is_image(name):
            with ImageReader(name) as image:
                return Probe(OK, num_frames=1, height=image.height, width=image.width, codec=image.codec)
        with PyavReader(name) as reader:
            return _look(reader, decoders)
    except DecodeError as error:
        reason = str(error).removeprefix(f"{name}: ")
        return Probe(MEMORY if reason == OUT_OF_MEMORY else UNREADABLE, reason)


def _look(reader: PyavReader, decoders: Sequence[str]) -> Probe:
    from vidgn.data.decode.guided import READERS

    digest = openings.digest_of(reader.path)
    reader.settle_size()
    number = random.Random(reader.num_frames).randrange(reader.num_frames)
    try:  # first: it shows whether keyframes and time stamps can be believed
        alone_HWC = _read_alone(reader, number)
    except DecodeError:
        alone_HWC = None
    num_good, reason, picture_HWC = _decode_all(reader, number)
    if reason is None and picture_HWC is not None and (alone_HWC is None or (picture_HWC != alone_HWC).any()):
        reason = f"frame {number} read alone is another picture than in a decode of all; transcode it"
    if num_good == 0:
        return Probe(UNREADABLE, f"none of its {reader.num_frames} frames decodes", codec=reader.codec)
    seconds = reader.shown_seconds()
    fps = _rate(seconds) or reader.nominal_fps
    doubts = [(name, decoder.distrust(reader)) for name, decoder in READERS.items()]
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
        opening=None if alone_HWC is None else _opening(reader, digest, number, alone_HWC, decoders),
    )


def _opening(
    reader: PyavReader, digest: str, number: int, picture_HWC: np.ndarray, decoders: Sequence[str]
) -> tuple[str, bytes] | None:
    """What is known of the file now, if a reader that is told it gives the same picture."""
    known = reader.opening()
    with PyavReader(reader.path, known=known) as told:
        try:
            if (_read_alone(told, number) != picture_HWC).any() or told.timeline is not known.timeline:
                return None
        except DecodeError:
            return None
    for decoder in decoders:
        guide = PyavReader(reader.path, known=known)
        with taken_over(guide, decoder):
            known.verdicts.update(guide.verdicts)
    return digest, openings.packed(known)


def _decode_all(reader: PyavReader, number: int) -> tuple[int, str | None, np.ndarray | None]:
    """(frames before the first that does not decode, what is wrong with that one, frame `number` as shown).

    No other frame is converted; without time stamps none is, since such a file is always read from its start.
    """
    timeline, picture_HWC = reader.timeline, None
    good: set[int] = set()
    num_good = 0
    for frame, is_sound in reader.judged_frames():
        if change := reader.size_change(frame):
            return num_good, f"{change}; transcode it", None
        if not is_sound:
            reader.last_error = reader.last_error or "a picture is damaged"
            if timeline is None:
                break
        elif timeline is None:
            num_good += 1
        elif frame.pts is not None:
            good.add(frame.pts)
            if frame.pts == timeline.shown_pts[number]:
                picture_HWC = reader.orientation.applied(frame.reformat(format="rgb24", threads=1).to_ndarray())
            while num_good < reader.num_frames and timeline.shown_pts[num_good] in good:
                num_good += 1
    if num_good == reader.num_frames:
        return num_good, None, picture_HWC
    lost = reader.num_frames - (num_good if timeline is None else len(good.intersection(timeline.shown_pts)))
    detail = f" ({reader.last_error})" if reader.last_error else ""
    reason = (
        f"{lost} of {reader.num_frames} frames do not decode or build on one that does not, "
        f"frame {num_good} is the first{detail}"
    )
    return num_good, reason, None


def _read_alone(reader: VideoReader, number: int) -> np.ndarray:
    """A frame as training reads it: sought, and cut out of its coded picture."""
    whole = Box(0, 0, reader.height, reader.width)
    return reader.read([ResolvedClip((number,), whole, whole.height, whole.width, flip=False)])[0][0]


def _flags(reader: PyavReader, seconds: Sequence[float]) -> tuple[str, ...]:
    timeline = reader.timeline
    if timeline is None:
        return (*_turns(reader), "no_timestamps")
    found = {
        "vfr": not _is_even(seconds, reader.tick_seconds),
        "open_gop": timeline.is_open_gop(),
        "edit_list": timeline.has_discarded,
        "late_start": seconds[0] > 1.5 * (seconds[1] - seconds[0] if len(seconds) > 1 else 0.1),
    }
    return (*(flag for flag, holds in found.items() if holds), *_turns(reader))


def _turns(reader: PyavReader) -> tuple[str, ...]:
    found = {
        "rotated": reader.orientation != AS_CODED and not reader.orientation.is_mirrored,
        "mirrored": reader.orientation.is_mirrored,
        "video_streams": reader.num_streams > 1,
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


_NUM_NAMED = 3


def probe_all(
    sources: Iterable[Source], *, workers: int, limits: Limits, decoders: Sequence[str] = ()
) -> Iterator[tuple[Source, Probe]]:
    """A Probe for every source, in order of completion; a file that breaks a limit gets it as its status.

    A file that is named several times is looked at once.
    """
    look = partial(probe, decoders=tuple(decoders))
    by_path: dict[str, list[Source]] = {}
    for source in sources:
        by_path.setdefault(source.full_path, []).append(source)
    for outcome in map_in_workers(look, by_path, workers=workers, limits=limits, preload=(__name__,)):
        found = outcome.value if outcome.failure is None else Probe(outcome.failure, outcome.reason_line)
        for source in by_path[outcome.item]:
            yield source, found


@dataclass(frozen=True)
class Finding:
    """A bad file: its path as in the data set, its status and why."""

    path: str
    status: str
    reason: str


@dataclass(frozen=True)
class Report:
    """`distrusted`: (decoder, why) -> good files that PyAV reads in its place."""

    num_files: int
    bad: tuple[Finding, ...]
    distrusted: dict[tuple[str, str], tuple[str, ...]]

    @property
    def num_ok(self) -> int:
        return self.num_files - len(self.bad)


def check_files(
    sources: Sources,
    *,
    workers: int,
    limits: Limits,
    on_done: Callable[[Source, str], object] = lambda source, status: None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> Report:
    """Decode every file. Files that are missing count as bad.

    Args:
        sizes: (height, width) that files are to have, by their names, which paths end in.
    """
    bad = [
        Finding(path, "missing", "is not there; fetch it, or take it out of the annotation") for path in sources.missing
    ]
    distrusted: dict[tuple[str, str], list[str]] = {}
    for source, found in probe_all(sources.files, workers=workers, limits=limits):
        if found.status != OK:
            bad.append(Finding(source.path, found.status, found.reason))
        elif (wanted := _stated(source.path, sizes or {})) and not _has_size(source, found, wanted):
            reason = f"has {found.width}x{found.height} pixels, and its annotation says {wanted[1]}x{wanted[0]}"
            bad.append(Finding(source.path, "size", reason))
        for doubt in found.distrusted if found.status == OK else ():
            distrusted.setdefault(doubt, []).append(source.path)
        on_done(source, found.status)
    return Report(
        len(sources.files) + len(sources.missing),
        tuple(sorted(bad, key=lambda finding: (finding.status, finding.path))),
        {doubt: tuple(sorted(paths)) for doubt, paths in sorted(distrusted.items())},
    )


def _stated(path: str, sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int] | None:
    parts = path.split(os.sep)
    names = (os.path.join(*parts[first:]) for first in range(len(parts)))
    return next((sizes[name] for name in names if name in sizes), None)


def _has_size(source: Source, found: Probe, wanted: tuple[int, int]) -> bool:
    """As it is shown, or as it is stored where its EXIF data turn it."""
    if (found.height, found.width) == wanted:
        return True
    if (found.width, found.height) != wanted:
        return False
    with ImageReader(source.full_path, as_stored=True) as image:
        return (image.height, image.width) == wanted


def report_text(report: Report, *, verbose: bool = False) -> str:
    """The table of bad files, then one line a reason for which PyAV takes over from another decoder."""
    lines = []
    if report.bad:
        lines += _table([("file", "status", "why"), *((f.path, f.status, f.reason) for f in report.bad)])
        lines.append("")
    for (decoder, why), paths in report.distrusted.items():
        named = ", ".join(paths if verbose else paths[:_NUM_NAMED])
        more = "" if verbose or len(paths) <= _NUM_NAMED else f" and {len(paths) - _NUM_NAMED} more (all: --verbose)"
        lines.append(
            f"data.decoder={decoder}: PyAV reads {len(paths)} of the good files instead: {why} ({named}{more})"
        )
    lines.append(f"{report.num_files} files: {report.num_ok} ok, {len(report.bad)} bad")
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{path:{widths[0]}}  {status:{widths[1]}}  {why}" for path, status, why in rows]
