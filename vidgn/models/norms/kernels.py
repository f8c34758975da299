"""The passes over a clip tensor that every norm is made of, one module for each kind of device.

Each has `moments`, `normalise`, `gradient_sums` and `gradient_input`, as `kernels_composed` documents them. Shapes: x,
dy (N, C, T, H, W), contiguous or channels_last_3d. R rows: row r is the N/R consecutive clips that share statistics
(R = N: each clip its own); G groups of consecutive channels. Vectors are (R, C) or (R, G), float32, or float64 for
float64 input.
"""

from types import ModuleType

import torch
from torch import Tensor

from vidgn.models.norms import kernels_composed, kernels_cpu, kernels_cuda


def kernels_for(x: Tensor) -> ModuleType:
    """The module that has the passes for a tensor like `x`."""
    if x.is_cuda:
        return kernels_cuda
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        return kernels_cpu
    return kernels_composed
