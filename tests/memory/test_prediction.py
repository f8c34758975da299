"""Predicted memory against counts made another way: saved-tensor hooks, real tensors, sums by hand, a published log."""

import dataclasses

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vidgn.config.compose import load_config
from vidgn.errors import ConfigError
from vidgn.geometry import Geometry, group_clips
from vidgn.memory.fake_gpu import LiveBytes, cuda_autocast_policy, fake_gpu
from vidgn.memory.prediction import evaluation_forwards, predict
from vidgn.memory.warm_step import WarmStep
from vidgn.training.setup import ToModel, make_model, place_model

MIB, GIB = 2**20, 2**30
TINY = ["model=i3d_tiny", "data=synthetic", "frames=8", "span=8", "clips_per_gpu=4", "gpus=2", "data.crop=28"]
PADDED = "model.pool1.padding=[0,1,1]"  # mmaction2's port


def tiny(*overrides):
    return load_config([*TINY, *overrides])


def test_published_log_of_one_of_eight_gpus():
    """mmaction2, i3d_r50_32x2x1_100e_kinetics400_rgb: `memory: 5170` (MiB, max_memory_allocated), 8 x 32 frames."""
    predicted = predict(load_config(["norm=bn", PADDED]), clips_per_forward=8, world_size=8)
    assert predicted.training_bytes / MIB == pytest.approx(5170, rel=0.05)
    assert predicted.ddp_bytes == pytest.approx(28_043_472 * 4, abs=512)


@pytest.mark.parametrize(
    ("overrides", "gib"),
    [
        (["trainer.precision=bf16"], 2.436),
        pytest.param(["trainer.precision=bf16", PADDED], 2.484, marks=pytest.mark.long),
        pytest.param([PADDED], 4.576, marks=pytest.mark.long),
    ],
)
def test_saved_bytes_of_the_papers_net(overrides, gib):
    predicted = predict(load_config(["norm=bn", *overrides]), clips_per_forward=8)
    assert predicted.saved_bytes / GIB == pytest.approx(gib, abs=0.001)


