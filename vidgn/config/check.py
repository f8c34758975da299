"""What must hold between values: checked once per cell, before anything starts. What a type can say, schema.py says."""

import dataclasses
import re

from vidgn.config.norm_kinds import NORM_KINDS
from vidgn.config.schema import Config
from vidgn.errors import ConfigError


def check_config(config: Config) -> None:
    """Raise ConfigError for the first impossible value or combination, with the remedy."""
    _check_ranges(config)
    _check_clip(config)
    _check_norm(config)
    _check_data(config)
    _check_detection(config)


def _check_ranges(config: Config) -> None:
    at_least_one = {
        "frames": config.frames,
        "span": config.span,
        "clips_per_gpu": config.clips_per_gpu,
        "gpus": config.gpus,
        "bn_stats_steps": config.bn_stats_steps,
        "launch.nproc_per_node": config.launch.nproc_per_node,
        "launch.nnodes": config.launch.nnodes,
        "trainer.checkpoint_steps": config.trainer.checkpoint_steps,
        "trainer.keep": config.trainer.keep,
        "data.crop": config.data.crop,
        "data.clips_per_video": config.data.clips_per_video,
        "model.width": config.model.width,
        "model.head_channels": config.model.head_channels,
        "model.head_features": config.model.head_features,
        "model.smallest_anchor": config.model.smallest_anchor,
        "data.long_side": config.data.long_side,
    }
    for key, value in at_least_one.items():
        if value < 1:
            raise ConfigError(f"{key}={value}: must be at least 1")
    positive = {
        "trainer.epochs": config.trainer.epochs,
        "optim.lr_per_clip": config.optim.lr_per_clip,
        "norm.eps": config.norm.eps,
        "launch.timeout_seconds": config.launch.timeout_seconds,
        "data.timeout_seconds": config.data.timeout_seconds,
    }
    if config.data.fps is not None:
        positive["data.fps"] = config.data.fps
    for key, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{key}={value:g}: must be above 0")
    not_negative = {
        "seed": config.seed,
        "data.workers": config.data.workers,
        "data.cache_gb": config.data.cache_gb,
        "data.max_unreadable": config.data.max_unreadable,
        "trainer.max_skipped": 0 if config.trainer.max_skipped == "auto" else config.trainer.max_skipped,
        "trainer.eval_every": config.trainer.eval_every,
        "optim.weight_decay": config.optim.weight_decay,
        "optim.norm_weight_decay": config.optim.norm_weight_decay,
        "launch.max_restarts": config.launch.max_restarts,
        "model.freeze_at": config.model.freeze_at,
        "optim.bias_lr_factor": config.optim.bias_lr_factor,
        "optim.bias_weight_decay": config.optim.bias_weight_decay or 0,
    }
    for key, value in not_negative.items():
        if value < 0:
            raise ConfigError(f"{key}={value:g}: must be 0 or more")
    for key, value, top in (
        ("model.dropout", config.model.dropout, 1),
        ("optim.momentum", config.optim.momentum, 1),
        ("optim.warmup", config.optim.warmup, 1),
        ("optim.warmup_from", config.optim.warmup_from, 1),
    ):
        if not 0 <= value < top:
            raise ConfigError(f"{key}={value:g}: must be in [0, {top})")
    if not 0 < config.norm.momentum <= 1:
        raise ConfigError(f"norm.momentum={config.norm.momentum:g}: must be in (0, 1]")
    marks = config.optim.milestones
    if any(not 0 < m < 1 for m in marks) or list(marks) != sorted(set(marks)):
        raise ConfigError(f"optim.milestones={list(marks)}: fractions of training, rising, each between 0 and 1")
    if config.trainer.max_steps is not None and config.trainer.max_steps < 1:
        raise ConfigError(f"trainer.max_steps={config.trainer.max_steps}: must be at least 1, or null for no limit")
    if config.optim.nesterov and config.optim.momentum == 0:
        raise ConfigError("optim.nesterov=true needs optim.momentum above 0; write optim.nesterov=false")
    for key, value in (
        ("trainer.clips_per_forward", config.trainer.clips_per_forward),
        ("launch.threads", config.launch.threads),
    ):
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"{key}={value}: must be at least 1, or auto")
    for key, value in (("study", config.study), ("tag", config.tag)):
        if value is not None and not re.fullmatch(r"[\w.+=@-]+", value):
            raise ConfigError(f"{key}={value!r}: a folder name of letters, digits and . _ + = @ - only")


def _check_clip(config: Config) -> None:
    for kernel in (k for stage in config.model.temporal_kernels for k in stage):
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(
                f"model.temporal_kernels has {kernel}: a block adds its input to its output, which takes the same "
                f"frames, so write odd numbers such as {max(1, kernel - 1)} or {max(1, kernel + 1)}"
            )
    if config.span % config.frames:
        divisors = [d for d in range(1, config.span + 1) if config.span % d == 0]
        near = sorted(sorted(divisors, key=lambda d: abs(d - config.frames))[:2])
        choices = " or ".join(f"frames={d}" for d in near)
        raise ConfigError(
            f"frames={config.frames} does not divide span={config.span} (the raw frames a clip covers): "
            f"write {choices}, or span={config.frames * max(1, round(config.span / config.frames))}"
        )
    low, high = config.data.short_side
    if low > high:
        raise ConfigError(
            f"data.short_side=[{low},{high}]: the smaller comes first, write data.short_side=[{high},{low}]"
        )
    if low < config.data.crop and config.data.augment == "video":
        raise ConfigError(
            f"data.crop={config.data.crop} is larger than the smallest short side {low}: "
            f"write data.crop={low} or data.short_side=[{config.data.crop},{max(high, config.data.crop)}]"
        )
    if config.views.name == "image" and config.frames != 1:
        raise ConfigError(
            f"views=image tests one frame, but frames={config.frames}: write views=center, or frames=1 span=1"
        )


