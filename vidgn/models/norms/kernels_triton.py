"""The whole of a norm on CUDA by the Triton kernels of triton_source.py, launched on what program_cut.py cuts.

Two launches forward and two backward for every kind of norm, with a residual add and a ReLU behind it.
"""

# pyright: basic

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vidgn.models.norms import triton_source
from vidgn.models.norms.program_cut import cut, power_of_2
from vidgn.models.norms.slices import statistics_dtype

source: Any = triton_source  # what @triton.jit takes and gives, no type checker knows
_IS_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
_COUNTERS = 1 << 16
_WARPS = 4
_MOST_VALUES = 2**31 - 1  # of a clip: offsets within one are 32 bits wide
_TYPES = {torch.float32: source.tl.float32, torch.float64: source.tl.float64}

_counters: dict[tuple[Any, ...], Tensor] = {}


def takes(x: Tensor) -> bool:
    """Whether the kernels can run on it: a CUDA tensor, or any where Triton's interpreter runs them."""
    is_small = 0 < x.numel() // max(1, x.shape[0]) <= _MOST_VALUES
    return is_small and (x.is_cuda or _IS_INTERPRETED)


def moments(x: Tensor, *, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (R, G) each."""
    c, dtype = cut(x, rows=rows, groups=groups), statistics_dtype(x)
    mean, var = (x.new_empty(rows, groups, dtype=dtype) for _ in range(2))  # apart: no result may share memory
    part = x.new_empty(c.clips * 2 * c.split * c.parts * groups, dtype=dtype)
    of_clips = x.new_empty(c.clips * 2 * groups, dtype=dtype)
    source.moments_kernel[c.slices, rows, c.group_blocks](
        x,
        part,
        of_clips,
        mean,
        var,
        _zeros(x, 2 * c.clips * c.group_blocks),
        **c.by_group,
        ACC=_TYPES[dtype],
        PARTIALS=c.partials,
        CLIPS=power_of_2(c.clips // c.rows),
        num_warps=_WARPS,
    )
    return mean, var


def normalise(
    x: Tensor,
    *,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * gamma + beta + residual, through ReLU; statistics (R, G), gamma and beta (C,)."""
    c = cut(x, rows=mean.shape[0], groups=mean.shape[1])
    y = torch.empty_like(x)
    source.normalise_kernel[c.slices, c.rows, c.channel_blocks](
        x,
        x if residual is None else residual,
        y,
        mean,
        var,
        gamma,
        beta,
        **c.shape,
        eps=eps,
        ACC=_TYPES[mean.dtype],
        ADD=residual is not None,
        RELU=relu,
        CHANNELS=c.columns,
        num_warps=_WARPS,
    )
    return y


def gradient(
    dy: Tensor,
    x: Tensor,
    *,
    y: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor,
    beta: Tensor,
    count: int | None,
    eps: float,
    adds: bool,
    is_affine: bool,
    over_ranks: Callable[[Tensor], None] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, gamma, beta and, behind a ReLU, of what was added; see operators.py."""
    c = cut(x, rows=mean.shape[0], groups=mean.shape[1])
    acc, relu = _TYPES[mean.dtype], y is not None
    adds = adds and relu  # without a ReLU it is dy itself
    dx, dresidual = torch.empty_like(x), torch.empty_like(x) if adds else x.new_empty(0)
    dgamma, dbeta = (mean.new_empty(c.channels) for _ in range(2))
    vectors = {"mean": mean, "var": var, "gamma": gamma, "beta": beta, "eps": eps}
    has_sums = count is not None or is_affine
    sums = mean.new_empty((2, c.rows, c.channels) if has_sums else 0)
    if has_sums:
        part = mean.new_empty(c.clips * 2 * c.split * c.channels)
        of_clips = mean.new_empty(c.clips * 2 * c.channels)
        source.sums_kernel[c.slices, c.rows, c.channel_blocks](
            dy,
            x,
            x if y is None else y,
            dresidual,
            part,
            of_clips,
            sums,
            _zeros(x, 2 * c.clips * c.channel_blocks),
            **vectors,
            **c.shape,
            ACC=acc,
            ADD=adds,
            RELU=relu,
            CHANNELS=c.columns,
            PARTIALS=c.partials,
            CLIPS=power_of_2(c.clips // c.rows),
            num_warps=_WARPS,
        )
        if over_ranks is not None:
            local_dbeta, local_dgamma = sums[0].sum(0), sums[1].sum(0)
            over_ranks(sums)
    is_masked = has_sums and adds  # what `sums` has written
    source.gradient_kernel[c.slices + has_sums, c.rows, c.group_blocks](
        dresidual if is_masked else dy,
        x,
        x if y is None else y,
        dx,
        dresidual,
        sums,
        dgamma,
        dbeta,
        **vectors,
        **c.by_group,
        num_slices=c.slices,
        count=count or 1,
        ACC=acc,
        FIXED=count is None,
        ADD=adds,
        RELU=relu and not is_masked,
        GROUP_WIDTH=power_of_2(c.group_channels),
        ROWS=min(16, power_of_2(c.rows)),
        num_warps=_WARPS,
    )
    if has_sums and over_ranks is not None:
        dbeta, dgamma = local_dbeta, local_dgamma
    return dx, dgamma, dbeta, dresidual


def _zeros(x: Tensor, number: int) -> Tensor:
    """Counters at 0, which the kernels leave so: those of this device and stream."""
    stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
    found = _counters.get((x.device, stream))
    if found is None or found.numel() < number:
        found = torch.zeros(max(number, _COUNTERS), dtype=torch.int32, device=x.device)
        _counters[x.device, stream] = found
    return found