def test_saved_bytes_by_hooks_on_real_tensors():
    """keep, float32: every storage autograd packs, once, on a real forward; predicted from tensors without values."""
    config = tiny("norm=gn", "trainer.memory_format=contiguous")
    step = real_step(config)
    known = {t.untyped_storage()._cdata for t in step.model.parameters()}
    packed = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            packed[storage._cdata] = -(-storage.nbytes() // 512) * 512
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        forward = step.clip_forward()
    assert forward.logits_NK.requires_grad
    assert sum(packed.values()) == predict(config, clips_per_forward=4, num_classes=8).saved_bytes


@pytest.mark.parametrize(("norm", "mode"), [("bn", "lean"), ("gn", "block")])
def test_fake_tensors_live_as_long_as_real_ones(norm, mode):
    """The same step on a CPU, real values: the same saved bytes and the same peak."""
    config = tiny(f"norm={norm}", "trainer.memory_format=contiguous", f"trainer.activation_memory={mode}")
    with LiveBytes() as live:
        step = real_step(config)
        live.forget_peak()
        start = live.now()
        forward = step.clip_forward()
        saved = live.name_made_after(start, "saved", but=[forward.logits_NK])
        step.backward(forward)
        del forward
        step.optimizer.step()
        peak = live.peak_bytes
    predicted = predict(config, clips_per_forward=4, num_classes=8)
    assert predicted.saved_bytes == saved
    assert predicted.training_bytes == pytest.approx(
        peak, rel=0.02
    )  # uint8 clips of the fake side live a little longer


def test_a_graph_keeps_its_memory_while_tests_run():
    plain, recorded = (
        predict(tiny("norm=gn", f"trainer.cuda_graph={graph}"), clips_per_forward=4, num_classes=8)
        for graph in ("false", "true")
    )
    inputs = 4 * 8 * 28 * 28 * 3  # the graph's own, in steps of 512 bytes
    assert recorded.training_bytes - plain.training_bytes == -(-inputs // 512) * 512
    between_steps = plain.parameter_bytes + plain.optimizer_bytes + plain.optimizer_bytes  # gradients are as large
    of_a_test = plain.test_bytes - between_steps
    assert recorded.peak_bytes == pytest.approx(plain.training_bytes + inputs + of_a_test, rel=0.02)
    two = predict(tiny("norm=gn", "trainer.cuda_graph=true"), clips_per_forward=4, world_size=2, num_classes=8)
    assert two.test_bytes < two.training_bytes + of_a_test  # no graph where ranks meet


def test_parts_add_up_to_the_peak():
    with fake_gpu() as live:
        kept = torch.empty(1000)
        live.name([kept], "parameter")
        live.forget_peak()
        start = live.now()
        saved = torch.empty(300)  # 1200 bytes: three steps of 512
        live.name_made_after(start, "saved")
        torch.empty(5000)  # gone at once
        view = saved[10:]
        del saved
        parts = live.peak_parts()
    assert live.peak_bytes == sum(parts.values()) == 4096 + 1536 + 20480
    assert (parts["parameter"], parts["saved"], parts["temporary"]) == (4096, 1536, 20480)
    assert live.num_bytes == 4096 + 1536
    assert view.shape == (290,)


@pytest.mark.parametrize(
    ("world_size", "clips", "gradients", "buckets"),
    [(1, 8, 0, False), (1, 4, 1, False), (1, 2, 2, False), (1, 1, 3, False), (2, 4, 0, True), (2, 2, 1, True)],
)
def test_gradients_where_forwards_accumulate_and_buckets_where_ranks_meet(world_size, clips, gradients, buckets):
    """`gradients`: how many of each; sums of four and of two forwards are set aside while others run."""
    config = tiny("norm=gn", "data.crop=224", "data.short_side=[256,320]")
    predicted = predict(config, clips_per_forward=clips, world_size=world_size, num_classes=8)
    size = predicted.optimizer_bytes
    assert predicted.ddp_bytes == pytest.approx(size if buckets else 0, rel=0.05)
    if gradients:
        assert predicted.gradient_bytes == pytest.approx(gradients * size, rel=0.05)
    else:  # only those that backward has come to by the peak, or none beside the buckets
        assert predicted.gradient_bytes < (0.1 if buckets else 0.9) * size


@pytest.mark.long  # the models' tests hold the ratio
def test_plain_group_norm_under_autocast_doubles_what_is_saved():
    """CUDA's autocast runs group_norm in float32; ours keeps 16 bits (the 0.48 of its activations)."""

    def saved(wraps_plain):
        config = load_config(["norm=gn", "trainer.precision=bf16", "trainer.memory_format=channels_last"])
        with fake_gpu() as live:
            from vidgn.memory import prediction as module

            step = module._step(config, Geometry(64, 1, 1, 8), 400)
            if wraps_plain:
                for name, layer in list(step.model.named_modules()):
                    if hasattr(layer, "groups") and hasattr(layer, "num_features"):
                        parent, _, child = name.rpartition(".")
                        setattr(step.model.get_submodule(parent), child, nn.GroupNorm(32, layer.num_features))
            start = live.now()
            forward = step.clip_forward()
            return live.name_made_after(start, "saved", but=[forward.logits_NK])

    ours, plain = saved(False), saved(True)
    assert plain / GIB == pytest.approx(5.13, abs=0.02)
    assert ours <= 0.48 * plain


def test_autocast_casts_as_cuda_does_and_only_inside():
    """CPU's own policy upcasts pools and leaves group_norm; CUDA's does the opposite (torch's list of CUDA ops)."""

    def types():
        with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16):
            x = torch.ones(2, 4, 4, 4, 4, dtype=torch.bfloat16)
            return [
                y.dtype
                for y in (
                    nn.functional.max_pool3d(x, 2),
                    nn.functional.avg_pool3d(x, 2),
                    nn.functional.group_norm(x, 2),
                    nn.functional.conv3d(x.float(), torch.ones(1, 4, 1, 1, 1)),
                )
            ]

    half, full = torch.bfloat16, torch.float32
    before = types()
    with cuda_autocast_policy():
        assert types() == [half, half, full, half]
    assert types() == before == [full, full, half, half]


def test_tests_count_too():
    """The test pushes clips_per_gpu views of 256/224 of the crop at once, however few clips a forward has."""
    config = tiny("norm=gn", "views=paper", "clips_per_gpu=8", "trainer.eval_every=0")
    assert evaluation_forwards(config) == [(8, 32)]
    assert evaluation_forwards(tiny("norm=gn", "views=center")) == [(4, 28), (8, 28)]  # the curve: 8 videos of one clip
    lone = predict(config, clips_per_forward=1, num_classes=8)
    assert lone.test_bytes > lone.training_bytes
    assert lone.peak_bytes == lone.test_bytes


def test_what_is_not_legal_is_refused():
    with pytest.raises(ConfigError, match="clips_per_forward=3"):
        predict(tiny("norm=bn"), clips_per_forward=3)


def test_what_memory_does_not_depend_on_is_predicted_once():
    config = tiny("norm=gn")
    other = dataclasses.replace(config, seed=7, study="other")
    assert predict(config, clips_per_forward=4) is predict(other, clips_per_forward=4)


def real_step(config):
    geometry = Geometry(config.slots_per_step, group_clips(config), 1, 4)
    cpu = torch.device("cpu")
    return WarmStep(config, place_model(make_model(config, num_classes=8), config, cpu), geometry=geometry, device=cpu)


def test_clips_come_in_the_type_that_autocast_would_give_conv1():
    """Cast once for all, bit for bit as autocast would; the float32 clip does not live through the forward."""
    clip_NTHWC = torch.arange(2 * 8 * 28 * 28 * 3).remainder(256).view(2, 8, 28, 28, 3).to(torch.uint8)
    cpu = torch.device("cpu")
    full, half = (ToModel(tiny("norm=gn", f"trainer.precision={p}"), cpu)(clip_NTHWC) for p in ("fp32", "bf16"))
    assert (full.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(full.to(torch.bfloat16), half)
