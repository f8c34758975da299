"""What takes minutes: memory over 10,000 clips, and two readers against one."""

import os
import statistics
import time
from dataclasses import replace

import psutil
import pytest

from vidgn.data.loader import train_batches
from vidgn.data.manifest import read_manifest


def resident_bytes() -> int:
    """Pages that this process and those below it have each to themselves; what they share has a fixed size."""
    me = psutil.Process()
    return sum(process.memory_full_info().uss for process in (me, *me.children(recursive=True)))


@pytest.mark.long
def test_memory_stays_flat_over_10000_clips(tiny_data):
    data = replace(tiny_data, workers=2)
    manifest = read_manifest(data, "train")
    positions = (range(start, start + 8) for start in range(0, 10_000, 8))
    warm = grown = 0
    with train_batches(manifest, data, seed=0, frames=8, stride=1, positions=positions) as stream:
        for number, _ in enumerate(stream, start=1):
            if number == 150:
                warm = resident_bytes()
            if number == 1248:
                grown = resident_bytes() - warm
    assert warm
    assert grown < 20e6


@pytest.mark.long
def test_two_readers_are_nearly_twice_one(tiny_data):
    if len(os.sched_getaffinity(0)) < 2 or os.getloadavg()[0] > 0.5:
        pytest.skip("needs two cores that nobody else uses")
    data = replace(tiny_data, crop=224, short_side=(256, 320))  # enough work a clip
    manifest = read_manifest(data, "train")
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(5):
        for workers in rates:
            positions = (range(start, start + 8) for start in range(0, 400, 8))
            with train_batches(
                manifest, replace(data, workers=workers), seed=0, frames=12, stride=1, positions=positions
            ) as stream:
                next(stream)
                start = time.perf_counter()
                for _ in stream:
                    pass
            rates[workers].append(392 / (time.perf_counter() - start))
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    assert statistics.median(ratios) >= 1.8
