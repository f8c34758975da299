"""Sweeps of three cells of two ranks in the launchers of one machine: nothing is left of them but their files."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.launch.commands import Command, started, steps_done, tiny, wait_until

LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
}


def sweep(folder: Path, launcher: str, *more: str) -> list[str]:
    return ["train", "-m", *tiny(folder / "data", "seed=0,1,2", "trainer.max_steps=12", *LAUNCHERS[launcher], *more)]


def run(folder: Path, seed: int) -> Path:
    return folder / "runs" / "s" / f"i3d_tiny_8f_1x2_gn_s{seed}"


def done(folder: Path) -> list[int]:
    return [seed for seed in range(3) if (run(folder, seed) / "result.json").exists()]


@pytest.mark.parametrize(
    "launcher", [pytest.param(name, marks=pytest.mark.long) for name in ("basic", "joblib", "submitit_local")]
)
def test_one_cell_fails_and_the_rest_finish(tmp_path, launcher):
    run(tmp_path, 1).mkdir(parents=True)
    (run(tmp_path, 1) / "checkpoints").write_text("in the way")
    with started(sweep(tmp_path, launcher), tmp_path) as command:
        assert command.wait(300) == 1, command.output()
        command.assert_nothing_left()
    assert done(tmp_path) == [0, 2], command.output()
    said = command.output()
    assert "Traceback" not in said
    (failed,) = [line for line in said.splitlines() if line.startswith("runs/s/i3d_tiny_8f_1x2_gn_s1: ")]
    assert "FileExistsError" in failed
    assert "2 done, 1 failed" in (tmp_path / "runs" / "s" / "report.md").read_text()
    assert list((tmp_path / "runs" / "s").glob(".stop-token*")) == []


@pytest.mark.parametrize(
    "launcher", [pytest.param(name, marks=pytest.mark.long) for name in ("basic", "joblib", "submitit_local")]
)
def test_interrupted_sweep_leaves_nothing_and_goes_on(tmp_path, launcher):
    arguments = sweep(tmp_path, launcher, "trainer.max_steps=400", "trainer.checkpoint_steps=1000")
    run(tmp_path, 2).mkdir(parents=True)
    (run(tmp_path, 2) / "error.txt").write_text("of an earlier start\n")  # no failure of this one, which won't reach it
    with started(arguments, tmp_path) as command:
        wait_until(lambda: _steps(tmp_path, 0, command) > 0, 300, command.output)
        os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
        assert command.wait(300) == 75, command.output()
        command.assert_nothing_left()
    said = command.output()
    assert "Traceback" not in said
    assert "3 cells to go: the same command goes on with them" in said
    assert done(tmp_path) == []
    saved = [seed for seed in range(3) if list(run(tmp_path, seed).glob("checkpoints/step_*.pt"))]
    assert 0 in saved, "what ran has saved where it stopped"
    if launcher == "basic":
        assert not (run(tmp_path, 2) / "log.txt").exists()


@pytest.mark.long
def test_interrupt_after_a_failed_cell_has_ended_the_launchers_wait(tmp_path):
    """submitit tells of the first cell's failure at once; the others run on, and are still waited for."""
    run(tmp_path, 0).parent.mkdir(parents=True)
    run(tmp_path, 0).write_text("in the way")
    arguments = sweep(tmp_path, "submitit_local", "trainer.max_steps=400", "trainer.checkpoint_steps=1000")
    with started(arguments, tmp_path) as command:
        wait_until(lambda: max(_steps(tmp_path, seed, command) for seed in (1, 2)) > 5, 300, command.output)
        assert "FileExistsError" in command.output(), "the launcher has said so, and waits no more"
        os.killpg(command.process.pid, signal.SIGINT)
        assert command.wait(300) == 75, command.output()
        saved = [seed for seed in (1, 2) if list(run(tmp_path, seed).glob("checkpoints/step_*.pt"))]
        assert saved, "the sweep has not waited for it"
        command.assert_nothing_left()
    assert "3 cells to go: the same command goes on with them" in command.output()


