"""pytorchvideo's blocks, imported in one place because importing them warns, and typed as what they take."""

import warnings
from collections.abc import Callable

from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorchvideo.models import resnet, stem

create_res_basic_stem: Callable[..., nn.Module] = stem.create_res_basic_stem
create_res_stage: Callable[..., nn.Module] = resnet.create_res_stage
create_bottleneck_block: Callable[..., nn.Module] = resnet.create_bottleneck_block
