"""`vidgn train` before anything runs."""

import subprocess
import sys

_HELP = """
import sys
from vidgn.cli.main import main
code = main(["train", "--help"])
print("imported:", *(m for m in ("torch", "hydra", "numpy") if m in sys.modules))
sys.exit(code)
"""


def test_help_without_torch():
    done = subprocess.run([sys.executable, "-c", _HELP], capture_output=True, text=True, timeout=60, check=True)
    *text, imported = done.stdout.splitlines()
    assert "torch" not in imported
    said = "\n".join(text)
    for part in (
        "-m, --multirun",
        "hydra/launcher=submitit_slurm",
        "launch.nproc_per_node=8",
        "75 stopped",
        "i3d_tiny",
    ):
        assert part in said
    assert max(map(len, text)) <= 125
