"""The passes on CUDA, by the kernels that SyncBatchNorm is made of. `composed` says what each gives.

They read 16-bit maps with float32 vectors in either memory format; no map is upcast.
"""

import torch
from torch import Tensor

from vidgn.models.norms.slices import by_row, cells, clips_apart, dense_like, merge, vectors

_STATS_EPS = 1e-5  # what the kernel adds to the variance, taken off again
_TINY = 1e-20


def moments(x: Tensor, *, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    if clips_apart(x, rows):  # a group of channels is one stretch of memory, so it may as well be a channel
        mean, var = _cell_moments(x.view(1, rows * groups, -1, *x.shape[3:]))
        return mean.view(rows, groups), var.view(rows, groups)
    mean, var = by_row([_cell_moments(cell) for cell in cells(x, rows)], rows)
    return merge(mean, var, groups=groups)


def normalise(x: Tensor, *, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    y = torch.empty_like(x)
    rows = mean.shape[0]
    per_cell = vectors(x, gamma, beta, mean, (var + eps).rsqrt())
    for cell, out, (a, b, m, r) in zip(cells(x, rows), cells(y, rows), per_cell, strict=True):
        torch.batch_norm_elemt(cell, a, b, m, r, eps, out=out)
    return y


def gradient_sums(dy: Tensor, x: Tensor, *, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = mean.shape[0]
    rstd = (var + eps).rsqrt()
    sums = []
    for cell, dcell, (m, r) in zip(cells(x, rows), cells(dy, rows), vectors(x, mean, rstd), strict=True):
        # The weight, here rstd, is asked for nothing but its type.
        total, dot, _, _ = torch.batch_norm_backward_reduce(dcell, cell, m, r, r, True, False, False)
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
    per_cell = vectors(x, mean, rstd, gamma, dy_mean / gamma, dot_mean / (gamma * rstd))
    one = torch.ones(1, dtype=torch.int32, device=x.device)  # elements: the sums are means already
    x_cells, dy_cells = cells(x, rows), cells(dy, rows)
    if len(x_cells) == 1:  # it is the whole gradient: nothing to put together
        dx = torch.batch_norm_backward_elemt(dy_cells[0], x_cells[0], *per_cell[0], one)  # type: ignore[call-arg]
        return dense_like(dx.view_as(x), x)
    dx = torch.empty_like(x)
    for out, dcell, cell, v in zip(cells(dx, rows), dy_cells, x_cells, per_cell, strict=True):
        out.copy_(torch.batch_norm_backward_elemt(dcell, cell, *v, one))  # type: ignore[call-arg]
    return dx


def _cell_moments(cell: Tensor) -> tuple[Tensor, Tensor]:
    mean, rstd = torch.batch_norm_stats(cell, _STATS_EPS)
    return mean, (rstd.pow(-2) - _STATS_EPS).clamp_(min=0)
