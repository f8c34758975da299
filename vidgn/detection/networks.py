"""Mask R-CNN out of torchvision's public parts around a ResNet of ours, with the norm in every place that has one.

Two forms, as in the GN paper (sec. 4.2): `fpn`, a pyramid over res2 to res5 with heads of 2 fc or of 4 convolutions and
1 fc, and `c4`, proposals on res4 with res5 as the head. Where the norm is frozen BN, the pyramid and the heads have
none, and their convolutions have biases: there are no statistics to freeze there.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from vidgn.config.schema import Config, ModelConfig, NormConfig
from vidgn.detection.sampling import PlannedSampler
from vidgn.models.activation_memory import Mode, run_units
from vidgn.models.i3d import VideoResNet, build_model, draw_normal
from vidgn.models.norms.layers import BatchNorm, FrozenBatchNorm, check_norm, make_norm
from vidgn.rng_streams import Tag, stream

_ASPECTS = (0.5, 1.0, 2.0)
_NUM_SIZES = 5
_BOX_BETA = 1.0  # of the box head's smooth L1; torchvision has 1/9 (Detectron: SMOOTH_L1_BETA of the heads is 1)
_TORCHVISION_BETA = 1 / 9
_BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_FIRST_OF_HEADS = 10_000  # index of the first initial tensor that is none of the body's: every norm draws the same


class Trunk(nn.Module):
    """Stem and stages of a ResNet of ours, under their own names, on images: (N, 3, H, W) -> the map of each stage."""

    def __init__(self, net: VideoResNet, model: ModelConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(list(net.blocks)[:-1])
        self.activation_memory: Mode = "keep"
        self.memory_format = torch.contiguous_format
        self.channels = [4 * model.width * 2**i for i in range(len(model.temporal_kernels))]

    def forward(self, image_NCHW: Tensor, num_stages: int) -> list[Tensor]:
        """Maps (N, C, H, W) of res2 and on, `num_stages` of them."""
        x = image_NCHW[:, :, None].contiguous(memory_format=self.memory_format)
        x = run_units([(self.blocks[0],)], x, mode=self.activation_memory)
        maps: list[Tensor] = []
        for stage in list(self.blocks)[1 : 1 + num_stages]:
            x = self.stage(stage, x)
            maps.append(x[:, :, 0])
        return maps

    def stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        """One stage on (N, C, 1, H, W), kept for backward as `activation_memory` says."""
        units = [(block,) for block in stage.res_blocks]  # type: ignore[union-attr]
        return run_units(units, x, mode=self.activation_memory)

    def freeze(self, count: int) -> None:
        """Train nothing of the stem and the first stages, `count` in all; BN there keeps what was loaded."""
        for block in list(self.blocks)[:count]:
            for parameter in block.parameters():
                parameter.requires_grad_(False)
            for module in block.modules():
                if isinstance(module, BatchNorm):
                    module.__class__ = FrozenBatchNorm


class PyramidBackbone(nn.Module):
    """A feature pyramid over res2 to res5, and a coarser map by subsampling."""

    def __init__(self, body: Trunk, channels: int, norm: Callable[..., nn.Module] | None) -> None:
        super().__init__()
        self.body, self.out_channels = body, channels
        # Not resnet_fpn_backbone(norm_layer=), which hands the norm to the body alone.
        self.fpn = FeaturePyramidNetwork(body.channels, channels, LastLevelMaxPool(), norm_layer=norm)

    def forward(self, image_NCHW: Tensor) -> "OrderedDict[str, Tensor]":
        """Maps by name: `0` to `3`, and `pool`."""
        maps = self.body(image_NCHW, len(self.body.channels))
        return self.fpn(OrderedDict((str(i), x) for i, x in enumerate(maps)))


class C4Backbone(nn.Module):
    """Stem to res4; res5 is the heads'."""

    def __init__(self, body: Trunk) -> None:
        super().__init__()
        self.body, self.out_channels = body, body.channels[-2]

    def forward(self, image_NCHW: Tensor) -> "OrderedDict[str, Tensor]":
        """The map of res4 alone."""
        return OrderedDict([("0", self.body(image_NCHW, len(self.body.channels) - 1)[-1])])


