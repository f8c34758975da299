"""The norms of vidgn: one factory, six kinds, interchangeable in a network.

Every kind takes (N, C, T, H, W) in contiguous or channels_last_3d format, or fewer axes behind the channels, which it
sees as five, and gives the same shape, dtype and format; statistics, gamma and beta are float32 (float64 for float64
input) whatever the input is.
"""

import math
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from vidgn.config.schema import NormConfig
from vidgn.errors import ConfigError
from vidgn.models.norms.operators import apply_norm, batch_moments, uneven_moments


class Norm(nn.Module):
    """What all kinds share: gamma (`weight`), beta (`bias`), eps.

    Called with a `residual` or with `relu` it adds the one to what it gives, and lets that through the other, in the
    same pass.
    """

    def __init__(self, num_features: int, *, eps: float) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor, residual: Tensor | None = None, *, relu: bool = False) -> Tensor:
        """Normalise; (N, C) and up to three axes more.

        Raises:
            ConfigError: for a tensor of other axes.
        """
        if torch.compiler.is_exporting():
            y = self._by_torch(x) if residual is None else self._by_torch(x) + residual
            return F.relu(y) if relu else y
        if x.numel() == 0 and not self._meets_others():  # of which nothing is learnt: gradients are there, and zero
            return self._of_nothing(x)
        if x.dim() == 5:
            return self._of_clips(x, residual, relu=relu)
        if not 2 <= x.dim() <= 5:
            raise ConfigError(f"a norm takes (N, C) and up to three axes more, not a tensor of shape {tuple(x.shape)}")
        shape = (*x.shape[:2], *(1,) * (5 - x.dim()), *x.shape[2:])
        given = None if residual is None else residual.reshape(shape)
        return self._of_clips(x.reshape(shape), given, relu=relu).reshape(x.shape)

    def _of_clips(self, x: Tensor, residual: Tensor | None, *, relu: bool) -> Tensor:
        """What a kind does with (N, C, T, H, W)."""
        raise NotImplementedError

    def _by_torch(self, x: Tensor) -> Tensor:
        """The same by torch's own operator, which programs without vidgn have too: what torch.export is shown."""
        return self._of_clips(x, None, relu=False)

    def __init_subclass__(cls) -> None:
        """A kind that says anew what it does is exported as that, and not by the operator of the kind it is made of."""
        super().__init_subclass__()
        if "_of_clips" in cls.__dict__ and "_by_torch" not in cls.__dict__:
            cls._by_torch = Norm._by_torch

    def _meets_others(self) -> bool:
        """Whether a forward takes part in collectives, which it does of nothing too."""
        return False

    def _of_nothing(self, x: Tensor) -> Tensor:
        """A tensor without elements, as the masks of images without objects are."""
        return x + (0 * (self.weight.sum() + self.bias.sum())).to(x.dtype)

    def _normalise(
        self,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        residual: Tensor | None,
        *,
        count: int | None,
        relu: bool,
        group_name: str | None = None,
    ) -> Tensor:
        return apply_norm(
            x,
            mean=mean,
            var=var,
            gamma=self.weight,
            beta=self.bias,
            eps=self.eps,
            count=count,
            group_name=group_name,
            residual=residual,
            relu=relu,
        )

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


