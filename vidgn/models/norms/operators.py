"""Normalisation of a clip tensor as operators that torch knows by name, and the one gradient made of them.

Every kind of norm is this one with other groups: statistics over (N/R clips, C/G channels, T, H, W), for R rows of
consecutive clips and G groups of consecutive channels.

| kind | R | G |
| --- | --- | --- |
| bn | statistics groups in the forward | C |
| gn | N | groups |
| ln | N | 1 |
| in | N | C |

A residual add and a ReLU behind the norm are part of it where the net asks for them. On CUDA kernels_triton.py does all
of an operator. Elsewhere it is made of passes over the tensor, which one module for each kind of device has: `moments`,
`normalise`, `gradient_sums` and `gradient_input`, as kernels_composed.py documents them. Shapes: x and dy are
(N, C, T, H, W) in contiguous or channels_last_3d format; row r is the N/R consecutive clips that share statistics;
vectors are (R, C) or (R, G), float32, or float64 for float64 input.

Kept for backward: the input, mean and variance (R, G), gamma, beta, and behind a ReLU the output, which the next
convolution keeps as well. The operators are opaque to autograd, autocast and compilers, so 16-bit input stays so, and a
checkpointing policy can save the tiny statistics, with the collective behind them, and compute the rest again.
"""

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vidgn.models.norms import kernels_composed, kernels_cpu, kernels_cuda
from vidgn.models.norms.across_ranks import add_up, pool_moments, pool_uneven
from vidgn.models.norms.define import operator
from vidgn.models.norms.slices import dense, dense_like, statistics_dtype

_triton: ModuleType | None = None


def use_triton(wanted: bool) -> None:
    """Whether norms on CUDA run by kernels_triton.py from now on; off until it is asked for.

    Raises:
        ImportError: if there is no Triton.
    """
    global _triton
    _triton = importlib.import_module("vidgn.models.norms.kernels_triton") if wanted else None


def uses_triton() -> bool:
    """Whether it was asked for."""
    return _triton is not None


def _triton_for(x: Tensor) -> Any:
    return _triton if _triton is not None and _triton.takes(x) else None


def kernels_for(x: Tensor) -> ModuleType:
    """The module that has the passes for a tensor like `x`."""
    if x.is_cuda:
        return kernels_cuda
    if x.device.type == "cpu" and (x.dtype in (torch.float32, torch.float64) or _is_contiguous_bf16(x)):
        return kernels_cpu
    return kernels_composed


