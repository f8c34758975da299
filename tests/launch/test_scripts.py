"""The scripts in launch/ as they are, with the real torchrun. launch/slurm.sbatch is in test_slurm.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.commands import Command, assert_same_run, tiny

REPO = Path(__file__).resolve().parents[2]
LAUNCH = REPO / "launch"
NAME = "i3d_tiny_8f_1x2_gn_s0"


def environment(**more: str) -> dict[str, str]:
    """vidgn and torchrun of this Python come first."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **more}


@pytest.mark.parametrize("script", ["local.sh", "torchrun.sh"])
def test_two_processes_end_as_one_command_does(script, one_node, tmp_path):
    overrides = [o for o in tiny(one_node / "data", "tag=script") if not o.startswith("launch.nproc_per_node")]
    command = Command([], tmp_path, environment(NPROC="2"), program=[str(LAUNCH / script), *overrides])
    assert command.wait(200) == 0, command.output()
    command.assert_nothing_left()
    runs = Path("runs") / "s"
    assert_same_run(tmp_path / runs / NAME.replace("gn_", "gn_script_"), one_node / runs / NAME)


def test_local_without_a_gpu_says_what_to_write(tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run([LAUNCH / "local.sh", "norm=gn"], env={"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "write NPROC=N" in done.stderr
