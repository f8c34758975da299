"""Triton's kernels against the formula in float64: in Triton's interpreter where there is no GPU, else on it."""

import importlib
import math
from collections import Counter

import pytest
import torch
from torch import nn

from tests.models.norms.test_layers import norm_config
from vidgn.config.compose import load_config
from vidgn.distributed.ranks import Ranks
from vidgn.errors import ConfigError
from vidgn.models.activation_memory import run_units, set_activation_memory
from vidgn.models.i3d import build_model
from vidgn.models.norms import operators, program_cut
from vidgn.models.norms.layers import make_norm, set_statistics_groups
from vidgn.training import norm_kernels
from vidgn.training.normal_pixels import normal_pixels

pytest.importorskip("triton", reason="needs Triton, which torch brings on Linux")
kernels_triton = importlib.import_module("vidgn.models.norms.kernels_triton")
normal_pixels_triton = importlib.import_module("vidgn.training.normal_pixels_triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORMATS = {"NDHWC": torch.channels_last_3d, "NCDHW": torch.contiguous_format}
KINDS = ("bn", "ghost bn", "frozen_bn", "gn", "ln", "in")
BEHIND = {"nothing": (False, False), "relu": (False, True), "add": (True, False), "add and relu": (True, True)}
EPS = 1e-5


@pytest.fixture(autouse=True)
def triton(monkeypatch):
    """Small programs, so that small maps have several slices, tiles and ragged ends; memory is NaN until written."""
    for name, value in {"_TILE": 64, "_BLOCK": 16, "_PROGRAMS": 16}.items():
        monkeypatch.setattr(program_cut, name, value)
    operators.use_triton(True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    operators.use_triton(False)
    assert all(not counter.any() for counter in kernels_triton._counters.values())


def module_of(kind, channels, dtype):
    module = make_norm(norm_config(kind.split()[-1]), default_groups=8)(num_features=channels).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(torch.randn(channels, generator=generator).abs() + 0.1)
        module.bias.sub_(0.5)
    set_statistics_groups(module, group_clips=2 if kind == "ghost bn" else None)
    return module.to(DEVICE)


def maps_of(shape, dtype, fmt, *, offset=0.0):
    """x, residual, dy; channels differ in mean and deviation."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    scale, shift = drawn(1, shape[1], 1, 1, 1).abs() + 0.5, drawn(1, shape[1], 1, 1, 1) + offset
    maps = [drawn(*shape) * scale + shift, drawn(*shape), drawn(*shape)]
    return [m.to(DEVICE, dtype).contiguous(memory_format=FORMATS[fmt]) for m in maps]


def results(module, x, residual, dy, *, relu):
    x, residual = (None if t is None else t.detach().requires_grad_() for t in (x, residual))
    leaves = [t for t in (x, residual, module.weight, module.bias) if t is not None and t.requires_grad]
    y = module(x, residual, relu=relu)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def by_formula(kind, module, x, residual, dy, *, relu, mask):
    """The same in float64 by autograd through the formula; `mask`: where ReLU let values through."""
    x, gamma, beta = (t.detach().double().cpu().requires_grad_() for t in (x, module.weight, module.bias))
    residual = None if residual is None else residual.detach().double().cpu().requires_grad_()
    clips, channels = x.shape[:2]
    if kind == "frozen_bn":
        mean, var = (b.double().cpu().view(1, -1, 1, 1, 1) for b in (module.running_mean, module.running_var))
    else:
        rows = {"bn": 1, "ghost bn": clips // 2}.get(kind, clips)
        groups = {"gn": 8, "ln": 1}.get(kind, channels)
        grouped = x.reshape(rows, clips // rows, groups, channels // groups, -1)
        mean, var = grouped.mean((1, 3, 4), keepdim=True), grouped.var((1, 3, 4), correction=0, keepdim=True)
        mean, var = (v.expand_as(grouped).reshape(x.shape) for v in (mean, var))
    z = (x - mean) / (var + EPS).sqrt() * gamma.view(1, -1, 1, 1, 1) + beta.view(1, -1, 1, 1, 1)
    z = z if residual is None else z + residual
    leaves = [x, *([residual] if residual is not None else []), *([gamma, beta] if kind != "frozen_bn" else [])]
    gradients = torch.autograd.grad(z * mask if relu else z, leaves, dy.double().cpu())
    return [(z.relu() if relu else z).detach(), *gradients]


def worst(found, exact):
    errors = [float((f.double().cpu() - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True)]
    assert all(math.isfinite(e) for e in errors)
    return max(errors)


def compare(kind, shape, dtype, fmt, behind="add and relu", *, offset=0.0):
    adds, relu = BEHIND[behind]
    module = module_of(kind, shape[1], torch.promote_types(dtype, torch.float32))
    x, residual, dy = maps_of(shape, dtype, fmt, offset=offset)
    residual = residual if adds else None
    found = results(module, x, residual, dy, relu=relu)
    assert found[0].stride() == x.stride()
    assert all(f.dtype == dtype for f in found[: 3 if adds else 2])
    mask = (found[0] > 0).double().cpu() if relu else None
    return worst(found, by_formula(kind, module, x, residual, dy, relu=relu, mask=mask))


@pytest.mark.parametrize(("fmt", "behind"), [("NDHWC", "add and relu"), ("NCDHW", "relu")])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_both_formats(kind, fmt, behind):
    assert compare(kind, (4, 16, 2, 5, 5), torch.float32, fmt, behind) < 1e-6


@pytest.mark.long
@pytest.mark.parametrize(("fmt", "behind"), [("NDHWC", "relu"), ("NCDHW", "add and relu")])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_with_the_other_behind_it(kind, fmt, behind):
    assert compare(kind, (4, 16, 2, 5, 5), torch.float32, fmt, behind) < 1e-6


@pytest.mark.parametrize("behind", ["nothing", "add"])
@pytest.mark.parametrize("kind", ["gn", "frozen_bn"])
def test_without_a_relu(kind, behind):
    assert compare(kind, (2, 16, 2, 3, 3), torch.float32, "NDHWC", behind) < 1e-6


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(("kind", "dtype"), [("ghost bn", torch.float16), ("gn", torch.bfloat16)])
def test_16_bits_with_statistics_of_32(kind, fmt, dtype):
    assert compare(kind, (4, 16, 1, 5, 5), dtype, fmt) < 4e-3


@pytest.mark.parametrize("fmt", ["NDHWC", pytest.param("NCDHW", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("gn", (2, 24, 1, 3, 3)),  # groups of 3 channels
        ("gn", (1, 200, 1, 2, 1)),  # groups of 25, wider than a block, and no multiple of one
        ("ln", (3, 40, 2, 3, 3)),  # a group over several blocks
        ("ln", (1, 40, 1, 1, 1)),  # T*H*W = 1, N = 1
        ("gn", (1, 72, 1, 1, 1)),
        ("bn", (5, 7, 1, 1, 1)),
        ("in", (3, 5, 3, 3, 1)),
        ("ghost bn", (2, 1, 2, 3, 3)),
    ],
)
def test_odd_sizes(kind, shape, fmt):
    assert compare(kind, shape, torch.float32, fmt) < 2e-6


@pytest.mark.parametrize("kind", ["bn", "gn"])
def test_a_mean_far_from_zero(kind):
    """At 300 deviations a float32 is 1e-5 of the deviation off, and so may the result be."""
    assert compare(kind, (4, 16, 2, 5, 5), torch.float32, "NDHWC", offset=300.0) < 1e-4


def test_float64_is_exact_where_eps_counts():
    """Of a map that hardly varies: eps is not rounded to float32 on its way."""
    module, (x, residual, dy) = module_of("bn", 16, torch.float64), maps_of((4, 16, 1, 3, 3), torch.float64, "NDHWC")
    x = x * 1e-3
    found = results(module, x, residual, dy, relu=True)
    assert worst(found, by_formula("bn", module, x, residual, dy, relu=True, mask=(found[0] > 0).cpu())) < 1e-12


@pytest.mark.parametrize("kind", ["bn", pytest.param("ln", marks=pytest.mark.long)])
def test_finite_differences(kind):
    module, (x, residual, _) = module_of(kind, 2, torch.float64), maps_of((2, 2, 1, 1, 2), torch.float64, "NDHWC")
    leaves = (x.requires_grad_(), residual.requires_grad_(), module.weight, module.bias)
    assert torch.autograd.gradcheck(lambda x, r, *_: module(x, r, relu=True), leaves, atol=1e-6, nondet_tol=0.0)


def test_the_same_bytes_twice():
    module, maps = module_of("ghost bn", 16, torch.float32), maps_of((4, 16, 2, 5, 5), torch.float32, "NDHWC")
    one, other = (results(module, *maps, relu=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["bn", "frozen_bn"])
def test_a_value_that_is_no_number_stays_one(kind):
    module, (x, residual, _) = module_of(kind, 16, torch.float32), maps_of((2, 16, 1, 2, 2), torch.float32, "NDHWC")
    x[0, 0, 0, 0, 0] = math.nan
    assert module(x, residual, relu=True)[0, 0, 0, 0, 0].isnan()


@pytest.mark.parametrize(
    ("kind", "launches"),
    [(kind, {"moments": 1, "normalise": 1, "sums": 1, "gradient": 1}) for kind in ("bn", "ghost bn", "gn", "ln", "in")]
    + [("frozen_bn", {"normalise": 1, "gradient": 1})],
)
def test_launches_of_a_norm_with_add_and_relu(kind, launches, monkeypatch):
    counted = count_launches(monkeypatch)
    compare(kind, (4, 16, 2, 3, 3), torch.float32, "NDHWC")
    assert {name.removesuffix("_kernel"): n for name, n in counted.items()} == launches


def count_launches(monkeypatch, *, runs=True):
    counted = Counter()

    class Counted:
        def __getattr__(self, name):
            kernel = getattr(kernels_triton.triton_source, name)
            if not name.endswith("_kernel"):
                return kernel

            class Launches:
                def __getitem__(self, grid):
                    counted[name] += 1
                    return kernel[grid] if runs else lambda *args, **kwargs: None

            return Launches()

    monkeypatch.setattr(kernels_triton, "source", Counted())
    return counted


@pytest.mark.skipif(DEVICE == "cuda", reason="counts in the interpreter")
@pytest.mark.parametrize(("behind", "most"), [("relu", 16), ("add and relu", 22)])
@pytest.mark.parametrize("kind", ["bn", "gn"])
def test_bytes_moved_by_count(kind, behind, most, monkeypatch):
    """Of a value of a 16-bit map, forward and backward: each is read and written as often as two passes each must."""
    source, moved = kernels_triton.triton_source, []

    def counted(name, place):
        plain = getattr(source, name)

        def call(*args, **named):
            moved.append(int(args[place].handle.data.sum()))
            return plain(*args, **named)

        monkeypatch.setattr(source, name, call)

    counted("_load", 3)  # where its mask is among the arguments
    counted("_store", 4)
    shape = (4, 16, 2, 5, 5)
    assert compare(kind, shape, torch.float16, "NDHWC", behind) < 4e-3
    assert 2 * sum(moved) / math.prod(shape) == most


def test_statistics_over_ranks():
    """Two ranks with the same clips are batch norm over both: sums meet between the two launches."""
    module, (x, _, dy) = module_of("bn", 16, torch.float32), maps_of((2, 16, 2, 3, 3), torch.float32, "NDHWC")
    mean, var = kernels_triton.moments(x, rows=1, groups=16)
    vectors = {"mean": mean, "var": var, "gamma": module.weight, "beta": module.bias}
    flags = {"y": None, "eps": EPS, "adds": False, "is_affine": True, "count": 2 * x.numel() // 16}
    dx, dgamma, dbeta, _ = kernels_triton.gradient(dy, x, **vectors, **flags, over_ranks=lambda sums: sums.mul_(2))
    whole = torch.cat([x, x]), None, torch.cat([dy, dy])
    _, exact_dx, exact_dgamma, exact_dbeta = by_formula("bn", module, *whole, relu=False, mask=None)
    assert worst([dx, 2 * dgamma, 2 * dbeta], [exact_dx[:2], exact_dgamma, exact_dbeta]) < 1e-6


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("kind", ["bn", "ln"])
def test_temporary_bytes_are_those_allocated(kind, fmt, monkeypatch):
    """What the memory prediction adds to an operator's results is what is allocated besides them."""
    x, _, dy = maps_of((4, 40, 2, 5, 5), torch.float32, fmt)
    rows, groups = (1, 40) if kind == "bn" else (4, 1)
    allocated = []
    new_empty = torch.Tensor.new_empty

    def counted(self, *shape, **options):
        allocated.append(new_empty(self, *shape, **options))
        return allocated[-1]

    count_launches(monkeypatch, runs=False)  # the interpreter allocates, too
    monkeypatch.setattr(torch.Tensor, "new_empty", counted)
    kernels_triton._zeros(x, 1)
    mean, var = kernels_triton.moments(x, rows=rows, groups=groups)
    vectors = {"mean": mean, "var": var, "gamma": torch.ones(40, device=DEVICE), "beta": torch.ones(40, device=DEVICE)}
    results = {t.untyped_storage()._cdata for t in (mean, var)}
    temporary = [4 * t.numel() for t in allocated if t.untyped_storage()._cdata not in results]
    assert sum(temporary) == program_cut.temporary_bytes("moments", x, rows=rows, groups=groups)
    allocated.clear()
    flags = {"y": x, "count": 1, "eps": EPS, "adds": False, "is_affine": True, "over_ranks": None}
    results = {t.untyped_storage()._cdata for t in kernels_triton.gradient(dy, x, **vectors, **flags)}
    temporary = [4 * t.numel() for t in allocated if t.untyped_storage()._cdata not in results]
    assert sum(temporary) == program_cut.temporary_bytes("gradient", x, rows=rows, groups=groups)


def test_statistics_are_taken_once_where_maps_are_recomputed(monkeypatch):
    """In a unit that is recomputed a norm is launched twice forward, but for its statistics."""
    counted = count_launches(monkeypatch)
    module, (x, _, dy) = module_of("bn", 16, torch.float32), maps_of((2, 16, 1, 3, 3), torch.float32, "NDHWC")
    kept = results(module, x, None, dy, relu=False)
    counted.clear()
    x = x.requires_grad_()
    y = run_units([(module,)], x, mode="block")
    again = [y.detach(), *torch.autograd.grad(y, (x, module.weight, module.bias), dy)]
    assert counted == {"moments_kernel": 1, "normalise_kernel": 2, "sums_kernel": 1, "gradient_kernel": 1}
    assert all(torch.equal(a, b) for a, b in zip(again, kept, strict=True))


@pytest.mark.long
def test_a_net_that_recomputes_runs_by_them(monkeypatch):
    """Logits and gradients in float64 are those of torch's kernels, whatever is recomputed."""
    monkeypatch.setattr(program_cut, "_TILE", 4096)
    monkeypatch.setattr(program_cut, "_PROGRAMS", 1)

    def step(mode, by_triton):
        operators.use_triton(by_triton)
        model = load_config(["model=i3d_tiny"]).model
        net = build_model(model, norm_config("gn"), num_classes=4, frames=8, crop=8).double().to(DEVICE)
        set_activation_memory(net, mode)
        clip = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        logits = net(clip.to(DEVICE), torch.ones(2, 512, dtype=torch.float64, device=DEVICE))
        logits.square().sum().backward()
        return [logits.detach(), *(p.grad for p in net.parameters())]

    for a, b in zip(step("lean", True), step("keep", False), strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm().clamp_min(1e-12)


def test_pixels_are_to_the_bit_what_torch_makes_of_them():
    bytes_NTHWC = torch.randint(256, (2, 3, 5, 7, 3), dtype=torch.uint8, device=DEVICE)
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32  # the interpreter cuts bf16 off where a GPU rounds
    mean_C, std_C = (torch.tensor(v, device=DEVICE) for v in ((114.75, 110.0, 101.3), (57.375, 58.1, 61.9)))
    operators.use_triton(False)
    expected = normal_pixels(bytes_NTHWC, mean_C, std_C, dtype)
    found = normal_pixels_triton.normal_pixels(bytes_NTHWC, mean_C, std_C, dtype)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()


# -- which kernels a run takes ----------------------------------------------------------------------------------------


@pytest.fixture
def net():
    return nn.Sequential(make_norm(norm_config("gn"), default_groups=4)(num_features=8))


def test_the_test_at_the_start_finds_what_is_wrong(net, monkeypatch):
    monkeypatch.setattr(program_cut, "_TILE", 4096)
    monkeypatch.setattr(program_cut, "_PROGRAMS", 1)
    config = load_config(["trainer.memory_format=channels_last"])
    assert norm_kernels.self_test(config, net, torch.device(DEVICE)) is None
    right = kernels_triton.gradient

    def wrong(*args, **kwargs):
        dx, *others = right(*args, **kwargs)
        return dx * 1.01, *others

    monkeypatch.setattr(kernels_triton, "gradient", wrong)
    assert (
        norm_kernels.self_test(config, net, torch.device(DEVICE))
        == "a norm of 8 channels alone is 0.01 of its size off"
    )


@pytest.mark.parametrize("fails", ["wrong", "raises"])
def test_torch_s_kernels_stand_in_with_a_warning(net, monkeypatch, fails):
    def self_test(*_):
        if fails == "raises":
            raise RuntimeError("Failed to find C compiler")
        return "a norm of 8 channels alone is 1 of its size off"

    monkeypatch.setattr(norm_kernels, "self_test", self_test)
    said = []
    cuda = Ranks(0, 1, torch.device("cuda"))
    assert norm_kernels.choose_norm_kernels(load_config([]), net, cuda, log=said.append) == "torch"
    reason = "RuntimeError: Failed to find C compiler" if fails == "raises" else "8 channels alone is 1 of its size off"
    assert said[0].startswith("warning: norms run by torch's kernels, which are slower")
    assert reason in said[0]
    with pytest.raises(
        ConfigError, match=r"norm_kernels=triton can't be had here .*: write trainer.norm_kernels=torch"
    ):
        norm_kernels.choose_norm_kernels(load_config(["trainer.norm_kernels=triton"]), net, cuda)
    by_torch = load_config(["trainer.norm_kernels=torch"])
    assert norm_kernels.choose_norm_kernels(by_torch, net, cuda, log=said.append) == "torch"
    assert said[1] == "norms run by torch's kernels, as trainer.norm_kernels=torch says"


def test_right_kernels_are_taken_and_a_cpu_has_none(net, monkeypatch):
    monkeypatch.setattr(norm_kernels, "self_test", lambda *_: None)
    said = []
    assert (
        norm_kernels.choose_norm_kernels(load_config([]), net, Ranks(0, 1, torch.device("cuda")), log=said.append)
        == "triton"
    )
    assert said[0].startswith("norms run by Triton's kernels, which a test of each found right in ")
    assert (
        norm_kernels.choose_norm_kernels(load_config([]), net, Ranks(0, 1, torch.device("cpu")), log=said.append)
        == "torch"
    )
    assert len(said) == 1
    with pytest.raises(
        ConfigError, match=r"triton can't be had here \(the run is on a CPU\): write trainer.norm_kernels=torch"
    ):
        norm_kernels.choose_norm_kernels(
            load_config(["trainer.norm_kernels=triton"]), net, Ranks(0, 1, torch.device("cpu"))
        )
