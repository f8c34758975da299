"""vidgn's norms as torch's own are called, and in the place of those of any torch network.

They take (N, C, ...) with up to three axes behind, and need no trainer: BatchNorm3d keeps its running statistics up
itself, as torch's does.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vidgn.config.norm_kinds import NormKind
from vidgn.errors import ConfigError
from vidgn.models.norms.layers import BatchNorm, ClipNorm, FrozenBatchNorm, Norm

_TORCH_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_TORCH_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class _ForOtherNetworks(Norm):
    """What torch's norms have in a file and ours have not: a count of batches."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any, **keywords: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # which only momentum=None needs
        super()._load_from_state_dict(state_dict, prefix, *arguments, **keywords)


class GroupNorm3d(_ForOtherNetworks, ClipNorm):
    """`torch.nn.GroupNorm` by vidgn's kernels; statistics over (C/G, T, H, W) of each clip.

    Shape: (N, C, ...) -> same, up to three axes behind the channels.

    Example:
        >>> import torch
        >>> from vidgn.nn import GroupNorm3d
        >>> GroupNorm3d(4, 8)(torch.zeros(2, 8, 3, 5, 5)).shape
        torch.Size([2, 8, 3, 5, 5])
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5) -> None:
        """As torch's.

        Raises:
            ConfigError: if the groups do not divide the channels.
        """
        if num_groups < 1 or num_channels % num_groups:
            raise ConfigError(f"{num_groups} groups do not divide {num_channels} channels")
        super().__init__(num_channels, groups=num_groups, eps=eps)


class BatchNorm3d(_ForOtherNetworks, BatchNorm):
    """`torch.nn.BatchNorm3d` by vidgn's kernels; with `group_clips` over groups of so many consecutive clips.

    A batch of 16 with `group_clips=4` is what four GPUs of 4 clips normalise by. Running statistics are updated in
    training once a forward, with the mean over the groups, variances unbiased.

    Shape: (N, C, ...) -> same, up to three axes behind the channels.

    Example:
        >>> import torch
        >>> from vidgn.nn import BatchNorm3d
        >>> BatchNorm3d(8, group_clips=2)(torch.zeros(4, 8, 3, 5, 5)).shape
        torch.Size([4, 8, 3, 5, 5])
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, *, group_clips: int | None = None
    ) -> None:
        """As torch's.

        Args:
            group_clips: clips that share statistics; None: all of a forward.
        """
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.group_clips = group_clips

    def forward(self, x: Tensor, residual: Tensor | None = None, *, relu: bool = False) -> Tensor:
        y = super().forward(x, residual, relu=relu)
        if self.training:
            if self.batch_count == 1:  # of which beta alone is left
                raise ConfigError(f"one value a channel to normalise by itself: {tuple(x.shape)}; give more clips")
            self._update_running()
        return y

    @torch.no_grad()
    def _update_running(self) -> None:
        assert self.batch_mean_GC is not None
        assert self.batch_var_GC is not None
        unbiased = self.batch_count / max(1, self.batch_count - 1)
        self.running_mean.lerp_(self.batch_mean_GC.mean(0).to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((self.batch_var_GC.mean(0) * unbiased).to(self.running_var.dtype), self.momentum)


class FrozenBatchNorm3d(_ForOtherNetworks, FrozenBatchNorm):
    """Running statistics and affine that are loaded and stay: one map for each channel."""


def replace_norms(
    module: nn.Module,
    norm: NormKind = "gn",
    *,
    groups: int = 32,
    group_clips: int | None = None,
    keep: Callable[[str, nn.Module], bool] = lambda name, layer: False,
) -> dict[str, str]:
    """Put vidgn's norms in the place of a network's own. The network is changed in place.

    BatchNorm1d to 3d, SyncBatchNorm, torchvision's FrozenBatchNorm2d, GroupNorm and InstanceNorm are replaced, by role:
    a norm over channels. LayerNorm over the last axes has another role and stays. Gamma and beta are taken over, and
    trained where they were; so are running statistics where both have such.

    Args:
        norm: `bn`, `frozen_bn`, `gn`, `ln` (one group) or `in`.
        groups: of gn; where they do not divide the channels, the largest number that divides both.
        group_clips: of bn, see BatchNorm3d.
        keep: given a name and a layer, whether it stays as it is.

    Returns:
        Name of each replaced layer -> what it was and is.

    Raises:
        ConfigError: for another norm, and where a layer does what the new one would not; nothing is replaced then.

    Example:
        >>> import torch, torchvision, vidgn
        >>> net = torchvision.models.video.r3d_18()
        >>> len(vidgn.replace_norms(net, "gn"))
        20
    """
    if group_clips is not None and norm != "bn":
        raise ConfigError(f"group_clips={group_clips} is for norm=bn, not norm={norm}: leave it out")
    if _is_norm(module):
        raise ConfigError("replace_norms takes a network, not a norm by itself: make the norm, vidgn.nn.GroupNorm3d")
    named = [(n, m) for n, m in module.named_modules(remove_duplicate=False) if _is_norm(m) and not keep(n, m)]
    for name, layer in named:
        _check(name, layer, norm)
    new = {layer: _like(layer, norm, groups=groups, group_clips=group_clips) for _, layer in named}
    for name, layer in named:  # one that stands in several places too
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, new[layer])
    return {n: f"{type(m).__name__} -> {type(new[m]).__name__}({new[m].extra_repr()})" for n, m in named}


