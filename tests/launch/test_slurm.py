"""A real Slurm: a sweep of four cells of two ranks in one job array, and a run submitted by hand.

One cell fails, one is preempted half-way, one is told that its time is nearly over.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.commands import Command, assert_same_run, started, steps_done, tiny
from tests.launch.slurm_cluster import Slurm, missing_programs, slurm

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
]
REPO = Path(__file__).resolve().parents[2]
STEPS = 60


def test_sweep_and_a_run_by_hand(tmp_path):
    study = tmp_path / "runs" / "s"
    run = {(tag, seed): study / f"i3d_tiny_8f_1x2_gn_{tag}_s{seed}" for tag in ("calm", "stopped") for seed in (0, 1)}
    by_hand = study / "i3d_tiny_8f_1x2_gn_hand_s1"
    run["calm", 1].mkdir(parents=True)
    (run["calm", 1] / "checkpoints").write_text("in the way")  # so that this cell fails once it runs
    cells = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "tag=calm,stopped", "seed=0,1"]
    arguments = ["train", "-m", *tiny(tmp_path / "data", f"trainer.max_steps={STEPS}", *cells)]
    with slurm() as cluster, started(arguments, tmp_path, cluster.env) as command:
        preempt = {
            run["stopped", 0]: lambda job: cluster.ask("scontrol", "requeue", job),
            run["stopped", 1]: lambda job: cluster.ask("scancel", "--signal=USR1", job),  # as near the time limit
        }
        jobs = _stop_half_way(cluster, command, preempt, seconds=240)
        _submit(cluster, tmp_path, "tag=hand", "seed=1")
        assert command.wait(200) == 1, command.output()
        _wait_for_empty_queue(cluster, by_hand)
        command.assert_nothing_left()

    array = jobs[run["stopped", 0]].partition("_")[0]
    assert list(jobs.values()) == [f"{array}_2", f"{array}_3"], "one array, a task for each cell in order"
    for seed in (0, 1):
        log = (run["stopped", seed] / "log.txt").read_text()
        assert "going on from step" in log
        assert "differs" not in log
    assert_same_run(run["stopped", 0], run["calm", 0])
    assert_same_run(run["stopped", 1], by_hand)
    assert not (run["calm", 1] / "result.json").exists()
    output = command.output()
    (failed,) = [line for line in output.splitlines() if line.startswith("runs/s/i3d_tiny_8f_1x2_gn_calm_s1: ")]
    assert "FileExistsError" in failed
    assert "3 done, 1 failed" in (study / "report.md").read_text()
    assert "Traceback" not in output


def _stop_half_way(cluster: Slurm, command: Command, preempt: dict, seconds: float) -> dict[Path, str]:
    """Stop each run once it is under way, and let its job start again at once. Returns: their jobs."""
    jobs: dict[Path, str] = {}
    waiting = set(preempt)
    end = time.monotonic() + seconds
    while waiting:
        assert command.process.poll() is None, command.output()
        assert time.monotonic() < end, (cluster.queue(), command.output())
        for run in sorted(waiting):
            if run not in jobs and steps_done(run) >= 5:
                (log,) = run.glob("job-*.log")
                jobs[run] = log.stem.removeprefix("job-")
                preempt[run](jobs[run])
            elif run in jobs and f"{jobs[run]} PENDING" in cluster.queue():
                assert steps_done(run) < STEPS
                cluster.ask("scontrol", "update", f"JobId={jobs[run]}", "StartTime=now")
                waiting.remove(run)
        time.sleep(0.05)
    return dict(sorted(jobs.items()))


def _submit(cluster: Slurm, folder: Path, *more: str) -> None:
    """launch/slurm.sbatch, with the tests' own vidgn."""
    path = f"{Path(sys.executable).parent}:{cluster.env['PATH']}"
    overrides = tiny(folder / "data", f"trainer.max_steps={STEPS}", *more)
    subprocess.run(
        ["sbatch", "--time=1:00:00", str(REPO / "launch" / "slurm.sbatch"), *overrides],
        env={**cluster.env, "PATH": path, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        check=True,
        capture_output=True,
    )


def _wait_for_empty_queue(cluster: Slurm, run: Path) -> None:
    end = time.monotonic() + 120
    while cluster.queue():
        assert time.monotonic() < end, cluster.queue()
        time.sleep(0.2)
    assert (run / "result.json").exists(), [p.read_text() for p in run.parents[2].glob("vidgn-*.log")]


def test_srun_starts_a_rank_per_task(tmp_path, one_node):
    folder = one_node / "data"
    overrides = tiny(folder, "launch.nproc_per_node=1", f"runs_dir={tmp_path}/runs")
    with slurm() as cluster:
        done = subprocess.run(
            ["srun", "-n2", sys.executable, "-m", "vidgn", "train", *overrides],
            env={**cluster.env, "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        assert cluster.queue() == []
    assert_same_run(tmp_path / "runs/s/i3d_tiny_8f_1x2_gn_s0", one_node / "runs/s/i3d_tiny_8f_1x2_gn_s0")