class ClipNorm(Norm):
    """GroupNorm over (C/groups, T, H, W) of each clip; the batch never enters. LN is one group, IN one per channel.

    y = gamma * (x - mean) / sqrt(var + eps) + beta, with mean and biased variance of each clip and group of channels,
    and gamma, beta of each channel.

    Shape: (N, C, T, H, W) -> same, same dtype and memory format.
    Source: Wu & He 2018, sec. 3; inflated to T as in sec. 4.3. LN: Ba et al. 2016; IN: Ulyanov et al. 2016.
    """

    def __init__(self, num_features: int, *, groups: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)
        self.groups = groups

    def _of_clips(self, x: Tensor, residual: Tensor | None, *, relu: bool) -> Tensor:
        mean, var = batch_moments(x, rows=x.shape[0], groups=self.groups)
        return self._normalise(x, mean, var, residual, count=x.numel() // mean.numel(), relu=relu)

    def _by_torch(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}, groups={self.groups}, eps={self.eps}"


class BatchNorm(Norm):
    """BatchNorm over the clips of a statistics group, and (T, H, W): ghost BN, plain BN or BN over ranks.

    y = gamma * (x - mean) / sqrt(var + eps) + beta, with mean and biased variance of each statistics group and channel.

    In training mode the batch's statistics normalise, and are left in `batch_mean_GC`, `batch_var_GC` (biased, one row
    per statistics group) and `batch_count` (elements behind each); the running statistics are the caller's to update.
    In eval mode the running statistics normalise.

    Shape: (N, C, T, H, W) -> same, same dtype and memory format.
    Source: Ioffe & Szegedy 2015; ghost batches: Hoffer et al. 2017.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps)
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.group_clips: int | None = None  # None: all clips of a forward
        self.group_name: str | None = None  # torch's name of the process group that shares statistics
        self.num_ranks = 1
        self.is_uneven = False  # whether those ranks may hold different numbers of elements
        self.batch_mean_GC: Tensor | None = None
        self.batch_var_GC: Tensor | None = None
        self.batch_count = 0

    def _of_clips(self, x: Tensor, residual: Tensor | None, *, relu: bool) -> Tensor:
        if not self.training:
            return self._apply_running(x, residual, relu=relu)
        if self.group_name is not None and self.is_uneven:
            mean, var, count = uneven_moments(x, group_name=self.group_name)
            if count == 0:  # running statistics stay as they are
                mean, var = self.running_mean[None].clone(), self.running_var[None].clone()
        else:
            rows = self._rows(x.shape[0])
            mean, var = batch_moments(x, rows=rows, groups=x.shape[1], group_name=self.group_name)
            count = x.numel() // mean.numel() * self.num_ranks
        self.batch_mean_GC, self.batch_var_GC, self.batch_count = mean, var, count
        return self._normalise(x, mean, var, residual, count=count, relu=relu, group_name=self.group_name)

    def _by_torch(self, x: Tensor) -> Tensor:
        if self.training and has_running_statistics(self):
            raise ConfigError("BN by the statistics of the batch can't be exported: call model.eval() before")
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def _meets_others(self) -> bool:
        return self.training and self.group_name is not None

    def _of_nothing(self, x: Tensor) -> Tensor:
        if self.training:  # running statistics stay as they are
            self.batch_mean_GC, self.batch_var_GC = self.running_mean[None].clone(), self.running_var[None].clone()
            self.batch_count = 0
        return super()._of_nothing(x)

    def _apply_running(self, x: Tensor, residual: Tensor | None, *, relu: bool) -> Tensor:
        return self._normalise(x, self.running_mean[None], self.running_var[None], residual, count=None, relu=relu)

    def _rows(self, num_clips: int) -> int:
        if self.group_name is not None or self.group_clips is None:
            return 1
        if num_clips % self.group_clips:
            raise ConfigError(
                f"a forward of {num_clips} clips can't be cut into statistics groups of {self.group_clips}: "
                f"give a multiple of {self.group_clips}"
            )
        return num_clips // self.group_clips

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, group_clips={self.group_clips}"


class FrozenBatchNorm(BatchNorm):
    """BatchNorm whose running statistics and affine are imported and fixed.

    y = gamma * (x - running_mean) / sqrt(running_var + eps) + beta: one affine map for each channel.

    Shape: (N, C, T, H, W) -> same, same dtype and memory format.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)

    def _of_clips(self, x: Tensor, residual: Tensor | None, *, relu: bool) -> Tensor:
        return self._apply_running(x, residual, relu=relu)

    def _by_torch(self, x: Tensor) -> Tensor:
        return super()._by_torch(x)


