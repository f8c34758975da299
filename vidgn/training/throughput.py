"""Clips per second that the loader delivers on this machine, and that the configured model trains on."""

import contextlib
import math
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from vidgn.config.schema import Config, DataConfig
from vidgn.data.clips.plan import short_side_at_test
from vidgn.data.clips.read import default_cache
from vidgn.data.datasets.manifest import Manifest, read_manifest
from vidgn.data.decode import open_video
from vidgn.data.loading.batches import Batch, train_batches
from vidgn.distributed.ranks import Ranks, choose_device
from vidgn.errors import ConfigError, DecodeError
from vidgn.geometry import choose_geometry
from vidgn.processes import num_cores
from vidgn.training.norm_kernels import choose_norm_kernels
from vidgn.training.setup import make_model, place_model, set_precision
from vidgn.training.step import Layout, TrainStep, set_training_groups
from vidgn.training.tasks import MadeUpClips

_NUM_OPENED = 20


@dataclass(frozen=True)
class Throughput:
    """Clips per second. `by_workers`: (workers, delivered), rising.

    `decoded_bytes`: of all frames of the set, reckoned from a few videos; 0 where it has none.
    """

    by_workers: tuple[tuple[int, float], ...]
    model: float
    device: str
    decoded_bytes: int

    @property
    def workers_needed(self) -> int:
        """The fewest workers that keep the model busy; beyond those measured, at the rate that each of the most had."""
        workers, delivered = self.by_workers[-1]
        enough = [w for w, rate in self.by_workers if rate >= self.model]
        return enough[0] if enough else math.ceil(self.model / (delivered / workers))


def measure(config: Config, *, seconds: float, log: Callable[[str], None]) -> Throughput:
    """Train and read for about `seconds` each: the model, then the loader at 1, 2, 4, ... workers up to the cores.

    Raises:
        ManifestError: if the training set can't be used.
        DecodeError: if too many of its videos can't be read.
        ConfigError: if the model can't be built.
    """
    if config.model.detector:
        raise ConfigError(f"model={config.model.name}: data bench reads clips; metrics.jsonl has a detector's clock")
    set_precision(config)
    rows = read_manifest(config.data, "train")
    device = choose_device(config, 0)
    model = _model_rate(config, device, num_classes=len(rows.classes), seconds=seconds)
    log(f"{config.model.name} on {device.type}: {model:.1f} clips/s, forward and backward")
    cores = num_cores()
    counts = sorted({min(2**i, cores) for i in range(cores.bit_length() + 1)})
    by_workers = []
    for workers in counts:
        rate = _loader_rate(config, rows, workers=workers, seconds=seconds)
        log(f"{workers} worker{'s' if workers > 1 else ''}: {rate:.1f} clips/s")
        by_workers.append((workers, rate))
    return Throughput(tuple(by_workers), model, device.type, _decoded_bytes(rows))


def _decoded_bytes(rows: Manifest) -> int:
    """Of all frames of `rows`, from a few of them that can be opened; 0 where none is a video."""
    found = list[int]()
    for index in range(0, len(rows), max(1, len(rows) // _NUM_OPENED)):
        with contextlib.suppress(DecodeError), open_video(rows[index].path) as reader:
            found.append(3 * reader.num_frames * reader.height * reader.width)
    return round(statistics.fmean(found) * len(rows)) if found else 0


def advice(found: Throughput, data: DataConfig) -> str:
    """One line: what to do so that the model need not wait for data."""
    need, (most_workers, most) = found.workers_needed, found.by_workers[-1]
    if need <= most_workers:
        return f"set data.workers={need}: for each process on {found.device} that keeps the model fed"
    lack = (
        f"set data.workers={most_workers}, which is {most / found.model:.0%} of what the model takes on {found.device}"
    )
    folder = os.path.abspath(data.cache or default_cache())
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    gigabytes = math.ceil(found.decoded_bytes * 1.05 / 1e9)
    if not found.decoded_bytes:
        return f"{lack}; write the images smaller, or take a machine with more cores"
    if data.cache_gb < gigabytes and 0 < gigabytes * 1e9 < shutil.disk_usage(folder).free:
        return f"{lack}, and data.cache_gb={gigabytes}: decoded frames are kept in {folder}, and need no decoding again"
    return (
        f"{lack}, and write the videos anew for fast decoding: vidgn data transcode SOURCE FOLDER --profile fast "
        f"--short-side {max(short_side_at_test(data.crop), data.short_side[1])}"
    )


def _positions(clips: int) -> Iterator[list[int]]:
    first = 0
    while True:
        yield list(range(first, first + clips))
        first += clips


def _loader_rate(config: Config, rows: Manifest, *, workers: int, seconds: float) -> float:
    """Clips per second once the first batches are through."""
    clips = config.clips_per_gpu
    data = replace(config.data, workers=workers, clips_per_video=1)
    batches: Iterator[Batch]
    with train_batches(
        rows, data, seed=config.seed, frames=config.frames, stride=config.stride, positions=_positions(clips)
    ) as batches:
        for _ in range(2 * workers + 1):  # what was read ahead while the readers started
            next(batches)
        began, done = time.monotonic(), 0
        while time.monotonic() - began < seconds or done == 0:
            next(batches)
            done += clips
        return done / (time.monotonic() - began)


def _model_rate(config: Config, device: torch.device, *, num_classes: int, seconds: float) -> float:
    """Clips per second through forward and backward, after two warm rounds."""
    geometry = choose_geometry(config, world_size=1)
    model = place_model(make_model(config, num_classes=num_classes), config, device)
    choose_norm_kernels(config, model, Ranks(0, 1, device))
    step = TrainStep(config, model.train(), MadeUpClips(config, model, device), Layout(geometry, Ranks(0, 1, device)))
    set_training_groups(model, step.layout)

    def once() -> None:
        step.backward(step.forward(None))
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    once()
    once()
    began, done = time.monotonic(), 0
    while time.monotonic() - began < seconds or done == 0:
        once()
        done += geometry.clips_per_forward
    return done / (time.monotonic() - began)
