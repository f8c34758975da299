"""Precise statistics, against all activations of all batches held at once."""

import pytest
import torch

from vidgn.config.compose import load_config
from vidgn.distributed.ranks import Ranks
from vidgn.models.norms.layers import set_statistics_groups, statistics_layers
from vidgn.training.bn_stats import StepStatistics, precise_statistics, statistics_at_test
from vidgn.training.setup import make_model

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def model():
    config = load_config(["model=i3d_tiny", "norm=bn", "frames=8", "span=8", "data.crop=32", "data.short_side=[32,32]"])
    return make_model(config, num_classes=3).double()


def clips(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 8, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_precise_is_the_population_of_everything_seen(model):
    """The first norm's input does not depend on statistics, so its population can be held in one tensor."""
    set_statistics_groups(model, group_clips=2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batches = clips(12).split(4)
    statistics = precise_statistics(model, batches, ALONE)
    activations = torch.cat([model.blocks[0].conv(b) for b in batches]).transpose(0, 1).flatten(1)
    mean, var = statistics["blocks.0.norm"]
    assert torch.allclose(mean, activations.mean(1), rtol=1e-12, atol=1e-14)
    assert torch.allclose(var, activations.var(1, unbiased=False), rtol=1e-12)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training
    assert len(statistics) == len(statistics_layers(model)) == 17


def test_one_update_a_step_equals_batchnorm_of_each_gpu_averaged(model):
    """Two forwards of two groups each: torch's BatchNorm3d fed with each group alone, then averaged."""
    set_statistics_groups(model, group_clips=2)
    steps = clips(16).split(8)
    collected = StepStatistics(model)
    norm = model.blocks[0].norm
    plain = [torch.nn.BatchNorm3d(16).double() for _ in range(4)]
    model.train()
    for step in steps:
        for forward in step.split(4):
            model(forward, torch.ones(4, 512, dtype=torch.float64))
            collected.add_forward()
            collected.keep_forward()
        collected.update_running(collected.sum_of_step(), world_size=1)
        for gpu, group in zip(plain, step.split(2), strict=True):
            gpu(model.blocks[0].conv(group))
    for name in ("running_mean", "running_var"):
        expected = torch.stack([getattr(gpu, name) for gpu in plain]).mean(0)
        assert torch.allclose(getattr(norm, name), expected, rtol=1e-12, atol=1e-14)


def test_statistics_of_a_test_are_put_back(model):
    set_statistics_groups(model, group_clips=2)
    statistics = precise_statistics(model, [clips(4)], ALONE)
    norm = model.blocks[0].norm
    before = norm.running_mean.clone()
    with statistics_at_test(model, statistics):
        assert not model.training
        assert torch.equal(norm.running_mean, statistics["blocks.0.norm"][0])
    assert torch.equal(norm.running_mean, before)
    assert model.training
