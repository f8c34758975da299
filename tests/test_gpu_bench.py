"""bench/gpu.py on a CPU with tiny sizes, and the kernels compiled for a GPU: both run on the day one is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    "forms",
    [
        "['bn'], [(5, 8, 1, 1, 1)], [torch.float64, torch.bfloat16]",  # one position; doubles: neither compiled once
        pytest.param("", marks=pytest.mark.long),
    ],
)
def test_kernels_compile_for_a_gpu(forms, tmp_path):
    """By Triton's compiler, which knows more than its interpreter; no GPU is needed."""
    pytest.importorskip("triton", reason="needs Triton, which torch brings on Linux")
    program = (
        f"import kernels, torch; print(sum(bool(kernels.compile_(f, 90)) for _, f in kernels.every_form({forms})))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=REPO / "bench",
        env={**environment, "PYTHONPATH": str(REPO), "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 10
