"""What a clip of a segment of a one-hour video costs, against the same clip out of a file that was cut for it.

    python bench/segments.py --clip ../shared/data/clips/good/VIDEO.mp4 --rounds 30

The hour is the clip's own packets, one after the other until it is full: segment n of it is the clip once more, and so
is the cut file. A round reads one clip (32 frames, stride 2, crop 224) of one random segment in each way; printed is
the median over rounds of process CPU time to the cut file's. `looked at` opens the film as if for the first time in a
process; `in memory` is a film that the process has opened before; `by its index` finds what `vidgn data index` keeps.
"""

import argparse
import random
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import torch

from vidgn.config.compose import load_config
from vidgn.data.clips.plan import plan_clip
from vidgn.data.clips.read import ClipGeometry, ReadTask, read_clips
from vidgn.data.datasets.manifest import Row
from vidgn.data.decode import open_video, openings
from vidgn.data.decode.pyav import PyavReader

HOUR = 3600.0


def repeated(clip: Path, film: Path) -> tuple[int, float]:
    """Write the clip's packets until an hour is full.

    Returns:
        (times, seconds of each).
    """
    with av.open(str(clip)) as old:
        stream = old.streams.video[0]
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in old.demux(stream) if p.size]
        base = stream.time_base
        shown = sorted(pts for _, pts, _, _ in packets)
        length = shown[-1] - shown[0] + (shown[1] - shown[0])
        times = int(HOUR / (length * base))
        with av.open(str(film), "w") as new:
            copy = new.add_stream_from_template(stream)
            for time_ in range(times):
                for data, pts, dts, is_keyframe in packets:
                    packet = av.Packet(data)
                    packet.pts, packet.dts = pts - shown[0] + time_ * length, dts - shown[0] + time_ * length
                    packet.time_base, packet.stream, packet.is_keyframe = base, copy, is_keyframe
                    new.mux(packet)
    return times, float(length * base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp())
    geometry = ClipGeometry.of(load_config(["frames=32", "span=64"]).data, frames=32, stride=2)
    out = np.empty((1, *geometry.clip_shape), np.uint8)
    for ending in ("mp4", "mkv"):
        film, table = work / f"film.{ending}", str(work / f"{ending}.openings")
        times, seconds = repeated(arguments.clip, film)
        cut = work / f"cut.{ending}"
        with av.open(str(arguments.clip)) as old, av.open(str(cut), "w") as new:
            copy = new.add_stream_from_template(old.streams.video[0])
            for packet in old.demux(old.streams.video[0]):
                if packet.size:
                    packet.stream = copy
                    new.mux(packet)
        with PyavReader(str(film)) as reader:
            openings.write(table, [(openings.digest_of(str(film)), openings.packed(reader.opening()))])
            num_frames = reader.num_frames
        rounds: list[dict[str, float]] = []
        ways = ("cut file", "in memory", "by its index", "looked at")
        for number in range(arguments.rounds):
            segment = random.Random(number).randrange(times)
            took, pictures = {}, {}
            for way in ways:
                openings.forget()
                if way == "in memory":
                    openings.find((table,), str(film))
                tables = (table,) if way == "by its index" else ()
                part = None if way == "cut file" else (segment * seconds, (segment + 1) * seconds)
                row = Row("a", str(cut if way == "cut file" else film), 0, None, segment=part)
                task = ReadTask(0, row, (plan_clip(0, number, flip=True),), replace(geometry, openings=tables))
                started = time.process_time()
                read_clips(task, out)
                took[way] = time.process_time() - started
                pictures[way] = out.copy()
            for way in ways[2:]:
                assert (pictures[way] == pictures["in memory"]).all()
            rounds.append(took)
        print(f"{ending}: {times} segments, {num_frames} frames, {film.stat().st_size / 1e6:.0f} MB")
        for way in ways:
            ratio = statistics.median(r[way] / r["cut file"] for r in rounds)
            print(f"  {way:14}{ratio:8.2f}")
        digest = openings.digest_of(str(cut))
        with PyavReader(str(cut)) as reader:
            openings.write(table, [(digest, openings.packed(reader.opening()))])
        spent = {(): 0.0, (table,): 0.0}
        for _ in range(50):
            for tables in spent:
                started = time.process_time()
                open_video(cut, openings=tables).close()
                spent[tables] += time.process_time() - started
        print(f"  opening the cut file by its index, to opening it without: {spent[(table,)] / spent[()]:.2f}")
        film.unlink()
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
