"""The I3D bottleneck ResNets, out of pytorchvideo's blocks with the norm handed in.

Layout and names are pytorchvideo's: `blocks.0` stem, `blocks.1` first stage, `blocks.2` pool2 where there is one, then
the other stages, and the head last (`blocks.6` for the paper's net).
"""

import math
import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgn.config.schema import ModelConfig, NormConfig
from vidgn.errors import ConfigError
from vidgn.models import blocks as fused_blocks
from vidgn.models.activation_memory import Mode, run_units
from vidgn.models.norms.layers import Norm, check_norm, make_norm, num_groups
from vidgn.rng_streams import Tag, stream

with warnings.catch_warnings():  # importing pytorchvideo warns
    warnings.simplefilter("ignore")
    from pytorchvideo.models import resnet, stem

create_res_basic_stem: Callable[..., nn.Module] = stem.create_res_basic_stem
create_res_stage: Callable[..., nn.Module] = resnet.create_res_stage
create_bottleneck_block: Callable[..., nn.Module] = resnet.create_bottleneck_block

Role = Literal["conv", "conv_bias", "fc", "fc_bias", "norm_gamma", "norm_gamma_last", "norm_beta"]
Size = tuple[int, int, int]

_EXPANSION = 4
_FC_STD = 0.01  # NLN, cfg.MODEL.FC_INIT_STD


class MaxPool(nn.MaxPool3d):
    """MaxPool3d, by `max_over_windows` on CUDA under deterministic algorithms: its own backward there has no order."""

    def forward(self, input: Tensor) -> Tensor:
        if input.is_cuda and torch.are_deterministic_algorithms_enabled():
            return max_over_windows(input, self.kernel_size, self.stride, self.padding)  # type: ignore[arg-type]
        return F.max_pool3d(input, self.kernel_size, self.stride, self.padding)


def max_over_windows(x: Tensor, kernel: Size, stride: Size, padding: Size) -> Tensor:
    """MaxPool3d one axis at a time, each step with a backward of fixed order; where values tie they share the gradient.

    Shape: (N, C, T, H, W) -> (N, C, T', H', W').
    """
    x = F.pad(x, [p for p in reversed(padding) for _ in range(2)], value=-math.inf)  # it takes the last axis first
    for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
        if k > 1 or s > 1:
            x = x.unfold(axis, k, s).amax(-1)
    return x


class TemporalConv(nn.Conv3d):
    """Conv3d; one of 3x1x1 on a CPU as Conv2d over (T, H*W), a view, for which oneDNN has twice as fast a kernel."""

    def forward(self, input: Tensor) -> Tensor:
        k, s, p = self.kernel_size, self.stride, self.padding
        only_time = k[1:] == s[1:] == (1, 1) and p[1:] == (0, 0) and k[0] > 1 and not torch.compiler.is_exporting()
        if not (only_time and input.device.type == "cpu" and input.is_contiguous()):
            return super().forward(input)
        rows_NCTS = F.conv2d(input.flatten(3), self.weight.flatten(3), self.bias, (s[0], 1), (p[0], 0))  # type: ignore[arg-type]
        return rows_NCTS.unflatten(3, input.shape[3:])


