"""The four passes over a clip tensor that every norm is made of, for each kind of device.

Shapes: x, dy (N, C, T, H, W), contiguous or channels_last_3d. R rows: row r is the N/R consecutive clips that share
statistics (R = N: each clip its own). Statistics are (R, C) here, float32, or float64 for float64 input. A pass runs
over cells, slices of x that are dense in either memory format and have statistics of their own per channel.

CPU, float32 and float64: torch's own batch norm kernels. CUDA: those that SyncBatchNorm is made of. Anything else,
16 bits on a CPU too: a composition in float32, cell by cell.
"""

import torch
from torch import Tensor

_aten = torch.ops.aten
_DIMS = (0, 2, 3, 4)
_STATS_EPS = 1e-5  # what CUDA's kernel adds to the variance, taken off again


def statistics_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def dense(x: Tensor) -> Tensor:
    """`x` itself if it is contiguous or channels_last_3d, else a copy in the nearer of the two."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last_3d):
        return x
    channels_last = x.stride(1) == 1 and x.shape[1] > 1
    return x.contiguous(memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format)


def dense_like(dy: Tensor, x: Tensor) -> Tensor:
    """`dy` in the memory format and dtype of the dense tensor `x`."""
    like = torch.contiguous_format if x.is_contiguous() else torch.channels_last_3d
    return dy.to(x.dtype).contiguous(memory_format=like)


def moments(x: Tensor, *, rows: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (N/R, T, H, W): two tensors (R, C)."""
    parts = [_cell_moments(cell) for cell in _cells(x, rows)]
    mean, var = (torch.stack(list(p)).view(rows, -1) for p in zip(*parts, strict=True))
    return mean, var.clamp_(min=0)


def normalise(x: Tensor, *, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x - mean) * scale + shift, each (R, C); dtype and memory format of x."""
    y = torch.empty_like(x)
    rows = mean.shape[0]
    cells = _cells(x, rows)
    vectors = (_per_cell(v, len(cells)) for v in (mean, scale, shift))
    for cell, out, m, a, b in zip(cells, _cells(y, rows), *vectors, strict=True):
        if _is_plain_cpu(x):
            _affine_cpu(cell, m, a, b, out=out)
        elif x.is_cuda:
            torch.batch_norm_elemt(cell, a, b, m, torch.ones_like(m), 0.0, out=out)
        else:
            centred = cell.to(a.dtype).sub(_broadcast(m))
            out.copy_(torch.addcmul(_broadcast(b), centred, _broadcast(a)))
    return y


def gradient_sums(dy: Tensor, x: Tensor, *, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of dy and of dy * (x - mean) * rstd over (N/R, T, H, W): two tensors (R, C)."""
    rows = mean.shape[0]
    cells = _cells(x, rows)
    sums = []
    for cell, dcell, m, r in zip(
        cells, _cells(dy, rows), _per_cell(mean, len(cells)), _per_cell(rstd, len(cells)), strict=True
    ):
        if _is_plain_cpu(x):
            mask = [False, True, True]
            _, dot, total = _aten.native_batch_norm_backward(dcell, cell, r, None, None, m, r, True, 0.0, mask)
        elif x.is_cuda:
            total, dot, _, _ = torch.batch_norm_backward_reduce(dcell, cell, m, r, None, True, False, False)
            dot = dot * r
        else:
            d = dcell.to(m.dtype)
            total = d.sum(_DIMS)
            dot = (d * cell.to(m.dtype).sub(_broadcast(m))).sum(_DIMS) * r
        sums.append((total, dot))
    total, dot = (torch.stack(list(s)).view(rows, -1) for s in zip(*sums, strict=True))
    return total, dot


