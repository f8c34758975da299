"""What the loader delivers: by number of readers, against torch's DataLoader, and what memory it takes over time.

    python bench/loader.py --root ../shared/data/egogestar --csv ../shared/data/egogestar/256_train.csv
    python bench/loader.py --memory 10000

Contenders read the same clips with the same decoder and run in turn, round after round; what is printed is the median
of per-round ratios. The DataLoader's workers are forked, its default where CUDA is not in use, or spawned.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from vidgn.config.compose import load_config
from vidgn.config.schema import DataConfig
from vidgn.data.clips.plan import plan_for, row_at
from vidgn.data.clips.read import ClipGeometry, ReadTask, read_clips
from vidgn.data.datasets.manifest import Manifest, read_manifest
from vidgn.data.loading.batches import train_batches

BATCH = 8


@dataclass(frozen=True)
class Job:
    manifest: Manifest
    data: DataConfig
    frames: int
    stride: int

    def positions(self, clips: int) -> list[range]:
        return [range(start, start + BATCH) for start in range(0, clips, BATCH)]


class Clips(Dataset):
    """The same clips as the loader's, one position an item."""

    def __init__(self, job: Job, clips: int) -> None:
        self.job, self.clips = job, clips
        self.geometry = ClipGeometry.of(job.data, frames=job.frames, stride=job.stride)

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        row = self.job.manifest[row_at(0, position, len(self.job.manifest))]
        clip_1THWC = np.empty((1, *self.geometry.clip_shape), np.uint8)
        read_clips(ReadTask(0, row, (plan_for(self.job.data, 0, position),), self.geometry), clip_1THWC)
        return torch.from_numpy(clip_1THWC[0]), row.label


def ours(job: Job, clips: int, workers: int) -> Iterator[torch.Tensor]:
    data = replace(job.data, workers=workers)
    positions = job.positions(clips)
    with train_batches(job.manifest, data, seed=0, frames=job.frames, stride=job.stride, positions=positions) as stream:
        for batch in stream:
            yield batch.clip_NTHWC


def torchs(job: Job, clips: int, workers: int, start: str) -> Iterator[torch.Tensor]:
    context = start if workers else None
    loader = DataLoader(Clips(job, clips), BATCH, num_workers=workers, multiprocessing_context=context)
    for clip_NTHWC, _ in loader:
        yield clip_NTHWC


def timed(batches: Iterator[torch.Tensor]) -> tuple[float, float]:
    """(seconds to the first batch, clips per second after it)."""
    start = time.perf_counter()
    next(batches)
    first = time.perf_counter()
    clips = sum(len(batch) for batch in batches)
    return first - start, clips / (time.perf_counter() - first)


def compare(job: Job, *, clips: int, rounds: int) -> None:
    contenders: dict[str, Callable[[], Iterator[torch.Tensor]]] = {
        "vidgn, 2 workers": lambda: ours(job, clips, 2),
        "vidgn, 1 worker": lambda: ours(job, clips, 1),
        "vidgn, no worker": lambda: ours(job, clips, 0),
        "DataLoader, 2 forked": lambda: torchs(job, clips, 2, "fork"),
        "DataLoader, 2 spawned": lambda: torchs(job, clips, 2, "spawn"),
    }
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    names = list(contenders)
    for index in range(rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            seen[name].append(timed(contenders[name]()))
    print(f"{'':24s} {'first batch':>12s} {'clips/s':>9s} {'vidgn, 2 workers is':>20s}")
    for name in names:
        ratios = [mine[1] / other[1] for mine, other in zip(seen[names[0]], seen[name], strict=True)]
        first, rate = (statistics.median(values) for values in zip(*seen[name], strict=True))
        print(f"{name:24s} {first:10.2f} s {rate:9.1f} {statistics.median(ratios):18.2f} x")


def resident_bytes() -> int:
    """Memory that this process and those below it have written, each for itself; pages of files come and go."""
    me = psutil.Process()
    lines = (
        line
        for process in (me, *me.children(recursive=True))
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    )
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


def memory(job: Job, clips: int) -> float:
    """Prints resident memory on the way through `clips` clips with 2 workers; growth after the first tenth in MB."""
    warm, grown = None, 0.0
    for number, _ in enumerate(ours(job, clips, 2), start=1):
        done = number * BATCH
        if done % (clips // 10 // BATCH * BATCH) == 0:
            now = resident_bytes()
            warm = now if warm is None else warm
            grown = (now - warm) / 1e6
            print(f"{done:7d} clips: {now / 1e6:7.1f} MB, {grown:+.1f} since warm-up", flush=True)
    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the videos; left out: a synthetic set is written")
    parser.add_argument("--csv", help="annotation, path,label")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, metavar="CLIPS", help="watch memory over so many clips instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["model=i3d_tiny", "data=synthetic", f"data.root={folder}"]
        if arguments.root:
            where = [f"data.root={arguments.root}", f"data.train={arguments.csv}", f"data.val={arguments.csv}"]
            overrides = ["model=i3d_tiny", "data=csv", *where, "data.crop=112", "data.short_side=[128,160]"]
        data = load_config(overrides).data
        job = Job(read_manifest(data, "train"), data, arguments.frames, arguments.stride)
        if arguments.memory:
            print(f"growth after warm-up: {memory(job, arguments.memory):+.1f} MB")
        else:
            compare(job, clips=arguments.clips, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
