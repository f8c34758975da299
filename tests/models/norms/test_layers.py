"""Every norm kind against moments worked out by hand and against torch's own layers."""

import pytest
import torch
from torch import nn

from vidgn.config.schema import NormConfig
from vidgn.errors import ConfigError
from vidgn.models.norms import kernels_cuda, operators
from vidgn.models.norms.layers import (
    BatchNorm,
    ClipNorm,
    check_norm,
    has_running_statistics,
    make_norm,
    norm_layers,
    set_statistics_groups,
)

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.gpu),
]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
EPS = 1e-5


def norm_config(kind, *, groups=None, channels_per_group=None):
    return NormConfig(kind=kind, groups=groups, channels_per_group=channels_per_group, eps=EPS, momentum=0.1)


def make(kind, channels=8, dtype=torch.float64, group_clips=None):
    """A norm of `kind` with gamma and beta that are not trivial."""
    module = make_norm(norm_config(kind), default_groups=4)(num_features=channels, eps=EPS, momentum=0.1).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        module.weight.copy_(torch.randn(channels, generator=generator))
        module.bias.copy_(torch.randn(channels, generator=generator))
        if isinstance(module, BatchNorm):
            module.running_mean.copy_(torch.randn(channels, generator=generator))
            module.running_var.copy_(torch.rand(channels, generator=generator) + 0.5)
    set_statistics_groups(module, group_clips=group_clips)
    return module


def clip(seed=0, shape=(4, 8, 3, 5, 4), dtype=torch.float64, fmt="contiguous"):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 1
    return x.to(dtype).contiguous(memory_format=FORMATS[fmt])


def by_hand(x, kind, module, *, group_clips):
    """The formula, one statistics set at a time, in float64."""
    x = x.double()
    n, c = x.shape[:2]
    channels_together = {"gn": c // 4, "ln": c, "in": 1}.get(kind, 1)
    clips_together = group_clips if kind in ("bn", "sync_bn") else 1
    y = torch.empty_like(x)
    for i in range(0, n, clips_together):
        for j in range(0, c, channels_together):
            part = x[i : i + clips_together, j : j + channels_together]
            mean = part.sum() / part.numel()
            var = ((part - mean) ** 2).sum() / part.numel()
            y[i : i + clips_together, j : j + channels_together] = (part - mean) / (var + EPS) ** 0.5
    return y * module.weight.double().view(1, -1, 1, 1, 1) + module.bias.double().view(1, -1, 1, 1, 1)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(("kind", "group_clips"), [("bn", 4), ("bn", 2), ("bn", 1), ("gn", 1), ("ln", 1), ("in", 1)])
def test_moments_by_hand(kind, group_clips, fmt):
    module, x = make(kind, group_clips=group_clips), clip(fmt=fmt)
    y = module(x)
    torch.testing.assert_close(y, by_hand(x, kind, module, group_clips=group_clips), rtol=0, atol=1e-12)
    assert y.stride() == x.stride()


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    ("kind", "group_clips"), [("bn", None), ("bn", 2), ("bn", 1), ("gn", None), ("ln", None), ("in", None)]
)
def test_gradcheck(kind, group_clips, fmt):
    module = make(kind, channels=4, group_clips=group_clips)
    x = clip(shape=(4, 4, 2, 2, 3), fmt=fmt).requires_grad_()
    parameters = (module.weight, module.bias)
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *parameters), atol=1e-6)


def test_gradcheck_of_fixed_statistics():
    module = make("bn", channels=4).eval()
    x = clip(shape=(3, 4, 2, 2, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, module.weight, module.bias), atol=1e-6)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("kind", ["bn", "gn", "ln", "in"])
@pytest.mark.parametrize("device", DEVICES)
def test_as_torch_does(kind, dtype, tolerance, fmt, device):
    """Values and gradients are those of torch's layer in float64, up to the input's precision."""
    module = make(kind, dtype=torch.float64 if dtype == torch.float64 else torch.float32).to(device)
    compare_with_torch(kind, module, dtype=dtype, tolerance=tolerance, fmt=fmt)


