"""The networks against the papers' numbers, and initial weights."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vidgn.config.compose import load_config
from vidgn.config.schema import NormConfig
from vidgn.errors import ConfigError
from vidgn.models.i3d import (
    TemporalConv,
    assemble_model,
    build_model,
    check_clip,
    check_model,
    final_size,
    max_over_windows,
    parameter_roles,
)
from vidgn.models.norms.layers import has_running_statistics, norm_layers
from vidgn.training.setup import set_precision

KINDS = ["bn", "sync_bn", "frozen_bn", "gn", "ln", "in"]


@pytest.fixture(scope="module")
def models():
    names = ["i3d_r50", "i3d_r50_8x8", "i3d_r101", "i3d_tiny", "resnet50", "resnet101"]
    return {name: load_config([f"model={name}"]).model for name in names}


def norm(kind, groups=None):
    return NormConfig(kind=kind, groups=groups, channels_per_group=None, eps=1e-5, momentum=0.1)


def multiply_adds(net, *shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.empty(1, 3, *shape, device="meta"))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("kind", KINDS)
def test_size_of_the_papers_net(models, kind):
    net = assemble_model(models["i3d_r50"], norm(kind), num_classes=400, frames=32, crop=224)
    layers = norm_layers(net)
    roles = list(parameter_roles(net).values())
    assert sum(p.numel() for p in net.parameters()) == 28_043_472
    assert len(layers) == 53
    assert roles.count("norm_gamma_last") == 16
    running = sum(b.numel() for _, layer in layers if has_running_statistics(layer) for b in layer.buffers())
    assert running == (53_120 if kind in ("bn", "sync_bn") else 0)


@pytest.mark.parametrize(
    ("frames", "crop", "giga"), [(32, 224, 32.830), (64, 224, 65.659), (32, 256, 42.928), (64, 256, 85.855)]
)
def test_multiply_adds_of_the_papers_net(models, frames, crop, giga):
    net = assemble_model(models["i3d_r50"], norm("gn"), num_classes=400, frames=frames, crop=crop)
    assert round(multiply_adds(net, frames, crop, crop) / 1e9, 3) == giga


def test_multiply_adds_of_the_papers_test(models):
    """A net for 224 on 256 x 256: the fc runs on a 2 x 2 map."""
    net = assemble_model(models["i3d_r50"], norm("gn"), num_classes=400, frames=32, crop=224)
    assert round(multiply_adds(net, 32, 256, 256) / 1e9, 3) == 42.930
    assert net(torch.empty(2, 3, 32, 256, 256, device="meta")).shape == (2, 400, 1, 2, 2)


def test_q_has_ps_parameters_at_three_times_the_work(models):
    p, q = (
        assemble_model(models[name], norm("bn"), num_classes=400, frames=32, crop=224)
        for name in ("i3d_r50", "i3d_r50_8x8")
    )
    assert sum(t.numel() for t in p.parameters()) == sum(t.numel() for t in q.parameters())
    assert {k: v.shape for k, v in p.state_dict().items()} == {k: v.shape for k, v in q.state_dict().items()}
    ratio = multiply_adds(q, 32, 224, 224) / multiply_adds(p, 32, 224, 224)
    assert 3.4 < ratio < 3.5


@pytest.mark.parametrize(("frames", "sizes"), [(32, [16, 8, 8, 4, 4, 4, 4]), (64, [32, 16, 16, 8, 8, 8, 8])])
def test_temporal_sizes(models, frames, sizes):
    net = assemble_model(models["i3d_r50"], norm("gn"), num_classes=400, frames=frames, crop=224).eval()
    seen = []
    for module in [net.blocks[0].conv, net.blocks[0].pool, *net.blocks[1:6]]:
        module.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[2]))
    units = [net.blocks[0], *net.blocks[1:6]]
    x = torch.empty(1, 3, frames, 224, 224, device="meta")
    for unit in units:
        x = unit(x)
    assert seen == sizes
    assert x.shape[2:] == final_size(models["i3d_r50"], frames=frames, crop=224) == (frames // 8, 7, 7)


def test_where_strides_and_temporal_kernels_are(models):
    net = assemble_model(models["i3d_r50"], norm("gn"), num_classes=400, frames=32, crop=224)
    stages = [net.blocks[i] for i in (1, 3, 4, 5)]
    kernels = [[b.branch2.conv_a.kernel_size for b in stage.res_blocks] for stage in stages]
    t, s = (3, 1, 1), (1, 1, 1)
    assert kernels == [[t, t, t], [t, s, t, s], [t, s, t, s, t, s], [s, t, s]]
    strided = {n: m.stride for n, m in net.named_modules() if isinstance(m, nn.Conv3d) and max(m.stride) > 1}
    expected = {"blocks.0.conv": (2, 2, 2)}
    for i in (3, 4, 5):
        expected[f"blocks.{i}.res_blocks.0.branch1_conv"] = (1, 2, 2)
        expected[f"blocks.{i}.res_blocks.0.branch2.conv_b"] = (1, 2, 2)
    assert strided == expected
    shortcuts = [n for n, _ in net.named_modules() if n.endswith("branch1_conv")]
    assert shortcuts == [f"blocks.{i}.res_blocks.0.branch1_conv" for i in (1, 3, 4, 5)]
    assert all(p.shape[1:] == (1, 1, 1) or "weight" in n for n, p in net.named_parameters() if "conv" in n)


def test_deeper_nets(models):
    net = assemble_model(models["i3d_r101"], norm("bn"), num_classes=400, frames=32, crop=224)
    kernels = [b.branch2.conv_a.kernel_size[0] for b in net.blocks[4].res_blocks]
    assert kernels == [3 if i % 2 == 0 else 1 for i in range(23)]  # NLN, obtain_arc(4)
    image = assemble_model(models["resnet50"], norm("bn"), num_classes=1000, frames=1, crop=224)
    assert sum(p.numel() for p in image.parameters()) == 25_557_032  # torchvision's ResNet-50
    assert round(multiply_adds(image, 1, 224, 224) / 1e9, 2) == 4.09


def test_names_are_pytorchvideos(models):
    net = assemble_model(models["i3d_r50"], norm("bn"), num_classes=400, frames=32, crop=224)
    names = set(net.state_dict())
    assert {
        "blocks.0.conv.weight",
        "blocks.0.norm.running_var",
        "blocks.1.res_blocks.0.branch1_conv.weight",
        "blocks.1.res_blocks.0.branch1_norm.bias",
        "blocks.3.res_blocks.3.branch2.conv_b.weight",
        "blocks.5.res_blocks.2.branch2.norm_c.running_mean",
        "blocks.6.proj.weight",
        "blocks.6.proj.bias",
    } <= names


@pytest.mark.parametrize(
    ("name", "frames", "crop", "smallest"),
    [
        ("i3d_r50", 4, 224, "frames=7 and data.crop=5"),
        ("i3d_r50", 32, 4, "frames=7 and data.crop=5"),
        ("i3d_r50_8x8", 1, 224, "frames=2 and data.crop=1"),
    ],
)
def test_smallest_clip(models, name, frames, crop, smallest):
    model = models[name]
    with pytest.raises(ConfigError, match=f"frames={frames}, data.crop={crop} does not survive .* it takes {smallest}"):
        check_clip(model, frames=frames, crop=crop)
    numbers = [int(word.split("=")[1]) for word in smallest.split(" and ")]
    net = assemble_model(model, norm("gn"), num_classes=5, frames=numbers[0], crop=numbers[1]).eval()
    assert net(torch.empty(1, 3, numbers[0], numbers[1], numbers[1], device="meta")).shape == (1, 5, 1, 1, 1)


def test_any_clip_that_survives_makes_one_position(models):
    for frames, crop in [(7, 5), (8, 112), (17, 63), (33, 225), (128, 40)]:
        net = assemble_model(models["i3d_r50"], norm("gn"), num_classes=5, frames=frames, crop=crop).eval()
        assert net(torch.empty(1, 3, frames, crop, crop, device="meta")).shape == (1, 5, 1, 1, 1)


def test_groups_are_checked_before_anything_is_built(models):
    with pytest.raises(ConfigError, match=r"norm.groups=32 does not divide the 16 channels of a norm: give 16"):
        check_model(models["i3d_tiny"], norm("gn", groups=32), frames=16, crop=56)


def test_initial_weights_depend_on_the_seed_alone(models):
    nets = {}
    for kind in KINDS:
        torch.manual_seed(len(nets))
        state = torch.get_rng_state()
        nets[kind] = build_model(models["i3d_tiny"], norm(kind), num_classes=8, frames=16, crop=56, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
    reference = dict(nets["bn"].named_parameters())
    for net in nets.values():
        assert all(torch.equal(p, reference[n]) for n, p in net.named_parameters())
    other = build_model(models["i3d_tiny"], norm("bn"), num_classes=8, frames=16, crop=56, seed=4)
    assert not torch.equal(other.blocks[0].conv.weight, reference["blocks.0.conv.weight"])


def test_initial_weights_by_role(models):
    net = build_model(models["i3d_r50"], norm("gn"), num_classes=400, frames=32, crop=224)
    roles = parameter_roles(net)
    for name, p in net.named_parameters():
        values = p.detach().double().numpy()
        match roles[name]:
            case "conv":
                out, _, t, h, w = p.shape
                expected = np.sqrt(2 / (out * t * h * w))  # Caffe2's MSRAFill
                assert abs(values.std() / expected - 1) < 5 / np.sqrt(values.size)
                assert abs(values.mean()) < 5 * expected / np.sqrt(values.size)
            case "fc":
                assert abs(values.std() / 0.01 - 1) < 0.01
            case "norm_gamma":
                assert (values == 1).all()
                assert not name.endswith("norm_c.weight")
            case "norm_gamma_last":
                assert (values == 0).all()
            case "fc_bias" | "norm_beta":
                assert (values == 0).all()
    tiny = build_model(models["i3d_tiny"], norm("gn"), num_classes=8, frames=16, crop=56)
    assert all((layer.weight == 1).all() for _, layer in norm_layers(tiny))


def test_dropout_is_the_callers(models):
    net = build_model(models["i3d_tiny"], norm("gn"), num_classes=8, frames=16, crop=32)
    x = torch.randn(2, 3, 16, 32, 32)
    with pytest.raises(AssertionError):
        net(x)
    with torch.no_grad():
        kept = net(x, torch.ones(2, 512))
        half = net(x, torch.stack([torch.ones(512), torch.zeros(512)]))
        assert torch.equal(half[0], kept[0])
        torch.testing.assert_close(half[1].flatten(), net.blocks[-1].proj.bias)
        torch.testing.assert_close(net.eval()(x), kept)


def test_a_clips_loss_on_gn_is_its_own(models):
    net = build_model(models["i3d_tiny"], norm("gn"), num_classes=8, frames=8, crop=32).double()
    x = torch.randn(3, 3, 8, 32, 32, dtype=torch.float64)
    scale = torch.ones(3, 512, dtype=torch.float64)
    together = net(x, scale)
    others = net(torch.cat([x[:1], torch.randn_like(x[1:])]), scale)
    torch.testing.assert_close(others[0], together[0], rtol=0, atol=1e-12)
    bn = build_model(models["i3d_tiny"], norm("bn"), num_classes=8, frames=8, crop=32).double()
    assert not torch.allclose(bn(x, scale)[0], bn(torch.cat([x[:1], x[1:] + 1]), scale)[0])


def test_compiles_as_one_graph(models):
    net = build_model(models["i3d_tiny"], norm("bn"), num_classes=8, frames=8, crop=32)
    x, scale = torch.randn(2, 3, 8, 32, 32), torch.ones(2, 512)
    expected = net(x, scale)
    mean = net.blocks[0].norm.batch_mean_GC
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, scale), expected)
    torch.testing.assert_close(net.blocks[0].norm.batch_mean_GC, mean)


@pytest.mark.parametrize("name", ["i3d_r50", "i3d_r50_8x8"])
def test_max_over_windows_is_the_pool(models, name):
    for pool in (models[name].pool1, models[name].pool2):
        x = torch.randn(2, 3, 5, 9, 8, dtype=torch.float64, requires_grad=True)
        expected = F.max_pool3d(x, pool.kernel, pool.stride, pool.padding)
        got = max_over_windows(x, pool.kernel, pool.stride, pool.padding)
        assert torch.equal(got, expected)
        weight = torch.randn_like(expected)
        one, other = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, expected))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_the_head_averages_the_training_map_and_slides_over_a_larger_one(models):
    net = build_model(models["i3d_tiny"], norm("gn"), num_classes=8, frames=16, crop=56).double()
    for size in (net.head.pool.kernel_size, (3, 4, 5)):
        x = torch.randn(2, 512, *size, dtype=torch.float64)
        expected = net.head.proj(net.head.pool(x).movedim(1, -1)).movedim(-1, 1)
        torch.testing.assert_close(net.head(x), expected, rtol=0, atol=1e-12)


def test_backward_at_the_training_size_has_no_op_without_a_fixed_order(models):
    """CUDA's AvgPool3d and MaxPool3d raise under deterministic algorithms; the net's own pools need not be asked."""
    net = build_model(models["i3d_tiny"], norm("gn"), num_classes=8, frames=16, crop=32)
    seen, nodes = set(), [net(torch.randn(2, 3, 16, 32, 32), torch.ones(2, 512)).grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [n for n, _ in node.next_functions]
    assert not any("AvgPool3D" in node.name() for node in seen)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 1, 1), 1), ((3, 1, 1), (2, 1, 1)), ((1, 1, 1), 1)])
def test_a_convolution_over_time_is_what_conv3d_is(kernel, stride, format):
    torch.manual_seed(0)
    padding = (kernel[0] // 2, 0, 0)
    ours = TemporalConv(4, 6, kernel, stride, padding, bias=False).double()
    plain = nn.Conv3d(4, 6, kernel, stride, padding, bias=False).double()
    plain.load_state_dict(ours.state_dict())
    results = []
    for conv in (ours, plain):
        clip_NCTHW = torch.rand(2, 4, 5, 6, 7, dtype=torch.float64, generator=torch.manual_seed(1))
        clip_NCTHW = clip_NCTHW.to(memory_format=format).requires_grad_()
        out = conv(clip_NCTHW)
        out.square().sum().backward()
        results.append((out, clip_NCTHW.grad, conv.weight.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["bn", "gn"])
def test_deterministic_steps_on_a_gpu_repeat_to_the_bit(models, kind):
    def two_steps():
        net = build_model(models["i3d_tiny"], norm(kind), num_classes=8, frames=16, crop=32).cuda()
        sgd = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        for seed in range(2):
            x = torch.randn(4, 3, 16, 32, 32, generator=torch.Generator().manual_seed(seed)).cuda()
            F.cross_entropy(net(x, torch.ones(4, 512, device="cuda")).flatten(1), torch.arange(4).cuda()).backward()
            sgd.step()
        return [p.detach().cpu() for p in net.parameters()]

    config = load_config(["trainer.deterministic=true"])
    try:
        set_precision(config)
        assert all(torch.equal(a, b) for a, b in zip(two_steps(), two_steps(), strict=True))
    finally:
        set_precision(load_config())
        assert not torch.are_deterministic_algorithms_enabled()
