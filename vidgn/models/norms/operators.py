"""Normalisation of a clip tensor as operators that torch knows by name, and the one gradient made of them.

Every kind of norm is this one with other groups: statistics over (N/R clips, C/G channels, T, H, W), for R rows of
consecutive clips and G groups of consecutive channels.

| kind | R | G |
| --- | --- | --- |
| bn | statistics groups in the forward | C |
| gn | N | groups |
| ln | N | 1 |
| in | N | C |

Each operator is made of passes over the tensor, which one module for each kind of device has: `moments`, `normalise`,
`gradient_sums` and `gradient_input`, as kernels_composed.py documents them. Shapes: x and dy are (N, C, T, H, W) in
contiguous or channels_last_3d format; row r is the N/R consecutive clips that share statistics; vectors are (R, C) or
(R, G), float32, or float64 for float64 input.

Kept for backward: the input, mean and variance (R, G), and gamma. The operators are opaque to autograd, autocast and
compilers, so 16-bit input stays so, and a checkpointing policy can save the tiny statistics, with the collective
behind them, and compute the rest again.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from vidgn.models.norms import kernels_composed, kernels_cpu, kernels_cuda
from vidgn.models.norms.slices import dense, dense_like, merge, statistics_dtype

_library = torch.library.Library("vidgn", "DEF")


def kernels_for(x: Tensor) -> ModuleType:
    """The module that has the passes for a tensor like `x`."""
    if x.is_cuda:
        return kernels_cuda
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        return kernels_cpu
    return kernels_composed


def _operator(schema: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a function the operator of `schema`, for every device, at a fraction of `torch.library.custom_op`'s cost."""

    def define(function: Callable[..., Any]) -> Any:
        name = _library.define(schema)
        _library.impl(name, function, "CompositeExplicitAutograd")
        return getattr(torch.ops.vidgn, function.__name__).default

    return define


