"""uint8 pixels to what the network takes, as one operator."""

import importlib

import torch
from torch import Tensor

from vidgn.models.norms import operators
from vidgn.models.norms.define import operator


@operator("normal_pixels(Tensor clip_NTHWC, Tensor mean_C, Tensor std_C, ScalarType dtype) -> Tensor")
def normal_pixels(clip_NTHWC: Tensor, mean_C: Tensor, std_C: Tensor, dtype: torch.dtype) -> Tensor:
    """(x - mean) / std of uint8 RGB in float32, as (N, C, T, H, W) of `dtype` in channels_last_3d.

    Where norms run by Triton it is one kernel, which reads a byte and writes a value.
    """
    clip_NTHWC = clip_NTHWC.contiguous()
    if clip_NTHWC.is_cuda and operators.uses_triton():
        triton = importlib.import_module("vidgn.training.normal_pixels_triton")
        return triton.normal_pixels(clip_NTHWC, mean_C, std_C, dtype)
    return ((clip_NTHWC.to(mean_C.dtype) - mean_C) / std_C).to(dtype).permute(0, 4, 1, 2, 3)


@torch.library.register_fake("vidgn::normal_pixels")
def _(clip_NTHWC: Tensor, mean_C: Tensor, std_C: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(clip_NTHWC.contiguous(), dtype=dtype).permute(0, 4, 1, 2, 3)
