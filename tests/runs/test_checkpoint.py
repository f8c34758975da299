"""A checkpoint file is what was written, or it is recognised for what it is."""

import hashlib
import os
import pickle
import random

import pytest
import torch

from vidgn.distributed.signals import StopFlag
from vidgn.errors import CheckpointError
from vidgn.runs import checkpoint
from vidgn.runs.checkpoint import TornError, checkpoint_path, load_checkpoint, load_latest, save_checkpoint
from vidgn.runs.directory import RunDirectory, best_curve_point


def state(step: int) -> dict:
    generator = torch.Generator().manual_seed(step)
    return {
        "step": step,
        "model": {"w": torch.randn(40, 50, generator=generator)},
        "identity": {"norm.kind": "bn", "data.crop": [1, 2]},
    }


@pytest.fixture
def three(tmp_path):
    """Checkpoints of steps 2, 4 and 6."""
    for step in (2, 4, 6):
        save_checkpoint(checkpoint_path(tmp_path, step), state(step))
    return tmp_path


def test_what_is_read_is_what_was_written(three):
    read = load_checkpoint(checkpoint_path(three, 4))
    assert torch.equal(read["model"]["w"], state(4)["model"]["w"])
    assert read["identity"] == state(4)["identity"]
    assert sorted(p.name for p in three.iterdir()) == [f"step_00000000{s}.pt" for s in (2, 4, 6)]


@pytest.mark.parametrize("tenths", range(10))
def test_truncated_at_every_tenth_of_its_length(three, tenths):
    newest = checkpoint_path(three, 6)
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) * tenths // 10])
    said = []
    read = load_latest(three, said.append)
    assert read is not None
    assert read["step"] == 4
    assert said == [f"{newest} is torn: {len(whole) * tenths // 10} bytes without the seal at their end; passed over"]


def test_a_byte_more_or_less(three):
    newest = checkpoint_path(three, 6)
    whole = newest.read_bytes()
    for altered in (whole[:-1], whole + b" ", whole[1:], whole[:1000] + whole[1001:]):
        newest.write_bytes(altered)
        with pytest.raises(TornError, match=r"is torn|is altered"):
            load_checkpoint(newest)


def test_one_bit_flipped_anywhere(three):
    newest = checkpoint_path(three, 6)
    whole = newest.read_bytes()
    seal = range(len(whole) - 160, len(whole))
    places = [*random.Random(0).sample(range(len(whole) - 160), 100), *seal]
    for place in places:
        altered = bytearray(whole)
        altered[place] ^= 1 << (place % 8)
        newest.write_bytes(altered)
        with pytest.raises(TornError, match=r"is torn|is altered"):
            load_checkpoint(newest)
    newest.write_bytes(whole)
    assert load_checkpoint(newest)["step"] == 6


def test_all_torn_starts_from_nothing_and_says_so(three):
    for path in checkpoint.list_checkpoints(three):
        path.write_bytes(b"x")
    said = []
    assert load_latest(three, said.append) is None
    assert len(said) == 4
    assert said[-1] == f"no good checkpoint is left in {three}: starting from step 0"


def test_the_checksum_is_of_all_before_it(three):
    data = checkpoint_path(three, 6).read_bytes()
    text = data[-160:].rstrip(b" ").decode()
    body, _, digest = text.rpartition("sha256=")
    assert hashlib.sha256(data[:-160] + body.encode()).hexdigest() == digest


def test_a_newer_format_is_refused_with_the_version_it_needs(three, monkeypatch):
    newest = checkpoint_path(three, 6)
    monkeypatch.setattr(checkpoint, "FORMAT", 7)
    monkeypatch.setattr(checkpoint, "__version__", "9.4.0")
    save_checkpoint(newest, state(6))
    monkeypatch.undo()
    expected = r"step_000000006.pt has checkpoint format 7, vidgn \S+ reads up to 1: use vidgn 9.4.0 or newer"
    with pytest.raises(CheckpointError, match=expected):
        load_latest(three, lambda text: None)  # not passed over: going on from the older one would lose work


def test_nothing_in_a_checkpoint_is_executed(three, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = checkpoint_path(three, 6)
    save_checkpoint(path, {"step": 6, "model": Hostile()})
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_one_that_may_not_be_read_is_no_torn_one(three):
    path = checkpoint_path(three, 6)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="can't be read: Is a directory"):
        load_latest(three, lambda text: None)


def test_pruning_keeps_the_newest_and_the_best(three):
    for step in (8, 10):
        save_checkpoint(checkpoint_path(three, step), state(step))
    (three / ".step_000000012.pt.partial").touch()
    checkpoint.prune(three, step=10, keep=2, also=[4])
    assert [checkpoint.step_of(p) for p in checkpoint.list_checkpoints(three)] == [4, 8, 10]
    checkpoint.remove_partial(three)
    assert not list(three.glob(".*"))


def test_pruning_does_not_take_a_torn_one_for_the_newest(three):
    checkpoint_path(three, 6).write_bytes(b"torn")
    save_checkpoint(checkpoint_path(three, 5), state(5))  # gone on from step 4
    checkpoint.prune(three, step=5, keep=1, also=[])
    assert [checkpoint.step_of(p) for p in checkpoint.list_checkpoints(three)] == [5]


def test_the_best_is_the_first_of_the_lowest_errors(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert best_curve_point(file) is None
    line = '{{"kind": "curve", "step": {}, "top1_error_percent": {}}}\n'
    file.write_text("".join(line.format(*p) for p in [(4, 50.0), (8, 25.0), (12, 25.0), (16, 30.0)]) + '{"kind": "cur')
    assert best_curve_point(file) == (25.0, 8)


def test_run_directory_keeps_the_best_besides_the_newest(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    run = RunDirectory(tmp_path, writes=True, stop=StopFlag(), identity={"a": 1})
    assert run.load_checkpoint() is None
    for step, error in enumerate([90.0, 40.0, 60.0, 70.0, 50.0], 1):
        run.save_checkpoint(step, {"step": step}, keep=2)
        run.write_line({"kind": "curve", "step": step, "epoch": 1.0, "top1_error_percent": error})
        run.prune_checkpoints(keep=2)
    run.close()
    assert [checkpoint.step_of(p) for p in checkpoint.list_checkpoints(run.checkpoints)] == [2, 4, 5]
    again = RunDirectory(tmp_path, writes=True, stop=StopFlag(), identity={"a": 1})
    again.load_checkpoint()
    for step in (6, 7, 8):
        again.write_line({"kind": "train", "step": step, "epoch": 1.0, "loss": 1.0})
        again.save_checkpoint(step, {"step": step}, keep=2)
    again.close()
    assert [checkpoint.step_of(p) for p in checkpoint.list_checkpoints(run.checkpoints)] == [2, 7, 8]


def test_a_checkpoint_of_another_experiment_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    run = RunDirectory(tmp_path, writes=True, stop=StopFlag(), identity={"optim.momentum": 0.9, "seed": 0})
    run.load_checkpoint()
    run.save_checkpoint(1, {"step": 1}, keep=2)
    run.close()
    other = RunDirectory(tmp_path, writes=True, stop=StopFlag(), identity={"optim.momentum": 0.8, "seed": 0})
    with pytest.raises(CheckpointError, match=r"another experiment: optim.momentum \(here 0.8, there 0.9\).*tag=NAME"):
        other.load_checkpoint()
