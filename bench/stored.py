"""What a video costs to read by how it is stored: the original, transcoded, its frames as images, its frames kept.

    python bench/stored.py --clips ../shared/data/clips/good --rounds 9

Every contender gives the clips of the same plans (32 frames, stride 2, crop 224). A round is one clip of every video
for every contender, the order turning from round to round. Printed is the median over rounds of its clips per second to
the original's, by process CPU time, and its bytes to the original's.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from vidgn.data.decode import open_cached, open_frames, open_video
from vidgn.data.decode.base import Box, ResolvedClip, VideoReader
from vidgn.data.decode.write import Recoding, recode
from vidgn.data.tools.transcode import read_training_clip


def write_frames(source: Path, folder: Path) -> Path:
    """JPEG files of quality 90."""
    folder.mkdir(parents=True)
    with open_video(source) as reader:
        box = Box(0, 0, reader.height, reader.width)
        for number in range(reader.num_frames):
            clip = ResolvedClip((number,), box, reader.height, reader.width, flip=False)
            Image.fromarray(reader.read([clip])[0][0]).save(folder / f"{number:06d}.jpg", quality=90)
    return folder


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp())
    videos = [path for path in sorted(arguments.clips.iterdir()) if path.suffix in (".mp4", ".avi", ".webm", ".mkv")]
    for video in videos:
        for fast, name in ((False, "small"), (True, "fast")):
            recode(str(video), str(work / name / f"{video.stem}.mp4"), Recoding(256, 30, fast=fast))
        write_frames(video, work / "frames" / video.stem)
    kept = {"timeout_seconds": None, "limit_bytes": 10**11}
    contenders: dict[str, Callable[[Path], VideoReader]] = {
        "original": open_video,
        "--profile small": lambda video: open_video(work / "small" / f"{video.stem}.mp4"),
        "--profile fast": lambda video: open_video(work / "fast" / f"{video.stem}.mp4"),
        "frames as JPEG": lambda video: open_frames(work / "frames" / video.stem),
        "frames kept": lambda video: open_cached(video, folder=str(work / "kept"), **kept),
    }
    places = dict(zip(contenders, ("", "small", "fast", "frames", "kept"), strict=True))
    for video in videos:
        for opened in contenders.values():
            read_training_clip(opened(video), 0)  # warms up, and keeps what is to be kept
    rounds: list[dict[str, float]] = []
    for turn in range(arguments.rounds):
        seconds = dict.fromkeys(contenders, 0.0)
        for video in videos:
            for place in range(len(contenders)):
                name = list(contenders)[(place + turn) % len(contenders)]
                started = time.process_time()
                read_training_clip(contenders[name](video), turn)
                seconds[name] += time.process_time() - started
        rounds.append(seconds)
    original = sum(size(video) for video in videos)
    print(f"{len(videos)} videos, {arguments.rounds} rounds\n{'':18}{'clips/s':>9}{'bytes':>9}   (to the original's)")
    for name, place in places.items():
        ratio = statistics.median(seconds["original"] / seconds[name] for seconds in rounds)
        print(f"{name:18}{ratio:9.2f}{(size(work / place) if place else original) / original:9.2f}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
