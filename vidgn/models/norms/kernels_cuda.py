"""The passes on CUDA, by the kernels that SyncBatchNorm is made of. kernels_composed.py says what each gives.

They read 16-bit maps with float32 vectors in either memory format; no map is upcast.
"""

import torch
from torch import Tensor

from vidgn.models.norms.slices import (
    by_row,
    dense_like,
    moments_by_slice,
    slices,
    vectors,
)

_STATS_EPS = 1e-5  # what the kernel adds to the variance, taken off again
_TINY = 1e-20


def moments(x: Tensor, *, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    return moments_by_slice(x, rows=rows, groups=groups, moments=_slice_moments)


def normalise(x: Tensor, *, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    y = torch.empty_like(x)
    rows = mean.shape[0]
    per_slice = vectors(x, gamma, beta, mean, (var + eps).rsqrt())
    for x_slice, out, (a, b, m, r) in zip(slices(x, rows), slices(y, rows), per_slice, strict=True):
        torch.batch_norm_elemt(x_slice, a, b, m, r, eps, out=out)
    return y


def gradient_sums(dy: Tensor, x: Tensor, *, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = mean.shape[0]
    rstd = (var + eps).rsqrt()
    sums = []
    for x_slice, dy_slice, (m, r) in zip(slices(x, rows), slices(dy, rows), vectors(x, mean, rstd), strict=True):
        # The weight, here rstd, is asked for nothing but its type.
        total, dot, _, _ = torch.batch_norm_backward_reduce(dy_slice, x_slice, m, r, r, True, False, False)
        sums.append((total, dot))
    total, dot = by_row(sums, rows)
    return total, dot * rstd


def gradient_input(
    dy: Tensor, x: Tensor, *, mean: Tensor, var: Tensor, gamma: Tensor, dy_mean: Tensor, dot_mean: Tensor, eps: float
) -> Tensor:
    rows = mean.shape[0]
    rstd = (var + eps).rsqrt()
    # The kernel has gamma outside the bracket, so that the means must be divided by it: a tiny one stands in for zero.
    gamma = torch.where(gamma.abs() < _TINY, torch.full_like(gamma, _TINY), gamma)
    per_slice = vectors(x, mean, rstd, gamma, dy_mean / gamma, dot_mean / (gamma * rstd))
    one = torch.ones(1, dtype=torch.int32, device=x.device)  # elements: the sums are means already
    x_slices, dy_slices = slices(x, rows), slices(dy, rows)
    if len(x_slices) == 1:  # it is the whole gradient: nothing to put together
        dx = torch.batch_norm_backward_elemt(dy_slices[0], x_slices[0], *per_slice[0], one)  # type: ignore[call-arg]
        return dense_like(dx.view_as(x), x)
    dx = torch.empty_like(x)
    for out, dy_slice, x_slice, v in zip(slices(dx, rows), dy_slices, x_slices, per_slice, strict=True):
        out.copy_(torch.batch_norm_backward_elemt(dy_slice, x_slice, *v, one))  # type: ignore[call-arg]
    return dx


def _slice_moments(x_slice: Tensor) -> tuple[Tensor, Tensor]:
    mean, rstd = torch.batch_norm_stats(x_slice, _STATS_EPS)
    return mean, (rstd.pow(-2) - _STATS_EPS).clamp_(min=0)
