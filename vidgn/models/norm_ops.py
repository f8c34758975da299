"""Normalisation of a clip tensor as four operators that torch knows by name, and the one gradient made of them.

Every kind of norm is this one with other groups: statistics over (N/R clips, C/G channels, T, H, W), for R rows of
consecutive clips and G groups of consecutive channels.

| kind | R | G |
| --- | --- | --- |
| bn | statistics groups in the forward | C |
| gn | N | groups |
| ln | N | 1 |
| in | N | C |

Kept for backward: the input, mean and rstd (R, G), and gamma. The operators are opaque to autograd, autocast and
compilers, so 16-bit input stays so, and a checkpointing policy can save the tiny statistics, with the collective
behind them, and compute the rest again.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from vidgn.models import norm_kernels as kernels


@torch.library.custom_op("vidgn::moments", mutates_args=())
def moments(x: Tensor, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (R, G) each, merged exactly from those of single channels (Chan et al. 1979)."""
    mean, var = kernels.moments(kernels.dense(x), rows=rows)
    if groups < x.shape[1]:
        mean, var = _merge(mean.view(rows, groups, -1), var.view(rows, groups, -1), dim=2)
    return mean, var


@moments.register_fake
def _(x: Tensor, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    empty = x.new_empty(rows, groups, dtype=kernels.statistics_dtype(x))
    return empty, torch.empty_like(empty)


@torch.library.custom_op("vidgn::pool_moments", mutates_args=())
def pool_moments(mean: Tensor, var: Tensor, group_name: str) -> tuple[Tensor, Tensor]:
    """Moments of what the ranks of a process group hold together, each the same number of elements."""
    group = _process_group(group_name)
    local = torch.stack([mean, var])
    gathered = local.new_empty(group.size() * 2, *mean.shape)
    dist.all_gather_into_tensor(gathered, local, group=group)
    means, variances = gathered.view(group.size(), 2, *mean.shape).unbind(1)
    return _merge(means, variances, dim=0)


@pool_moments.register_fake
def _(mean: Tensor, var: Tensor, group_name: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(mean), torch.empty_like(var)


@torch.library.custom_op("vidgn::sum_over_ranks", mutates_args=())
def sum_over_ranks(x: Tensor, group_name: str) -> Tensor:
    """Sum of `x` over the ranks of a process group."""
    total = x.clone()
    dist.all_reduce(total, group=_process_group(group_name))
    return total


@sum_over_ranks.register_fake
def _(x: Tensor, group_name: str) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("vidgn::normalise", mutates_args=())
def normalise(x: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """(x - mean) * rstd * gamma + beta; statistics (R, G), gamma and beta (C,); dtype and memory format of x."""
    x = kernels.dense(x)
    mean, rstd = _per_channel(mean, x), _per_channel(rstd, x)
    return kernels.normalise(x, mean=mean, scale=rstd * gamma.to(rstd.dtype), shift=beta.to(rstd.dtype).expand_as(mean))


@normalise.register_fake
def _(x: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return torch.empty_like(kernels.dense(x))


@torch.library.custom_op("vidgn::gradient_sums", mutates_args=())
def gradient_sums(dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of dy and dy * (x - mean) * rstd, (R, C) each."""
    x = kernels.dense(x)
    return kernels.gradient_sums(kernels.dense_like(dy, x), x, mean=_per_channel(mean, x), rstd=_per_channel(rstd, x))


@gradient_sums.register_fake
def _(dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    empty = mean.new_empty(mean.shape[0], x.shape[1])
    return empty, torch.empty_like(empty)


@torch.library.custom_op("vidgn::gradient_input", mutates_args=())
def gradient_input(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, dy_mean: Tensor, dot_mean: Tensor
) -> Tensor:
    """The gradient with respect to x; `dy_mean`, `dot_mean` (R, G): means of gamma * dy and gamma * dy * x_hat."""
    x = kernels.dense(x)
    return kernels.gradient_input(
        kernels.dense_like(dy, x),
        x,
        mean=_per_channel(mean, x),
        rstd=_per_channel(rstd, x),
        gamma=gamma.to(rstd.dtype),
        dy_mean=_per_channel(dy_mean, x),
        dot_mean=_per_channel(dot_mean, x),
    )


@gradient_input.register_fake
def _(dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, dy_mean: Tensor, dot_mean: Tensor) -> Tensor:
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
        rstd = (var + eps).rsqrt()
        ctx.save_for_backward(x, mean, rstd, gamma)
        ctx.count, ctx.group_name = count, group_name
        return normalise(x, mean, rstd, gamma, beta)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):  # type: ignore[override]  # one gradient for one output
        x, mean, rstd, gamma = ctx.saved_tensors
        needs_x, needs_affine = ctx.needs_input_grad[0], any(ctx.needs_input_grad[3:5])
        dx = dgamma = dbeta = None
        if ctx.count is None and needs_x:
            dx = normalise(dy, torch.zeros_like(mean), rstd, gamma, torch.zeros_like(gamma))
        if ctx.count is None and not needs_affine:
            return dx, *[None] * 7
        sum_dy, sum_dot = gradient_sums(dy, x, mean, rstd)
        dgamma, dbeta = sum_dot.sum(0), sum_dy.sum(0)
        if ctx.count is not None and needs_x:
            sums = torch.stack([sum_dy, sum_dot]) * gamma.to(mean.dtype)
            sums = sums.view(2, *mean.shape, -1).sum(-1) / ctx.count
            if ctx.group_name is not None:
                sums = sum_over_ranks(sums, ctx.group_name)
            dx = gradient_input(dy, x, mean, rstd, gamma, *sums.unbind())
        return dx, None, None, dgamma, dbeta, None, None, None


def _process_group(name: str) -> dist.ProcessGroup:
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[reportPrivateImportUsage]


def _merge(mean: Tensor, var: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """Moments of the union of equally large sets that lie along `dim`."""
    merged = mean.mean(dim, keepdim=True)
    return merged.squeeze(dim), (var + (mean - merged).square()).mean(dim)


def _per_channel(v_RG: Tensor, x: Tensor) -> Tensor:
    return v_RG.repeat_interleave(x.shape[1] // v_RG.shape[1], dim=1)
