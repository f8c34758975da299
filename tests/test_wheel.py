"""The wheel has its configs with it, and composes them from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def test_a_wheel_composes_its_configs_elsewhere(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(REPO)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("vidgn-*.whl")
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
    assert done.stdout.split() == [str(site / "vidgn/conf"), "runs/study/i3d_r50_32f_8x8_bn_s0"]