@pytest.mark.parametrize("launcher", ["joblib", pytest.param("submitit_local", marks=pytest.mark.long)])
def test_cells_end_with_a_sweep_that_is_killed(tmp_path, launcher):
    """SIGKILL of the process that sweeps: its cells save and stop, within seconds; started again they go on."""
    arguments = sweep(tmp_path, launcher, "trainer.max_steps=400", "trainer.checkpoint_steps=1000")
    with started(arguments, tmp_path) as command:
        wait_until(lambda: _steps(tmp_path, 0, command) > 3, 300, command.output)
        os.kill(command.process.pid, signal.SIGKILL)
        command.process.wait()
        command.assert_nothing_left(30)
    saved = [seed for seed in range(3) if list(run(tmp_path, seed).glob("checkpoints/step_*.pt"))]
    assert 0 in saved, "what ran has saved where it stopped"
    with started(sweep(tmp_path, launcher, "trainer.max_steps=400", "seed=0"), tmp_path) as command:
        wait_until(lambda: "going on from step" in (run(tmp_path, 0) / "log.txt").read_text(), 120, command.output)
    assert len(list((tmp_path / "runs" / "s").glob(".stop-token*"))) == 1, "the killed one's is gone"


def test_a_second_start_of_a_living_sweep_says_so(tmp_path):
    light = ("launch.nproc_per_node=1", "hydra.launcher.n_jobs=1")
    arguments = sweep(tmp_path, "joblib", "trainer.max_steps=9000", *light)
    with started(arguments, tmp_path) as command:
        wait_until(lambda: _steps(tmp_path, 0, command) > 0, 300, command.output)
        before = (tmp_path / "runs" / "s" / "study.json").read_bytes()
        with started(arguments, tmp_path) as second:
            assert second.wait(60) == 1
            (line,) = second.output().splitlines()
        expected = f"vidgn train: 3 of these cells are swept by process {command.process.pid} on {socket.gethostname()}"
        assert line.startswith(expected)
        assert "wait for it, vidgn status runs/s shows how far it is" in line
        assert (tmp_path / "runs" / "s" / "study.json").read_bytes() == before
        assert command.process.poll() is None
        single = ["train", *tiny(tmp_path / "data", "seed=0", "trainer.max_steps=9000", light[0])]
        with started(single, tmp_path) as second:  # one of its cells alone: the cell's own lock tells
            assert second.wait(60) == 1
            assert "is being written by another run" in second.output().splitlines()[-1]
        assert not (run(tmp_path, 0) / "error.txt").exists()


@pytest.mark.long
def test_cells_have_the_same_threads_side_by_side_and_one_after_another(tmp_path):
    few = ("trainer.max_steps=1", "launch.threads=auto", "launch.nproc_per_node=1")
    for launcher, seeds in (("joblib", "0,1"), ("basic", "2")):
        with started(sweep(tmp_path, launcher, *few, f"seed={seeds}"), tmp_path) as command:
            assert command.wait(120) == 0, command.output()
    starts = [json.loads((run(tmp_path, seed) / "machine.json").read_text())[0] for seed in range(3)]
    assert len({start["threads"] for start in starts}) == 1, starts
    assert json.loads((tmp_path / "runs/s/study.json").read_text())["threads"] == {"1": starts[0]["threads"]}


def test_ranks_leave_nothing_in_the_folder_for_temporary_files(tmp_path):
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    arguments = ["train", *tiny(tmp_path / "data", "trainer.max_steps=1")]
    with started(arguments, tmp_path, environment) as command:
        assert command.wait(120) == 0, command.output()
    # torch's cache, one for all runs of a user
    assert not [p.name for p in (tmp_path / "tmp").iterdir() if not p.name.startswith("torchinductor_")]


def _steps(folder: Path, seed: int, command: Command) -> int:
    assert command.process.poll() is None, command.output()
    return steps_done(run(folder, seed))
