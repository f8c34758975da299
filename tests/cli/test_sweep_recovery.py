"""A sweep that is stopped, killed and has a cell that fails: what can be finished is, and what is missing is named."""

import json
import os
import signal
import time
from pathlib import Path

CELLS = [f"i3d_tiny_8f_2x1_{norm}_s{seed}" for norm in ("bn", "gn") for seed in (0, 1, 2)]
FAILING = "i3d_tiny_8f_2x1_gn_s1"
FAULT = f"""
import time, vidgn.training.loop as train
from vidgn.errors import DecodeError
step = train.Trainer.train_step
def faulty(self, *arguments):
    time.sleep(0.05)
    if self.config.run_dir.name == {FAILING!r} and self.state.step == 3:
        raise DecodeError("no such luck")
    return step(self, *arguments)
train.Trainer.train_step = faulty
"""


def arguments(folder: Path) -> list[str]:
    return [
        "train",
        "-m",
        "norm=bn,gn",
        "seed=0,1,2",
        "model=i3d_tiny",
        "data=synthetic",
        f"data.root={folder}/videos",
        "data.synthetic.num_train=24",
        "data.synthetic.num_val=6",
        "data.synthetic.num_classes=3",
        "data.synthetic.num_frames=12",
        "data.synthetic.size=32",
        "data.short_side=[28,32]",
        "data.crop=28",
        "data.workers=0",
        "frames=8",
        "span=8",
        "gpus=1",
        "clips_per_gpu=2",
        "trainer.max_steps=6",
        "trainer.checkpoint_steps=2",
        "trainer.eval_every=0",
        "bn_stats_steps=1",
        "views=curve",
        "launch.threads=1",
        "trainer.device=cpu",
        "study=six",
        f"runs_dir={folder}/runs",
    ]


def num_steps(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_text().count('"train"') if file.exists() else 0


def wait_for(started, run: Path, steps: int) -> None:
    end = time.monotonic() + 180
    while num_steps(run) < steps:
        assert started.poll() is None, started.log.read_text()
        assert time.monotonic() < end, started.log.read_text()
        time.sleep(0.005)


def done(study: Path) -> list[str]:
    return [c for c in CELLS if (study / c / "result.json").exists()]


def test_a_sweep_stopped_killed_and_with_a_cell_that_fails(warm, tmp_path):
    study = tmp_path / "runs" / "six"

    started = warm.start(arguments(tmp_path), folder=tmp_path, patch=FAULT)
    wait_for(started, study / CELLS[1], 3)
    os.kill(started.pid, signal.SIGTERM)
    assert started.wait() == 75, started.log.read_text()
    assert done(study) == CELLS[:1]
    assert "stopped, 5 cells to go: the same command goes on with them" in started.log.read_text()
    assert "1 done" in (study / "report.md").read_text()
    assert not (study / CELLS[1] / "error.txt").exists()
    assert not (study / CELLS[2] / "config.yaml").exists()

    started = warm.start(arguments(tmp_path), folder=tmp_path, patch=FAULT)
    wait_for(started, study / CELLS[3], 3)
    started.kill_all()
    assert started.wait() == -signal.SIGKILL
    assert done(study) == CELLS[:3]
    before = {c: (study / c / "result.json").stat().st_mtime_ns for c in CELLS[:3]}

    started = warm.start(arguments(tmp_path), folder=tmp_path, patch=FAULT)
    assert started.wait() == 1, started.log.read_text()
    started.assert_no_orphans()
    text = started.log.read_text()
    assert done(study) == [c for c in CELLS if c != FAILING]
    assert {c: (study / c / "result.json").stat().st_mtime_ns for c in CELLS[:3]} == before  # skipped
    assert text.count("is done; vidgn evaluate") == 3
    assert "going on from step 2" in (study / CELLS[3] / "log.txt").read_text()  # half done, resumed
    assert "taking over the lock of process" in (study / CELLS[3] / "log.txt").read_text()
    for cell in done(study):
        lines = [json.loads(line) for line in (study / cell / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6], cell
    assert (study / FAILING / "error.txt").read_text() == "no such luck\n"
    assert text.splitlines()[-1] == f"{study / FAILING}: no such luck"
    report = (study / "report.md").read_text()
    assert f"- {FAILING}: failed, step 3 of 6: no such luck" in report
    assert "Traceback" not in text

    started = warm.start(arguments(tmp_path), folder=tmp_path)
    assert started.wait() == 0, started.log.read_text()
    assert done(study) == CELLS
    assert not (study / FAILING / "error.txt").exists()
    assert "no such luck" not in (study / "report.md").read_text()
