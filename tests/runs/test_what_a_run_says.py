"""What a run's files and lines say of it is true: its history, its lock, its errors, its bytes."""

import json
import shutil
from pathlib import Path

import pytest

from tests.small_run import BASE, RUN, begin, not_finite, patched, train, write_data
from vidgn.cli.main import main
from vidgn.runs.directory import write_error
from vidgn.training.loop import Trainer


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)


def at_step(step: int, act) -> object:
    """`act()` before the step number `step` of a training is taken."""
    ordinary = Trainer.train_step

    def train_step(self, batches):
        if self.state.step + 1 == step:
            act()
        return ordinary(self, batches)

    return patched("vidgn.training.loop.Trainer.train_step", train_step)


def test_a_changed_policy_is_in_the_history_in_the_log_and_with_the_result(capsys):
    begin()
    capsys.readouterr()
    assert train(BASE | {"trainer.on_nonfinite": "skip", "trainer.keep": "1"}) == 0
    said = capsys.readouterr().out
    changes = ["after step 2: trainer.keep=1, before 2", "after step 2: trainer.on_nonfinite=skip, before stop"]
    assert [line for line in said.splitlines() if line.startswith("after step")] == changes
    starts = json.loads((RUN / "machine.json").read_text())
    assert [start["from_step"] for start in starts] == [0, 2]
    assert [start["policy"]["trainer.on_nonfinite"] for start in starts] == ["stop", "skip"]
    assert "to the bit" not in said
    main(["status", "runs/s"])
    assert [line.strip() for line in capsys.readouterr().out.splitlines()[1:3]] == changes
    main(["report", "runs/s"])
    report = Path("runs/s/report.md").read_text()
    assert all(f"- {RUN.name}: {change}" in report for change in changes)


def test_skipped_steps_are_said_wherever_the_result_is(capsys):
    with not_finite(2, 3):
        assert train(BASE | {"trainer.on_nonfinite": "skip"}) == 0
    assert "2 training steps were skipped as not finite" in capsys.readouterr().out
    main(["status", "runs/s"])
    assert "2 steps skipped as not finite" in capsys.readouterr().out
    main(["report", "runs/s"])
    assert f"- {RUN.name}: 2 steps skipped, loss or gradient not finite" in Path("runs/s/report.md").read_text()


def test_by_default_one_step_in_a_hundred_may_be_skipped_and_ten_in_any_case(capsys):
    with not_finite(*range(1, 100)):
        assert train(BASE | {"trainer.on_nonfinite": "skip", "trainer.max_steps": "12"}) == 1
    said = capsys.readouterr().err
    assert "of step 11 is not finite, as were 10 before it, and trainer.max_skipped is 10;" in said
    assert json.loads((RUN / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 10


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_whose_lock_is_taken_away_writes_nothing_more(capsys, step):
    other = {"host": "another-host", "pid": 4, "since": "today", "token": "0"}
    seen = {}

    def steal() -> None:
        (RUN / "lock.json").write_text(json.dumps(other))
        seen.update({path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()})

    with at_step(step, steal):
        assert train(BASE) == 1
    said = capsys.readouterr().err
    assert "is now process 4 on another-host's: this run has stopped before it wrote anything more" in said
    left = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    assert {p: c for p, c in left.items() if "tensorboard" not in str(p) and p.name != "log.txt"} == {
        p: c for p, c in seen.items() if "tensorboard" not in str(p) and p.name != "log.txt"
    }
    (RUN / "lock.json").unlink()
    assert train(BASE) == 0
    assert [json.loads(line)["step"] for line in (RUN / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_a_run_whose_folder_is_removed_under_it_ends_in_one_line(capsys):
    with at_step(3, lambda: shutil.rmtree("runs")):
        assert train(BASE) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "lock.json is gone: this run has stopped before it wrote anything more" in said.err


def test_an_error_of_a_start_that_was_refused_meanwhile_goes_with_the_result():
    with at_step(3, lambda: write_error(RUN, "port 5 is in use")):
        assert train(BASE) == 0
    assert not (RUN / "error.txt").exists()
    write_error(RUN, "later")
    assert train(BASE) == 0
    assert not (RUN / "error.txt").exists()


def test_the_bytes_of_a_model_do_not_say_where_it_was_made():
    assert train(BASE) == 0
    shutil.copytree("videos", "elsewhere")
    shutil.copy("train.csv", "t.csv")
    assert train(BASE | {"runs_dir": "other/runs", "data.root": "elsewhere", "data.train": "t.csv"}) == 0
    made = (RUN / "model.safetensors").read_bytes()
    assert made == (Path("other") / RUN / "model.safetensors").read_bytes()
    assert str(Path.cwd()).encode() not in made
    assert b"t.csv" not in made


def test_a_directory_in_which_nothing_was_trained_is_nobody_s():
    with patched("vidgn.training.setup._BF16_ERROR", -1.0):
        assert train(BASE | {"trainer.precision": "bf16"}) == 1
    assert (RUN / "identity.json").exists()
    assert train(BASE) == 0
    assert json.loads((RUN / "identity.json").read_text())["trainer.precision"] == "fp32"
    assert "fp32" in (RUN / "config.yaml").read_text()


def test_control_characters_in_names_are_shown_and_not_obeyed(capsys):
    Path("names.txt").write_text("ru\x1b[31mn\nwalk\u202e\n")
    rows = "path,label\n0.mp4,ru\x1b[31mn\n1.mp4,walk\u202e\n"
    Path("train.csv").write_text(rows)
    Path("val.csv").write_text(rows + "\x07bell.mp4,walk\u202e\n")
    shutil.copy("videos/2.mp4", "videos/\x07bell.mp4")
    Path("videos/\x07bell.mp4").write_bytes(b"no video")
    assert train(BASE | {"data.max_unreadable": "9"}) == 0
    assert main(["predict", str(RUN), "videos/0.mp4", "videos/\x07bell.mp4"]) == 1
    assert main(["data", "check", "val.csv", "--root", "videos", "--format", "csv", "--workers", "1"]) == 1
    main(["report", "runs/s"])
    said = capsys.readouterr()
    printed = said.out + said.err + (RUN / "log.txt").read_text() + Path("runs/s/report.md").read_text()
    assert not {"\x1b", "\x07", "\u202e"} & set(printed)
    for name in (r"ru\u001b[31mn", r"walk\u202e", r"\u0007bell.mp4"):
        assert name in said.out + said.err


def test_threads_are_those_that_the_run_began_with(monkeypatch):
    begin()
    monkeypatch.setattr("vidgn.training.setup.threads_per_rank", lambda config: 2)
    options = BASE | {"launch.threads": "auto"}
    with patched("vidgn.training.setup.world_size_of", lambda config: 4):  # whatever the number of processes
        assert train(options) == 0
    assert [start["threads"] for start in json.loads((RUN / "machine.json").read_text())] == [1, 1]