@_operator("moments(Tensor x, int rows, int groups) -> (Tensor, Tensor)")
def moments(x: Tensor, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (R, G) each."""
    return kernels_for(x).moments(dense(x), rows=rows, groups=groups)


@torch.library.register_fake("vidgn::moments")
def _(x: Tensor, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    empty = x.new_empty(rows, groups, dtype=statistics_dtype(x))
    return empty, torch.empty_like(empty)


@_operator("pool_moments(Tensor mean, Tensor var, str group_name) -> (Tensor, Tensor)")
def pool_moments(mean: Tensor, var: Tensor, group_name: str) -> tuple[Tensor, Tensor]:
    """Moments of what the ranks of a process group hold together, each the same number of elements."""
    group = _process_group(group_name)
    local = torch.stack([mean, var])
    gathered = local.new_empty(group.size(), *local.shape)
    dist.all_gather(list(gathered.unbind()), local, group=group)
    means, variances = gathered.view(group.size(), 2, -1).unbind(1)
    mean_R1, var_R1 = merge(means.t().contiguous(), variances.t().contiguous(), groups=1)
    return mean_R1.view(mean.shape), var_R1.view(mean.shape)


@torch.library.register_fake("vidgn::pool_moments")
def _(mean: Tensor, var: Tensor, group_name: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(mean), torch.empty_like(var)


@_operator("normalise(Tensor x, Tensor mean, Tensor var, Tensor gamma, Tensor beta, float eps) -> Tensor")
def normalise(x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) * gamma + beta; statistics (R, G), gamma and beta (C,); dtype, format of x."""
    x = dense(x)
    mean, var = _per_channel(mean, x), _per_channel(var, x)
    gamma, beta = gamma.to(var.dtype).expand_as(var), beta.to(var.dtype).expand_as(var)
    return kernels_for(x).normalise(x, mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)


@torch.library.register_fake("vidgn::normalise")
def _(x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    return torch.empty_like(dense(x))


@_operator("gradient_sums(Tensor dy, Tensor x, Tensor mean, Tensor var, float eps) -> (Tensor, Tensor)")
def gradient_sums(dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Sums of dy and dy * x_hat over the clips of a row and (T, H, W): (R, C) each."""
    x = dense(x)
    dy = dense_like(dy, x)
    passes = kernels_for(x)
    return passes.gradient_sums(dy, x, mean=_per_channel(mean, x), var=_per_channel(var, x), eps=eps)


@torch.library.register_fake("vidgn::gradient_sums")
def _(dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    empty = mean.new_empty(mean.shape[0], x.shape[1])
    return empty, torch.empty_like(empty)


@_operator(
    "gradient(Tensor dy, Tensor x, Tensor mean, Tensor var, Tensor gamma, int count, float eps, str? group_name) "
    "-> (Tensor, Tensor, Tensor)"
)
def gradient(
    dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, count: int, eps: float, group_name: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, through its statistics, gamma and beta; `count` elements behind each mean, over all ranks."""
    x = dense(x)
    dy = dense_like(dy, x)
    rows, groups = mean.shape
    gamma = gamma.to(mean.dtype)
    passes = kernels_for(x)
    if group_name is None and passes is kernels_cpu and kernels_cpu.has_whole_gradient(x, rows=rows, groups=groups):
        return kernels_cpu.whole_gradient(dy, x, mean=mean, var=var, gamma=gamma, eps=eps)
    mean, var = _per_channel(mean, x), _per_channel(var, x)
    sum_dy, sum_dot = passes.gradient_sums(dy, x, mean=mean, var=var, eps=eps)
    dgamma, dbeta = sum_dot.sum(0), sum_dy.sum(0)
    if group_name is not None:
        sums = torch.stack([sum_dy, sum_dot])
        dist.all_reduce(sums, group=_process_group(group_name))
        sum_dy, sum_dot = sums.unbind()
    gamma = gamma.expand_as(mean)
    weight = gamma / count
    means = ((weight * total).view(rows, groups, -1).sum(2) for total in (sum_dy, sum_dot))
    dy_mean, dot_mean = (_per_channel(m, x) for m in means)
    dx = passes.gradient_input(dy, x, mean=mean, var=var, gamma=gamma, dy_mean=dy_mean, dot_mean=dot_mean, eps=eps)
    return dx, dgamma, dbeta


@torch.library.register_fake("vidgn::gradient")
def _(
    dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, count: int, eps: float, group_name: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(dense(x)), mean.new_empty(x.shape[1]), mean.new_empty(x.shape[1])


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

    Args:
        count: elements behind each mean, over all ranks, if the statistics are those of `x` and the gradient goes
            through them; None if they are constants.
    """
    return _Normalise.apply(x, mean, var, gamma, beta, eps, count, group_name)  # type: ignore[return-value]


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's has *args
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        gamma: Tensor,
        beta: Tensor,
        eps: float,
        count: int | None,
        group_name: str | None,
    ) -> Tensor:
        ctx.save_for_backward(x, mean, var, gamma)
        ctx.eps, ctx.count, ctx.group_name = eps, count, group_name
        return normalise(x, mean, var, gamma, beta, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # one gradient for one output
        x, mean, var, gamma = ctx.saved_tensors
        dgamma = dbeta = None
        if ctx.count is not None:
            dx, dgamma, dbeta = gradient(dy, x, mean, var, gamma, ctx.count, ctx.eps, ctx.group_name)
        else:
            dx = normalise(dy, torch.zeros_like(mean), var, gamma, torch.zeros_like(gamma), ctx.eps)
            if any(ctx.needs_input_grad[3:5]):
                sum_dy, sum_dot = gradient_sums(dy, x, mean, var, ctx.eps)
                dgamma, dbeta = sum_dot.sum(0), sum_dy.sum(0)
        return dx, None, None, dgamma, dbeta, None, None, None


def _process_group(name: str) -> dist.ProcessGroup:
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[reportPrivateImportUsage]


def _per_channel(v_RG: Tensor, x: Tensor) -> Tensor:
    repeats = x.shape[1] // v_RG.shape[1]
    return v_RG if repeats == 1 else v_RG.repeat_interleave(repeats, dim=1)
