"""Ranks' errors on their way to whoever launched them, and which GPU a rank takes."""

import json
import os
import threading
import time
import types

import pytest
import torch

from tests.cells import free_ports
from tests.launch.commands import tiny
from tests.launch.test_ranks import RUN, both, ranks
from vidgn.config.compose import load_config
from vidgn.distributed import rank_status
from vidgn.distributed.rank_status import RankStatusTable
from vidgn.distributed.ranks import RankError, check_devices, choose_device, error_of_kind
from vidgn.errors import ConfigError
from vidgn.runs.checkpoint import TornError
from vidgn.runs.lock import LockedError


@pytest.mark.parametrize("kind", [LockedError, TornError, ConfigError, RankError])
def test_an_error_keeps_its_kind_between_processes(kind):
    error = error_of_kind(f"{kind.__name__}: it is: so")
    assert type(error) is kind
    assert str(error) == "it is: so"
    assert error_of_kind("RuntimeError: no") is None


def test_what_a_restart_would_not_mend_is_not_started_again(warm, tmp_path):
    """A learning rate that leaves the numbers at the second step, in two ranks."""
    arguments = ["train", *tiny(tmp_path / "data", "optim.lr_per_clip=1e30", "launch.max_restarts=2")]
    started = warm.start(arguments, folder=tmp_path)
    assert started.wait() == 1
    said = started.log.read_text()
    assert said.count("2 x cpu") == 1
    assert "not finite" in said.splitlines()[-1]
    assert "not finite" in (tmp_path / RUN / "error.txt").read_text()


@pytest.mark.parametrize("how", ["ranks", "nodes"])
def test_nothing_is_written_where_another_experiment_is(warm, tmp_path, how):
    (port,) = free_ports(1)
    (tmp_path / RUN).mkdir(parents=True)
    (tmp_path / RUN / "identity.json").write_text(json.dumps({"seed": 7}))
    (tmp_path / RUN / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    meet = ["launch.nnodes=2", f"launch.rendezvous=127.0.0.1:{port}"] if how == "nodes" else []
    arguments = ["train", *tiny(tmp_path / "data", "launch.nproc_per_node=1", *meet)]
    pair = both(warm, arguments, tmp_path, ranks(port) if how == "ranks" else [{}, {}])
    assert [one.code for one in pair] == [1, 1]
    assert any("holds another experiment" in one.log.read_text() for one in pair)
    assert not (tmp_path / RUN / "error.txt").exists()


def test_a_task_that_sees_one_gpu_takes_it(monkeypatch):
    """srun --gpus-per-task=1: the second task of a node, with its GPU as the only one."""
    config = load_config(["data.root=x"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    group = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1", "LOCAL_RANK": "1"}
    for name, value in group.items():
        monkeypatch.setenv(name, value)
    check_devices(config)
    assert choose_device(config, 1) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes on this machine, but 1 GPUs"):
        check_devices(config)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(config)
    assert choose_device(config, 1) == torch.device("cuda", 1)


def test_a_rank_ends_only_for_one_that_stays_gone(monkeypatch):
    """A note that is read while it is written looks like that of a process that is gone."""
    ended, looked_again = threading.Event(), threading.Event()

    def end(code):
        ended.set()
        threading.Event().wait()  # as no thread goes on after it

    def sleep(seconds):
        if seconds != rank_status._GRACE_SECONDS:
            time.sleep(0.01)
        elif not looked_again.is_set():
            other(os.getpid())  # it is written by now
            looked_again.set()

    monkeypatch.setattr(rank_status.os, "_exit", end)
    monkeypatch.setattr(rank_status, "time", types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    table = RankStatusTable(2)

    def other(pid: int) -> None:
        line = f"0 {pid} computing".encode()
        table._bytes[256:512] = line.ljust(256, b"\0")

    other(os.getpid())
    table.register(0, start="0")
    gone = 2**22 + 1  # above Linux's largest process id
    other(gone)
    assert looked_again.wait(30)
    assert not ended.wait(0.2)
    other(gone)
    assert ended.wait(30)


KILLED_AS_IT_ENDS = """
import os, subprocess, time
from vidgn.distributed import launcher, rank_status

def start_rank(*arguments, start=launcher._start_rank):
    outcome, me = start(*arguments), os.getpid()
    if os.environ["LOCAL_RANK"] == "1":  # it sleeps until all ranks are done, and is woken while it can't be
        subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -STOP {me}; sleep 1.7; kill -KILL {me}"])
    else:
        time.sleep(1)
    return outcome

launcher._start_rank, rank_status._SECONDS_TO_BE_REAPED = start_rank, 1
"""


def test_a_rank_killed_as_it_is_woken_to_end_is_not_waited_for(warm, tmp_path):
    """torch's launch waits for it for ever."""
    started = warm.start(["train", *tiny(tmp_path / "data")], folder=tmp_path, patch=KILLED_AS_IT_ENDS)
    assert started.wait(60) == 1
    assert "a rank was killed as it ended, with its work done" in started.log.read_text().splitlines()[-1]
    started.assert_no_orphans()
    started = warm.start(["train", *tiny(tmp_path / "data")], folder=tmp_path)
    assert started.wait(60) == 0
