"""Every wrong launch is one line, exit code 1, before a process has started."""

import multiprocessing
import os
import queue
import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.launch.commands import tiny
from vidgn.cli.launchers import check_plugin
from vidgn.cli.main import main
from vidgn.config.compose import load_config
from vidgn.distributed.environment import (
    CELL,
    Slots,
    cells_side_by_side,
    first_slurm_host,
    print_of_cell,
    take_slot,
    threads_per_rank,
)
from vidgn.distributed.launcher import meeting
from vidgn.distributed.signals import stop_token
from vidgn.errors import ConfigError

RANK = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path, one_node):
    """`refused(*overrides, KEY=value)`: the one line that `vidgn train` prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.distributed.elastic.multiprocessing.start_processes", None)

    def log(*overrides: str, **environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        flags = [o for o in overrides if o.startswith("-")]
        arguments = tiny(one_node / "data", *(o for o in overrides if not o.startswith("-")))
        assert main(["train", *flags, *arguments]) == 1
        said = capsys.readouterr()
        (line,) = said.err.splitlines()
        assert not Path("runs").exists()
        return line

    return log


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["launch.nproc_per_node=0"], ["launch.nproc_per_node=0", "at least 1"]),
        (["launch.nproc_per_node=4"], ["4 processes", "2 clips a step", "start 2", "legal are 1, 2"]),
        (["launch.nnodes=2", "launch.nproc_per_node=1"], ["launch.nnodes=2", "launch.rendezvous=HOST:PORT"]),
        (
            ["launch.nnodes=2", "launch.nproc_per_node=1", "launch.rendezvous=here"],
            ["launch.rendezvous=here", "HOST:PORT"],
        ),
        (["-m", "seed=0,1", "launch.nnodes=2", "launch.nproc_per_node=1"], ["-m", "hydra/launcher=submitit_slurm"]),
        (["hydra/launcher=joblib"], ["add -m"]),
        (["-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], ["n_jobs=0", "at least 1"]),
        (
            ["-m", "hydra/launcher=submitit_slurm", "launch.nproc_per_node=1,2", "tag=w${launch.nproc_per_node}"],
            ["one job array", "one after the other"],
        ),
        pytest.param(
            ["trainer.device=cuda"], ["trainer.device=cuda", "0 GPUs", "trainer.device=cpu"], marks=pytest.mark.no_gpu
        ),
    ],
)
def test_wrong_launch(refused, overrides, parts):
    line = refused(*overrides)
    assert line.startswith("vidgn train: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize("flags", [[], ["-m", "seed=0,1"]])
def test_a_file_where_runs_should_go(refused, flags):
    Path("taken").write_text("")
    line = refused(*flags, "runs_dir=taken")
    assert line.startswith("vidgn train: taken/")
    assert "Not a directory: a file is where a folder should be; move it away, or give another path" in line


def test_cells_of_more_ranks_than_gpus(refused, monkeypatch):
    monkeypatch.setattr("vidgn.distributed.ranks.num_gpus", lambda config: 2)
    side_by_side = ["-m", "seed=0,1", "hydra/launcher=joblib"]
    line = refused(*side_by_side, "launch.nproc_per_node=4", "gpus=4")
    assert "1 cells side by side x 4 processes need 4 GPUs, here are 2: write launch.nproc_per_node=2" in line
    line = refused(*side_by_side, "hydra.launcher.n_jobs=2", "launch.nproc_per_node=2")
    assert line.endswith("need 4 GPUs, here are 2: write hydra.launcher.n_jobs=1")


def test_sweep_under_torchrun(refused):
    line = refused("-m", "seed=0,1", **RANK)
    assert "vidgn train -m launch.nproc_per_node=2 model=i3d_tiny" in line
    assert line.count("launch.nproc_per_node") == 1


def test_sweep_under_torchrun_is_refused_by_one_rank(capsys, monkeypatch, one_node):
    for name, value in {**RANK, "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "-m", *tiny(one_node / "data", "seed=0,1")]) == 1
    assert capsys.readouterr().err == ""


def test_half_of_the_variables(refused):
    line = refused(RANK="0", WORLD_SIZE="2", MASTER_ADDR="localhost")
    assert "not MASTER_PORT" in line


def test_srun_with_tasks_that_are_neither_ranks_nor_nodes(refused):
    line = refused(SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="0", SLURM_LOCALID="0")
    assert "srun has started 4 tasks" in line
    assert "one task per node" in line


def test_rendezvous_port_of_another_program(refused):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        line = refused("launch.nnodes=2", "launch.nproc_per_node=1", f"launch.rendezvous=127.0.0.1:{port}")
    assert f"127.0.0.1:{port}: another program listens there" in line


def test_master_port_of_another_program(warm, one_node, tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        environment = {**RANK, "LOCAL_RANK": "0", "MASTER_PORT": str(server.getsockname()[1])}
        arguments = ["train", *tiny(one_node / "data", "launch.nproc_per_node=1")]
        started = warm.start(arguments, folder=tmp_path, environment=environment)
        assert started.wait() == 1
    (line,) = started.log.read_text().splitlines()
    assert "in use by another program: choose another MASTER_PORT" in line


def test_ranks_that_never_come(warm, one_node, port, tmp_path):
    environment = {**RANK, "LOCAL_RANK": "0", "MASTER_PORT": str(port)}
    arguments = ["train", *tiny(one_node / "data", "launch.nproc_per_node=1", "launch.timeout_seconds=2")]
    started = warm.start(arguments, folder=tmp_path, environment=environment)
    assert started.wait() == 1
    (line,) = started.log.read_text().splitlines()
    assert "rank 0 of 2 could not meet the others at 127.0.0.1" in line


def test_nodes_that_never_come(warm, one_node, port, tmp_path):
    meet = ["launch.nnodes=2", "launch.nproc_per_node=1", f"launch.rendezvous=127.0.0.1:{port}"]
    arguments = ["train", *tiny(one_node / "data", *meet, "launch.timeout_seconds=2")]
    started = warm.start(arguments, folder=tmp_path)
    assert started.wait() == 1
    (line,) = started.log.read_text().splitlines()
    assert f"the 2 nodes did not meet at 127.0.0.1:{port} in 2 s" in line


def test_plugin_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"submitit_slurm is not installed: pip install 'vidgn\[slurm\]'"):
        check_plugin("submitit_slurm")


def test_slurm_says_where_nodes_meet(monkeypatch):
    config = load_config(["data.root=x", "launch.nnodes=2"])
    for name, value in {"SLURM_JOB_NODELIST": "a1,a2", "SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": "2"}.items():
        monkeypatch.setenv(name, value)
    first = meeting(config)
    monkeypatch.setenv("SLURM_NODEID", "1")
    second = meeting(config)
    assert (first.host, first.hosts, second.hosts) == ("a1", True, False)
    assert first.port == second.port > 1024
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    with pytest.raises(ConfigError, match="this Slurm job step runs on 3"):
        meeting(config)


def test_first_host_of_a_list(monkeypatch, tmp_path):
    assert first_slurm_host("gpu7") == "gpu7"
    (tmp_path / "scontrol").write_text('#!/bin/sh\n[ "$3" = "gpu[03-04]" ] && echo gpu03 && echo gpu04\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert first_slurm_host("gpu[03-04]") == "gpu03"


def test_no_two_cells_on_one_gpu(monkeypatch, tmp_path):
    """Three processes of a sweep, two GPUs for each of two cells: two get their own, the third one's when it ends."""
    for slot in range(2):
        (tmp_path / f"slot-{slot}").touch()
    monkeypatch.setenv("VIDGN_SLOTS", Slots(str(tmp_path), ("0,1", "2,3")).dump())
    assert cells_side_by_side() == 2
    context = multiprocessing.get_context("fork")
    answers, hold = context.Queue(), context.Event()
    workers = [context.Process(target=_take, args=(answers, hold)) for _ in range(3)]
    for worker in workers:
        worker.start()
    first = sorted(answers.get(timeout=30) for _ in range(2))
    assert first == ["0,1", "2,3"]
    with pytest.raises(queue.Empty):
        answers.get(timeout=1)  # the third waits
    hold.set()
    assert answers.get(timeout=30) in first
    for worker in workers:
        worker.join()
    assert not take_slot(lambda: False), "a sweep that was stopped"


