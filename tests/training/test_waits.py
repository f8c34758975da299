"""A step as a GPU runs it, on a CPU: the host asks for no value, and the device leaves out what is not finite."""

import copy
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vidgn.config.compose import load_config
from vidgn.distributed.ranks import Ranks
from vidgn.geometry import Geometry
from vidgn.training.setup import make_model
from vidgn.training.step import Layout, TrainStep
from vidgn.training.tasks import ClipForward

OVERRIDES = ("model=i3d_tiny", "model.width=8", "frames=8", "data.crop=20", "data.short_side=[20,24]", "gpus=2")


class Asked(TorchDispatchMode):
    """Operators that make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if any(part in name for part in ("local_scalar_dense", "nonzero", "is_nonzero", "equal")):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


class Noise:
    """Clips of noise, of two classes."""

    def inputs(self, batch, *, step, slots):
        generator = torch.Generator().manual_seed(step)
        return (torch.randn(len(slots), 3, 8, 20, 20, generator=generator),)

    def forward(self, module, inputs):
        clip_NCTHW = inputs[0]
        scale = torch.ones(len(clip_NCTHW), module.head.num_features)
        return ClipForward(module(clip_NCTHW, scale).flatten(1), torch.arange(len(clip_NCTHW)) % 2)


def make_step(norm, *, decides_on_device):
    config = load_config([*OVERRIDES, f"norm={norm}", "clips_per_gpu=4", "trainer.clips_per_forward=4"])
    layout = Layout(Geometry(8, 4, 1, 4), Ranks(0, 1, torch.device("cpu")))
    model = make_model(config, num_classes=2)
    return TrainStep(config, model, Noise(), layout, decides_on_device=decides_on_device)  # type: ignore[arg-type]


@pytest.fixture(params=["bn", "gn"])
def step(request):
    return make_step(request.param, decides_on_device=True)


def train(step, *numbers, spoiled=(), rate=0.01):
    """Steps as the loop makes them; nothing is asked of the device but what is asked of it here."""
    flags = []
    for number in numbers:
        totals = step.accumulate(lambda: None, step=number, learning_rate=rate)
        if number in spoiled:
            next(step.model.parameters()).grad[0, 0, 0, 0, 0] = math.inf
        flags.append(step.update(step.over_ranks(totals)[0]))
    return flags


def state_of(step):
    momentum = [s["momentum_buffer"] for s in step.optimizer.state.values()]
    return copy.deepcopy([*step.model.state_dict().values(), *momentum])


def test_no_value_is_asked_for_in_a_step(step):
    with Asked() as asked:
        flags = train(step, 0, 1, 2)
    assert asked.names == []
    assert all(flags)


@pytest.mark.parametrize("first", [0, 2])
def test_the_device_leaves_out_what_is_not_finite(step, first):
    """The very first step too: momentum has a value then."""
    train(step, *range(first))
    before = state_of(step)
    assert not train(step, first, spoiled=[first])[0]
    assert all(torch.equal(a, b) for a, b in zip(state_of(step), before, strict=True))
    assert train(step, first + 1)[0]
    assert all(value.isfinite().all() for value in state_of(step))
    assert not all(torch.equal(a, b) for a, b in zip(state_of(step), before, strict=True))


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_an_update_of_tensors_is_that_of_numbers(norm):
    """To the bit, so that a graph, which reads a rate from a tensor, changes nothing."""
    states = []
    for of_tensors in (True, False):
        step = make_step(norm, decides_on_device=True)
        if of_tensors:
            step._update_graph = step._update_of_tensors
        train(step, 0, 1, 2, rate=0.0123)
        states.append(state_of(step))
        assert all(isinstance(group["lr"], float) for group in step.optimizer.param_groups)  # what a checkpoint holds
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_a_fused_update_is_that_of_the_loop_over_tensors(norm):
    states = []
    for decides_on_device in (True, False):
        step = make_step(norm, decides_on_device=decides_on_device)
        train(step, 0, 1)
        states.append(state_of(step))
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # up to the last bits