def _is_contiguous_bf16(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.is_contiguous()


@operator("moments(Tensor x, int rows, int groups) -> (Tensor, Tensor)")
def moments(x: Tensor, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (R, G) each; 0 of nothing."""
    if x.numel() == 0:
        mean = x.new_zeros(rows, groups, dtype=statistics_dtype(x))
        return mean, mean.clone()
    x = dense(x)
    return (_triton_for(x) or kernels_for(x)).moments(x, rows=rows, groups=groups)


@torch.library.register_fake("vidgn::moments")
def _(x: Tensor, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    empty = x.new_empty(rows, groups, dtype=statistics_dtype(x))
    return empty, torch.empty_like(empty)


@operator(
    "normalise(Tensor x, Tensor mean, Tensor var, Tensor gamma, Tensor beta, Tensor? residual, float eps, bool relu) "
    "-> Tensor"
)
def normalise(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor,
    beta: Tensor,
    residual: Tensor | None,
    eps: float,
    relu: bool,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * gamma + beta, + residual, through ReLU; dtype and format of x.

    Statistics (R, G), gamma and beta (C,), residual as x.
    """
    if x.numel() == 0:
        return x.clone()
    x = dense(x)
    residual = None if residual is None else dense_like(residual, x)
    triton = _triton_for(x)
    if triton is not None:
        vectors = {"mean": mean, "var": var, "gamma": gamma, "beta": beta}
        return triton.normalise(x, **vectors, eps=eps, residual=residual, relu=relu)
    mean, var = _per_channel(mean, x), _per_channel(var, x)
    gamma, beta = gamma.to(var.dtype).expand_as(var), beta.to(var.dtype).expand_as(var)
    y = kernels_for(x).normalise(x, mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)
    if residual is not None:
        y.add_(residual)
    return y.relu_() if relu else y


@torch.library.register_fake("vidgn::normalise")
def _(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor,
    beta: Tensor,
    residual: Tensor | None,
    eps: float,
    relu: bool,
) -> Tensor:
    return torch.empty_like(dense(x))


@operator(
    "gradient(Tensor dy, Tensor x, Tensor? y, Tensor mean, Tensor var, Tensor gamma, Tensor beta, int? count, "
    "float eps, bool adds, bool is_affine, str? group_name) -> (Tensor, Tensor, Tensor, Tensor)"
)
def gradient(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor,
    beta: Tensor,
    count: int | None,
    eps: float,
    adds: bool,
    is_affine: bool,
    group_name: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, gamma, beta and the residual.

    Args:
        y: what `normalise` gave, if through ReLU.
        count: elements behind each mean, over all ranks, if the gradient goes through the statistics; None: constants.
        adds: whether there was a residual. Its gradient is empty without ReLU, where it is `dy` itself.
        is_affine: whether gamma and beta have gradients, where the statistics are constants; else they are not set.
    """
    if x.numel() == 0:  # what other ranks hold goes through the same collective
        if group_name is not None:
            add_up(mean.new_zeros(2, *mean.shape), group_name=group_name)
        dgamma, dbeta = (mean.new_zeros(x.shape[1]) for _ in range(2))
        return x.clone(), dgamma, dbeta, x.clone()
    x = dense(x)
    dy = dense_like(dy, x)
    over_ranks = None if group_name is None else partial(add_up, group_name=group_name)
    triton = _triton_for(x)
    if triton is not None:
        vectors = {"mean": mean, "var": var, "gamma": gamma, "beta": beta}
        flags = {"adds": adds, "is_affine": is_affine, "over_ranks": over_ranks}
        return triton.gradient(dy, x, y=y, **vectors, count=count, eps=eps, **flags)
    if y is not None:
        dy = torch.ops.aten.threshold_backward(dy, y, 0)
    gradients = _gradient_by_passes(dy, x, mean, var, gamma, count, eps, is_affine, over_ranks)
    return (*gradients, dy if adds and y is not None else x.new_empty(0))


@torch.library.register_fake("vidgn::gradient")
def _(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor,
    beta: Tensor,
    count: int | None,
    eps: float,
    adds: bool,
    is_affine: bool,
    group_name: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, vector = torch.empty_like(dense(x)), mean.new_empty(x.shape[1])
    return dx, vector, torch.empty_like(vector), torch.empty_like(dx) if adds and y is not None else x.new_empty(0)


def _gradient_by_passes(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor,
    count: int | None,
    eps: float,
    is_affine: bool,
    over_ranks: Callable[[Tensor], Any] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, groups = mean.shape
    gamma = gamma.to(mean.dtype)
    passes = kernels_for(x)
    is_whole = count is not None and over_ranks is None and passes is kernels_cpu
    if is_whole and kernels_cpu.has_whole_gradient(x, rows=rows, groups=groups):
        return kernels_cpu.whole_gradient(dy, x, mean=mean, var=var, gamma=gamma, eps=eps)
    mean, var, gamma = _per_channel(mean, x), _per_channel(var, x), gamma.expand(rows, -1)
    if count is None and not is_affine:
        dgamma, dbeta = (mean.new_empty(x.shape[1]) for _ in range(2))
        return _gradient_of_map(passes, dy, var, gamma, eps), dgamma, dbeta
    sum_dy, sum_dot = passes.gradient_sums(dy, x, mean=mean, var=var, eps=eps)
    dgamma, dbeta = sum_dot.sum(0), sum_dy.sum(0)
    if count is None:
        return _gradient_of_map(passes, dy, var, gamma, eps), dgamma, dbeta
    if over_ranks is not None:
        sums = torch.stack([sum_dy, sum_dot])
        over_ranks(sums)
        sum_dy, sum_dot = sums.unbind()
    weight = gamma / count
    means = ((weight * total).view(rows, groups, -1).sum(2) for total in (sum_dy, sum_dot))
    dy_mean, dot_mean = (_per_channel(m, x) for m in means)
    dx = passes.gradient_input(dy, x, mean=mean, var=var, gamma=gamma, dy_mean=dy_mean, dot_mean=dot_mean, eps=eps)
    return dx, dgamma, dbeta


def _gradient_of_map(passes: Any, dy: Tensor, var: Tensor, gamma: Tensor, eps: float) -> Tensor:
    nothing = torch.zeros_like(var)
    return passes.normalise(dy, mean=nothing, var=var, gamma=gamma, beta=nothing, eps=eps)


def batch_moments(x: Tensor, *, rows: int, groups: int, group_name: str | None = None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of `x`, (R, G), over the ranks of `group_name` if given. No gradient flows through."""
    mean, var = moments(x.detach(), rows, groups)
    return pool_moments(mean, var, group_name) if group_name is not None else (mean, var)


def uneven_moments(x: Tensor, *, group_name: str) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance (1, C) over ranks that hold different numbers of elements, and their number in all."""
    mean, var = moments(x.detach(), 1, x.shape[1])
    mean, var, total = pool_uneven(mean, var, x.numel() // x.shape[1], group_name)
    return mean, var, int(total)


def apply_norm(
    x: Tensor,
    *,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    count: int | None,
    group_name: str | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Normalise `x` (N, C, T, H, W) by mean and biased variance (R, G), add `residual`, and let it through ReLU.

    Args:
        count: elements behind each mean, over all ranks, if the statistics are those of `x` and the gradient goes
            through them; None if they are constants.
    """
    return _Normalise.apply(x, mean, var, gamma, beta, residual, eps, count, group_name, relu)  # type: ignore[return-value]


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's has *args
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        gamma: Tensor,
        beta: Tensor,
        residual: Tensor | None,
        eps: float,
        count: int | None,
        group_name: str | None,
        relu: bool,
    ) -> Tensor:
        y = normalise(x, mean, var, gamma, beta, residual, eps, relu)
        ctx.save_for_backward(x, mean, var, gamma, beta, y if relu else None)  # the next convolution keeps y anyway
        ctx.eps, ctx.count, ctx.group_name, ctx.adds = eps, count, group_name, residual is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # one gradient for one output
        x, mean, var, gamma, beta, y = ctx.saved_tensors
        is_affine = any(ctx.needs_input_grad[3:5])
        dx, dgamma, dbeta, dresidual = gradient(
            dy, x, y, mean, var, gamma, beta, ctx.count, ctx.eps, ctx.adds, is_affine, ctx.group_name
        )
        if not is_affine:
            dgamma = dbeta = None
        if y is None or not ctx.adds:
            dresidual = dy if ctx.adds else None
        return dx, None, None, dgamma, dbeta, dresidual, None, None, None, None


def _per_channel(v_RG: Tensor, x: Tensor) -> Tensor:
    repeats = x.shape[1] // v_RG.shape[1]
    return v_RG if repeats == 1 else v_RG.repeat_interleave(repeats, dim=1)