def make_norm(norm: NormConfig, *, default_groups: int) -> Callable[..., Norm]:
    """A factory in pytorchvideo's calling form: `factory(num_features=, eps=, momentum=)`.

    eps and momentum are the config's, whatever the caller passes.

    Args:
        default_groups: GN's groups where the config names neither groups nor channels per group.

    Raises:
        ConfigError: see `check_norm`.
    """

    def factory(num_features: int, eps: float | None = None, momentum: float | None = None) -> Norm:
        del eps, momentum
        if norm.traits.family == "clip":
            groups = num_groups(norm, num_features, default_groups=default_groups)
            return ClipNorm(num_features, groups=groups, eps=norm.eps)
        layer = BatchNorm if norm.traits.has_running_statistics else FrozenBatchNorm
        return layer(num_features, eps=norm.eps, momentum=norm.momentum)

    return factory


def num_groups(norm: NormConfig, num_features: int, *, default_groups: int) -> int:
    """Groups of channels of a norm over `num_features` channels.

    Raises:
        ConfigError: if they can't be cut so.
    """
    if norm.traits.groups == "one":
        return 1
    if norm.traits.groups == "channels":
        return num_features
    check_norm(norm, channels=[num_features], default_groups=default_groups)
    if norm.channels_per_group is not None:
        return num_features // norm.channels_per_group
    return default_groups if norm.groups is None else norm.groups


def check_norm(norm: NormConfig, *, channels: Iterable[int], default_groups: int) -> None:
    """Check that a norm can cut its channels into groups.

    vidgn/config/check.py has already refused both keys at once, and either of them for other kinds than gn.

    Raises:
        ConfigError: if `norm` can't cut one of `channels` into groups, with the nearest values that cut all.
    """
    if norm.traits.groups != "configured":
        return
    keys = {"norm.groups": norm.groups, "norm.channels_per_group": norm.channels_per_group}
    given = {k: v for k, v in keys.items() if v is not None}
    key, value = next(iter(given.items()), ("model.norm_groups", default_groups))
    channels = sorted(set(channels))
    bad = [c for c in channels if value < 1 or c % value]
    if bad:
        common = math.gcd(*channels)
        divisors = [d for d in range(1, common + 1) if common % d == 0]
        nearest = [max((d for d in divisors if d < value), default=1)]
        nearest += [d for d in divisors if d > value][:1]
        choices = " or ".join(dict.fromkeys(map(str, nearest)))
        raise ConfigError(f"{key}={value} does not divide the {bad[0]} channels of a norm: give {choices}")


def norm_layers(model: nn.Module) -> list[tuple[str, Norm]]:
    """Names and modules of all norms, in the order of the network."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Norm)]


def has_running_statistics(module: nn.Module) -> bool:
    """Whether running statistics of this norm are to be kept up: true for bn and sync_bn."""
    return isinstance(module, BatchNorm) and not isinstance(module, FrozenBatchNorm)


def statistics_layers(model: nn.Module) -> list[tuple[str, BatchNorm]]:
    """Norm layers that keep running statistics, in the order of the model."""
    return [
        (name, layer)
        for name, layer in norm_layers(model)
        if isinstance(layer, BatchNorm) and has_running_statistics(layer)
    ]


def set_statistics_groups(
    model: nn.Module, *, group_clips: int | None, process_group: dist.ProcessGroup | None = None
) -> None:
    """Which clips share BN's statistics; norms without batch statistics are left alone.

    With `process_group` a group is all clips of a forward on all ranks of it, each with the same number.

    Args:
        group_clips: a forward of N clips is normalised in N/group_clips groups of consecutive clips (None: one
            group).
    """
    num_ranks = 1 if process_group is None else process_group.size()
    for _, module in norm_layers(model):
        if isinstance(module, BatchNorm) and has_running_statistics(module):
            module.group_clips = group_clips
            module.num_ranks = num_ranks
            module.group_name = None if process_group is None or num_ranks == 1 else process_group.group_name
