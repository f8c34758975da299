"""`vidgn data bench`: what it measures, and the one line that says what to do."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.encoded_videos import HEIGHT, KINDS, NUM_FRAMES, WIDTH
from vidgn.cli import data as verbs
from vidgn.config.compose import load_config
from vidgn.data.datasets.manifest import read_manifest
from vidgn.training.throughput import Throughput, _decoded_bytes, advice

USAGE = namedtuple("USAGE", ["total", "used", "free"])
SLOW = Throughput(((1, 10.0), (2, 20.0)), 100.0, "cpu", 20 * 10**9)


def test_the_last_line_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\n{KINDS['h264_closed'](tmp_path).name},walk\n")
    words = ["model=i3d_tiny", "data=csv", f"data.train={tmp_path}/list.csv", f"data.val={tmp_path}/list.csv"]
    assert verbs.bench([*words, "frames=8", "span=8", "data.crop=32", "trainer.device=cpu", "--seconds", "0.2"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("i3d_tiny on cpu: ")
    assert lines[1].startswith("1 worker: ")
    assert last.startswith("set data.workers=")


def test_what_is_decoded_is_counted(tmp_path: Path) -> None:
    names = [write(tmp_path).name for write in (KINDS["h264_closed"], KINDS["h264_avi"])]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{name},walk\n" for name in names))
    data = load_config(["data=csv", f"data.train={tmp_path}/list.csv", f"data.val={tmp_path}/list.csv"]).data
    assert _decoded_bytes(read_manifest(data, "train")) == 2 * NUM_FRAMES * HEIGHT * WIDTH * 3


@pytest.mark.parametrize(
    ("found", "free", "told"),
    [
        (replace(SLOW, model=18.0), 0, "set data.workers=2: for each process on cpu that keeps the model fed"),
        (SLOW, 10**12, "set data.workers=2, which is 20% of what the model takes on cpu, and data.cache_gb=21: "),
        (SLOW, 10**9, "vidgn data transcode SOURCE FOLDER --profile fast --short-side 320"),
        (replace(SLOW, decoded_bytes=0), 10**12, "; write the images smaller, or take a machine with more cores"),
    ],
)
def test_the_advice_fits_the_machine(
    found: Throughput, free: int, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(0, 0, free))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "made"))
    line = advice(found, load_config(["data=kinetics400"]).data)
    assert told in line
    assert "\n" not in line


def test_frames_that_are_kept_already_are_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(0, 0, 10**12))
    assert "transcode" in advice(SLOW, replace(load_config(["data=kinetics400"]).data, cache_gb=21.0))


def test_a_cache_below_the_current_folder_need_not_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(0, 0, 10**12))
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) in advice(SLOW, replace(load_config(["data=kinetics400"]).data, cache="not/made"))
