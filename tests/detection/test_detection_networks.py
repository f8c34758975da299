"""The detectors against torchvision's own, built another way: parameters, norms, losses and gradients."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet
from torchvision.models.detection import MaskRCNN, roi_heads
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from tests.detection.small_detector import config_of
from vidgn.config.norm_kinds import NORM_KINDS
from vidgn.detection.networks import Detector, build_detector
from vidgn.detection.sampling import PlannedSampler
from vidgn.errors import ConfigError
from vidgn.models.norms.layers import FrozenBatchNorm, norm_layers
from vidgn.models.weights.formats import torchvision_name
from vidgn.models.weights.transfer import model_keys

COCO_IDS = 90  # torchvision's detectors have a class for each id, of which 80 are used
NORMS_OF_TORCH = (nn.GroupNorm, nn.BatchNorm2d, FrozenBatchNorm2d)
SMALL = ("model.width=64", "model.temporal_kernels=[[1],[1],[1],[1]]", "model.head_channels=32", "model.norm_groups=8")


def of_torchvision(*, norm, parts, channels, features, classes, layers, box_head="4conv1fc", sizes=32, groups=None):
    """Mask R-CNN with a pyramid as torchvision's users build it, with the norm given to body, pyramid and heads."""
    body = resnet.ResNet(resnet.Bottleneck, layers, norm_layer=norm)
    names = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    backbone = BackboneWithFPN(
        body, names, [256, 512, 1024, 2048], channels, extra_blocks=LastLevelMaxPool(), norm_layer=parts
    )
    two_fc = TwoMLPHead(channels * 49, features)
    four = FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [features], norm_layer=parts)
    return MaskRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(tuple((sizes * 2**i,) for i in range(5)), ((0.5, 1.0, 2.0),) * 5),
        rpn_head=RPNHead(channels, 3),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        box_head=two_fc if box_head == "2fc" else four,
        box_predictor=FastRCNNPredictor(features, classes + 1),
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 2),
        mask_head=MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=parts),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes + 1),
    )


def group_norm(channels):
    return nn.GroupNorm(32, channels)


def counts(model):
    affine = sum(2 * m.weight.numel() for m in model.modules() if isinstance(m, FrozenBatchNorm2d))
    norms = sum(isinstance(m, NORMS_OF_TORCH) for m in model.modules())
    return sum(p.numel() for p in model.parameters()) + affine, norms


@pytest.mark.parametrize("layers", [[3, 4, 6, 3], [3, 4, 23, 3]])
@pytest.mark.parametrize(("norm", "head"), [("gn", "4conv1fc"), ("frozen_bn", "4conv1fc"), ("frozen_bn", "2fc")])
def test_parameters_and_norms_are_those_of_torchvisions(layers, norm, head):
    depth = 50 if layers[2] == 6 else 101
    ours = build_detector(
        config_of(f"model=mask_rcnn_r{depth}_fpn", f"norm={norm}", f"model.box_head={head}"), num_classes=COCO_IDS
    )
    plain = of_torchvision(
        norm=group_norm if norm == "gn" else FrozenBatchNorm2d,
        parts=group_norm if norm == "gn" else None,
        channels=256,
        features=1024,
        classes=COCO_IDS,
        layers=layers,
        box_head=head,
    )
    # of torchvision's body the classifier is left: its users give it to a layer getter
    assert (sum(p.numel() for p in ours.parameters()), len(norm_layers(ours))) == counts(plain)


@pytest.mark.parametrize("norm", ["bn", "ln", "in", "sync_bn"])
@pytest.mark.parametrize("model", ["mask_rcnn_r50_fpn", "mask_rcnn_r101_fpn", "mask_rcnn_r50_c4"])
def test_other_norms_have_the_parameters_and_norms_of_gn(model, norm):
    if model.endswith("c4") and norm in ("bn", "sync_bn"):
        with pytest.raises(ConfigError, match="res5 sees boxes and masks in turn"):
            config_of(f"model={model}", f"norm={norm}")
        return
    found = [build_detector(config_of(f"model={model}", f"norm={kind}"), num_classes=3) for kind in (norm, "gn")]
    numbers = [[(n, p.numel(), p.requires_grad) for n, p in d.named_parameters()] for d in found]
    assert numbers[0] == numbers[1]
    assert [n for n, _ in norm_layers(found[0])] == [n for n, _ in norm_layers(found[1])]