class Head(nn.Module):
    """pytorchvideo's ResNetBasicHead, with the dropout mask given from outside."""

    def __init__(self, *, pool: nn.AvgPool3d, proj: nn.Linear) -> None:
        super().__init__()
        self.pool = pool
        self.proj = proj

    @property
    def num_features(self) -> int:
        """Input channels of the classifier: what dropout acts on."""
        return self.proj.in_features

    def forward(self, x: Tensor, dropout_scale_NC: Tensor | None = None) -> Tensor:
        if not torch.compiler.is_exporting() and tuple(x.shape[2:]) == self.pool.kernel_size:
            x = x.mean((2, 3, 4), keepdim=True)  # AvgPool3d's backward on CUDA has no fixed order
        elif torch.compiler.is_exporting():
            x = self.pool(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)  # CPUs have no 16-bit pools
        else:
            x = self.pool(x)
        if dropout_scale_NC is not None:
            x = x * dropout_scale_NC.to(x.dtype)[:, :, None, None, None]
        return self.proj(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class VideoResNet(nn.Module):
    """Stem, bottleneck stages and head; `activation_memory` says what backward recomputes."""

    def __init__(self, blocks: list[nn.Module], *, dropout: float, zero_init_last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.dropout = dropout
        self.zero_init_last = zero_init_last
        self.activation_memory: Mode = "keep"

    def forward(self, clip_NCTHW: Tensor, dropout_scale_NC: Tensor | None = None) -> Tensor:
        """Logits (N, K, T', H', W'): one position at the training size, a map for larger clips.

        Args:
            dropout_scale_NC: 0 or 1/(1-p) for each clip and input channel of the fc, needed in training where p >
                0.
        """
        assert dropout_scale_NC is not None or not (self.training and self.dropout > 0)
        x = run_units(self.units(), clip_NCTHW, mode=self.activation_memory)
        return self.blocks[-1](x, dropout_scale_NC)

    @property
    def head(self) -> Head:
        """The last block: pool and classifier."""
        head = self.blocks[-1]
        assert isinstance(head, Head)
        return head

    def units(self) -> list[tuple[nn.Module, ...]]:
        """The net before the head as what is recomputed at a time: stem, residual blocks, a pool with what it ends."""
        units: list[tuple[nn.Module, ...]] = [(self.blocks[0],)]
        for block in self.blocks[1:-1]:
            if isinstance(block, nn.MaxPool3d):
                units[-1] = (*units[-1], block)
            else:
                units.extend((res_block,) for res_block in block.res_blocks)  # type: ignore[union-attr]
        return units


def build_model(
    model: ModelConfig, norm: NormConfig, *, num_classes: int, frames: int, crop: int, seed: int = 0
) -> VideoResNet:
    """The network with its initial weights, on the CPU in float32.

    Args:
        frames, crop: size of a training clip; the head's pool spans the map of such a clip. The weights depend on
            `seed` and shapes alone: every norm kind starts equal.

    Raises:
        ConfigError: see `check_model`.
    """
    net = assemble_model(model, norm, num_classes=num_classes, frames=frames, crop=crop).to_empty(device="cpu")
    initialise(net, seed=seed)
    return net


def assemble_model(
    model: ModelConfig, norm: NormConfig, *, num_classes: int, frames: int, crop: int, device: str = "meta"
) -> VideoResNet:
    """The network as shapes without values: on the meta device, or `device="cpu"` under torch's FakeTensorMode.

    Raises:
        ConfigError: see `check_model`.
    """
    check_model(model, norm, frames=frames, crop=crop)
    factory = make_norm(norm, default_groups=model.norm_groups)
    with torch.device(device):
        blocks: list[nn.Module] = [
            create_res_basic_stem(
                in_channels=3,
                out_channels=model.width,
                conv_kernel_size=model.conv1_kernel,
                conv_stride=model.conv1_stride,
                conv_padding=_same(model.conv1_kernel),
                pool_kernel_size=model.pool1.kernel,
                pool_stride=model.pool1.stride,
                pool_padding=model.pool1.padding,
                pool=MaxPool,
                norm=factory,
            )
        ]
        dim_in = model.width
        for i, kernels in enumerate(model.temporal_kernels):
            inner = model.width * 2**i
            stride = 1 if i == 0 else 2
            blocks.append(
                create_res_stage(
                    depth=len(kernels),
                    dim_in=dim_in,
                    dim_inner=inner,
                    dim_out=inner * _EXPANSION,
                    bottleneck=create_bottleneck_block,
                    conv_a=TemporalConv,
                    conv_a_kernel_size=[(k, 1, 1) for k in kernels],
                    conv_a_stride=(1, 1, 1),
                    conv_a_padding=[_same((k, 1, 1)) for k in kernels],
                    conv_b_stride=(1, stride, stride),
                    norm=factory,
                )
            )
            dim_in = inner * _EXPANSION
            if i == 0 and model.pool2 is not None:
                pool = model.pool2
                blocks.append(MaxPool(pool.kernel, pool.stride, pool.padding))
        size = final_size(model, frames=frames, crop=crop)
        assert size is not None
        blocks.append(Head(pool=nn.AvgPool3d(size, stride=1), proj=nn.Linear(dim_in, num_classes)))
    net = VideoResNet(blocks, dropout=model.dropout, zero_init_last=model.zero_init_last)
    fused_blocks.fuse(net)
    for conv in net.modules():
        if isinstance(conv, nn.Conv3d):  # pytorchvideo leaves numpy's integers there, which torch.compile traces
            t, h, w = conv.stride
            conv.stride = (int(t), int(h), int(w))
    return net


def initialise(net: VideoResNet, *, seed: int) -> None:
    """Draw the initial weights in place, the same for every norm kind, device and state of torch's generators.

    Convs: N(0, 2 / fan_out), Caffe2's MSRAFill, which NLN names and the GN paper's code takes over; fc N(0, 0.01) and
    bias 0 as in NLN; gamma 1, 0 where the role is `norm_gamma_last` and the model says so (GN paper, sec. 4.1).
    """
    roles = parameter_roles(net)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(net.named_parameters()):
            match roles[name]:
                case "conv":
                    fan_out = parameter.numel() // parameter.shape[1]
                    draw_normal(parameter, std=(2 / fan_out) ** 0.5, seed=seed, index=index)
                case "fc":
                    draw_normal(parameter, std=_FC_STD, seed=seed, index=index)
                case "norm_gamma":
                    parameter.fill_(1.0)
                case "norm_gamma_last":
                    parameter.fill_(0.0 if net.zero_init_last else 1.0)
                case "conv_bias" | "fc_bias" | "norm_beta":
                    parameter.fill_(0.0)
        for name, buffer in net.named_buffers():
            buffer.fill_(1.0 if name.endswith("running_var") else 0.0)


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter by its name; `norm_gamma_last`: gamma of the last norm of a residual block."""
    return {
        f"{of}.{name}" if of else name: _role(of, module, name)
        for of, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }


def final_size(model: ModelConfig, *, frames: int, crop: int) -> Size | None:
    """(T, H, W) of the last map for clips of `frames` x `crop` x `crop`; None if a pool has nothing left to take."""
    size = _out((frames, crop, crop), model.conv1_kernel, model.conv1_stride, _same(model.conv1_kernel))
    size = _out(size, model.pool1.kernel, model.pool1.stride, model.pool1.padding)
    for i in range(len(model.temporal_kernels)):
        if i > 0:
            size = _out(size, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        elif model.pool2 is not None:
            size = _out(size, model.pool2.kernel, model.pool2.stride, model.pool2.padding)
    return size if min(size) >= 1 else None


def check_clip(model: ModelConfig, *, frames: int, crop: int) -> None:
    """Check that a clip of this size survives the pools.

    Raises:
        ConfigError: with the smallest clip that does, if one of this size does not survive the pools.
    """
    if final_size(model, frames=frames, crop=crop) is None:
        smallest_frames = next(t for t in range(1, 1024) if final_size(model, frames=t, crop=1024))
        smallest_crop = next(s for s in range(1, 1024) if final_size(model, frames=1024, crop=s))
        raise ConfigError(
            f"a clip of frames={frames}, data.crop={crop} does not survive the pools of model={model.name}: "
            f"it takes frames={smallest_frames} and data.crop={smallest_crop} or more"
        )


def check_model(model: ModelConfig, norm: NormConfig, *, frames: int, crop: int) -> None:
    """Check that a clip of this size survives the pools.

    Raises:
        ConfigError: if the clip is too small for the net or the norm can't cut its channels into groups.
    """
    check_clip(model, frames=frames, crop=crop)
    inner = [model.width * 2**i for i in range(len(model.temporal_kernels))]
    check_norm(norm, channels=[*inner, *(c * _EXPANSION for c in inner)], default_groups=model.norm_groups)


def check_statistics(model: ModelConfig, norm: NormConfig, *, frames: int, crop: int, group_clips: int) -> None:
    """Check that every norm has more than one value to take mean and variance of.

    Of one value alone beta is left: the network says the same of every clip and learns nothing, without an error.

    Args:
        group_clips: clips that share BN's statistics.

    Raises:
        ConfigError: if the last maps are too small for that.
    """
    size = final_size(model, frames=frames, crop=crop)
    if size is None or norm.traits.shares_over == "none":
        return
    narrowest = model.width * 2 ** (len(model.temporal_kernels) - 1)
    is_batch = norm.traits.family == "batch"
    channels = 1 if is_batch else narrowest // num_groups(norm, narrowest, default_groups=model.norm_groups)
    clips = group_clips if is_batch else 1
    if channels * clips * math.prod(size) > 1:
        return
    larger = next(s for s in range(crop, 1024) if math.prod(final_size(model, frames=frames, crop=s) or (0,)) > 1)
    other = "clips_per_gpu=2 or more" if is_batch else "a norm with more channels in a group"
    raise ConfigError(
        f"norm={norm.kind} has one value to normalise by itself where the last maps are 1x1x1 (frames={frames}, "
        f"data.crop={crop}), which leaves nothing of it: write data.crop={larger} or more, or {other}"
    )


def _role(of: str, module: nn.Module, name: str) -> Role:
    if isinstance(module, Norm):
        if name == "bias":
            return "norm_beta"
        return "norm_gamma_last" if of.endswith("branch2.norm_c") else "norm_gamma"
    if isinstance(module, nn.Linear):
        return "fc" if name == "weight" else "fc_bias"
    return "conv" if name == "weight" else "conv_bias"


def draw_normal(parameter: Tensor, *, std: float, seed: int, index: int) -> None:
    values = stream(Tag.INIT, seed, index).standard_normal(tuple(parameter.shape), dtype="float32")
    parameter.copy_(torch.from_numpy(values).mul_(std))


def _same(kernel: Size) -> Size:
    return (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)


def _out(size: Size, kernel: Size, stride: Size, padding: Size) -> Size:
    t, h, w = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True))
    return (t, h, w)
