"""A loss or gradient that is not finite: stop with all there is to look at, or leave the step out."""

import json
import math
from contextlib import nullcontext

import pytest
import torch

from tests.cells import cell
from tests.small_run import reading_late
from vidgn.data.clips.plan import plan_for
from vidgn.errors import NonFiniteError
from vidgn.run import run
from vidgn.runs.checkpoint import load_checkpoint
from vidgn.training.step import TrainStep

SMALL = (
    "gpus=2",
    "clips_per_gpu=2",
    "norm=bn",
    "trainer.max_steps=4",
    "bn_stats_steps=1",
    "trainer.checkpoint_steps=1",
)


@pytest.fixture(params=["at once", "late"], autouse=True)
def numbers_read(request):
    """On a CPU, and as on a GPU, where the next step is under way by then."""
    with reading_late() if request.param == "late" else nullcontext():
        yield


@pytest.fixture
def bad_third_step(monkeypatch):
    """The gradient or the loss of the third step is not finite; what BN saw in it is NaN as well."""

    def make(part: str) -> None:
        forward_backward = TrainStep.forward_backward

        def spoiled(self, batch, *, step, index):
            totals = forward_backward(self, batch, step=step, index=index)
            if step != 2:
                return totals
            for moments in self.statistics._forwards:
                moments.fill_(math.nan)
            if part == "gradient":
                next(self.model.parameters()).grad[0, 0, 0, 0, 0] = math.inf
                return totals
            totals[0] = math.nan
            return totals

        monkeypatch.setattr(TrainStep, "forward_backward", spoiled)

    return make


@pytest.mark.parametrize("part", ["gradient", "loss"])
def test_stops_with_the_step_its_clips_and_the_state(tmp_path, tiny_data, bad_third_step, part):
    bad_third_step(part)
    config = cell(tmp_path, tiny_data, *SMALL)
    with pytest.raises(NonFiniteError, match=r"of step 3 is not finite; .*step_000000003: leave such steps out with"):
        run(config)
    folder = config.run_dir / "nonfinite" / "step_000000003"
    saved = load_checkpoint(folder / "state.pt")
    before = load_checkpoint(config.run_dir / "checkpoints" / "step_000000002.pt")
    assert saved["step"] == 2
    assert all(torch.equal(saved["model"][k], before["model"][k]) for k in before["model"])
    told = json.loads((folder / "clips.json").read_text())
    assert told["step"] == 3
    assert [c["position"] for c in told["clips"]] == [8, 9, 10, 11]
    plans = [vars(plan_for(config.data, 0, p, frames=config.frames)) for p in (8, 9, 10, 11)]
    assert [c["plan"] for c in told["clips"]] == json.loads(json.dumps(plans))
    assert all(c["id"].startswith("train") for c in told["clips"]), told["clips"]
    assert not (config.run_dir / "lock.json").exists()


@pytest.mark.parametrize("part", ["gradient", "loss"])
def test_skips_the_step_and_counts_it(tmp_path, tiny_data, bad_third_step, part):
    bad_third_step(part)
    config = cell(tmp_path, tiny_data, *SMALL, "trainer.on_nonfinite=skip", "trainer.keep=9")
    result = run(config)
    assert result["num_skipped"] == 1
    states = [load_checkpoint(config.run_dir / "checkpoints" / f"step_00000000{s}.pt") for s in (2, 3, 4)]
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name
    assert any(not torch.equal(v, states[2]["model"][k]) for k, v in states[1]["model"].items())
    assert all(v.isfinite().all() for v in states[2]["model"].values())  # running averages too
    assert [s["num_skipped"] for s in states] == [0, 1, 1]
    lines = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("skipped", False) for line in lines] == [False, False, True, False]
    assert [line["loss"] is None for line in lines] == [False, False, part == "loss", False]


def test_a_skipped_step_survives_a_restart(tmp_path, tiny_data, bad_third_step):
    bad_third_step("gradient")
    options = (*SMALL, "trainer.on_nonfinite=skip")
    whole = run(cell(tmp_path / "whole", tiny_data, *options))
    config = cell(tmp_path / "halved", tiny_data, *options)
    run(config)
    (config.run_dir / "result.json").unlink()
    (config.run_dir / "checkpoints" / "step_000000004.pt").unlink()
    assert run(config) == whole
