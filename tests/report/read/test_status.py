"""`vidgn status`: states told from files that are half-written, stale or of another host."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from vidgn.cli.status import run
from vidgn.report.analyse.analysis import analyse
from vidgn.report.read.history import layout_changes
from vidgn.report.read.run_state import duration, lines_backward, lines_of, read_run_status
from vidgn.report.read.study import read_study
from vidgn.report.show.status import unreadable_section
from vidgn.runs.lock import locked

CLOCK = {"time": 1.7e9, "clips_per_second": 41.26, "seconds_left": 754.0, "data_wait_fraction": 0.02}


def train_line(step, **clock):
    return {"kind": "train", "step": step, "epoch": step / 100, "loss": 2.0, "clock": CLOCK | clock}


def lock_of(pid, *, host=None, **told):
    return {"host": host or socket.gethostname(), "pid": pid, "started": "2024-05-01 12:00:00"} | told


def status_of(writer, capsys, *, cell):
    assert run([str(writer.directory)]) == 0
    return next(line for line in capsys.readouterr().out.splitlines() if cell in line)


def test_every_state_has_its_line(writer, capsys, make_ranks):
    writer.finish(writer.config(norm="bn"), make_ranks(160, 0.7, seed=1), top1=71.25)
    writer.ask(writer.config(norm="gn"))
    writer.start(writer.config(norm="ln"), metrics=[train_line(s) for s in range(1, 121)], lock="held")
    writer.start(writer.config(norm="in"), error="ConfigError: groups=3 does not divide 64")
    writer.start(writer.config(norm="sync_bn"), metrics=[train_line(30)])
    assert run([str(writer.directory)]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {line.split()[0].removeprefix("i3d_tiny_32f_8x8_"): " ".join(line.split()[1:]) for line in lines[:-1]}
    assert told == {
        "bn_s0": "done top-1 71.2 %",
        "gn_s0": "pending",
        "ln_s0": "running step 120 of 400, 41.3 clips/s, 12 min left",
        "in_s0": "failed ConfigError: groups=3 does not divide 64",
        "sync_bn_s0": "stopped at step 30 of 400, not running: start it again to go on",
    }
    assert lines[-1] == "5 cells: 1 done, 1 running, 1 stopped, 1 failed, 1 pending"


def test_json(writer, capsys):
    writer.start(writer.config(norm="ln"), metrics=[train_line(120)], lock="held")
    assert run([str(writer.directory), "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert (cell["state"], cell["step"], cell["steps_total"]) == ("running", 120, 400)
    assert (cell["clips_per_second"], cell["seconds_left"]) == (41.26, 754.0)


def test_a_torn_last_line_is_passed_over(writer, capsys):
    directory = writer.start(writer.config(), metrics=[train_line(7), train_line(8)], lock="held")
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 9, "epo')
    assert "step 8 of 400" in status_of(writer, capsys, cell="bn_s0")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (['{"kind": "train", "step": 1, "lo{"kind": "train", "step": 2, "loss": 1}'], "line 1: is damaged; "),
        ([json.dumps(train_line(1)), '{"kind": "curve", "st'], "line 2: is damaged; "),
        ([json.dumps(train_line(s)) for s in (1, 2, 2, 3)], "line 3: step 2 follows step 2; "),
        ([json.dumps(train_line(s)) for s in (1, 2, 4)], "line 3: step 4 follows step 2; "),
        (["\0" * 20, json.dumps(train_line(1))], "line 1: is damaged; "),
    ],
)
def test_a_damaged_metrics_file_is_named_with_its_line(writer, capsys, lines, told):
    directory = writer.start(writer.config())
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert f"{directory / 'metrics.jsonl'}, {told}" in status_of(writer, capsys, cell="metrics.jsonl")
    assert any(told in fault for fault in analyse(read_study(writer.directory)).faults)


def test_the_last_line_of_training_counts_though_others_follow(writer, capsys):
    lines = [train_line(8), {"kind": "curve", "step": 8, "epoch": 1.0, "top1_error_percent": 40.0}]
    writer.start(writer.config(), metrics=lines, lock="held")
    assert "step 8 of 400" in status_of(writer, capsys, cell="bn_s0")


def test_a_lock_whose_process_is_gone_does_not_run(writer, capsys):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    writer.start(writer.config(), metrics=[train_line(8)], lock=lock_of(process.pid))
    line = status_of(writer, capsys, cell="bn_s0")
    assert "stopped" in line
    assert f"process {process.pid} on {socket.gethostname()} that held it is gone" in line


def test_the_lock_that_a_run_holds(writer, capsys):
    directory = writer.start(writer.config(), metrics=[train_line(8)])
    with locked(directory, print):
        assert "running" in status_of(writer, capsys, cell="bn_s0")
    assert "stopped" in status_of(writer, capsys, cell="bn_s0")


def test_looking_at_a_run_does_not_keep_it_from_starting(writer, capsys):
    directory, over = writer.start(writer.config()), threading.Event()

    def look() -> None:
        while not over.is_set():
            read_run_status(directory)

    watchers = [threading.Thread(target=look) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(20):
            with locked(directory, lambda text: None):
                pass
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()


@pytest.mark.parametrize(("age_seconds", "state"), [(30, "running"), (3 * 3600, "stopped")])
def test_where_there_are_no_locks_a_lease_is_judged_by_age(writer, capsys, monkeypatch, age_seconds, state):
    monkeypatch.setattr("vidgn.atomic_files.try_lock", lambda handle, shared: None)
    directory = writer.start(writer.config(), metrics=[train_line(8)], lock=lock_of(1, host="elsewhere"))
    os.utime(directory / "lock.json", (time.time() - age_seconds,) * 2)
    assert state in status_of(writer, capsys, cell="bn_s0")


def test_what_a_later_start_has_changed_is_shown(writer, capsys, make_ranks):
    policies = [{"trainer.on_nonfinite": w, "trainer.keep": 2, "data.missing": "error"} for w in ("stop", "skip")]
    starts = [{"steps_total": 400}, *({"from_step": 9 * i, "policy": p} for i, p in enumerate(policies))]
    writer.start(writer.config(), metrics=[train_line(8)], starts=starts)
    assert run([str(writer.directory)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:2] == ["after step 9: trainer.on_nonfinite=skip, before stop"]
    assert run([str(writer.directory), "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["policy_changes"] == [{"step": 9, "key": "trainer.on_nonfinite", "before": "stop", "now": "skip"}]
    told = unreadable_section(analyse(read_study(writer.directory)))
    assert "after step 9: trainer.on_nonfinite=skip, before stop" in told


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"world_size": 4}, "world_size=4 (1 before): the same bytes"),
        ({"world_size": 4, "device": "cuda"}, "device=cuda (cpu before): equal up to rounding, not to the bit"),
        ({"activation_memory": "block", "communication": {}, "steps_total": 9}, None),
        (
            {"world_size": 3, "sums": "canonical of 3 processes"},
            "sums=canonical of 3 processes (canonical before): equal up to the order of summation, not to the bit",
        ),
        ({"threads": 2}, "threads=2 (1 before): equal up to the order of summation, not to the bit"),
        (
            {"clips_per_forward": 2, "device": "cuda"},
            "clips_per_forward=2 (4 before), device=cuda (cpu before): equal up to rounding, not to the bit",
        ),
    ],
)
def test_starts_in_another_way_are_told(writer, capsys, changed, said):
    """From an entry for each start, as `vidgn train` writes them."""
    first = {
        "from_step": 0,
        "world_size": 1,
        "device": "cpu",
        "threads": 1,
        "clips_per_forward": 4,
        "sums": "canonical",
    }
    directory = writer.start(writer.config())
    (directory / "machine.json").write_text(json.dumps([first, {**first, "from_step": 9, **changed}]))
    assert run([str(writer.directory)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()][1:-1]
    assert lines == ([f"from step 10 on {said}"] if said else [])


def test_starts_of_earlier_versions_added_in_an_order_of_their_own():
    starts = [{"from_step": 9 * i, "world_size": w} for i, w in enumerate((2, 2, 4))]
    (told,) = layout_changes(starts)
    assert told.startswith("from step 19 on sums=of 4 processes (of 2 processes before): equal up to the order")


def test_of_gpus_no_same_bytes_are_said():
    (told,) = layout_changes([{"device": "cuda", "sums": "canonical", "world_size": w} for w in (1, 2)])
    assert told.endswith("world_size=2 (1 before): the same order of sums")


def test_skipped_steps_are_told_with_the_result(writer, capsys, make_ranks):
    writer.finish(writer.config(norm="bn"), make_ranks(160, 0.7, seed=1), top1=71.25, num_skipped=3)
    assert status_of(writer, capsys, cell="bn_s0").endswith("top-1 71.2 %, 3 steps skipped as not finite")


def test_a_finished_run_is_done_whatever_lies_about(writer, make_ranks):
    directory = writer.finish(writer.config(), make_ranks(10, 0.5, seed=0))
    (directory / "error.txt").write_text("old\n")
    (directory / "lock.json").write_text("{")
    assert read_run_status(directory).state == "done"


def test_an_error_is_not_shown_while_the_run_lives_again(writer):
    directory = writer.start(writer.config(), error="old", lock="held")
    assert read_run_status(directory).state == "running"


def test_only_the_first_line_of_an_error(writer, capsys):
    writer.start(writer.config(), error="CheckpointError: torn\nTraceback ...")
    assert status_of(writer, capsys, cell="bn_s0").endswith("failed   CheckpointError: torn")


@pytest.mark.parametrize("num_lines", [0, 1, 3, 5000])
def test_lines_backward_are_lines_forward_reversed(tmp_path, num_lines):
    path = tmp_path / "metrics.jsonl"
    lines = [{"kind": ("train", "curve")[i % 3 == 2], "step": i, "note": "ü" * (i % 50)} for i in range(num_lines)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    for kind in ("train", "curve"):
        expected = [line for line in lines if line["kind"] == kind]
        assert list(lines_of(path, kind)) == expected
        assert list(lines_backward(path, kind)) == expected[::-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.9, "59 s"),
        (61, "1 min"),
        (3660, "1 h 01 min"),
        (90_000, "1 d 1 h"),
        (None, "?"),
        (float("nan"), "?"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
