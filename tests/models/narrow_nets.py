"""Narrow nets for the tests of weights: ours, the same of the second implementation, and how to feed them."""

import dataclasses

import torch

from tests.models.plain_resnet import PlainResNet
from vidgn.config.schema import ModelConfig, NormConfig, PoolConfig
from vidgn.models.i3d import build_model

OUR_STD = (57.375, 57.375, 57.375)
TAPS_P = ((3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1))
IMAGE = ModelConfig(
    name="narrow_resnet50",
    width=8,
    conv1_kernel=(1, 7, 7),
    conv1_stride=(1, 2, 2),
    pool1=PoolConfig((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    pool2=None,
    temporal_kernels=tuple((1,) * len(taps) for taps in TAPS_P),
    dropout=0.0,
    zero_init_last=True,
    norm_groups=4,
)
POOL2 = PoolConfig((2, 1, 1), (2, 1, 1), (0, 0, 0))
VIDEO = dataclasses.replace(
    IMAGE,
    name="narrow_i3d",
    conv1_kernel=(5, 7, 7),
    conv1_stride=(2, 2, 2),
    pool1=PoolConfig((2, 3, 3), (2, 2, 2), (0, 0, 0)),
    pool2=POOL2,
    temporal_kernels=TAPS_P,
)
VIDEO_Q = dataclasses.replace(VIDEO, conv1_stride=(1, 2, 2), pool1=PoolConfig((1, 3, 3), (1, 2, 2), (0, 1, 1)))
VIDEO_MMACTION = dataclasses.replace(VIDEO, pool1=PoolConfig((1, 3, 3), (2, 2, 2), (0, 1, 1)))
IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
NLN = {"mean": (114.75,) * 3, "std": (57.375,) * 3}
DETECTRON = {"mean": (102.9801, 115.9465, 122.7717), "std": (1.0,) * 3, "bgr": True}  # in its own order: B, G, R


def norm(kind):
    return NormConfig(kind=kind, groups=None, channels_per_group=None, eps=1e-5, momentum=0.1)


def plain(model, kind, **kwargs):
    """The second implementation of `model`; 2-D where nothing in it looks along T."""
    if model is IMAGE:
        return PlainResNet(dims=2, norm=kind, **kwargs)
    return PlainResNet(
        dims=3,
        norm=kind,
        conv1_kernel=model.conv1_kernel,
        conv1_stride=model.conv1_stride,
        pool1=(model.pool1.kernel, model.pool1.stride, model.pool1.padding),
        pool2=True,
        taps=model.temporal_kernels,
        **kwargs,
    )


def frames_for(model):
    return {IMAGE.name: 1}.get(model.name, 8)


def ours(model, kind, classes=7, frames=None):
    return build_model(model, norm(kind), num_classes=classes, frames=frames or frames_for(model), crop=48).eval()


def logits(net, pixels, report, std=OUR_STD):
    """What our network says of 0-255 RGB pixels (N, 3, T, H, W), fed as the engine feeds it."""
    mean = torch.tensor(report.input_mean).double().view(1, 3, 1, 1, 1)
    x = (pixels.double() - mean) / torch.tensor(std).double().view(1, 3, 1, 1, 1)
    with torch.no_grad():
        return net.double()(x).flatten(2).mean(-1)


def clip(model, seed=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, frames_for(model), 48, 48), generator=g).float()
