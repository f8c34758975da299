"""trainer.compile=true: the same parameters in float64, and nothing compiled after the first step."""

import dataclasses
import shutil

import pytest
import torch

from tests.cells import cell, last_state
from vidgn.run import run
from vidgn.training.loop import Trainer

OPTIONS = ("gpus=2", "clips_per_gpu=2", "trainer.max_steps=4", "bn_stats_steps=1", "model.width=8")


@pytest.mark.long  # inductor's C++ compiler takes a minute
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++: apt-get install g++")
@pytest.mark.parametrize("kind", ["bn", "gn"])
def test_compiled_training_is_the_same_and_compiles_once(tmp_path, tiny_data, monkeypatch, kind):
    compiled_after = []
    train_step = Trainer.train_step

    def counted(self, batches):
        stop = train_step(self, batches)
        compiled_after.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        return stop

    # Crops that leave more than one pixel of the last map: BN over 4 values magnifies rounding a million times.
    synthetic = dataclasses.replace(tiny_data.synthetic, size=44)
    tiny_data = dataclasses.replace(tiny_data, short_side=(40, 44), crop=40, synthetic=synthetic)
    plain = cell(tmp_path / "plain", tiny_data, f"norm={kind}", *OPTIONS)
    run(plain)
    monkeypatch.setattr(Trainer, "train_step", counted)
    torch._dynamo.reset()
    config = cell(tmp_path / "compiled", tiny_data, f"norm={kind}", *OPTIONS, "trainer.compile=true")
    run(config)
    assert compiled_after[0] > 0
    assert len(set(compiled_after)) == 1
    one, other = (last_state(c)["model"] for c in (plain, config))
    for name, value in one.items():
        assert (value - other[name]).abs().max() <= 1e-10 * value.abs().max(), name
