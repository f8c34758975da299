"""The passes over a clip tensor that every norm is made of, for each kind of device.

Shapes: x, dy (N, C, T, H, W), contiguous or channels_last_3d. R rows: row r is the N/R consecutive clips that share
statistics (R = N: each clip its own); G groups of consecutive channels. Vectors are (R, C) or (R, G), float32, or
float64 for float64 input. A pass runs over cells, slices of x that are dense in either memory format and have vectors
of their own per channel.

CPU, float32 and float64: torch's own batch norm kernels. CUDA: those that SyncBatchNorm is made of. Anything else,
16 bits on a CPU too: a composition in float32, cell by cell. Tiny operations are counted: a small net on a CPU spends
its time in them.
"""

import torch
from torch import Tensor

_aten = torch.ops.aten
_DIMS = (0, 2, 3, 4)
_ONLY_SUMS = [False, True, True]  # of native_batch_norm_backward's three gradients
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


def moments(x: Tensor, *, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (N/R, C/G, T, H, W): two tensors (R, G)."""
    if _clips_apart(x, rows):  # a group of channels is one stretch of memory, so it may as well be a channel
        mean, var = _cell_moments(x.view(1, rows * groups, -1, *x.shape[3:]))
        return mean.view(rows, groups), var.view(rows, groups)
    mean, var = _by_row([_cell_moments(cell) for cell in _cells(x, rows)], rows)
    return merge(mean, var, groups=groups)


def merge(mean: Tensor, var: Tensor, *, groups: int) -> tuple[Tensor, Tensor]:
    """Moments (R, G) of the unions of equally large sets that are consecutive in (R, C). Source: Chan et al. 1979."""
    rows, channels = mean.shape
    if groups == channels:
        return mean, var
    mean, var = mean.view(rows, groups, -1), var.view(rows, groups, -1)
    merged = mean.mean(2, keepdim=True)
    return merged.squeeze(2), (var + (mean - merged).square()).mean(2)


def normalise(x: Tensor, *, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) * gamma + beta; dtype and memory format of x."""
    y = torch.empty_like(x)
    rows = mean.shape[0]
    rstd = (var + eps).rsqrt()
    pairs = zip(_cells(x, rows), _cells(y, rows), strict=True)
    if _on_cuda(x):
        for (cell, out), (m, r, a, b) in zip(pairs, _vectors(x, mean, rstd, gamma, beta), strict=True):
            torch.batch_norm_elemt(cell, a, b, m, r, eps, out=out)
        return y
    scale = rstd * gamma
    for (cell, out), (m, a, b) in zip(pairs, _vectors(x, mean, scale, beta), strict=True):
        _affine(cell, m, a, b, out=out)
    return y


def has_whole_gradient(x: Tensor, *, rows: int, groups: int) -> bool:
    """Whether torch has one kernel for all three gradients: its batch norm's, or its group norm's."""
    return _is_plain_cpu(x) and ((rows == 1 and groups == x.shape[1]) or _clips_apart(x, rows))


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


def gradient_sums(dy: Tensor, x: Tensor, *, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Sums of dy and of dy * x_hat over (N/R, T, H, W), x_hat = (x - mean) / sqrt(var + eps): two tensors (R, C)."""
    rows = mean.shape[0]
    sums = []
    for cell, dcell, (m, v) in zip(_cells(x, rows), _cells(dy, rows), _vectors(x, mean, var), strict=True):
        if _is_plain_cpu(x):
            # As the gradient in eval mode, with the statistics for running ones.
            _, dot, total = _aten.native_batch_norm_backward(
                dcell, cell, None, m, v, None, None, False, eps, _ONLY_SUMS
            )
        elif _on_cuda(x):
            rstd = (v + eps).rsqrt()
            # The weight is asked for nothing but its type.
            total, dot, _, _ = torch.batch_norm_backward_reduce(dcell, cell, m, rstd, rstd, True, False, False)
            dot = dot * rstd
        else:
            d = dcell.to(m.dtype)
            total = d.sum(_DIMS)
            dot = (d * cell.to(m.dtype).sub(_broadcast(m))).sum(_DIMS) * (v + eps).rsqrt()
        sums.append((total, dot))
    return _by_row(sums, rows)


def gradient_input(
    dy: Tensor, x: Tensor, *, mean: Tensor, var: Tensor, gamma: Tensor, dy_mean: Tensor, dot_mean: Tensor, eps: float
) -> Tensor:
    """(gamma * dy - dy_mean - x_hat * dot_mean) / sqrt(var + eps).

    `dy_mean`, `dot_mean`: means of gamma * dy and gamma * dy * x_hat over all that shares statistics.
    """
    dx = torch.empty_like(x)
    rows = mean.shape[0]
    rstd = (var + eps).rsqrt()
    cells = list(zip(_cells(dx, rows), _cells(dy, rows), _cells(x, rows), strict=True))
    if _on_cuda(x):
        # The kernel takes gamma out of the bracket: a tiny one stands in for zero.
        gamma = torch.where(gamma.abs() < 1e-20, torch.full_like(gamma, 1e-20), gamma)
        vectors = _vectors(x, mean, rstd, gamma, dy_mean / gamma, dot_mean / (gamma * rstd))
        one = torch.ones(1, dtype=torch.int32, device=x.device)
        for (out, dcell, cell), v in zip(cells, vectors, strict=True):
            out.copy_(torch.batch_norm_backward_elemt(dcell, cell, *v, one))  # type: ignore[call-arg]
        return dx
    slope = rstd * rstd * dot_mean
    vectors = _vectors(x, mean, slope.neg_(), -rstd * dy_mean, rstd * gamma)
    for (out, dcell, cell), (m, a, b, c) in zip(cells, vectors, strict=True):
        if _is_plain_cpu(x):
            _affine(cell, m, a, b, out=out)
            out.addcmul_(dcell, _broadcast(c))
        else:
            acc = torch.empty_like(cell, dtype=m.dtype)
            _affine(cell, m, a, b, out=acc)
            out.copy_(acc.addcmul_(dcell.to(m.dtype), _broadcast(c)))
    return dx


def _cells(x: Tensor, rows: int) -> tuple[Tensor, ...]:
    """Dense slices with vectors of their own. Clips for themselves, contiguous: one cell of N * C channels."""
    if rows == 1:
        return (x,)
    if _clips_apart(x, rows):
        return (x.view(1, -1, *x.shape[2:]),)
    return x.split(x.shape[0] // rows)


def _vectors(x: Tensor, *vectors_RC: Tensor) -> list[tuple[Tensor, ...]]:
    """What belongs to each of `_cells(x, rows)`, a tuple of vectors per cell."""
    rows = vectors_RC[0].shape[0]
    if rows == 1 or _clips_apart(x, rows):
        return [tuple(v.reshape(-1) for v in vectors_RC)]
    return list(zip(*(v.unbind() for v in vectors_RC), strict=True))


def _clips_apart(x: Tensor, rows: int) -> bool:
    return rows == x.shape[0] and x.is_contiguous()


def _by_row(pairs_of_vectors: list[tuple[Tensor, Tensor]], rows: int) -> tuple[Tensor, Tensor]:
    if len(pairs_of_vectors) == 1:
        first, second = pairs_of_vectors[0]
        return first.view(rows, -1), second.view(rows, -1)
    first, second = zip(*pairs_of_vectors, strict=True)
    return torch.stack(first), torch.stack(second)


def _cell_moments(cell: Tensor) -> tuple[Tensor, Tensor]:
    if _on_cuda(cell):
        mean, rstd = torch.batch_norm_stats(cell, _STATS_EPS)
        return mean, (rstd.pow(-2) - _STATS_EPS).clamp_(min=0)
    if not _is_plain_cpu(cell):
        cell = cell.to(torch.float32)
        mean = cell.mean(_DIMS)
        return mean, cell.sub(_broadcast(mean)).square_().mean(_DIMS)
    if not cell.is_contiguous():
        return torch.batch_norm_update_stats(cell, None, None, 0.0)
    # The same for contiguous cells takes four times as long as the sums of x and of x (x - mean), had as a gradient.
    mean = cell.mean(_DIMS)
    _, dot, _ = _aten.native_batch_norm_backward(
        cell, cell, None, mean, torch.ones_like(mean), None, None, False, 0.0, _ONLY_SUMS
    )
    return mean, dot.mul_(cell.shape[1] / cell.numel()).clamp_(min=0)


def _affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, *, out: Tensor) -> None:
    """(x - mean) * scale + shift per channel, in one pass where torch has one."""
    if not _is_plain_cpu(x):
        centred = x.to(mean.dtype).sub(_broadcast(mean))
        out.copy_(torch.addcmul(_broadcast(shift), centred, _broadcast(scale)))
    elif x.is_contiguous():
        unused, one = mean.new_empty(0), torch.ones_like(mean)
        _aten.native_batch_norm.out(
            x, scale, shift, mean, one, False, 0.0, 0.0, out=out, save_mean=unused, save_invstd=unused
        )
    else:
        shift = torch.addcmul(shift, mean, scale, value=-1)
        torch.addcmul(_broadcast(shift), x, _broadcast(scale), out=out)


def _on_cuda(x: Tensor) -> bool:
    return x.is_cuda


def _is_plain_cpu(x: Tensor) -> bool:
    return not _on_cuda(x) and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def _broadcast(v_C: Tensor) -> Tensor:
    return v_C.view(1, -1, 1, 1, 1)
