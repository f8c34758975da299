"""`vidgn doctor`: what it finds here, and what it says of what is missing."""

import json
import sys

import pytest

from vidgn.cli import doctor
from vidgn.cli.main import main


def test_it_names_what_is_here(capsys, tmp_path):
    assert main(["doctor", "--runs-dir", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out
    for words in ("torch 2.", "decoder pyav", "reads H.264, FFmpeg", "cores", "/dev/shm", "can be written and locked"):
        assert words in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_a_decoder_that_does_not_load_is_named_with_its_remedy(capsys, monkeypatch, decoder):
    monkeypatch.setitem(sys.modules, decoder, None)
    monkeypatch.setitem(sys.modules, f"{decoder}.decoders", None)
    assert main(["doctor", "--json"]) == 0
    (found,) = [f for f in json.loads(capsys.readouterr().out) if f["what"] == f"decoder {decoder}"]
    assert found["state"] == "absent"
    assert "can't be loaded" in found["text"]
    assert "pip install" in found["remedy"]


def test_where_no_run_can_be_written_the_exit_code_says_so(capsys):
    assert main(["doctor", "--runs-dir", "/proc/self/fd/runs"]) == 1
    assert "; give a folder that can be written: runs_dir=DIR" in capsys.readouterr().out


def test_little_shared_memory_is_said(monkeypatch):
    monkeypatch.setattr(doctor, "_LEAST_SHARED_BYTES", 1 << 60)
    (found,) = [f for f in doctor._machine() if f.what == "/dev/shm"]
    assert found.state == "absent"
    assert "--shm-size" in found.remedy


def test_what_norms_run_by_on_a_gpu(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "3.8.0")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert doctor._triton() == doctor.Finding("Triton", "3.8.0")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = doctor._triton()
    assert "finds no C compiler" in found.text
    assert found.remedy == "apt-get install gcc"
