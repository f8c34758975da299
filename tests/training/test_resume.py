"""Going on in the middle: nothing before is read again, nothing is written twice, and the end is the same."""

import errno
import json
import shutil

import pytest

from tests.cells import cell
from tests.small_run import reading_late
from vidgn.data.clips import read as reading
from vidgn.data.clips.plan import row_at
from vidgn.data.datasets.manifest import read_manifest
from vidgn.errors import CheckpointError
from vidgn.run import run, work_as_rank
from vidgn.runs import checkpoint, directory
from vidgn.runs.checkpoint import list_checkpoints
from vidgn.training.loop import Trainer

OPTIONS = (
    "gpus=2",
    "clips_per_gpu=2",
    "norm=bn",
    "trainer.max_steps=9",
    "trainer.checkpoint_steps=2",
    "trainer.keep=9",
    "trainer.eval_every=0.5",
    "bn_stats_steps=2",
)


class StopAt:
    """Asks for a stop at the `n`th question."""

    def __init__(self, n: int) -> None:
        self.left = n

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_data):
    """A run that nothing disturbed."""
    config = cell(tmp_path_factory.mktemp("whole"), tiny_data, *OPTIONS)
    run(config)
    return config.run_dir


def lines(run_dir) -> list[dict]:
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "clock"} for line in found]


def list_steps(run_dir) -> list[int]:
    return [checkpoint.load_checkpoint(path)["step"] for path in list_checkpoints(run_dir / "checkpoints")]