def compare_with_torch(kind, module, *, dtype, tolerance, fmt):
    device = module.weight.device
    groups = {"gn": 4, "ln": 1, "in": 8}.get(kind)
    peer = (nn.BatchNorm3d(8) if kind == "bn" else nn.GroupNorm(groups, 8)).double().to(device)
    with torch.no_grad():
        peer.weight.copy_(module.weight)
        peer.bias.copy_(module.bias)
    x = clip(dtype=dtype, fmt=fmt).to(device).requires_grad_()
    x_peer = x.detach().double().requires_grad_() if dtype != torch.float64 else x.detach().clone().requires_grad_()
    dy = clip(seed=5, dtype=dtype, fmt=fmt).to(device)
    y, y_peer = module(x), peer(x_peer)
    y.backward(dy)
    y_peer.backward(dy.double())
    assert y.dtype == x.grad.dtype == dtype
    for ours, theirs in [
        (y, y_peer),
        (x.grad, x_peer.grad),
        (module.weight.grad, peer.weight.grad),
        (module.bias.grad, peer.bias.grad),
    ]:
        assert (ours.double() - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("kind", ["bn", "gn", "ln", "in"])
def test_as_torch_does_with_the_kernels_of_cuda(kind, fmt, monkeypatch):
    """CUDA's way through the formulas, on a CPU: the four kernels stand here as SyncBatchNorm documents them."""

    def at(v):
        return v.view(1, -1, 1, 1, 1)

    def stats(x, eps):
        return x.mean((0, 2, 3, 4)), (x.var((0, 2, 3, 4), correction=0) + eps).rsqrt()

    def elemt(x, weight, bias, mean, invstd, eps, *, out):
        return out.copy_((x - at(mean)) * at(invstd * weight) + at(bias))

    def backward_reduce(dy, x, mean, invstd, weight, input_g, weight_g, bias_g):
        return dy.sum((0, 2, 3, 4)), (dy * (x - at(mean))).sum((0, 2, 3, 4)), None, None

    def backward_elemt(dy, x, mean, invstd, weight, sum_dy, sum_dy_xmu, count):
        n = count.sum()
        projected = (x - at(mean)) * at(invstd**2 * sum_dy_xmu / n)
        return (dy - at(sum_dy / n) - projected) * at(invstd * weight)

    monkeypatch.setattr(operators, "kernels_for", lambda x: kernels_cuda)
    for function in (stats, elemt, backward_reduce, backward_elemt):
        monkeypatch.setattr(torch, f"batch_norm_{function.__name__}", function)
    module = make(kind)
    with torch.no_grad():
        module.weight[:3] = 0  # as at the start of training
    compare_with_torch(kind, module, dtype=torch.float64, tolerance=1e-12, fmt=fmt)


@pytest.mark.parametrize("fmt", FORMATS)
def test_ghost_groups_are_plain_batch_norms(fmt):
    """8 clips in groups of 2 are four forwards of nn.BatchNorm3d; the moments left on the module are those groups'."""
    module, peer = make("bn", group_clips=2), nn.BatchNorm3d(8).double()
    peer.load_state_dict(
        {**module.state_dict(), "num_batches_tracked": torch.tensor(0)},
    )
    x, dy = clip(shape=(8, 8, 3, 5, 4), fmt=fmt).requires_grad_(), clip(seed=3, shape=(8, 8, 3, 5, 4), fmt=fmt)
    x_peer = x.detach().clone().requires_grad_()
    y = module(x)
    y_peer = torch.cat([peer(part) for part in x_peer.split(2)])
    y.backward(dy)
    y_peer.backward(dy)
    for ours, theirs in [(y, y_peer), (x.grad, x_peer.grad), (module.weight.grad, peer.weight.grad)]:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)
    groups = x.detach().view(4, 2, 8, 3, 5, 4)
    torch.testing.assert_close(module.batch_mean_GC, groups.mean((1, 3, 4, 5)))
    torch.testing.assert_close(module.batch_var_GC, groups.var((1, 3, 4, 5), correction=0))
    assert module.batch_count == 2 * 3 * 5 * 4


