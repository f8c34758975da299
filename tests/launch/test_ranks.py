"""Ranks on several nodes, and ranks that another launcher has started, against ranks on one node: the same bytes."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.launch.commands import assert_same_run, steps_done, tiny, wait_until
from tests.warm import Started, Warm

RUN = Path("runs/s/i3d_tiny_8f_1x2_gn_s0")


@pytest.fixture
def data(one_node: Path) -> Path:
    return one_node / "data"


def both(warm: Warm, arguments: list[str], folder: Path, environments: list[dict[str, str]]) -> list[Started]:
    """Two starts at once, waited for; nothing is left of either. They share folder/runs and print apart."""
    arguments = [*arguments, f"runs_dir={folder}/runs"]
    pair = [warm.start(arguments, folder=folder / str(i), environment=e) for i, e in enumerate(environments)]
    for one in pair:
        one.wait(200)
    for one in pair:
        one.assert_no_orphans()
    return pair


def ranks(port: int) -> list[dict[str, str]]:
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}
    return [{**shared, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(2)]


def test_two_nodes_on_one_machine_give_the_weights_of_one(warm, one_node, data, port, tmp_path):
    meet = ["launch.nproc_per_node=1", "launch.nnodes=2", f"launch.rendezvous=127.0.0.1:{port}"]
    pair = both(warm, ["train", *tiny(data, *meet)], tmp_path, [{}, {}])
    said = [one.log.read_text() for one in pair]
    assert [one.code for one in pair] == [0, 0], said
    assert_same_run(tmp_path / RUN, one_node / RUN)
    assert sum("top-1" in text for text in said) == 1, "the node of the first rank speaks"
    assert not (tmp_path / RUN / "lock.json").exists()

    again = both(warm, ["train", *tiny(data, *meet)], tmp_path, [{}, {}])
    assert [one.code for one in again] == [0, 0]
    assert sum("is done" in one.log.read_text() for one in again) == 1


def test_ranks_set_by_others_join(warm, one_node, data, port, tmp_path):
    pair = both(warm, ["train", *tiny(data, "launch.nproc_per_node=1")], tmp_path, ranks(port))
    assert [one.code for one in pair] == [0, 0], [one.log.read_text() for one in pair]
    assert_same_run(tmp_path / RUN, one_node / RUN)


def test_srun_with_a_task_per_rank_joins(warm, one_node, data, tmp_path):
    shared = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": "4711"}
    tasks = [{**shared, "SLURM_PROCID": str(r), "SLURM_LOCALID": str(r)} for r in range(2)]
    pair = both(warm, ["train", *tiny(data, "launch.nproc_per_node=1")], tmp_path, tasks)
    assert [one.code for one in pair] == [0, 0], [one.log.read_text() for one in pair]
    assert_same_run(tmp_path / RUN, one_node / RUN)


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_rank_that_nobody_meets_can_be_stopped(warm, data, port, tmp_path, signals):
    """The other rank never comes: torch waits for it where no signal reaches Python."""
    arguments = ["train", *tiny(data, "launch.nproc_per_node=1")]
    alone = warm.start(arguments, folder=tmp_path, environment={**ranks(port)[0], "LOCAL_WORLD_SIZE": "1"})
    time.sleep(3)  # it waits in torch by now, without a word
    assert alone.poll() is None
    for number in signals:
        os.kill(alone.pid, number)
    began = time.monotonic()
    assert alone.wait(30) in ({75} if signals == [signal.SIGTERM] else {75, 130}), alone.log.read_text()
    assert time.monotonic() - began < 10
    assert "Traceback" not in alone.log.read_text()
    alone.assert_no_orphans()


def test_one_of_the_ranks_says_what_is_wrong(warm, data, port, tmp_path):
    (tmp_path / RUN).mkdir(parents=True)
    (tmp_path / RUN / "identity.json").write_text(json.dumps({"seed": 7}))
    (tmp_path / RUN / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    pair = both(warm, ["train", *tiny(data, "launch.nproc_per_node=1")], tmp_path, ranks(port))
    assert [one.code for one in pair] == [1, 1]
    lines = [line for one in pair for line in one.log.read_text().splitlines()]
    assert len(lines) == 1
    assert "holds another experiment" in lines[0]


def test_an_error_before_the_ranks_meet_is_said_once(warm, data, port, tmp_path):
    pair = both(warm, ["train", *tiny(data, "trainer.clips_per_forward=3")], tmp_path, ranks(port))
    assert [one.code for one in pair] == [1, 1]
    lines = [line for one in pair for line in one.log.read_text().splitlines()]
    assert len(lines) == 1
    assert "trainer.clips_per_forward=3" in lines[0]


def test_each_step_is_logged_with_its_bytes(one_node):
    communication = json.loads((one_node / RUN / "machine.json").read_text())[0]["communication"]
    parameters = json.loads((one_node / RUN / "audit.json").read_text())["parameters"]
    assert communication["gradient_bytes"] == 4 * parameters
    assert communication["statistics_bytes"] == 0
    assert f"{4 * parameters / 1e6:.2f} MB" in (one_node / RUN / "log.txt").read_text()


def test_nothing_is_left_of_a_killed_launcher(warm, data, tmp_path):
    started = warm.start(["train", *tiny(data, "trainer.max_steps=500")], folder=tmp_path)
    wait_until(lambda: steps_done(tmp_path / RUN) > 1, 200, started.log.read_text)
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    started.assert_no_orphans()