class Res5Head(nn.Module):
    """res5 on the boxes' maps (R, C, 14, 14), for boxes and masks alike; the body has its parameters.

    Gives (R, 2C) averaged over the map, for masks the map (R, 2C, 7, 7).
    """

    def __init__(self, body: Trunk, *, averaged: bool) -> None:
        super().__init__()
        self._body, self._averaged = (body,), averaged  # in a tuple: registered once, as the body's

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        (body,) = self._body
        if len(x) == 0:
            maps = x.new_zeros((0, body.channels[-1], 7, 7)) + 0 * x.sum()
        else:
            maps = body.stage(body.blocks[-1], x[:, :, None])[:, :, 0]
        return maps.mean((2, 3)) if self._averaged else maps


class BoxPredictor(FastRCNNPredictor):
    """torchvision's, so told that its smooth L1, whose beta is fixed at 1/9, is one of beta 1.

    smooth_l1(x / 9; 1/9) = smooth_l1(x; 1) / 9: offsets and their targets (through the weights of the box coder) are
    divided by 9, and the loss is multiplied by 9.
    """

    scale = _TORCHVISION_BETA / _BOX_BETA

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (R, K) and box offsets (R, 4K), divided by 9."""
        logits, offsets = super().forward(x)
        return logits, offsets * self.scale


class Heads(RoIHeads):
    """torchvision's, which remember the labels of the boxes they were trained on, and how many were named right."""

    box_predictor: nn.Module
    fg_bg_sampler: Any
    labels: Tensor
    num_boxes: Tensor
    num_right: Tensor

    def watch(self) -> None:
        """Count, in training, the boxes whose class has the largest logit."""
        self.labels = self.num_boxes = self.num_right = torch.zeros(0)
        self.box_predictor.register_forward_hook(self._count)

    def select_training_samples(self, proposals: Any, targets: Any) -> Any:
        """See torchvision."""
        chosen = super().select_training_samples(proposals, targets)
        self.labels = torch.cat(chosen[2])
        return chosen

    def _count(self, predictor: nn.Module, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        del predictor, inputs
        if self.training:
            self.num_right = (outputs[0].detach().argmax(1) == self.labels).sum()
            self.num_boxes = torch.tensor(len(self.labels))


class Scaling(GeneralizedRCNNTransform):
    """torchvision's, with each training image's short side planned."""

    short_sides: Sequence[int] = ()
    image_mean: Any

    def torch_choice(self, k: list[int]) -> int:
        """The short side of the next image of the forward."""
        del k
        first, *self.short_sides = self.short_sides
        return first


class Detector(MaskRCNN):
    """Mask R-CNN whose draws are planned: call `plan` before a training forward.

    In training: a list of float images (3, H, W) in 0-255 RGB and targets (boxes, labels, masks) -> the five losses by
    name, each a mean over the images. At test: images -> boxes, labels, scores, masks (n, 1, H, W) of each.
    """

    backbone: Any
    rpn: Any
    roi_heads: "Heads"
    transform: Scaling

    def plan(self, *, seed: int, step: int, slots: range, short_sides: Sequence[int]) -> None:
        """What the next training forward draws, for its images in order.

        Args:
            seed, step, slots: names the draws of boxes; one slot an image.
            short_sides: what each image's is resized to.
        """
        self.transform.short_sides = list(short_sides)
        for sampler in (self.rpn.fg_bg_sampler, self.roi_heads.fg_bg_sampler):
            sampler.seed, sampler.step, sampler.slots = seed, step, slots

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """See the class."""
        out: Any = super().forward(images, targets)
        if self.training:
            out["loss_box_reg"] = out["loss_box_reg"] / BoxPredictor.scale
        return out

    @property
    def body(self) -> Trunk:
        """The ResNet, which weights of classifiers start."""
        return self.backbone.body

    @property
    def input_mean(self) -> tuple[float, ...]:
        """What is subtracted from 0-255 RGB."""
        return tuple(self.transform.image_mean)

    def set_mean(self, mean: Sequence[float]) -> None:
        """Subtract another mean from now on."""
        self.transform.image_mean = list(mean)


def build_detector(config: Config, *, num_classes: int) -> Detector:
    """The experiment's detector with its first weights (seeded, the same for every norm), on the CPU in float32.

    Args:
        num_classes: of objects, background not among them.

    Raises:
        ConfigError: if the norm can't cut the channels of a layer.
    """
    model, norm = config.model, config.norm
    # The classifier is left out, with the crop that it pools over.
    net = build_model(model, norm, num_classes=1, frames=1, crop=config.data.crop, seed=config.seed)
    body = Trunk(net, model)
    new = _norm_of_parts(model, norm)
    # What torchvision draws for its parts is drawn anew below; its generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        detector = _fpn(config, body, new, num_classes) if model.detector == "fpn" else _c4(config, body, num_classes)
    heads = detector.roi_heads
    heads.__class__ = Heads
    heads.watch()
    detector.rpn.fg_bg_sampler = PlannedSampler(0, 256, 0.5)
    heads.fg_bg_sampler = PlannedSampler(1, 512, 0.25)
    detector.transform = Scaling(
        config.data.short_side[1],  # at test; `short_sides` are planned
        config.data.long_side,
        list(config.data.mean),
        list(config.data.std),
    )
    for layer in detector.modules():
        if isinstance(layer, BatchNorm):  # images are of many sizes, and hold any number of objects
            layer.is_uneven = True
    _initialise(detector, seed=config.seed)
    body.freeze(model.freeze_at)
    return detector


def _norm_of_parts(model: ModelConfig, norm: NormConfig) -> Callable[..., nn.Module] | None:
    if norm.traits.shares_over == "none":
        return None
    check_norm(norm, channels=[model.head_channels], default_groups=model.norm_groups)
    return make_norm(norm, default_groups=model.norm_groups)


def _fpn(config: Config, body: Trunk, norm: Callable[..., nn.Module] | None, num_classes: int) -> Detector:
    model = config.model
    channels, features = model.head_channels, model.head_features
    sizes = tuple((model.smallest_anchor * 2**i,) for i in range(_NUM_SIZES))
    if model.box_head == "2fc":
        box_head: nn.Module = TwoMLPHead(channels * 7 * 7, features)
    else:
        box_head = FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [features], norm_layer=norm)
    return Detector(
        PyramidBackbone(body, channels, norm),
        rpn_anchor_generator=AnchorGenerator(sizes, (_ASPECTS,) * _NUM_SIZES),
        rpn_head=RPNHead(channels, len(_ASPECTS)),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        box_head=box_head,
        box_predictor=BoxPredictor(features, num_classes + 1),
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 2),
        mask_head=MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=norm),
        mask_predictor=MaskRCNNPredictor(channels, channels, num_classes + 1),
        bbox_reg_weights=_box_weights(),
    )


