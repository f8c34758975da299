"""The passes on a CPU, float32 and float64, by the kernels of torch's own norms. `composed` says what each gives.

Contiguous maps go through batch norm's kernels cell by cell; elementwise passes over channels_last ones are faster as
one broadcast, whatever the rows. Tiny operations are counted: a small net on a CPU spends its time in them.
"""

import torch
from torch import Tensor

from vidgn.models.norms.slices import broadcast, broadcast_rows, by_row, by_rows, cells, clips_apart, merge, vectors

_aten = torch.ops.aten
_DIMS = (0, 2, 3, 4)
_ONLY_SUMS = [False, True, True]  # of native_batch_norm_backward's three gradients


def moments(x: Tensor, *, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    if clips_apart(x, rows):  # a group of channels is one stretch of memory, so it may as well be a channel
        mean, var = _contiguous_moments(x.view(1, rows * groups, -1, *x.shape[3:]))
        return mean.view(rows, groups), var.view(rows, groups)
    mean, var = by_row([_cell_moments(cell) for cell in cells(x, rows)], rows)
    return merge(mean, var, groups=groups)


def normalise(x: Tensor, *, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    y = torch.empty_like(x)
    _affine(x, mean, (var + eps).rsqrt() * gamma, beta, out=y)
    return y


def gradient_sums(dy: Tensor, x: Tensor, *, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = mean.shape[0]
    rstd = (var + eps).rsqrt()
    sums = []
    for cell, dcell, (m, r) in zip(cells(x, rows), cells(dy, rows), vectors(x, mean, rstd), strict=True):
        _, dot, total = _aten.native_batch_norm_backward(dcell, cell, None, None, None, m, r, True, eps, _ONLY_SUMS)
        sums.append((total, dot))
    return by_row(sums, rows)


def gradient_input(
    dy: Tensor, x: Tensor, *, mean: Tensor, var: Tensor, gamma: Tensor, dy_mean: Tensor, dot_mean: Tensor, eps: float
) -> Tensor:
    dx = torch.empty_like(x)
    rows = mean.shape[0]
    rstd = (var + eps).rsqrt()
    slope = rstd * gamma
    _affine(x, mean, (rstd * rstd * dot_mean).neg_(), (rstd * dy_mean).neg_(), out=dx)
    if x.is_contiguous():
        for out, dcell, (a,) in zip(cells(dx, rows), cells(dy, rows), vectors(x, slope), strict=True):
            out.addcmul_(dcell, broadcast(a))
    else:
        by_rows(dx, rows).addcmul_(by_rows(dy, rows), broadcast_rows(slope))
    return dx


def has_whole_gradient(x: Tensor, *, rows: int, groups: int) -> bool:
    """Whether torch has one kernel for all three gradients: its batch norm's, or its group norm's."""
    return (rows == 1 and groups == x.shape[1]) or clips_apart(x, rows)


def whole_gradient(
    dy: Tensor, x: Tensor, *, mean: Tensor, var: Tensor, gamma: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gamma and beta; statistics (R, G), gamma (C,)."""
    rows, groups = mean.shape
    rstd = (var + eps).rsqrt()
    if rows == 1 and groups == x.shape[1]:
        mean, rstd = mean.view(-1), rstd.view(-1)
        return _aten.native_batch_norm_backward(dy, x, gamma, None, None, mean, rstd, True, eps, [True] * 3)
    n, c = x.shape[:2]
    return _aten.native_group_norm_backward(dy, x, mean, rstd, gamma, n, c, x[0, 0].numel(), groups, [True] * 3)


def _cell_moments(cell: Tensor) -> tuple[Tensor, Tensor]:
    if cell.is_contiguous():
        return _contiguous_moments(cell)
    return torch.batch_norm_update_stats(cell, None, None, 0.0)


def _contiguous_moments(cell: Tensor) -> tuple[Tensor, Tensor]:
    # batch_norm_update_stats takes four times as long here as the sums of x and of x (x - mean), had as a gradient.
    mean = cell.mean(_DIMS)
    _, dot, _ = _aten.native_batch_norm_backward(
        cell, cell, None, None, None, mean, torch.ones_like(mean), True, 0.0, _ONLY_SUMS
    )
    return mean, dot.mul_(cell.shape[1] / cell.numel()).clamp_(min=0)


def _affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, *, out: Tensor) -> None:
    """(x - mean) * scale + shift, vectors (R, C), in one pass."""
    rows = mean.shape[0]
    if not x.is_contiguous():
        shift = torch.addcmul(shift, mean, scale, value=-1)
        torch.addcmul(broadcast_rows(shift), by_rows(x, rows), broadcast_rows(scale), out=by_rows(out, rows))
        return
    unused = mean.new_empty(0)
    for cell, o, (m, a, b) in zip(cells(x, rows), cells(out, rows), vectors(x, mean, scale, shift), strict=True):
        _aten.native_batch_norm.out(
            cell, a, b, m, torch.ones_like(m), False, 0.0, 0.0, out=o, save_mean=unused, save_invstd=unused
        )
