"""A real Slurm: a sweep of four cells of two ranks in one job array, jobs by hand, ranks by srun.

Of the sweep one cell fails, and one is stopped twice: near its time limit, and by a requeue as a preemption is.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.commands import Command, assert_same_run, started, steps_done, tiny, wait_until
from tests.launch.slurm_cluster import Slurm, slurm

pytestmark = pytest.mark.slurm
REPO = Path(__file__).resolve().parents[2]
STEPS = 60
PATIENCE = 600  # seconds; less than a minute on two free cores


def test_sweep(tmp_path):
    study = tmp_path / "runs" / "s"
    run = {(tag, seed): study / f"i3d_tiny_8f_1x2_gn_{tag}_s{seed}" for tag in ("calm", "stopped") for seed in (0, 1)}
    stopped, failing = run["stopped", 0], run["stopped", 1]
    failing.mkdir(parents=True)
    (failing / "checkpoints").write_text("in the way")  # so that this cell fails once it runs
    cells = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "seed=0,1", "tag=stopped,calm"]
    arguments = ["train", "-m", *tiny(tmp_path / "data", f"trainer.max_steps={STEPS}", *cells)]
    with slurm() as cluster, started(arguments, tmp_path, cluster.env) as command:
        job = _stop(cluster, command, stopped, 5, "scancel", "--signal=USR1", "{job}.0")  # near the limit
        done = steps_done(stopped)
        assert _stop(cluster, command, stopped, done + 5, "scontrol", "requeue", "{job}") == job
        assert command.wait(PATIENCE) == 1, command.output()
        assert cluster.queue() == []
        command.assert_nothing_left()

    assert job.endswith("_0"), "one array, a task for each cell in order"
    log = (stopped / "log.txt").read_text()
    assert log.count("going on from step") == 2
    assert "differs" not in log
    assert_same_run(stopped, run["calm", 0])
    assert (run["calm", 1] / "result.json").exists()
    assert not (failing / "result.json").exists()
    output = command.output()
    (failed,) = [line for line in output.splitlines() if line.startswith("runs/s/i3d_tiny_8f_1x2_gn_stopped_s1: ")]
    assert "FileExistsError" in failed
    assert "3 done, 1 failed" in (study / "report.md").read_text()
    assert "Traceback" not in output


@pytest.mark.long
def test_interrupted_sweep_empties_the_queue_and_goes_on(tmp_path):
    """The first of four cells runs, three wait in the queue."""
    study = tmp_path / "runs" / "s"
    runs = [study / f"i3d_tiny_8f_1x2_gn_s{seed}" for seed in range(4)]
    arguments = ["train", "-m", *tiny(tmp_path / "data", "hydra/launcher=submitit_slurm", "seed=0,1,2,3")]
    arguments += [f"trainer.max_steps={STEPS}", "trainer.checkpoint_steps=1000"]
    with slurm() as cluster:
        alone = "hydra.launcher.cpus_per_task=2"
        with started([*arguments, alone], tmp_path, cluster.env) as command:
            wait_until(lambda: _alive(command) and steps_done(runs[0]) > 0, PATIENCE, command.output)
            assert sorted(job.split()[1] for job in cluster.queue()) == ["PENDING"] * 3 + ["RUNNING"]
            os.killpg(command.process.pid, signal.SIGINT)
            assert command.wait(PATIENCE) == 75, command.output()
            assert cluster.queue() == []
            command.assert_nothing_left()
        said = command.output()
        assert "Traceback" not in said
        was_faster = (runs[0] / "result.json").exists()  # than the signal, on a busy machine
        assert f"{3 if was_faster else 4} cells to go: the same command goes on with them" in said
        assert [bool(list(run.glob("checkpoints/step_*.pt"))) for run in runs] == [True, False, False, False]

        two_at_a_time = "hydra.launcher.cpus_per_task=1"
        with started([*arguments, two_at_a_time], tmp_path, cluster.env) as command:
            assert command.wait(PATIENCE) == 0, command.output()
            assert cluster.queue() == []
            command.assert_nothing_left()
    assert all((run / "result.json").exists() for run in runs)
    assert was_faster or "going on from step" in (runs[0] / "log.txt").read_text()


def _alive(command: Command) -> bool:
    assert command.process.poll() is None, command.output()
    return True


def _stop(cluster: Slurm, command: Command, run: Path, steps: int, *how: str) -> str:
    """Stop a run's job after some steps, and let it start again at once. Returns: the job."""

    def under_way() -> bool:
        assert command.process.poll() is None, command.output()
        return steps_done(run) >= steps

    wait_until(under_way, PATIENCE, command.output)
    (log,) = run.glob("job-*.log")
    job = log.stem.removeprefix("job-")
    cluster.ask(*how[:-1], how[-1].format(job=job))
    wait_until(lambda: f"{job} PENDING" in cluster.queue(), 100, lambda: f"{cluster.queue()} {log.read_text()}")
    assert steps_done(run) < STEPS
    cluster.start_now(job)
    return job


@pytest.mark.long
def test_a_job_by_hand_goes_on_after_its_time_limit(tmp_path):
    whole, cut = (tmp_path / "runs/s" / f"i3d_tiny_8f_1x2_gn_{tag}_s0" for tag in ("whole", "cut"))
    with slurm() as cluster:
        _submit(cluster, tmp_path, "tag=whole")
        _submit(cluster, tmp_path, "tag=cut")
        wait_until(lambda: steps_done(cut) >= 5, PATIENCE, lambda: str(cluster.queue()))
        cluster.ask("scancel", "--signal=USR1", "2.0")
        wait_until(lambda: "2 PENDING" in cluster.queue(), 100, lambda: str(cluster.queue()))
        cluster.start_now("2")
        wait_until(lambda: not cluster.queue(), PATIENCE, lambda: str(cluster.queue()))
    assert "going on from step" in (cut / "log.txt").read_text()
    assert "Traceback" not in (tmp_path / "vidgn-2.log").read_text()
    assert_same_run(cut, whole)


def _submit(cluster: Slurm, folder: Path, *more: str) -> None:
    """launch/slurm.sbatch, with the tests' own vidgn."""
    path = f"{Path(sys.executable).parent}:{cluster.env['PATH']}"
    overrides = tiny(folder / "data", f"trainer.max_steps={STEPS}", *more)
    subprocess.run(
        ["sbatch", "--time=1:00:00", "--cpus-per-task=1", str(REPO / "launch" / "slurm.sbatch"), *overrides],
        env={**cluster.env, "PATH": path, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        check=True,
        capture_output=True,
    )


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
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "runs/s/i3d_tiny_8f_1x2_gn_s0", one_node / "runs/s/i3d_tiny_8f_1x2_gn_s0")
