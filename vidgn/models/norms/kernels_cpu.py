"""The passes on a CPU by the kernels of torch's own norms, bf16 on contiguous maps. kernels_composed.py documents them.

Contiguous maps go through batch norm's kernels slice by slice; elementwise passes over channels_last ones are faster as
one broadcast, whatever the rows. Tiny operations are counted: a small net on a CPU spends its time in them.
"""

import torch
from torch import Tensor

from vidgn.models.norms import kernels_composed
from vidgn.models.norms.slices import (
    broadcast,
    broadcast_rows,
    by_row,
    by_rows,
    clips_apart,
    moments_by_slice,
    slices,
    statistics_dtype,
    vectors,
)

_aten = torch.ops.aten
_DIMS = (0, 2, 3, 4)
_FAR = 4.0  # mean^2 / variance up to which x (x - mean) is as good, to some 1e-7
_ONLY_SUMS = [False, True, True]  # of native_batch_norm_backward's three gradients


def moments(x: Tensor, *, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    return moments_by_slice(x, rows=rows, groups=groups, moments=_slice_moments)


def normalise(x: Tensor, *, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    y = torch.empty_like(x)
    _affine(x, mean, (var + eps).rsqrt() * gamma, beta, out=y)
    return y


def gradient_sums(dy: Tensor, x: Tensor, *, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = mean.shape[0]
    rstd = (var + eps).rsqrt()
    sums = []
    for x_slice, dy_slice, (m, r) in zip(slices(x, rows), slices(dy, rows), vectors(x, mean, rstd), strict=True):
        weight = torch.ones_like(r)  # asked for nothing but its type, which is that of the sums
        _, dot, total = _aten.native_batch_norm_backward(
            dy_slice, x_slice, weight, None, None, m, r, True, eps, _ONLY_SUMS
        )
        sums.append((total, dot))
    return by_row(sums, rows)


def gradient_input(
    dy: Tensor, x: Tensor, *, mean: Tensor, var: Tensor, gamma: Tensor, dy_mean: Tensor, dot_mean: Tensor, eps: float
) -> Tensor:
    if x.dtype == torch.bfloat16:  # two passes would round twice
        vectors_RC = {"mean": mean, "var": var, "gamma": gamma, "dy_mean": dy_mean, "dot_mean": dot_mean}
        return kernels_composed.gradient_input(dy, x, **vectors_RC, eps=eps)
    dx = torch.empty_like(x)
    rows = mean.shape[0]
    rstd = (var + eps).rsqrt()
    slope = rstd * gamma
    _affine(x, mean, (rstd * rstd * dot_mean).neg_(), (rstd * dy_mean).neg_(), out=dx)
    if x.is_contiguous():
        for out, dy_slice, (a,) in zip(slices(dx, rows), slices(dy, rows), vectors(x, slope), strict=True):
            out.addcmul_(dy_slice, broadcast(a))
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


def _slice_moments(x_slice: Tensor) -> tuple[Tensor, Tensor]:
    if x_slice.is_contiguous():
        return _contiguous_moments(x_slice)
    return torch.batch_norm_update_stats(x_slice, None, None, 0.0)


def _contiguous_moments(x_slice: Tensor) -> tuple[Tensor, Tensor]:
    # batch_norm_update_stats takes four times as long here as the sums of x and of x (x - mean), had as a gradient.
    mean = x_slice.mean(_DIMS, dtype=statistics_dtype(x_slice))
    var = _mean_of_product(x_slice, x_slice, mean)
    if (mean.square() > _FAR * var).any():  # the sum of x (x - mean) loses digits, that of (x - mean)^2 does not
        var = _mean_of_product((x_slice - broadcast(mean)).to(x_slice.dtype), x_slice, mean)
    return mean, var.clamp_(min=0)


def _mean_of_product(y: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    """The mean of y (x - mean) over all but channels."""
    one = torch.ones_like(mean)
    _, dot, _ = _aten.native_batch_norm_backward(y, x, one, None, None, mean, one, True, 0.0, _ONLY_SUMS)
    return dot.mul_(x.shape[1] / x.numel())


def _affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, *, out: Tensor) -> None:
    """(x - mean) * scale + shift, vectors (R, C), in one pass."""
    rows = mean.shape[0]
    if not x.is_contiguous():
        shift = torch.addcmul(shift, mean, scale, value=-1)
        torch.addcmul(broadcast_rows(shift), by_rows(x, rows), broadcast_rows(scale), out=by_rows(out, rows))
        return
    unused = mean.new_empty(0)
    for x_slice, o, (m, a, b) in zip(slices(x, rows), slices(out, rows), vectors(x, mean, scale, shift), strict=True):
        _aten.native_batch_norm.out(
            x_slice, a, b, m, torch.ones_like(m), False, 0.0, 0.0, out=o, save_mean=unused, save_invstd=unused
        )
