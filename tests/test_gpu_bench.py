"""bench/gpu.py on a CPU with tiny sizes, so that it runs on the day a GPU is there."""

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def test_every_section_runs(tmp_path):
    command = [sys.executable, REPO / "bench" / "gpu.py", "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, "--only", "ceilings", "steps", "norms", "launches", "memory"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "32 frames x 8 clips, gn, plain torch" in done.stdout
