"""Signals, dying ranks and hung ones, with real processes: what ends, how soon, with which exit code, what is left."""

import os
import signal
import time

import pytest

from tests.killing import STEPS, assert_same_bytes, metrics, overrides, run_dir
from vidgn.distributed.signals import RankStopFlag, StopFlag, last_signal, listening

AGAIN = 75
SLOW = """
import time, vidgn.training.loop as train
step = train.Trainer.train_step
def slow(*arguments):
    time.sleep(0.3)
    return step(*arguments)
train.Trainer.train_step = slow
"""
STOP_EARLY = """
import os, signal, time, vidgn.training.loop as train
resume = train.Trainer.resume
def stopped(self):
    resume(self)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(0.5)
train.Trainer.resume = stopped
"""
STOP_LATE = """
import os, signal, time, vidgn.run as run
test = run.write_test
def stopped(*arguments, **named):
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(0.5)
    test(*arguments, **named)
run.write_test = stopped
"""
STUCK = """
import time, vidgn.training.loop as train
step = train.Trainer.train_step
def stuck(self, *arguments):
    if self.state.step == 2 and self.ranks.rank == 0:
        time.sleep(3600)
    return step(self, *arguments)
train.Trainer.train_step = stuck
"""
READS_FOREVER = """
import os, time, vidgn.training.tasks as train
class Late:
    def __init__(self, stream):
        self.stream, self.count = stream, 0
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.stream.close()
    def __next__(self):
        self.count += 1
        if self.count == 3 and os.environ["RANK"] == "1":
            time.sleep(3600)
        return next(self.stream)
batches = train.train_batches
train.train_batches = lambda *arguments, **named: Late(batches(*arguments, **named))
"""


@pytest.fixture
def measured(record_property):
    """Times of events, kept with the test's result and printed with -s."""

    def note(what: str, seconds: float) -> None:
        record_property(what, round(seconds, 2))
        print(f"{what}: {seconds:.2f} s")

    return note


def wait_for_step(started, run, step: int) -> None:
    end = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or len(metrics_now(run)) < step:
        assert started.poll() is None, started.log.read_text()
        assert time.monotonic() < end, started.log.read_text()
        time.sleep(0.005)


