"""Published numbers, once. Source: Wu & He, Group Normalization, ECCV 2018 (arXiv:1803.08494)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SOURCE = "Wu & He 2018"
_ABSENT = object()


@dataclass(frozen=True)
class Published:
    """One cell of a published table. Accuracy and error in percent; `top5` where it was given."""

    model: str  # vidgn's name for the paper's net
    norm: str
    frames: int
    clips_per_gpu: int
    top1: float
    top5: float | None = None
    gpus: int = 8
    tag: str | None = None  # what tells it from another row of the same net, norm and batch
    settings: tuple[tuple[str, Any], ...] = ()  # dotted keys of a configuration that are its own


# Table 8: Kinetics-400 validation, ResNet-50 I3D, 30 views.
KINETICS = (
    Published("i3d_r50", "bn", 32, 8, 73.3, 90.7),
    Published("i3d_r50", "bn", 32, 4, 72.1, 90.0),
    Published("i3d_r50", "bn", 64, 4, 73.3, 90.8),
    Published("i3d_r50", "gn", 32, 8, 73.0, 90.6),
    Published("i3d_r50", "gn", 32, 4, 72.8, 90.6),
    Published("i3d_r50", "gn", 64, 4, 74.5, 91.7),
)
KINETICS_TITLE = f"{SOURCE}, table 8: Kinetics-400 validation, top-1 / top-5 (%)"
KINETICS_NOT_RUN = (64, 8)  # frames, clips per GPU: the column that did not fit in memory there


def _errors(model: str, norm: str, errors: dict[int, float]) -> tuple[Published, ...]:
    return tuple(Published(model, norm, 1, images, round(100 - error, 1)) for images, error in errors.items())


# Validation error of a 224 centre crop; images per GPU on 8 GPUs. ResNet-50: table 2 (BN, GN), table 1 (LN, IN at 32).
# ResNet-101: sec. 4.1.
IMAGENET = (
    *_errors("resnet50", "bn", {32: 23.6, 16: 23.7, 8: 24.8, 4: 27.3, 2: 34.7}),
    *_errors("resnet50", "gn", {32: 24.1, 16: 24.2, 8: 24.0, 4: 24.2, 2: 24.1}),
    *_errors("resnet50", "ln", {32: 25.3}),
    *_errors("resnet50", "in", {32: 28.4}),
    *_errors("resnet101", "bn", {32: 22.0, 2: 31.9}),
    *_errors("resnet101", "gn", {32: 22.4, 2: 23.0}),
)
IMAGENET_TITLE = f"{SOURCE}, tables 1 and 2 and sec. 4.1: ImageNet validation error (%)"


_SCRATCH = (("trainer.max_steps", 270_000), ("model.freeze_at", 0), ("weights", None))


def _detection(
    model: str, norm: str, box_ap: float, mask_ap: float, tag: str | None = None, *, head: str | None = "4conv1fc"
) -> Published:
    """`head`: of the boxes; None: its source does not say, or C4, which has its own."""
    steps = 180_000 if tag in (None, "2fc") else 270_000
    tuned = (("trainer.max_steps", steps), ("model.freeze_at", 2))
    settings = _SCRATCH if tag == "scratch" else tuned
    settings += () if head is None else (("model.box_head", head),)
    return Published(model, norm, 1, 2, box_ap, mask_ap, tag=tag, settings=settings)


# Box and mask AP on COCO val2017. Tables 4 to 6 of the paper; the rows of other heads and lengths are from its authors'
# projects/GN of Detectron. Without a tag: 180k steps ("2x") and, of the pyramid, the head 4conv1fc.
COCO = (
    _detection("mask_rcnn_r50_c4", "frozen_bn", 37.7, 32.8, head=None),
    _detection("mask_rcnn_r50_c4", "gn", 38.8, 33.6, head=None),
    _detection("mask_rcnn_r50_fpn", "frozen_bn", 38.8, 34.4),
    _detection("mask_rcnn_r50_fpn", "gn", 40.3, 35.7),
    _detection("mask_rcnn_r50_fpn", "frozen_bn", 38.6, 34.5, "2fc", head="2fc"),
    _detection("mask_rcnn_r50_fpn", "frozen_bn", 38.9, 34.3, "3x", head=None),
    _detection("mask_rcnn_r50_fpn", "gn", 40.8, 36.1, "3x"),
    _detection("mask_rcnn_r50_fpn", "gn", 39.5, 35.2, "scratch"),
    _detection("mask_rcnn_r101_fpn", "frozen_bn", 40.9, 36.4, "2fc", head="2fc"),
    _detection("mask_rcnn_r101_fpn", "gn", 41.8, 36.8),
    _detection("mask_rcnn_r101_fpn", "gn", 42.3, 37.2, "3x"),
    _detection("mask_rcnn_r101_fpn", "gn", 41.0, 36.4, "scratch"),
)
COCO_TITLE = f"{SOURCE}, tables 4 to 6: COCO val2017, box / mask AP"


def find(
    table: tuple[Published, ...],
    *,
    model: str,
    norm: str,
    frames: int,
    clips: int,
    gpus: int,
    config: Mapping[str, Any] | None = None,
) -> Published | None:
    """The published cell of the same net, norm, geometry and settings of its own, or None.

    Args:
        config: config.yaml of a run of it, plain; None where there is none: then no cell with settings is found.
    """
    wanted = (model, norm, frames, clips, gpus)
    matches = (p for p in table if (p.model, p.norm, p.frames, p.clips_per_gpu, p.gpus) == wanted)
    return next((p for p in matches if all(_value(config, key) == value for key, value in p.settings)), None)


def _value(config: Mapping[str, Any] | None, key: str) -> Any:
    """Of a dotted key; one that is not there equals nothing."""
    found: Any = config
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = found[part]
    return found
