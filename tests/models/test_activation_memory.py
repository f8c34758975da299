"""What backward keeps: counted to the byte on fake tensors, and the same numbers whatever is kept."""

import gc
import weakref
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vidgn.config.compose import load_config
from vidgn.config.schema import NormConfig
from vidgn.models.activation_memory import set_activation_memory
from vidgn.models.i3d import assemble_model, build_model
from vidgn.models.norms.layers import norm_layers, set_statistics_groups

MODES = ["keep", "lean", "leaner", "block"]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}


def norm(kind):
    return NormConfig(kind=kind, groups=None, channels_per_group=None, eps=1e-5, momentum=0.1)


def tiny(kind, mode):
    model = load_config(["model=i3d_tiny"]).model
    net = build_model(model, norm(kind), num_classes=8, frames=8, crop=32).double()
    set_activation_memory(net, mode)
    return net


def step(net, fmt):
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(4, 3, 8, 32, 32, generator=generator, dtype=torch.float64)
    scale = 2.0 * torch.randint(2, (4, 512), generator=generator)
    logits = net(clip.contiguous(memory_format=FORMATS[fmt]), scale.double())
    loss = F.cross_entropy(logits.flatten(1), torch.arange(4))
    loss.backward()
    return [loss.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("kind", ["bn", "frozen_bn", "gn", "ln", "in"])
def test_every_mode_gives_the_same_bits(kind, fmt):
    expected = step(tiny(kind, "keep"), fmt)
    for mode in MODES[1:]:
        got = step(tiny(kind, mode), fmt)
        assert len(got) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True)), mode


def test_ghost_groups_give_the_same_bits_and_moments():
    results, moments = [], []
    for mode in MODES:
        net = tiny("bn", mode)
        set_statistics_groups(net, group_clips=2)
        results.append(step(net, "contiguous"))
        moments.append([layer.batch_var_GC for _, layer in norm_layers(net)])
    for other, other_moments in zip(results[1:], moments[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(other_moments, moments[0], strict=True))


class CountCalls(TorchDispatchMode):
    """Calls of each operator, in forward and backward."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if func is torch.ops.aten.convolution.default:
            name = "widening" if args[1].shape[0] > args[1].shape[1] and args[1].shape[2:] == (1, 1, 1) else "conv"
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("mode", "conv", "widening", "normalise"), [("keep", 9, 8, 17), ("lean", 9, 8, 34), ("leaner", 9, 16, 34)]
)
def test_what_runs_twice(mode, conv, widening, normalise):
    """i3d_tiny has 17 convs and norms: conv1, four blocks of a, b and the widening c and shortcut."""
    net = tiny("bn", mode)
    with CountCalls() as counter:
        step(net, "contiguous")
    assert counter.calls["conv"] == conv
    assert counter.calls["widening"] <= widening
    assert counter.calls["vidgn.normalise.default"] <= normalise
    assert counter.calls["vidgn.moments.default"] == 17  # statistics once, in every mode
    if mode == "leaner":
        assert counter.calls["widening"] > 8


def test_block_takes_statistics_once():
    net = tiny("bn", "block")
    with CountCalls() as counter:
        step(net, "contiguous")
    assert counter.calls["vidgn.moments.default"] == 17
    assert counter.calls["conv"] == 18


class Cuda16(TorchFunctionMode):
    """CUDA's autocast policy on a CPU where the CPU's differs: pools stay in 16 bits, group_norm goes to 32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if "pool" in name:
            with torch.autocast("cpu", enabled=False):
                return func(*args, **(kwargs or {}))
        if name == "group_norm":
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


class Storages(TorchDispatchMode):
    """Every storage that an operator returned, weakly."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.seen[storage._cdata] = (weakref.ref(storage), storage.nbytes())
        return out

    def living_bytes(self, *, apart_from):
        gc.collect()
        known = {t.untyped_storage()._cdata for t in apart_from}
        return sum(size for key, (ref, size) in self.seen.items() if ref() is not None and key not in known)


@cache
def saved_bytes(kind, mode, frames, clips):
    """Bytes that live between forward and backward and were not there before: activations, autocast's weights."""
    config = load_config(["model=i3d_r50"]).model
    with FakeTensorMode():
        net = assemble_model(
            config, norm(kind.removeprefix("plain_")), num_classes=400, frames=frames, crop=224, device="cpu"
        )
        if kind.startswith("plain_"):
            replace_norms(net, lambda c: nn.BatchNorm3d(c) if kind == "plain_bn" else nn.GroupNorm(32, c))
        set_activation_memory(net, mode)
        scale = torch.ones(clips, 2048)
        storages = Storages()
        with storages, Cuda16(), torch.autocast("cpu", dtype=torch.bfloat16):
            clip = torch.empty(clips, 3, frames, 224, 224, dtype=torch.bfloat16)
            loss = F.cross_entropy(net(clip, scale).flatten(1).float(), torch.zeros(clips, dtype=torch.int64))
        saved = storages.living_bytes(apart_from=[*net.parameters(), *net.buffers(), scale])
        assert loss.requires_grad
        return saved


def replace_norms(net, make):
    for name, layer in norm_layers(net):
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, make(layer.num_features))


@pytest.mark.parametrize(("frames", "clips"), [(32, 8), (64, 4)])
@pytest.mark.parametrize(("mode", "limit"), [("keep", 1.0), ("lean", 0.72), ("leaner", 0.47), ("block", 0.28)])
@pytest.mark.parametrize("kind", ["bn", "gn"])
def test_saved_bytes(kind, mode, limit, frames, clips):
    yardstick = saved_bytes("bn", "keep", frames, clips)
    assert saved_bytes(kind, mode, frames, clips) <= limit * yardstick


def test_yardsticks():
    bn, gib = saved_bytes("bn", "keep", 32, 8), 2**30
    assert 2.40 * gib < bn <= 2.48 * gib
    assert abs(bn / saved_bytes("plain_bn", "keep", 32, 8) - 1) < 1e-3
    assert saved_bytes("gn", "keep", 32, 8) <= 0.48 * saved_bytes("plain_gn", "keep", 32, 8)