@pytest.mark.parametrize("model", ["mask_rcnn_r50_fpn", "mask_rcnn_r101_fpn", "mask_rcnn_r50_c4"])
def test_what_is_frozen_is_conv1_and_layer1_of_a_resnet(model):
    """And with frozen BN gamma and beta of every other norm of the body."""
    plain = resnet.ResNet(resnet.Bottleneck, [3, 4, 23, 3] if "101" in model else [3, 4, 6, 3])
    names = [name for name, _ in plain.named_parameters()]
    low = [name for name in names if name.startswith(("conv1.", "bn1.", "layer1."))]
    high = [name for name in names if (".bn" in name or "downsample.1" in name) and name not in low]
    for norm, expected in (("gn", len(low)), ("frozen_bn", len(low) + len(high))):
        detector = build_detector(config_of(f"model={model}", f"norm={norm}"), num_classes=3)
        assert sum(not p.requires_grad for p in detector.parameters()) == expected


def test_the_paper_s_net_has_69_norms_33_frozen_tensors_and_as_many_parameters_as_is_known():
    detector = build_detector(config_of("model=mask_rcnn_r50_fpn"), num_classes=COCO_IDS)
    assert len(norm_layers(detector)) == 69
    assert sum(p.numel() for p in detector.parameters()) == 45_769_329
    assert sum(not p.requires_grad for p in detector.parameters()) == 33
    assert sum(".fpn." in name for name, _ in norm_layers(detector)) == 8
    from_scratch = build_detector(config_of("model=mask_rcnn_r50_fpn", "model.freeze_at=0"), num_classes=COCO_IDS)
    assert all(p.requires_grad for p in from_scratch.parameters())


def test_c4_has_a_resnet_s_parameters_and_what_its_heads_add():
    detector = build_detector(config_of("model=mask_rcnn_r50_c4"), num_classes=80)
    body = sum(p.numel() for name, p in resnet.resnet50().named_parameters() if not name.startswith("fc."))
    proposals = 1024 * 1024 * 9 + 1024 + 15 * 5 * (1024 + 1)  # conv; 15 anchors, a score and four offsets each
    boxes = (2048 + 1) * 81 * 5
    masks = 2048 * 256 * 4 + 256 + (256 + 1) * 81
    assert sum(p.numel() for p in detector.parameters()) == body + proposals + boxes + masks
    assert len(norm_layers(detector)) == 53
    assert len({id(p) for p in detector.parameters()}) == len(list(detector.parameters()))


def test_the_trap_is_there_and_is_not_ours():
    """`resnet_fpn_backbone(norm_layer=)` hands the norm to the body alone."""
    plain = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=group_norm)
    assert sum(isinstance(m, nn.GroupNorm) for m in plain.fpn.modules()) == 0
    ours = build_detector(config_of("model=mask_rcnn_r50_fpn"), num_classes=1)
    assert len(norm_layers(ours.backbone.fpn)) == 8


@pytest.mark.parametrize("norm", [kind for kind in NORM_KINDS if kind != "sync_bn"])
def test_every_norm_starts_from_the_same_weights(norm):
    first = dict(build_detector(config_of("norm=gn"), num_classes=3).named_parameters())
    other = dict(build_detector(config_of(f"norm={norm}"), num_classes=3).named_parameters())
    drawn = [name for name, p in first.items() if p.dim() > 1]
    assert drawn
    assert all(torch.equal(first[name], other[name]) for name in drawn)


