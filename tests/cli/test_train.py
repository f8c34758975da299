"""`vidgn train` before anything runs."""

import subprocess
import sys

import pytest

from vidgn.cli.main import main

_HELP = """
import sys
from vidgn.cli.main import main
code = main(["train", "--help"])
print("imported:", *(m for m in ("torch", "hydra", "numpy") if m in sys.modules))
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trainn"], "vidgn: no such verb: trainn; did you mean train? takes one of train, evaluate, "),
        (["data", "checkz"], "vidgn: no such verb: checkz; did you mean check? data takes one of index, "),
        (["xyzzy"], "vidgn: no such verb: xyzzy; takes one of train, "),
    ],
)
def test_a_verb_that_is_not_there(capsys, words, says):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(says)


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