def test_running_statistics_are_the_callers():
    module = make("bn")
    before = (module.running_mean.clone(), module.running_var.clone())
    module(clip())
    assert torch.equal(module.running_mean, before[0])
    assert torch.equal(module.running_var, before[1])
    x = clip()
    expected = nn.functional.batch_norm(x, *before, module.weight, module.bias, False, 0.0, EPS)
    torch.testing.assert_close(module.eval()(x), expected)


def test_frozen_bn_is_an_affine_map_and_learns_nothing():
    module = make("frozen_bn").train()
    x = clip().requires_grad_()
    y = module(x)
    expected = nn.functional.batch_norm(
        x.detach(), module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, EPS
    )
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    slope = module.weight / (module.running_var + EPS).sqrt()
    torch.testing.assert_close(x.grad, slope.view(1, -1, 1, 1, 1).expand_as(x).detach())
    assert module.weight.grad is None
    assert not any(p.requires_grad for p in module.parameters())
    assert module.batch_mean_GC is None
    assert not has_running_statistics(module)


@pytest.mark.parametrize("kind", ["gn", "ln", "in"])
def test_a_clip_does_not_see_its_batch(kind):
    module, x = make(kind), clip()
    alone = torch.cat([module(part) for part in x.split(1)])
    assert torch.equal(module(x), alone)


def test_large_offsets_do_not_spoil_float32():
    """A mean thirty deviations from zero: the variance is right to 1e-3, where E[x^2] - E[x]^2 in float32 is not."""
    x = (clip(shape=(2, 4, 8, 20, 20)) + 60).float()
    for fmt in FORMATS.values():
        module = BatchNorm(4)
        module(x.contiguous(memory_format=fmt))
        var = x.double().var((0, 2, 3, 4), correction=0)
        torch.testing.assert_close(module.batch_var_GC[0].double(), var, rtol=1e-3, atol=0)


@pytest.mark.parametrize("offset", [1.9, 100, 1000])
def test_a_variance_is_right_however_far_the_mean(offset):
    x = torch.randn(8, 16, 4, 9, 9, generator=torch.Generator().manual_seed(0)) + offset
    for rows, groups in ((1, 16), (2, 16), (8, 4)):
        _, var = operators.batch_moments(x, rows=rows, groups=groups)
        exact = x.double().reshape(rows, 8 // rows, groups, 16 // groups, -1).var((1, 3, 4), correction=0)
        assert ((var - exact) / exact).abs().max() < 1e-6


def test_a_constant_map_gives_beta():
    for fmt in FORMATS.values():
        x = torch.full((2, 8, 2, 3, 3), 7.3).contiguous(memory_format=fmt)
        module = make("gn", dtype=torch.float32)
        torch.testing.assert_close(module(x)[0, :, 0, 0, 0], module.bias.detach(), rtol=0, atol=1e-3)


def test_input_of_no_memory_format():
    x = clip(shape=(4, 8, 3, 5, 8))[..., ::2]
    for kind in ("bn", "gn"):
        torch.testing.assert_close(make(kind)(x), make(kind)(x.contiguous()))


@pytest.mark.parametrize("kind", ["bn", "gn", "ln", "in", "frozen_bn"])
def test_autocast_keeps_bfloat16(kind):
    module, x = make(kind, dtype=torch.float32), clip(dtype=torch.bfloat16)
    saved = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
    with torch.autocast("cpu", dtype=torch.bfloat16), hooks:
        y = module(x.requires_grad_())
    assert y.dtype == torch.bfloat16
    assert [t.shape for t in saved if t.dtype == torch.bfloat16] == [
        x.shape
    ]  # the input as it came, nothing else large
    assert all(t.numel() <= 4 * 8 for t in saved if t.dtype == torch.float32)


def test_a_forward_that_groups_do_not_divide():
    with pytest.raises(ConfigError, match="a forward of 4 clips can't be cut into statistics groups of 3: give a mult"):
        make("bn", group_clips=3)(clip())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (norm_config("gn", groups=5), r"norm.groups=5 does not divide the 64 channels of a norm: give 4 or 8"),
        (norm_config("gn", groups=128), r"norm.groups=128 does not divide the 64 channels of a norm: give 64"),
        (norm_config("gn", groups=0), r"norm.groups=0 does not divide the 64 channels of a norm: give 1"),
        (norm_config("gn", channels_per_group=48), r"channels_per_group=48 does not divide the 64 ch.*: give 32 or 64"),
    ],
)
def test_groups_that_do_not_divide(config, message):
    with pytest.raises(ConfigError, match=message):
        check_norm(config, channels=[256, 64, 128], default_groups=32)


