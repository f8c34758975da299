"""uint8 pixels to what the network takes: one kernel, three bytes of traffic a bf16 value."""

# pyright: basic

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024  # values of a program


@triton.jit(do_not_specialize=["count"])
def pixels_kernel(x, y, mean, std, count, BLOCK: tl.constexpr):
    """(x - mean) / std of bytes, three values to a pixel, in float32."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_inside = at < count
    colour = at % 3
    value = tl.load(x + at, mask=is_inside, other=0).to(tl.float32) - tl.load(mean + colour)
    tl.store(y + at, tl.div_rn(value, tl.load(std + colour)).to(y.dtype.element_ty), mask=is_inside)


def normal_pixels(clip_NTHWC: Tensor, mean_C: Tensor, std_C: Tensor, dtype: torch.dtype) -> Tensor:
    """See normal_pixels.py."""
    y = torch.empty(clip_NTHWC.shape, dtype=dtype, device=clip_NTHWC.device)
    kernel: Any = pixels_kernel
    kernel[(triton.cdiv(y.numel(), _BLOCK),)](clip_NTHWC, y, mean_C, std_C, y.numel(), BLOCK=_BLOCK)
    return y.permute(0, 4, 1, 2, 3)
