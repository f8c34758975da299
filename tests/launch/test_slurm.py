"""A sweep through a real Slurm: four cells of two ranks in one job array, one preempted half-way, one that fails."""

import pytest

from tests.launch.commands import assert_same_run, started, steps_done, tiny, wait_until
from tests.launch.slurm_cluster import missing_programs, slurm

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
]


def test_sweep_with_a_preempted_and_a_failing_cell(tmp_path):
    study = tmp_path / "runs" / "s"
    run = {(tag, seed): study / f"i3d_tiny_8f_1x2_gn_{tag}_s{seed}" for tag in ("calm", "preempted") for seed in (0, 1)}
    run["calm", 1].mkdir(parents=True)
    (run["calm", 1] / "checkpoints").write_text("in the way")  # so that this cell fails once it runs
    sweep = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "tag=calm,preempted", "seed=0,1"]
    arguments = ["train", "-m", *tiny(tmp_path / "data", *sweep)]
    with slurm() as cluster, started(arguments, tmp_path, cluster.env) as command:

        def half_way() -> bool:
            assert command.process.poll() is None, command.output()
            return steps_done(run["preempted", 0]) >= 5

        wait_until(half_way, 150, command.output)
        (log,) = run["preempted", 0].glob("job-*.log")
        job = log.stem.removeprefix("job-")
        array = job.partition("_")[0]
        assert job == f"{array}_2", "one array, a task for each cell in order"
        cluster.ask("scontrol", "requeue", job)
        wait_until(lambda: f"{job} PENDING" in cluster.queue(), 60, lambda: str(cluster.queue()))
        done_before = steps_done(run["preempted", 0])
        cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
        assert command.wait(150) == 1, command.output()
        assert cluster.queue() == []
        command.assert_nothing_left()

    assert 5 <= done_before < 24
    output = command.output()
    assert f"going on from step {done_before}" in (run["preempted", 0] / "log.txt").read_text()
    assert "differs" not in (run["preempted", 0] / "log.txt").read_text()
    assert_same_run(run["preempted", 0], run["calm", 0])
    assert not (run["calm", 1] / "result.json").exists()
    assert (run["preempted", 1] / "result.json").exists()
    failed = [line for line in output.splitlines() if "FileExistsError" in line and line.startswith("runs")]
    assert len(failed) == 1, output
    assert failed[0].startswith("runs/s/i3d_tiny_8f_1x2_gn_calm_s1: ")
    assert "3 done" in (study / "report.md").read_text()
    assert "Traceback" not in output
    assert "Bypassing signal" not in output