def assert_same(run_dir, whole) -> None:
    assert lines(run_dir) == lines(whole)
    assert (run_dir / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    one, other = (checkpoint.load_checkpoint(list_checkpoints(d / "checkpoints")[-1]) for d in (run_dir, whole))
    assert one["step"] == other["step"] == 9
    assert all((one["model"][k] == v).all() for k, v in other["model"].items())
    for a, b in zip(one["optimizer"]["state"].values(), other["optimizer"]["state"].values(), strict=True):
        assert (a["momentum_buffer"] == b["momentum_buffer"]).all()
    assert one["plan_digest"] == other["plan_digest"]


@pytest.mark.parametrize("asked", [0, 8, 15, *(pytest.param(n, marks=pytest.mark.long) for n in range(1, 22, 2))])
def test_stopped_at_any_question_it_ends_in_the_same(tmp_path, tiny_data, whole, asked):
    """Ranks ask each step, each batch of BN statistics and each block of a test: a stop at any loses nothing."""
    config = cell(tmp_path, tiny_data, *OPTIONS)
    said = work_as_rank(config, StopAt(asked), work="train")  # type: ignore[arg-type]
    assert said is not None
    assert said.endswith("of 9, everything saved")
    run(config)
    assert_same(config.run_dir, whole)


@pytest.mark.parametrize("asked", [None, 3, 15])
def test_numbers_read_late_are_the_same(tmp_path, tiny_data, whole, asked):
    """As on a GPU: the line of a step is written in the next one, and before whatever needs it."""
    config = cell(tmp_path, tiny_data, *OPTIONS)
    with reading_late():
        if asked is not None:
            assert work_as_rank(config, StopAt(asked), work="train") is not None  # type: ignore[arg-type]
            assert lines(config.run_dir)[-1]["step"] == list_steps(config.run_dir)[-1]
        run(config)
    assert_same(config.run_dir, whole)


def test_nothing_before_the_checkpoint_is_decoded(tmp_path, tiny_data, whole, monkeypatch):
    """Step 5 is in the middle of the first epoch of 6 steps."""
    config = cell(tmp_path, tiny_data, *OPTIONS)
    assert work_as_rank(config, StopAt(6), work="train") is not None  # type: ignore[arg-type]
    done = [line["step"] for line in lines(config.run_dir) if line["kind"] == "train"]
    first = done[-1]
    assert 0 < first < 6
    read: list[str] = []
    read_clips = reading.read_clips

    def watched(task, out):
        read.append(task.row.id)
        return read_clips(task, out)

    resume, add_point = Trainer.train_step, Trainer.add_curve_point
    trained: list[str] = []

    def step(self, *arguments):
        read.clear()
        line = resume(self, *arguments)
        trained.extend(read)
        return line

    monkeypatch.setattr(reading, "read_clips", watched)
    monkeypatch.setattr(Trainer, "train_step", step)
    monkeypatch.setattr(Trainer, "add_curve_point", lambda self: (add_point(self), read.clear())[0])
    run(config)
    train = read_manifest(config.data, "train")
    expected = [train[row_at(0, p, len(train))].id for p in range(first * 4, 9 * 4)]
    assert trained == expected  # each clip of each step after, in order, and no other
    assert_same(config.run_dir, whole)


def test_a_torn_newest_checkpoint_is_passed_over(tmp_path, tiny_data, whole):
    config = cell(tmp_path, tiny_data, *OPTIONS)
    shutil.copytree(whole, config.run_dir)
    for name in ("result.json", "model.safetensors", "identity.json"):
        (config.run_dir / name).unlink()
    (config.run_dir / "log.txt").unlink()
    for tenths, path in zip((9, 4, 0), reversed(list_checkpoints(config.run_dir / "checkpoints")), strict=False):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * tenths // 10])
    run(config)
    said = (config.run_dir / "log.txt").read_text()
    assert said.count("is torn") == said.count("passed over") == 3
    assert "going on from step 4\n" in said
    assert_same(config.run_dir, whole)


def test_a_flipped_bit_in_the_newest_checkpoint(tmp_path, tiny_data, whole):
    config = cell(tmp_path, tiny_data, *OPTIONS)
    shutil.copytree(whole, config.run_dir)
    (config.run_dir / "result.json").unlink()
    newest = list_checkpoints(config.run_dir / "checkpoints")[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 16
    newest.write_bytes(data)
    run(config)
    said = (config.run_dir / "log.txt").read_text()
    assert f"{newest} is altered: its checksum does not match; passed over" in said
    assert "going on from step 8\n" in said
    assert_same(config.run_dir, whole)


@pytest.mark.parametrize("fails", [3, 999])
def test_a_disk_that_is_full_for_a_while_or_for_good(tmp_path, tiny_data, whole, monkeypatch, fails):
    """From step 6 on the first `fails` flushes to disk fail."""
    monkeypatch.setenv("VIDGN_DISK_FULL_WAIT", "0")
    fsync, left = directory.os.fsync, [fails]

    def full(handle):
        path = directory.os.readlink(f"/proc/self/fd/{handle}")
        if "step_000000006" in path and left[0] > 0:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return fsync(handle)

    monkeypatch.setattr(directory.os, "fsync", full)
    config = cell(tmp_path, tiny_data, *OPTIONS)
    if fails == 3:
        run(config)
    else:
        with pytest.raises(CheckpointError, match=r"no space for checkpoint step_000000006.pt .* after 5 attempts"):
            run(config)
        assert [checkpoint.step_of(p) for p in list_checkpoints(config.run_dir / "checkpoints")] == [2, 3, 4]
        left[0] = 0
        run(config)
    said = (config.run_dir / "log.txt").read_text()
    assert said.count("no space for checkpoint step_000000006.pt") == 1
    assert not list(config.run_dir.rglob("*.partial"))
    assert_same(config.run_dir, whole)


def test_a_result_is_not_made_twice(tmp_path, tiny_data, whole, capsys):
    config = cell(tmp_path, tiny_data, *OPTIONS)
    shutil.copytree(whole, config.run_dir)
    before = {p: p.stat().st_mtime_ns for p in config.run_dir.rglob("*") if p.is_file()}
    run(config)
    assert "is done; vidgn evaluate" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in config.run_dir.rglob("*") if p.is_file()} == before