def _c4(config: Config, body: Trunk, num_classes: int) -> Detector:
    model = config.model
    sizes = tuple(model.smallest_anchor * 2**i for i in range(_NUM_SIZES))
    channels = body.channels[-1]
    return Detector(
        C4Backbone(body),
        rpn_anchor_generator=AnchorGenerator((sizes,), (_ASPECTS,)),
        rpn_head=RPNHead(body.channels[-2], len(_ASPECTS) * _NUM_SIZES),
        rpn_pre_nms_top_n_train=12000,
        rpn_pre_nms_top_n_test=6000,
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        box_head=Res5Head(body, averaged=True),
        box_predictor=BoxPredictor(channels, num_classes + 1),
        mask_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        mask_head=Res5Head(body, averaged=False),
        mask_predictor=MaskRCNNPredictor(channels, model.head_channels, num_classes + 1),
        bbox_reg_weights=_box_weights(),
    )


def _box_weights() -> tuple[float, ...]:
    return tuple(weight * BoxPredictor.scale for weight in _BOX_WEIGHTS)


def _initialise(detector: Detector, *, seed: int) -> None:
    """Draw the weights of all but the body, as Detectron does: the same whatever the norm is.

    Pyramid and fc: uniform, Caffe2's XavierFill; proposals N(0, 0.01), classes N(0, 0.01), boxes N(0, 0.001); the
    heads' convolutions N(0, 2 / fan_out); biases 0.
    """
    index = _FIRST_OF_HEADS
    with torch.no_grad():
        for name, module in detector.named_modules():
            if ".body." in name or not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                continue
            weight = module.weight
            fixed = {"cls_score": 0.01, "bbox_pred": 0.001}.get(name.rpartition(".")[2])
            if name.startswith("rpn."):
                fixed = 0.01
            if fixed is not None:
                draw_normal(weight, std=fixed, seed=seed, index=index)
            elif isinstance(module, nn.Linear) or ".fpn." in name:
                bound = (3 / weight[0].numel()) ** 0.5
                values = stream(Tag.INIT, seed, index).random(tuple(weight.shape), dtype="float32")
                weight.copy_(torch.from_numpy(values).mul_(2 * bound).sub_(bound))
            else:
                fan_out = weight.numel() // weight.shape[1]
                draw_normal(weight, std=(2 / fan_out) ** 0.5, seed=seed, index=index)
            if module.bias is not None:
                module.bias.zero_()
            index += 1