def test_the_generator_of_torch_is_left_alone():
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    build_detector(config_of(), num_classes=3)
    assert torch.equal(torch.rand(3), wanted)


def test_what_is_frozen_of_batch_norm_keeps_what_it_was_given():
    detector = build_detector(config_of("norm=bn", "model.freeze_at=2"), num_classes=3)
    frozen = [name for name, layer in norm_layers(detector) if isinstance(layer, FrozenBatchNorm)]
    assert frozen == [name for name, _ in norm_layers(detector) if ".blocks.0." in name or ".blocks.1." in name]


def in_torchvision_s_names(detector: Detector):
    names = {key: torchvision_name(canonical) for canonical, key in model_keys(detector.body).items()}
    state = OrderedDict()
    for key, tensor in detector.state_dict().items():
        inside = key.removeprefix("backbone.body.")
        if inside != key:
            key = f"backbone.body.{names[inside]}"
            tensor = tensor[:, :, 0] if tensor.dim() == 5 else tensor
        state[key] = tensor.clone()
    return state


def images_and_targets():
    generator = torch.Generator().manual_seed(5)
    images = [torch.rand(3, *size, generator=generator, dtype=torch.float64) * 255 for size in ((90, 120), (100, 70))]
    targets = []
    for image, boxes in zip(images, ([[10, 12, 70, 80], [60, 20, 118, 88]], [[5, 30, 66, 95]]), strict=True):
        masks = torch.zeros(len(boxes), *image.shape[1:], dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[top + 4 : bottom - 3, left:right] = 1
        labels = torch.arange(1, len(boxes) + 1)
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float64), "labels": labels, "masks": masks})
    return images, targets


@pytest.mark.parametrize(
    ("kind", "norm"), [("gn", lambda c: nn.GroupNorm(8, c)), ("frozen_bn", FrozenBatchNorm2d), ("bn", nn.BatchNorm2d)]
)
def test_losses_and_gradients_are_those_of_torchvision(kind, norm, monkeypatch):
    """One step in float64, on the same images, weights and sampled boxes; the box loss told beta 1 on both sides."""
    config = config_of(f"norm={kind}", *SMALL, "model.freeze_at=0", "data.short_side=[96,96]", "data.long_side=160")
    ours = build_detector(config, num_classes=4).double().train()
    with torch.no_grad():
        for name, tensor in ours.state_dict().items():  # statistics and affine that are not 0 and 1
            if "norm" in name and tensor.dim() == 1:
                tensor.add_(torch.linspace(0, 0.3, len(tensor), dtype=tensor.dtype))
    plain = of_torchvision(
        norm=norm,
        parts=None if kind == "frozen_bn" else norm,
        channels=32,
        features=config.model.head_features,
        classes=4,
        layers=[1, 1, 1, 1],
        sizes=config.model.smallest_anchor,
    )
    plain.transform.min_size, plain.transform.max_size = (96,), 160
    plain.transform.image_mean, plain.transform.image_std = list(config.data.mean), list(config.data.std)
    plain = plain.double().train()
    missing = plain.load_state_dict(in_torchvision_s_names(ours), strict=False)
    assert not missing.unexpected_keys
    assert all(key.endswith(("num_batches_tracked", "fc.weight", "fc.bias")) for key in missing.missing_keys)
    for model in (ours, plain):
        model.rpn.fg_bg_sampler = PlannedSampler(0, 256, 0.5)
        model.roi_heads.fg_bg_sampler = PlannedSampler(1, 512, 0.25)
        for sampler in (model.rpn.fg_bg_sampler, model.roi_heads.fg_bg_sampler):
            sampler.seed, sampler.step, sampler.slots = 3, 1, range(2)
    told = SimpleNamespace(
        cross_entropy=F.cross_entropy,
        softmax=F.softmax,
        binary_cross_entropy_with_logits=F.binary_cross_entropy_with_logits,
        smooth_l1_loss=lambda x, y, beta, reduction: F.smooth_l1_loss(x, y, beta=1.0, reduction=reduction),
    )
    images, targets = images_and_targets()
    ours.plan(seed=3, step=1, slots=range(2), short_sides=[96, 96])
    losses = ours(images, targets)
    with monkeypatch.context() as patch:
        patch.setattr(roi_heads, "F", told)
        expected = plain(images, targets)
    assert losses.keys() == expected.keys()
    assert losses["loss_box_reg"].item() > 0
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-10), name
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    gradients = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    mapped = in_torchvision_s_names(ours)  # the order of keys is that of ours
    by_name = dict(zip(ours.state_dict(), mapped, strict=True))
    seen = 0
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            theirs = gradients[by_name[name]]
            ours_grad = parameter.grad[:, :, 0] if parameter.dim() == 5 else parameter.grad
            error = (ours_grad - theirs).norm() / theirs.norm().clamp_min(1e-12)
            assert error < 1e-8, (name, float(error))
            seen += 1
    assert seen == len([g for name, g in gradients.items() if not name.startswith("backbone.body.fc")])


