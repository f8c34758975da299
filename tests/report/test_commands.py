"""The commands answer without what is slow to import."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("verb", ["report", "status"])
def test_help_imports_neither_torch_nor_matplotlib(verb):
    code = (
        f"import sys; from vidgn.cli import {verb} as v\n"
        "try: v.run(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert v.SUMMARY; assert not {'torch', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"vidgn {verb}" in done.stdout


def test_status_imports_neither_torch_nor_matplotlib(demo):
    code = (
        "import sys; from vidgn.cli import status; status.run(sys.argv[1:])\n"
        "assert not {'torch', 'matplotlib', 'hydra', 'omegaconf'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(demo.directory)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
