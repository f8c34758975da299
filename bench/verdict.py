"""How often the report's interval holds the true gap, and how often it names a winner where there is none.

    python bench/verdict.py --out bench/results/verdict.txt        some minutes on two cores

A world: videos of all difficulties, some better for one arm whatever the seed; each run decides each video with noise
of its own and is as a whole better or worse by `dev` points (one network's deviation). The true gap is 0 or 0.7 points.
A study: S pairs of runs on V videos. Printed for each world: share of studies whose 95 % interval holds the true gap;
share that is called above or below (interval over videos and runs, and that over videos alone, exclude 0); and the
median half width. Beside it the same for what the report did before: the bootstrap over videos alone.
"""

import argparse
import functools
import multiprocessing
from pathlib import Path

import numpy as np

from vidgn.report.analyse.statistics import bootstrap_interval, gap_interval

VIDEOS = {160: 2000, 1530: 1500, 19796: 800}  # -> studies
DEVIATIONS = (0.0, 0.2, 0.3, 1.0)
GAPS = (0.0, 0.7)
SEEDS = (2, 3, 5, 6)
EASE, SPREAD, OF_ARM, OF_RUN = 1.6, 2.2, 0.5, 1.2  # logits: 73 % right, 16 % decided otherwise


@functools.cache
def logits(points: float) -> tuple[float, float]:
    """(what moves the accuracy by so many points, by how much it moves it), from 4 million videos."""
    value = np.random.default_rng(0).normal(EASE, np.sqrt(SPREAD**2 + OF_ARM**2 + OF_RUN**2), 4_000_000)
    right, low, high = float((value > 0).mean()), 0.0, 3.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if (value + middle > 0).mean() - right < points / 100 else (low, middle)
    return low, 100 * float((value + low > 0).mean() - right)


def study(random: np.random.Generator, *, videos: int, seeds: int, gap: float, deviation: float) -> np.ndarray:
    """(S, V) differences; gap and deviation in logits."""
    video_V = random.normal(EASE, SPREAD, videos)
    arms = []
    for shift in (gap, 0.0):
        arm_V = video_V + random.normal(0, OF_ARM, videos) + shift
        of_run = random.normal(0, OF_RUN, (seeds, videos)) + random.normal(0, deviation, (seeds, 1))
        arms.append((arm_V + of_run > 0).astype(np.int8))
    return arms[0] - arms[1]


def world(case: tuple[int, float, float, int]) -> str:
    videos, gap, deviation, seeds = case
    shift, true = logits(gap) if gap else (0.0, 0.0)
    noise = logits(1.0)[0] * deviation
    random = np.random.default_rng([videos, round(10 * gap), round(10 * deviation), seeds])
    held, called, before, widths = 0, 0, 0, []
    for _ in range(VIDEOS[videos]):
        difference_SV = study(random, videos=videos, seeds=seeds, gap=shift, deviation=noise)
        found = gap_interval([difference_SV])
        assert found is not None
        low, high = bootstrap_interval(difference_SV.mean(axis=0))
        apart = not low <= 0 <= high
        held += found.low <= true <= found.high
        called += apart and found.p < 0.05
        before += apart
        widths.append((found.high - found.low) / 2)
    share = 100 / VIDEOS[videos]
    return (
        f"{videos:7}{gap:6.1f}{deviation:6.1f}{seeds:7}{share * held:10.1f}{share * called:10.1f}"
        f"{float(np.median(widths)):10.2f}{share * before:12.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cases = [(v, g, d, s) for v in VIDEOS for g in GAPS for d in DEVIATIONS for s in SEEDS]
    head = (
        f"{'videos':>7}{'gap':>6}{'dev':>6}{'seeds':>7}{'holds %':>10}{'called %':>10}{'± points':>10}{'before %':>12}"
    )
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        lines = pool.map(world, cases, chunksize=1)
    text = "\n".join([head, *lines]) + "\n"
    held = [float(line[26:36]) for line in lines]
    called = [float(line[36:46]) for line, (_, gap, _, _) in zip(lines, cases, strict=True) if gap == 0]
    mean = sum(called) / len(called)
    text += f"\nholds the gap: {min(held)} to {max(held)} %; "
    text += f"called where there is none: {mean:.1f} %, {max(called)} at most\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
