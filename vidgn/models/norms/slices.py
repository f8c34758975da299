"""Slices of a clip tensor: each is dense in its memory format and has statistics per channel of its own.

So a kernel for plain batch norm does for every kind of norm. Shapes, R and G: see operators.py.
"""

from collections.abc import Callable

import torch
from torch import Tensor


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


def clips_apart(x: Tensor, rows: int) -> bool:
    """Whether each clip is a row of its own, in contiguous format: then all are one slice of N * C channels."""
    return rows == x.shape[0] and x.is_contiguous()


def slices(x: Tensor, rows: int) -> tuple[Tensor, ...]:
    """The slices of dense `x`, each (n, c, T, H, W)."""
    if rows == 1:
        return (x,)
    if clips_apart(x, rows):
        return (x.view(1, -1, *x.shape[2:]),)
    return x.split(x.shape[0] // rows)


def vectors(x: Tensor, *vectors_RC: Tensor) -> list[tuple[Tensor, ...]]:
    """The vectors that belong to each of `slices(x, R)`: a tuple of vectors (c,) for each slice."""
    rows = vectors_RC[0].shape[0]
    if rows == 1 or clips_apart(x, rows):
        return [tuple(v.reshape(-1) for v in vectors_RC)]
    return list(zip(*(v.unbind() for v in vectors_RC), strict=True))


def by_row(pairs: list[tuple[Tensor, Tensor]], rows: int) -> tuple[Tensor, Tensor]:
    """Two vectors (c,) for each slice, as two tensors (R, C)."""
    if len(pairs) == 1:
        first, second = pairs[0]
        return first.view(rows, -1), second.view(rows, -1)
    firsts, seconds = zip(*pairs, strict=True)
    return torch.stack(firsts), torch.stack(seconds)


def merge(mean: Tensor, var: Tensor, *, groups: int) -> tuple[Tensor, Tensor]:
    """Moments (R, G) of the unions of equally large sets that are consecutive in (R, C). Source: Chan et al. 1979."""
    rows, channels = mean.shape
    if groups == channels:
        return mean, var
    mean, var = mean.view(rows, groups, -1), var.view(rows, groups, -1)
    merged = mean.mean(2, keepdim=True)
    return merged.squeeze(2), (var + (mean - merged).square()).mean(2)


def moments_by_slice(
    x: Tensor, *, rows: int, groups: int, moments: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (R, G) of dense `x`, from a function that gives those of one slice by channel."""
    if clips_apart(x, rows):  # a group of channels is one stretch of memory, so it may as well be a channel
        mean, var = moments(x.view(1, rows * groups, -1, *x.shape[3:]))
        return mean.view(rows, groups), var.view(rows, groups)
    mean, var = by_row([moments(x_slice) for x_slice in slices(x, rows)], rows)
    return merge(mean, var, groups=groups)


def broadcast(v_C: Tensor) -> Tensor:
    """A vector over the channels of a slice."""
    return v_C.view(1, -1, 1, 1, 1)


def by_rows(x: Tensor, rows: int) -> Tensor:
    """`x` as (R, N/R, C, T, H, W), a view."""
    return x.view(rows, -1, *x.shape[1:])


def broadcast_rows(v_RC: Tensor) -> Tensor:
    """Vectors over the channels of `by_rows`."""
    rows, channels = v_RC.shape
    return v_RC.reshape(rows, 1, channels, 1, 1, 1)
