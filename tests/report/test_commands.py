"""The commands answer --help without what is slow to import, and leave no half-written file."""

import subprocess
import sys

import pytest

from vidgn.report.files import write_atomically


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


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.md"
    write_atomically(path, lambda p: p.write_text("old"))

    def torn(p):
        p.write_text("ne")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, torn)
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]
    assert path.read_text() == "old"
    assert path.stat().st_mode & 0o444 == 0o444
