"""A second ResNet for the tests of weights: plain functions over named tensors, 2-D or 3-D, no module of ours in it.

Parameters have names of this file alone: ("stem", part), (stage, block, branch, part), ("head", part).
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

BRANCHES = ("a", "b", "c", "shortcut")


@dataclass
class PlainResNet:
    """`dims`: 2 or 3. `norm`: bn or gn. `taps[stage][block]`: temporal kernel of conv a (3-D). Weights float64."""

    dims: int
    norm: str
    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 8
    classes: int = 7
    groups: int = 4
    conv1_kernel: tuple[int, ...] = (7, 7)
    conv1_stride: tuple[int, ...] = (2, 2)
    pool1: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ((3, 3), (2, 2), (1, 1))
    pool2: bool = False
    taps: tuple[tuple[int, ...], ...] | None = None
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # in the order of its own channels
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    bgr: bool = False
    seed: int = 0
    params: dict[tuple, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self):
        g = torch.Generator().manual_seed(self.seed)
        self._conv(("stem",), 3, self.width, self.conv1_kernel, g)
        self._norm(("stem",), self.width, g, 1.0)
        fan_in = self.width
        for stage, depth in enumerate(self.depths):
            inner, outer = self.width * 2**stage, 4 * self.width * 2**stage
            for block in range(depth):
                tap = self.taps[stage][block] if self.taps else 1
                for branch, i, o, kernel in (
                    ("a", fan_in, inner, (tap, 1, 1)),
                    ("b", inner, inner, (1, 3, 3)),
                    ("c", inner, outer, (1, 1, 1)),
                    ("shortcut", fan_in, outer, (1, 1, 1)),
                ):
                    if branch == "shortcut" and block > 0:
                        continue
                    self._conv((stage, block, branch), i, o, kernel[3 - self.dims :], g)
                    self._norm((stage, block, branch), o, g, 0.5 if branch == "c" else 1.0)
                fan_in = outer
        self._put(("head", "weight"), torch.randn(self.classes, fan_in, generator=g) / fan_in**0.5)
        self._put(("head", "bias"), torch.randn(self.classes, generator=g))

    def _put(self, name, value):
        self.params[name] = value.float().double()  # values that a float32 file holds exactly

    def _conv(self, name, i, o, kernel, g):
        fan = i * torch.tensor(kernel).prod().item()
        self._put((*name, "conv"), torch.randn(o, i, *kernel, generator=g) * (2 / fan) ** 0.5)

    def _norm(self, name, channels, g, scale):
        def uniform(low, high):
            return torch.rand(channels, generator=g) * (high - low) + low

        self._put((*name, "gamma"), uniform(0.5, 1.5) * scale)
        self._put((*name, "beta"), uniform(-0.4, 0.4))
        if self.norm == "bn":
            self._put((*name, "mean"), uniform(-0.5, 0.5))
            self._put((*name, "var"), uniform(0.3, 3.0))

    def units(self):
        """(stage, block, branch) of every conv + norm but the stem's, in the order of the network."""
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                for branch in BRANCHES:
                    if branch != "shortcut" or block == 0:
                        yield stage, block, branch

    def _normalise(self, x, name):
        p = self.params
        gamma, beta = p[(*name, "gamma")], p[(*name, "beta")]
        if self.norm == "gn":
            return F.group_norm(x, self.groups, gamma, beta, 1e-5)
        shape = (1, -1, *(1,) * self.dims)
        mean, var = p[(*name, "mean")].view(shape), p[(*name, "var")].view(shape)
        return (x - mean) / torch.sqrt(var + 1e-5) * gamma.view(shape) + beta.view(shape)

    def conv(self, x, name, stride=1):
        """The bare convolution `name`, padded by half its kernel."""
        kernel = self.params[(*name, "conv")]
        padding = [k // 2 for k in kernel.shape[2:]]
        return (F.conv2d if self.dims == 2 else F.conv3d)(x, kernel, stride=stride, padding=padding)

    def stride(self, stage, block, branch):
        """Only the 3x3 and the shortcut carry the stride."""
        step = 2 if stage > 0 and block == 0 and branch in ("b", "shortcut") else 1
        return (step, step) if self.dims == 2 else (1, step, step)

    def features(self, pixels_rgb):
        """The map before pooling of 0-255 R, G, B pixels (N, 3, [T,] H, W)."""
        pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
        shape = (1, 3, *(1,) * self.dims)
        x = pixels_rgb.double().flip(1) if self.bgr else pixels_rgb.double()
        x = (x - torch.tensor(self.mean).double().view(shape)) / torch.tensor(self.std).double().view(shape)
        x = F.relu(self._normalise(self.conv(x, ("stem",), self.conv1_stride), ("stem",)))
        x = pool(x, self.pool1[0], self.pool1[1], self.pool1[2])
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                x = self._block(x, stage, block)
            if stage == 0 and self.pool2:
                x = pool(x, (2, 1, 1), (2, 1, 1))
        return x

    def _block(self, x, stage, block):
        y = x
        for branch in "abc":
            y = self._normalise(
                self.conv(y, (stage, block, branch), self.stride(stage, block, branch)), (stage, block, branch)
            )
            y = F.relu(y) if branch != "c" else y
        if block == 0:
            x = self._normalise(
                self.conv(x, (stage, 0, "shortcut"), self.stride(stage, 0, "shortcut")), (stage, 0, "shortcut")
            )
        return F.relu(x + y)

    def __call__(self, pixels_rgb):
        """Logits (N, K), pooled over everything."""
        pooled = self.features(pixels_rgb).flatten(2).mean(-1)
        return pooled @ self.params["head", "weight"].T + self.params["head", "bias"]