def metrics_now(run) -> list[str]:
    return [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"train"' in line]


def finish(warm, arguments, folder, undisturbed) -> None:
    started = warm.start(arguments, folder=folder)
    assert started.wait() == 0, started.log.read_text()
    started.assert_no_orphans()
    assert_same_bytes(run_dir(folder), undisturbed)


def test_asked_to_stop_again_and_again(warm, undisturbed, videos, tmp_path, measured):
    """SIGTERM to the launching process, SIGUSR1 to one rank, SIGTERM to all processes at once: 75 and no loss."""
    arguments, run = overrides(videos, "data.workers=1"), run_dir(tmp_path)
    done = 0
    for name, number in [("launcher", signal.SIGTERM), ("rank", signal.SIGUSR1), ("all", signal.SIGTERM)]:
        started = warm.start(arguments, folder=tmp_path, patch=SLOW)
        wait_for_step(started, run, done + 2)
        began = time.monotonic()
        for pid in {"launcher": [started.pid], "rank": started.ranks()[1:], "all": started.processes()}[name]:
            os.kill(pid, number)
        assert started.wait() == AGAIN, started.log.read_text()
        measured(f"{signal.Signals(number).name} to {name} until exit", time.monotonic() - began)
        started.assert_no_orphans()
        lines = [line["step"] for line in metrics(run) if line["kind"] == "train"]
        assert lines == list(range(1, len(lines) + 1))
        assert len(lines) >= done + 2
        done = len(lines)
        assert (run / "checkpoints" / f"step_{done:09d}.pt").exists()  # of the step in progress, whatever its number
        said = started.log.read_text().splitlines()
        assert said[-1] == (
            f"vidgn train: stopped after step {done} of {STEPS}, everything saved; "
            f"start the same command again to go on"
        )
        assert not (run / "error.txt").exists()
    started = warm.start(overrides(videos), folder=tmp_path)
    assert started.wait() == 0, started.log.read_text()
    assert metrics(run) == metrics(undisturbed)
    assert (run / "result.json").read_bytes() == (undisturbed / "result.json").read_bytes()


def test_ctrl_c_once_and_twice(warm, undisturbed, videos, tmp_path, measured):
    arguments, run = overrides(videos), run_dir(tmp_path)
    started = warm.start(arguments, folder=tmp_path, patch=SLOW)
    wait_for_step(started, run, 2)
    for pid in started.processes():  # as a terminal does
        os.kill(pid, signal.SIGINT)
    assert started.wait() == AGAIN, started.log.read_text()
    assert "stopping after this step; Ctrl-C again stops at once" in started.log.read_text()
    assert "Traceback" not in started.log.read_text()
    hang = SLOW.replace("0.3", "60")
    started = warm.start(arguments, folder=tmp_path, patch=hang)
    while "going on from step" not in started.log.read_text():
        assert started.poll() is None, started.log.read_text()
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(started.pid, signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    os.kill(started.pid, signal.SIGINT)
    assert started.wait() == 130, started.log.read_text()
    measured("second Ctrl-C until exit", time.monotonic() - began)
    started.assert_no_orphans()
    finish(warm, arguments, tmp_path, undisturbed)


def test_stopped_before_the_first_step_and_in_the_test(warm, undisturbed, videos, tmp_path):
    arguments, run = overrides(videos), run_dir(tmp_path)
    started = warm.start(arguments, folder=tmp_path, patch=STOP_EARLY)
    assert started.wait() == AGAIN, started.log.read_text()
    assert f"stopped after step 0 of {STEPS}, everything saved" in started.log.read_text()
    started = warm.start(arguments, folder=tmp_path, patch=STOP_LATE)
    assert started.wait() == AGAIN, started.log.read_text()
    assert f"stopped after step {STEPS} of {STEPS}, everything saved" in started.log.read_text()
    assert not (run / "result.json").exists()
    finish(warm, arguments, tmp_path, undisturbed)


def test_a_rank_that_dies_ends_the_group_and_is_started_again(warm, undisturbed, videos, tmp_path, measured):
    run = run_dir(tmp_path)
    arguments = overrides(videos)
    started = warm.start(arguments, folder=tmp_path, patch=SLOW)
    wait_for_step(started, run, 4)
    victim, began = started.ranks()[1], time.monotonic()
    os.kill(victim, signal.SIGKILL)
    assert started.wait(30) == 1
    measured("rank killed until exit, no restarts", time.monotonic() - began)
    started.assert_no_orphans()
    last = started.log.read_text().splitlines()[-1]
    assert f"rank 1 (process {victim}, last at: " in last
    assert "launch.max_restarts=N would start it again: Signal 9 (SIGKILL)" in last
    assert "rank 1" in (run / "error.txt").read_text()
    started = warm.start(overrides(videos, "launch.max_restarts=2"), folder=tmp_path, patch=SLOW)
    wait_for_step(started, run, 5)
    for rank in (1, 0):
        lines = len(metrics_now(run))
        starts, began = started.log.read_text().count("going on from"), time.monotonic()
        os.kill(started.ranks()[rank], signal.SIGKILL)
        while started.log.read_text().count("going on from") == starts:
            time.sleep(0.005)
        wait_for_step(started, run, lines + 1)
        measured(f"rank {rank} killed until training beyond, restarts allowed", time.monotonic() - began)
    assert started.wait() == 0, started.log.read_text()
    started.assert_no_orphans()
    assert (run / "model.safetensors").exists()
    assert metrics(run) == metrics(undisturbed)
    assert (run / "result.json").read_bytes() == (undisturbed / "result.json").read_bytes()


def test_a_rank_stuck_outside_a_collective_ends_with_its_group(warm, videos, tmp_path, measured):
    """Rank 0 reads for an hour when rank 1 dies: nobody would tell it."""
    started = warm.start(overrides(videos), folder=tmp_path, patch=STUCK)
    wait_for_step(started, run_dir(tmp_path), 2)
    began = time.monotonic()
    os.kill(started.ranks()[1], signal.SIGKILL)
    assert started.wait(30) == 1
    measured("rank killed until exit, the other stuck", time.monotonic() - began)
    started.assert_no_orphans()


def test_a_rank_that_waits_too_long_names_the_one_it_waits_for(warm, videos, tmp_path):
    started = warm.start(overrides(videos, "launch.timeout_seconds=6"), folder=tmp_path, patch=READS_FOREVER)
    assert started.wait(60) == 1
    text = started.log.read_text()
    assert "rank 0 (computing step 3) waits for rank 1 (reading clips of step 3), for " in text
    assert (
        "rank 0 (computing step 3) waits for rank 1 (reading clips of step 3), for longer than launch.timeout_seconds=6"
        in text.splitlines()[-1]
    )
    started.assert_no_orphans()


def test_a_second_start_in_the_same_directory_is_refused(warm, videos, tmp_path):
    run = run_dir(tmp_path)
    started = warm.start(overrides(videos), folder=tmp_path, patch=SLOW)
    wait_for_step(started, run, 2)
    second = warm.start(overrides(videos), folder=tmp_path)
    assert second.wait() == 1
    said = second.log.read_text().splitlines()
    assert f"is being written by another run: process {started.pid} on " in said[-1]
    assert not (run / "error.txt").exists()
    assert started.poll() is None
    other = warm.start(overrides(videos, "optim.momentum=0.5"), folder=tmp_path)
    assert other.wait() == 1
    os.kill(started.pid, signal.SIGTERM)
    assert started.wait() == AGAIN
    other = warm.start(overrides(videos, "optim.momentum=0.5", "seed=0"), folder=tmp_path)
    assert other.wait() == 1
    said = other.log.read_text().splitlines()[-1]
    assert "holds another experiment: optim.momentum (here 0.5, there 0.9). Write tag=NAME" in said
    assert not (run / "error.txt").exists()


# -- without processes ------------------------------------------------------------------------------------------------


def test_handlers_are_put_back_and_nested_flags_are_all_set():
    before = signal.getsignal(signal.SIGTERM)
    outer, inner, later = StopFlag(), StopFlag(), StopFlag()
    with listening(outer):
        with listening(inner):
            signal.raise_signal(signal.SIGTERM)
            assert outer.is_set()
            assert inner.is_set()
        assert last_signal() == signal.SIGTERM
        with listening(later):
            assert later.is_set()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_ctrl_c_raises():
    stop = StopFlag()
    with listening(stop):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_rank_has_a_flag_of_its_own():
    shared = StopFlag()
    one, other = RankStopFlag(shared), RankStopFlag(shared)
    one._handle()
    assert one.is_set()
    assert not other.is_set()
    shared.set()
    assert other.is_set()