def _take(answers, hold) -> None:
    assert take_slot()
    answers.put(os.environ["CUDA_VISIBLE_DEVICES"])
    hold.wait(30)


@pytest.mark.parametrize(("cells", "ranks", "threads"), [(1, 1, 8), (1, 4, 2), (2, 2, 2), (2, 3, 1), (4, 8, 1)])
def test_cores_are_divided_among_cells_and_ranks(monkeypatch, tmp_path, cells, ranks, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("VIDGN_SLOTS", Slots(str(tmp_path), ("",) * cells).dump())
    assert threads_per_rank(load_config(["data.root=x", f"launch.nproc_per_node={ranks}"])) == threads
    assert threads_per_rank(load_config(["data.root=x", "launch.threads=5"])) == 5


@pytest.mark.parametrize(("has_locks", "stays"), [(True, False), (False, True)])
def test_the_token_of_another_sweep_is_removed_only_where_its_end_is_known(tmp_path, monkeypatch, has_locks, stays):
    """On a file system without locks a silent token may be that of a living sweep, which ends without it."""
    if not has_locks:
        monkeypatch.setattr("vidgn.distributed.signals.try_lock", lambda handle: None)
    monkeypatch.setattr("vidgn.distributed.signals.os.getpid", lambda: 4711)
    with stop_token(tmp_path, cells=["a"], outlives=False) as file:
        left = file.read_bytes()
    file.write_bytes(left)
    monkeypatch.undo()
    with stop_token(tmp_path, cells=["b"], outlives=False):
        assert file.exists() == stays


def test_a_line_of_a_cell_beside_others_has_its_name(monkeypatch, capsys):
    print_of_cell("rank 1 waits")
    monkeypatch.setenv(CELL, "i3d_tiny_8f_2x2_gn_s0")
    print_of_cell("rank 1 waits")
    assert capsys.readouterr().err == "rank 1 waits\ni3d_tiny_8f_2x2_gn_s0: rank 1 waits\n"