@pytest.mark.parametrize("kind", ["bn", "sync_bn", "frozen_bn", "gn", "ln", "in"])
@pytest.mark.parametrize("shape", [(4, 8, 5, 4), (4, 8, 6), (4, 8)])
def test_fewer_axes_are_five_with_ones(kind, shape):
    """Images (N, C, H, W) and vectors, as clips of one frame; values and gradients to the bit."""
    if kind == "in" and len(shape) == 2:
        return  # one value to normalise by itself
    five = (*shape[:2], *(1,) * (5 - len(shape)), *shape[2:])
    found = []
    for axes in (shape, five):
        module, x = make(kind), clip(shape=shape).reshape(axes).requires_grad_()
        residual = clip(seed=1, shape=shape).reshape(axes)
        y = module(x, residual, relu=True)
        assert y.shape == x.shape
        y.square().sum().backward()
        found.append([y.flatten(), x.grad.flatten(), module.weight.grad, module.bias.grad])
    for few, many in zip(*found, strict=True):
        assert (few is None and many is None) or torch.equal(few, many)
    with pytest.raises(ConfigError, match=r"up to three axes more, not a tensor of shape \(2, 8, 1, 1, 1, 1\)"):
        make(kind)(torch.zeros(2, 8, 1, 1, 1, 1, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["bn", "sync_bn", "frozen_bn", "gn", "ln", "in"])
@pytest.mark.parametrize("shape", [(0, 8, 7, 7), (0, 8, 2, 7, 7)])
def test_of_nothing_comes_nothing(kind, shape):
    """As the masks of images without objects: gradients are there and zero, running statistics stay."""
    module = make(kind)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape
    trained = [p for p in module.parameters() if p.requires_grad]
    assert all(p.grad is not None and not p.grad.any() for p in trained)
    if kind in ("bn", "sync_bn"):
        assert torch.equal(module.batch_mean_GC[0], before["running_mean"])
        assert module.batch_count == 0


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", [(4, 8, 2, 5, 4), (0, 8, 2, 5, 4)])
@pytest.mark.parametrize(("rows", "groups"), [(1, 8), (4, 2)])
def test_operators_are_what_compilers_take_them_for(rows, groups, shape, fmt):
    """No result shares memory with another or with what was given, and shapes and formats are those announced."""
    x = clip(shape=shape, fmt=fmt)
    vectors = [torch.rand(rows, groups).double() + 0.5 for _ in range(2)] + [torch.rand(8).double() for _ in range(2)]
    calls = {
        operators.moments: (x, rows, groups),
        operators.normalise: (x, *vectors, x, EPS, True),
        operators.gradient: (x, x, x, *vectors, 40, EPS, True, True, None),
    }
    for operator, arguments in calls.items():
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_channels_per_group():
    factory = make_norm(norm_config("gn", channels_per_group=16), default_groups=32)
    assert [factory(num_features=c).groups for c in (64, 256)] == [4, 16]
    assert make_norm(norm_config("gn"), default_groups=32)(num_features=64).groups == 32


def test_norm_layers_names_them():
    net = nn.Sequential(nn.Conv3d(3, 8, 1), ClipNorm(8, groups=2), nn.Sequential(BatchNorm(8)))
    assert [name for name, _ in norm_layers(net)] == ["1", "2.0"]
    assert [has_running_statistics(m) for _, m in norm_layers(net)] == [False, True]