def _check_norm(config: Config) -> None:
    norm = config.norm
    for field in dataclasses.fields(norm):
        value = getattr(norm, field.name)
        if field.name not in norm.traits.keys and value != field.default:
            kind = next(kind for kind, traits in NORM_KINDS.items() if field.name in traits.keys)
            raise ConfigError(
                f"norm.{field.name}={value} is for norm={kind}, not norm={norm.kind}: leave it out, or write "
                f"norm={kind}"
            )
    for key in ("groups", "channels_per_group"):
        if (value := getattr(norm, key)) is not None and value < 1:
            raise ConfigError(f"norm.{key}={value}: must be at least 1")
    if norm.groups is not None and norm.channels_per_group is not None:
        raise ConfigError(
            f"norm.groups={norm.groups} and norm.channels_per_group={norm.channels_per_group} are two ways to say one "
            "thing: give one of them"
        )
    if norm.traits.shares_over == "none" and config.weights is None:
        raise ConfigError(f"norm={norm.kind} keeps the statistics of imported weights: write weights=FILE")


def _check_data(config: Config) -> None:
    data, k = config.data, config.data.clips_per_video
    if data.format == "synthetic" and data.synthetic is None:
        raise ConfigError("data.format=synthetic needs the keys under data.synthetic: write data=synthetic")
    if data.augment == "image" and config.frames != 1:
        raise ConfigError(f"data={data.name} is images, but frames={config.frames}: write frames=1 span=1")
    if k > 1 and (config.slots_per_step % k or config.gpus < k):
        raise ConfigError(
            f"data.clips_per_video={k} puts each clip of a video on another of gpus={config.gpus}: "
            f"it must divide gpus * clips_per_gpu = {config.slots_per_step} and be at most gpus"
        )
    if data.flip_pairs and not data.flip:
        raise ConfigError("data.flip_pairs says what a mirror exchanges, and data.flip=false has none: leave it out")
    paired = [name for pair in data.flip_pairs for name in pair]
    if len(set(paired)) < len(paired):
        raise ConfigError(f"data.flip_pairs={[list(pair) for pair in data.flip_pairs]}: name each class once")
    if any(s <= 0 for s in data.std):
        raise ConfigError(f"data.std={list(data.std)}: must be above 0")


def _check_detection(config: Config) -> None:
    model, data = config.model, config.data
    if model.detector is None:
        if "coco" in (data.format, config.views.name) or data.augment == "detection":
            what = f"data={data.name}" if data.format == "coco" else f"views={config.views.name}"
            raise ConfigError(f"{what} is for a detector, not model={model.name}: write sweep=coco")
        if model.freeze_at:
            raise ConfigError(f"model.freeze_at={model.freeze_at} is for detectors: leave it out")
        return
    for found, wanted in ((data.augment, "detection"), (data.format, "coco"), (config.views.name, "coco")):
        if found != wanted:
            raise ConfigError(f"model={model.name} detects, and is trained on images with boxes: write sweep=coco")
    if config.frames != 1:
        raise ConfigError(f"model={model.name} takes images, but frames={config.frames}: write frames=1 span=1")
    if model.freeze_at and config.weights is None:
        raise ConfigError(
            f"model.freeze_at={model.freeze_at} would leave stages as they are drawn, weights=null: write "
            "model.freeze_at=0, or weights=FILE"
        )
    stages = len(model.temporal_kernels)
    if model.freeze_at > stages + 1:
        raise ConfigError(
            f"model.freeze_at={model.freeze_at}: conv1 and res2 to res{stages + 1} are {stages + 1} stages"
        )
    has_statistics = config.norm.traits.has_running_statistics
    if has_statistics and model.detector == "c4":
        raise ConfigError(
            f"norm={config.norm.kind} with a c4 detector: res5 sees boxes and masks in turn, which have no statistics "
            "in common: write norm=frozen_bn or norm=gn, or a model with a pyramid"
        )
    if has_statistics and config.bn_stats == "batch":
        raise ConfigError("bn_stats=batch: a detector is tested image by image: write bn_stats=ema or precise")
    if config.trainer.clips_per_forward not in ("auto", config.clips_per_gpu):
        raise ConfigError(
            f"trainer.clips_per_forward={config.trainer.clips_per_forward}: the {config.clips_per_gpu} images of a "
            "virtual GPU share the detector's losses, and go through it together: write "
            "trainer.clips_per_forward=auto"
        )
    if config.trainer.compile or config.trainer.cuda_graph:
        raise ConfigError(
            "a detector's shapes change from image to image: write trainer.compile=false trainer.cuda_graph=false"
        )
    of_clips = {
        "data.balance": data.balance != "none",
        "data.clips_per_video": data.clips_per_video > 1,
        "data.flip_pairs": data.flip_pairs,
        "data.classes": data.classes,
        "data.fps": data.fps,
        "data.sampling": data.sampling != "clip",
        "data.cache_gb": data.cache_gb,
        "data.decoder": data.decoder != "auto",
        "model.dropout": model.dropout,
    }
    for key, is_given in of_clips.items():
        if is_given:
            raise ConfigError(f"{key} is of clips that have one class, and does nothing for a detector: leave it out")