def test_what_is_found_is_what_torchvision_finds():
    config = config_of(*SMALL, "model.freeze_at=0", "data.short_side=[96,96]", "data.long_side=160")
    ours = build_detector(config, num_classes=4).double().eval()
    gn = lambda c: nn.GroupNorm(8, c)  # noqa: E731
    plain = of_torchvision(
        norm=gn, parts=gn, channels=32, features=128, classes=4, layers=[1] * 4, sizes=config.model.smallest_anchor
    )
    plain.transform.min_size, plain.transform.max_size = (96,), 160
    plain.transform.image_mean, plain.transform.image_std = list(config.data.mean), list(config.data.std)
    plain = plain.double().eval()
    plain.load_state_dict(in_torchvision_s_names(ours), strict=False)
    for model in (ours, plain):
        model.roi_heads.score_thresh = 0.0
    images, _ = images_and_targets()
    with torch.no_grad():
        for image in images:
            (found,), (expected,) = ours([image]), plain([image])
            assert len(found["boxes"]) == len(expected["boxes"]) > 0
            for key in ("boxes", "scores", "masks"):
                torch.testing.assert_close(found[key], expected[key], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("mask_rcnn_tiny_fpn", mode) for mode in ("lean", "leaner", "block")),
        pytest.param("mask_rcnn_r50_c4", "block", marks=pytest.mark.long),
    ],
)
def test_every_memory_mode_gives_the_same_gradients(form, mode):
    more = () if "tiny" in form else ("model.width=8", "model.temporal_kernels=[[1],[1],[1],[1]]")
    config = config_of(f"model={form}", *more, "model.freeze_at=0", "model.norm_groups=2")
    images, targets = images_and_targets()
    found = []
    for activation_memory in ("keep", mode):
        detector = build_detector(config, num_classes=4).double().train()
        detector.body.activation_memory = activation_memory
        detector.plan(seed=3, step=1, slots=range(2), short_sides=[96, 96])
        sum(detector(images, targets).values()).backward()
        found.append([p.grad for p in detector.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("form", [["norm=bn"], ["norm=gn", "model.detector=c4"]])
def test_images_without_objects_go_through(form):
    detector = build_detector(config_of(*form, "model.freeze_at=0"), num_classes=3).train()
    detector.plan(seed=0, step=0, slots=range(2), short_sides=[96, 96])
    images = [torch.rand(3, 80, 90) * 255] * 2
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = detector(images, [{**empty, "masks": torch.zeros(0, 80, 90, dtype=torch.uint8)}] * 2)
    assert losses["loss_mask"].item() == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


def test_a_norm_that_can_t_cut_the_heads_is_refused():
    with pytest.raises(ConfigError, match="does not divide the 36 channels"):
        build_detector(config_of("model.head_channels=36", "norm.groups=16"), num_classes=3)
