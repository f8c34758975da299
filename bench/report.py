"""How long a report of Kinetics' size takes, and how much memory: 48 cells of 19,796 videos.

    python bench/report.py

2 norms, 4 batch sizes, 2 clip lengths, 3 seeds, each cell with a curve and the scores of all videos.
"""

import contextlib
import io
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.report.conftest import Writer, ranks_with
from vidgn.cli.report import run

VIDEOS, CLASSES = 19_796, 400


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        writer = Writer(Path(work) / "runs" / "large")
        for seed in range(3):
            for frames in (32, 64):
                for clips in (8, 4, 2, 1):
                    for place, norm in enumerate(("bn", "gn")):
                        ranks = ranks_with(VIDEOS, 0.7 + 0.01 * place, seed=100 * seed + frames + clips + 7 * place)
                        config = writer.config(norm=norm, frames=frames, clips_per_gpu=clips, seed=seed)
                        curve = [(100 * e, float(e), 100 / e) for e in range(1, 101)]
                        writer.finish(
                            config, ranks, classes=CLASSES, plan_digest=f"{frames} {clips} {seed}", curve=curve
                        )
        cells = len(writer.cells)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            run([str(writer.directory)])
        seconds = time.monotonic() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = (writer.directory / "report.html").stat().st_size
        print(f"{cells} cells of {VIDEOS} videos: {seconds:.1f} s, {peak / 2**20:.2f} GiB in all ", end="")
        print(f"({before / 2**20:.2f} before), report.html {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
