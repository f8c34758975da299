"""The wheel has its configs with it, and composes them from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


def build(folder: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPO)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("vidgn-*.whl")
    return wheel


@pytest.mark.long
def test_a_wheel_in_an_empty_environment_runs_the_demo_from_any_folder(tmp_path):
    """With what it asks for and nothing else; pip fetches that as `make setup` does."""
    wheel, environment = build(tmp_path), {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    binaries, elsewhere = tmp_path / "venv/bin", tmp_path / "else where"
    elsewhere.mkdir()
    install = [binaries / "pip", "install", "--quiet", "-c", REPO / "constraints.txt", wheel]
    subprocess.run(install, check=True, timeout=1200)
    doctor = subprocess.run(
        [binaries / "vidgn", "doctor"], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "pip install 'vidgn[torchcodec]'" in doctor.stdout
    small = ["trainer.max_steps=2", "data.synthetic.num_train=16", "data.synthetic.num_val=16"]
    command = [binaries / "vidgn", "train", "sweep=demo", *small]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 done" in (elsewhere / "runs/demo/report.md").read_text()


def test_a_wheel_composes_its_configs_elsewhere(tmp_path):
    wheel = build(tmp_path)
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    inside = {str(p.relative_to(REPO / "conf")) for p in (REPO / "conf").rglob("*.yaml")}
    assert inside == {str(p.relative_to(site / "vidgn/conf")) for p in (site / "vidgn/conf").rglob("*.yaml")}
    assert (site / "vidgn/py.typed").exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "import vidgn.config.compose as c; print(c.config_dir()); print(c.load_config(['norm=bn']).run_dir)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(site / "vidgn/conf"), "runs/study/i3d_r50_32f_8x8_bn_s0"]