def _check(name: str, layer: nn.Module, norm: str) -> None:
    is_batch_norm = isinstance(layer, _TORCH_BATCH_NORMS)
    if norm == "bn" and is_batch_norm and layer.running_mean is None:
        raise ConfigError(f"{name} tests with the statistics of the batch (track_running_stats=False): keep it")
    if norm == "bn" and is_batch_norm and layer.momentum is None:
        raise ConfigError(f"{name} averages over all batches (momentum=None): give it a momentum, or keep it")
    if norm == "frozen_bn" and getattr(layer, "running_mean", None) is None:
        raise ConfigError(f"{name} has no statistics to freeze: give another norm than frozen_bn, or keep it")


def _is_norm(layer: nn.Module) -> bool:
    named = type(layer).__name__ == "FrozenBatchNorm2d"  # torchvision's and detectron2's, neither of which is needed
    return named or isinstance(layer, (*_TORCH_BATCH_NORMS, *_TORCH_INSTANCE_NORMS, nn.GroupNorm))


def _like(layer: nn.Module, norm: str, *, groups: int, group_clips: int | None) -> Norm:
    own: Mapping[str, Tensor] = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    channels = int(getattr(layer, "num_features", None) or getattr(layer, "num_channels", None) or len(own["weight"]))
    eps = float(getattr(layer, "eps", 1e-5))
    given = getattr(layer, "momentum", None)
    momentum = 0.1 if given is None else float(given)
    match norm:
        case "gn":
            new: Norm = GroupNorm3d(math.gcd(groups, channels), channels, eps)
        case "ln":
            new = GroupNorm3d(1, channels, eps)
        case "in":
            new = GroupNorm3d(channels, channels, eps)
        case "bn":
            new = BatchNorm3d(channels, eps, momentum, group_clips=group_clips)
        case "frozen_bn":
            new = FrozenBatchNorm3d(channels, eps=eps, momentum=momentum)
        case _:
            raise ConfigError(f"norm={norm}: give bn, frozen_bn, gn, ln or in; sync_bn needs vidgn's own trainer")
    with torch.no_grad():
        for name, target in (*new.named_parameters(), *new.named_buffers()):
            if name in own:
                target.copy_(own[name])
    trained = isinstance(own.get("weight"), nn.Parameter) and own["weight"].requires_grad
    if not isinstance(new, FrozenBatchNorm3d):
        for parameter in new.parameters():
            parameter.requires_grad_(trained)
    like = next(iter(own.values()), torch.empty(0))
    dtype = like.dtype if like.dtype == torch.float64 else torch.float32
    return new.to(device=like.device, dtype=dtype).train(layer.training)
