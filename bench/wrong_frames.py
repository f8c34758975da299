"""Whether frames come out right: random frames of each file by each decoder, against a decode of the whole file.

    python bench/wrong_frames.py FOLDER...         FFmpeg's own samples (FATE), say; exit 1 if any frame is wrong

The oracle is PyAV alone: every packet of FFmpeg's best video stream decoded in turn, every picture kept as it comes.
A frame is wrong where it has another size or is not the same to the bit (PyAV) or to 3 grey levels in the mean (others,
which convert colours in their own way). `kept` is PyAV told what opening the file once has told, as `vidgn data index`
keeps it. A file that is refused, as a whole or in single frames, is listed with what was
said. `fallback` counts files on which a decoder gave way to PyAV.
"""

import argparse
import collections
import contextlib
import importlib
import os
import random
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import av.error
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Discard

from vidgn.data.decode import open_video
from vidgn.data.decode.base import Box, ResolvedClip, VideoReader
from vidgn.data.decode.openings import packed, unpacked
from vidgn.data.decode.pyav import PyavReader
from vidgn.data.loading.pool import Limits, map_in_workers
from vidgn.errors import DecodeError

DECODERS = ("pyav", "kept", "decord", "torchcodec")
NUM_LOOKS = 20
CLOSE = 3.0
Pictures = list[tuple[int | None, np.ndarray]]  # (time stamp, RGB as shown)


def has_video(path: str) -> bool:
    """Whether FFmpeg, asked without any limit, finds a video stream that it can decode."""
    try:
        with av.open(path, metadata_errors="ignore") as container:
            return any(stream.codec_context is not None for stream in container.streams.video)
    except (av.error.FFmpegError, ValueError):
        return False