def gradient_input(
    dy: Tensor, x: Tensor, *, mean: Tensor, rstd: Tensor, gamma: Tensor, dy_mean: Tensor, dot_mean: Tensor
) -> Tensor:
    """rstd * (gamma * dy - dy_mean - (x - mean) * rstd * dot_mean); gamma (C,), the others (R, C).

    `dy_mean` and `dot_mean` are the means of gamma * dy and gamma * dy * (x - mean) * rstd over all that shares
    statistics.
    """
    dx = torch.empty_like(x)
    rows = mean.shape[0]
    gamma = gamma.expand(rows, -1)
    if x.is_cuda:
        # The kernel takes gamma out of the bracket: a tiny one stands in for zero.
        gamma = torch.where(gamma.abs() < 1e-20, torch.full_like(gamma, 1e-20), gamma)
        vectors = (mean, rstd, gamma, dy_mean / gamma, dot_mean / (gamma * rstd))
        one = torch.ones(1, dtype=torch.int32, device=x.device)
        pairs = zip(_cells(dx, rows), _cells(dy, rows), _cells(x, rows), strict=True)
        for (out, dcell, cell), v in zip(pairs, _vectors_per_cell(vectors, x), strict=True):
            out.copy_(torch.batch_norm_backward_elemt(dcell, cell, *v, one))  # type: ignore[call-arg]
        return dx
    slope = -rstd * rstd * dot_mean
    vectors = (mean, slope, -rstd * dy_mean, rstd * gamma)
    pairs = zip(_cells(dx, rows), _cells(dy, rows), _cells(x, rows), strict=True)
    for (out, dcell, cell), (m, a, b, c) in zip(pairs, _vectors_per_cell(vectors, x), strict=True):
        if _is_plain_cpu(x):
            _affine_cpu(cell, m, a, b, out=out)
            out.addcmul_(dcell, _broadcast(c))
        else:
            centred = cell.to(a.dtype).sub(_broadcast(m))
            acc = torch.addcmul(_broadcast(b), centred, _broadcast(a))
            out.copy_(acc.addcmul_(dcell.to(a.dtype), _broadcast(c)))
    return dx


def _cells(x: Tensor, rows: int) -> list[Tensor]:
    """Dense slices with statistics per channel. Clips of their own, contiguous: one cell of N * C channels."""
    if rows == x.shape[0] and x.is_contiguous():
        return [x.view(1, -1, *x.shape[2:])]
    return list(x.split(x.shape[0] // rows))


def _per_cell(v_RC: Tensor, num_cells: int) -> tuple[Tensor, ...]:
    return v_RC.contiguous().view(num_cells, -1).unbind()


def _vectors_per_cell(vectors_RC: tuple[Tensor, ...], x: Tensor) -> list[tuple[Tensor, ...]]:
    num_cells = len(_cells(x, vectors_RC[0].shape[0]))
    return list(zip(*(_per_cell(v, num_cells) for v in vectors_RC), strict=True))


def _cell_moments(cell: Tensor) -> tuple[Tensor, Tensor]:
    count = cell.numel() // cell.shape[1]
    if cell.is_cuda:
        mean, rstd = torch.batch_norm_stats(cell, _STATS_EPS)
        return mean, rstd.pow(-2) - _STATS_EPS
    if not _is_plain_cpu(cell):
        cell = cell.to(torch.float32)
        mean = cell.mean(_DIMS)
        return mean, cell.sub(_broadcast(mean)).square_().mean(_DIMS)
    if not cell.is_contiguous():
        return torch.batch_norm_update_stats(cell, None, None, 0.0)
    # The same for contiguous cells is four times slower than: sums of x, then of x (x - mean), as if for a gradient.
    mean = cell.sum(_DIMS) / count
    one = torch.ones_like(mean)
    _, dot, total = _aten.native_batch_norm_backward(
        cell, cell, one, None, None, mean, one, True, 0.0, [False, True, True]
    )
    return mean, (dot - mean * (total - mean * count)) / count


def _affine_cpu(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, *, out: Tensor) -> None:
    unused = mean.new_empty(0)
    var = torch.ones_like(mean)
    _aten.native_batch_norm.out(
        x, scale, shift, mean, var, False, 0.0, 0.0, out=out, save_mean=unused, save_invstd=unused
    )


def _is_plain_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def _broadcast(v_C: Tensor) -> Tensor:
    return v_C.view(1, -1, 1, 1, 1)
