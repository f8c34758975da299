"""pytorchvideo's blocks with another forward: a residual add and a ReLU behind a norm of vidgn's are part of the norm.

Modules and keys are pytorchvideo's; what changes is that a map is read and written once where it would be three times.
"""

import warnings

from torch import Tensor, nn

from vidgn.models.norms.layers import Norm

with warnings.catch_warnings():  # importing pytorchvideo warns
    warnings.simplefilter("ignore")
    from pytorchvideo.models import resnet, stem


class Stem(stem.ResNetBasicStem):
    """Convolution, norm, ReLU, pool."""

    conv: nn.Module
    norm: nn.Module
    activation: nn.Module
    pool: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, C, T', H', W')."""
        return self.pool(_norm_act(self.norm, self.activation, self.conv(x)))


class Bottleneck(resnet.BottleneckBlock):
    """Three convolutions with norms; the last norm ends the residual block."""

    conv_a: nn.Module
    conv_b: nn.Module
    conv_c: nn.Module
    norm_a: nn.Module
    norm_b: nn.Module
    norm_c: nn.Module
    act_a: nn.Module
    act_b: nn.Module

    def forward(self, x: Tensor, shortcut: Tensor, act: nn.Module) -> Tensor:  # type: ignore[override]
        """`act` of what it makes of `x` and of `shortcut` together."""
        x = _norm_act(self.norm_a, self.act_a, self.conv_a(x))
        x = _norm_act(self.norm_b, self.act_b, self.conv_b(x))
        return _norm_act(self.norm_c, act, self.conv_c(x), shortcut)


class ResBlock(resnet.ResBlock):
    """A residual block around a `Bottleneck`."""

    branch1_conv: nn.Module | None
    branch1_norm: nn.Module
    branch2: nn.Module
    activation: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, C', T', H', W')."""
        shortcut = x if self.branch1_conv is None else self.branch1_norm(self.branch1_conv(x))
        return self.branch2(x, shortcut, self.activation)


def fuse(net: nn.Module) -> None:
    """Give the blocks in `net` these forwards."""
    for module in net.modules():
        for kind in (Stem, Bottleneck, ResBlock):
            if type(module) is kind.__base__:
                module.__class__ = kind


def _norm_act(norm: nn.Module, act: nn.Module, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
    if isinstance(norm, Norm) and isinstance(act, nn.ReLU):
        return norm(x, shortcut, relu=True)
    x = norm(x)
    return act(x if shortcut is None else shortcut + x)
