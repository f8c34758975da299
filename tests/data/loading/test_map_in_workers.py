"""Files that hang, crash or eat memory cost themselves and nothing else."""

import _thread
import threading
import time

import psutil
import pytest

from tests.data.loading.isolated_work import act
from vidgn.data.loading.fork_server import ForkServer
from vidgn.data.loading.pool import Limits, map_in_workers

LIMITS = Limits(timeout_seconds=1.0, memory_mib=512)


def assert_no_workers() -> None:
    """Soon, fork servers have no children."""
    end = time.monotonic() + 5
    while workers := [w for server in psutil.Process().children() for w in server.children()]:
        assert time.monotonic() < end, workers
        time.sleep(0.05)


def test_each_ending_is_told_and_the_rest_goes_on() -> None:
    items = ["a", "hang", "b", "eat", "crash", "c", "exit", "fail", "stumble", "d"]
    outcomes = {o.item: o for o in map_in_workers(act, items, workers=1, limits=LIMITS)}
    assert [outcomes[item].value for item in "abcd"] == ["a done", "b done", "c done", "d done"]
    told = {item: (o.failure, o.reason_line) for item, o in outcomes.items() if o.failure}
    assert told == {
        "hang": ("timeout", "took longer than 1 s"),
        "eat": ("memory", "needs more than 512 MiB"),
        "crash": ("crash", "crashed the decoder (SIGSEGV)"),
        "exit": ("crash", "ended its worker (exit code 3)"),
        "fail": ("error", "file.mp4: is bad"),
        "stumble": ("bug", "KeyError: 'stumble'"),
    }
    assert outcomes["stumble"].reason.startswith("Traceback")


def test_names_are_of_the_folder_that_is_the_current_one(tmp_path, monkeypatch) -> None:
    """Which may have changed since the first worker of the process."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        (outcome,) = map_in_workers(act, ["where"], workers=1, limits=LIMITS)
        assert outcome.value == str(tmp_path / name)


def test_more_workers_than_items_end_too() -> None:
    assert [o.value for o in map_in_workers(act, ["a"], workers=3, limits=LIMITS)] == ["a done"]
    assert list(map_in_workers(act, [], workers=2, limits=LIMITS)) == []


def test_leaving_early_ends_the_workers() -> None:
    started = time.monotonic()
    outcomes = map_in_workers(act, ["a", *["hang"] * 50], workers=2, limits=Limits(timeout_seconds=600))
    assert next(outcomes).value == "a done"
    with pytest.raises(KeyboardInterrupt):
        outcomes.throw(KeyboardInterrupt)
    assert time.monotonic() - started < 60
    assert_no_workers()


def test_ctrl_c_while_a_worker_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    start = ForkServer.start_worker
    monkeypatch.setattr(ForkServer, "start_worker", lambda *arguments: (time.sleep(1), start(*arguments)))
    interrupt = threading.Timer(0.5, _thread.interrupt_main)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        next(map_in_workers(act, ["a", "b"], workers=2, limits=LIMITS))
    interrupt.join()
    assert_no_workers()


def test_no_item_is_left_out_in_silence() -> None:
    with pytest.raises(RuntimeError, match="0 workers gave 0 outcomes for more items"):
        list(map_in_workers(act, ["a"], workers=0, limits=LIMITS))
