"""Normalisation of a clip tensor as operators that torch knows by name, and the one gradient made of them.

Every kind of norm is this one with other groups: statistics over (N/R clips, C/G channels, T, H, W), for R rows of
consecutive clips and G groups of consecutive channels.

| kind | R | G |
| --- | --- | --- |
| bn | statistics groups in the forward | C |
| gn | N | groups |
| ln | N | 1 |
| in | N | C |

Kept for backward: the input, mean and variance (R, G), and gamma. The operators are opaque to autograd, autocast and
compilers, so 16-bit input stays so, and a checkpointing policy can save the tiny statistics, with the collective
behind them, and compute the rest again.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from vidgn.models import norm_kernels as kernels

_library = torch.library.Library("vidgn", "DEF")


def _operator(schema: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a function the operator of `schema`, for every device, at a fraction of `torch.library.custom_op`'s cost."""

    def define(function: Callable[..., Any]) -> Any:
        name = _library.define(schema)
        _library.impl(name, function, "CompositeExplicitAutograd")
        return getattr(torch.ops.vidgn, function.__name__).default

    return define


@_operator("moments(Tensor x, int rows, int groups) -> (Tensor, Tensor)")
def moments(x: Tensor, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (R, G) each, merged exactly from those of single channels (Chan et al. 1979)."""
    mean, var = kernels.moments(kernels.dense(x), rows=rows)
    if groups < x.shape[1]:
        mean, var = _merge(mean.view(rows, groups, -1), var.view(rows, groups, -1), dim=2)
    return mean, var


@torch.library.register_fake("vidgn::moments")
def _(x: Tensor, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    empty = x.new_empty(rows, groups, dtype=kernels.statistics_dtype(x))
    return empty, torch.empty_like(empty)


@_operator("pool_moments(Tensor mean, Tensor var, str group_name) -> (Tensor, Tensor)")
def pool_moments(mean: Tensor, var: Tensor, group_name: str) -> tuple[Tensor, Tensor]:
    """Moments of what the ranks of a process group hold together, each the same number of elements."""
    group = _process_group(group_name)
    local = torch.stack([mean, var])
    gathered = local.new_empty(group.size() * 2, *mean.shape)
    dist.all_gather_into_tensor(gathered, local, group=group)
    means, variances = gathered.view(group.size(), 2, *mean.shape).unbind(1)
    return _merge(means, variances, dim=0)


@torch.library.register_fake("vidgn::pool_moments")
def _(mean: Tensor, var: Tensor, group_name: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(mean), torch.empty_like(var)


@_operator("sum_over_ranks(Tensor x, str group_name) -> Tensor")
def sum_over_ranks(x: Tensor, group_name: str) -> Tensor:
    """Sum of `x` over the ranks of a process group."""
    total = x.clone()
    dist.all_reduce(total, group=_process_group(group_name))
    return total


@torch.library.register_fake("vidgn::sum_over_ranks")
def _(x: Tensor, group_name: str) -> Tensor:
    return torch.empty_like(x)


@_operator("normalise(Tensor x, Tensor mean, Tensor var, Tensor gamma, Tensor beta, float eps) -> Tensor")
def normalise(x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) * gamma + beta; statistics (R, G), gamma and beta (C,); dtype, format of x."""
    x = kernels.dense(x)
    mean, var = _per_channel(mean, x), _per_channel(var, x)
    gamma, beta = gamma.to(var.dtype).expand_as(var), beta.to(var.dtype).expand_as(var)
    return kernels.normalise(x, mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)


@torch.library.register_fake("vidgn::normalise")
def _(x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    return torch.empty_like(kernels.dense(x))


@_operator("gradient_sums(Tensor dy, Tensor x, Tensor mean, Tensor var, float eps) -> (Tensor, Tensor)")
def gradient_sums(dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Sums of dy and dy * x_hat over the clips of a row and (T, H, W): (R, C) each."""
    x = kernels.dense(x)
    dy = kernels.dense_like(dy, x)
    return kernels.gradient_sums(dy, x, mean=_per_channel(mean, x), var=_per_channel(var, x), eps=eps)


@torch.library.register_fake("vidgn::gradient_sums")
def _(dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    empty = mean.new_empty(mean.shape[0], x.shape[1])
    return empty, torch.empty_like(empty)


@_operator(
    "gradient_input(Tensor dy, Tensor x, Tensor mean, Tensor var, Tensor gamma, Tensor sum_dy, Tensor sum_dot, "
    "int count, float eps) -> Tensor"
)
def gradient_input(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor,
    sum_dy: Tensor,
    sum_dot: Tensor,
    count: int,
    eps: float,
) -> Tensor:
    """The gradient with respect to x through its statistics; sums (R, C) as above, `count` elements to a mean."""
    x = kernels.dense(x)
    rows, groups = mean.shape
    gamma = gamma.to(mean.dtype).expand_as(sum_dy)
    weight = gamma / count
    dy_mean, dot_mean = weight * sum_dy, weight * sum_dot
    if groups < x.shape[1]:
        dy_mean, dot_mean = (_per_channel(m.view(rows, groups, -1).sum(2), x) for m in (dy_mean, dot_mean))
        mean, var = _per_channel(mean, x), _per_channel(var, x)
    return kernels.gradient_input(
        kernels.dense_like(dy, x),
        x,
        mean=mean,
        var=var,
        gamma=gamma,
        dy_mean=dy_mean,
        dot_mean=dot_mean,
        eps=eps,
    )


@torch.library.register_fake("vidgn::gradient_input")
def _(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor,
    sum_dy: Tensor,
    sum_dot: Tensor,
    count: int,
    eps: float,
) -> Tensor:
    return torch.empty_like(kernels.dense(x))


def batch_moments(x: Tensor, *, rows: int, groups: int, group_name: str | None = None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of `x`, (R, G), over the ranks of `group_name` if given. No gradient flows through."""
    mean, var = moments(x.detach(), rows, groups)
    return pool_moments(mean, var, group_name) if group_name is not None else (mean, var)


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
) -> Tensor:
    """Normalise `x` (N, C, T, H, W) by mean and biased variance (R, G).

    `count`: elements behind each mean, over all ranks, if the statistics are those of `x` and the gradient goes
    through them; None if they are constants.
    """
    return _Normalise.apply(x, mean, var, gamma, beta, eps, count, group_name)  # type: ignore[return-value]


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, mean, var, gamma, beta, eps, count, group_name):
        ctx.save_for_backward(x, mean, var, gamma)
        ctx.eps, ctx.count, ctx.group_name = eps, count, group_name
        return normalise(x, mean, var, gamma, beta, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):  # type: ignore[override]  # one gradient for one output
        x, mean, var, gamma = ctx.saved_tensors
        needs_x, needs_affine = ctx.needs_input_grad[0], any(ctx.needs_input_grad[3:5])
        dx = dgamma = dbeta = None
        if ctx.count is None and needs_x:
            dx = normalise(dy, torch.zeros_like(mean), var, gamma, torch.zeros_like(gamma), ctx.eps)
        if ctx.count is None and not needs_affine:
            return dx, *[None] * 7
        sum_dy, sum_dot = gradient_sums(dy, x, mean, var, ctx.eps)
        dgamma, dbeta = sum_dot.sum(0), sum_dy.sum(0)
        if ctx.count is not None and needs_x:
            if ctx.group_name is not None:
                sum_dy, sum_dot = sum_over_ranks(torch.stack([sum_dy, sum_dot]), ctx.group_name).unbind()
            dx = gradient_input(dy, x, mean, var, gamma, sum_dy, sum_dot, ctx.count, ctx.eps)
        return dx, None, None, dgamma, dbeta, None, None, None


def _process_group(name: str) -> dist.ProcessGroup:
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[reportPrivateImportUsage]


def _merge(mean: Tensor, var: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """Moments of the union of equally large sets that lie along `dim`."""
    merged = mean.mean(dim, keepdim=True)
    return merged.squeeze(dim), (var + (mean - merged).square()).mean(dim)


def _per_channel(v_RG: Tensor, x: Tensor) -> Tensor:
    repeats = x.shape[1] // v_RG.shape[1]
    return v_RG if repeats == 1 else v_RG.repeat_interleave(repeats, dim=1)