def pictures(path: str) -> Iterator[tuple[int | None, np.ndarray]]:
    """(time stamp, RGB as shown) of every picture of the best stream as it comes out of a decode of all."""
    with av.open(path, metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        assert stream is not None
        stream.codec_context.thread_count = 1
        for other in container.streams:
            other.discard = Discard.default if other is stream else Discard.all  # as the ffmpeg command does
        with contextlib.suppress(av.error.FFmpegError):  # a file that ends half-way
            for packet in container.demux(stream):
                with contextlib.suppress(av.error.FFmpegError):
                    for frame in stream.decode(packet):
                        yield frame.pts, shown(frame)


def shown(frame: av.VideoFrame) -> np.ndarray:
    """Turned and mirrored as its display matrix says: x' = a x + c y, y' = b x + d y."""
    picture = frame.to_ndarray(format="rgb24", threads=1)
    try:
        matrices = [bytes(part) for part in frame.side_data if part.type == SideData.DISPLAYMATRIX]
    except ValueError:  # side data that PyAV has no name for
        return picture
    for matrix in matrices:
        a, b, _, c, d = (int(np.sign(n)) for n in struct.unpack("=5i", matrix[:20]))
        if b or c:
            picture, a, d = picture.swapaxes(0, 1), c, b
        picture = picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return picture


def whole(reader: VideoReader, number: int) -> list[ResolvedClip]:
    box = Box(0, 0, reader.height, reader.width)
    return [ResolvedClip((number,), box, reader.height, reader.width, flip=False)]


def look(path: str) -> list[tuple[str, str, str]]:
    """(decoder, outcome, detail) of each decoder; outcome: frames or fallback with their number, wrong, or refused."""
    right = list(pictures(path))
    found: list[tuple[str, str, str]] = []
    known = None
    for decoder in DECODERS:
        if decoder == "kept" and known is None:
            continue
        try:
            with PyavReader(path, known=known) if decoder == "kept" else open_video(path, decoder=decoder) as reader:
                found += compare(reader, right, decoder)
                if decoder == "pyav" and isinstance(reader, PyavReader):
                    known = unpacked(packed(reader.opening()))
        except DecodeError as error:
            found.append((decoder, "refused", str(error).removeprefix(f"{path}: ")))
    return found


def compare(reader: VideoReader, right: Pictures, decoder: str) -> list[tuple[str, str, str]]:
    """A file of which some packets give no picture is compared by time stamps: one of its numbers may be refused."""
    guide, by_pts = getattr(reader, "guide", reader), {pts: place for place, (pts, _) in enumerate(right)}
    numbers = random.Random(reader.num_frames).choices(range(reader.num_frames), k=NUM_LOOKS)
    num_right, others = 0, set[tuple[str, str, str]]()
    for number in numbers:
        try:
            (read,) = reader.read_planned(lambda r, n=number: whole(r, n))
        except DecodeError as error:
            reason = re.sub(r"frame \d+ of", "a frame of", str(error).removeprefix(f"{reader.path}: "))
            others.add((decoder, "refused", reason))
            continue
        is_counted = guide.timeline is None or reader.num_frames == len(right)
        place = number if is_counted else by_pts.get(guide.timeline.shown_pts[number])
        most = 0 if isinstance(reader, PyavReader) else CLOSE
        if place is None or place >= len(right):
            return [(decoder, "wrong", f"frame {number} is none of a decode of all")]
        picture = right[place][1]
        if read[0].shape != picture.shape:
            return [(decoder, "wrong", f"frame {number} is {read[0].shape}, not {picture.shape}")]
        off = np.abs(read[0].astype(np.int16) - picture).mean()
        if off > most:
            return [(decoder, "wrong", f"frame {number} is off by {off:.1f} grey levels")]
        num_right += 1
    kind = "frames" if reader.decoder == decoder or decoder == "kept" else "fallback"
    return [(decoder, kind, str(num_right)), *sorted(others)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    av.logging.set_level(None)
    files = [str(p) for folder in arguments.folders for p in sorted(Path(folder).rglob("*")) if p.is_file()]
    videos = [path for path in files if has_video(path)]
    print(f"{len(videos)} of {len(files)} files have a video stream that FFmpeg {av.ffmpeg_version_info} decodes")
    counts: dict[str, collections.Counter[str]] = {decoder: collections.Counter() for decoder in DECODERS}
    said: dict[tuple[str, str, str], list[str]] = {}
    look_by_name = importlib.import_module("wrong_frames").look  # a worker imports it so
    outcomes = map_in_workers(look_by_name, videos, workers=arguments.workers, limits=Limits(300, 12288))
    for outcome in outcomes:
        found = outcome.value if outcome.failure is None else [("all", outcome.failure, outcome.reason_line)]
        for decoder, kind, detail in found:
            number = int(detail) if kind in ("frames", "fallback") else 1
            for name in DECODERS if decoder == "all" else (decoder,):
                counts[name][kind] += number if kind == "frames" else 1
                counts[name]["files"] += kind == "frames"
            if kind not in ("frames", "fallback"):
                said.setdefault((kind, os.sep.join(Path(outcome.item).parts[-2:]), detail), []).append(decoder)
    print(f"{'':12}{'files':>8}{'frames right':>14}{'wrong':>8}{'fallback':>10}{'refused':>9}{'other':>7}")
    for decoder, count in counts.items():
        other = count.total() - sum(count[k] for k in ("files", "frames", "wrong", "fallback", "refused"))
        print(
            f"{decoder:12}{count['files']:8}{count['frames']:14}{count['wrong']:8}{count['fallback']:10}"
            f"{count['refused']:9}{other:7}"
        )
    for (kind, name, detail), decoders in sorted(said.items()):
        print(f"{kind}  {name}  {'' if decoders == list(DECODERS) else ', '.join(decoders) + ': '}{detail}")
    return 1 if any(count["wrong"] for count in counts.values()) else 0


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    os.environ["PYTHONPATH"] = (
        os.path.dirname(os.path.abspath(__file__)) + os.pathsep + os.environ.get("PYTHONPATH", "")
    )
    sys.exit(main())
