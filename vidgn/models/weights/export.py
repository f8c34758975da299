"""A model's weights as one file that needs nothing beside it: safetensors of ours, or a pytorchvideo checkpoint."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, Unpack

import torch
from torch import nn

from vidgn import __version__
from vidgn.atomic_files import write_atomic
from vidgn.config.build import build
from vidgn.config.schema import Config, LaunchConfig, PoolConfig
from vidgn.errors import CheckpointError
from vidgn.models.weights.containers import FORMAT_VERSION, WeightsFile, write_safetensors
from vidgn.models.weights.formats import (
    FORMATS,
    TORCHVISION_PIXELS,
    format_triple,
    parse_triple,
    torchvision_name,
)
from vidgn.models.weights.transfer import model_keys

_TORCHVISION_DEPTHS = ((3, 4, 6, 3), (3, 4, 23, 3))  # ResNet-50 and -101, timm's too
_TORCHVISION_STEM = (64, (1, 7, 7), (1, 2, 2), PoolConfig((1, 3, 3), (1, 2, 2), (0, 1, 1)), None)
_MOST_FRAMES, _MOST_PIXELS = 2**14, 2**13  # of a clip and of its side, that a file may ask memory for
_NO_LAUNCH = LaunchConfig(
    nproc_per_node=1, nnodes=1, max_restarts=0, rendezvous=None, timeout_seconds=600.0, threads="auto"
)


class About(TypedDict):
    """What a file says of the model in it, all that `vidgn predict` needs.

    `classes`: names in label order. `input_mean`: 0-255 RGB, what training subtracted (an import's, or
    config.data.mean) before it divided by config.data.std. `trained_steps`: 0 says that the weights are random, None
    that they come from elsewhere (`source`).
    """

    config: Config
    classes: Sequence[str]
    input_mean: Sequence[float]
    trained_steps: int | None
    source: NotRequired[str]


def save_model(model: nn.Module, path: str | os.PathLike[str], **about: Unpack[About]) -> None:
    """`model.safetensors`: tensors in pytorchvideo's key names, and `about` in its metadata.

    Put in place whole; the same arguments give the same bytes.
    """
    write_safetensors(Path(path), dict(model.state_dict()), metadata_of(about))


def save_pytorchvideo(model: nn.Module, path: str | os.PathLike[str], **about: Unpack[About]) -> None:
    """A pytorchvideo checkpoint, `{"model_state": ..., "vidgn": metadata}`, put in place whole.

    conv1 is rescaled to the std of pytorchvideo's models, (x / 255 - mean) / 0.225. The mean can't be folded in:
    `input_mean` of the metadata says it, where it is not their 0.45 * 255.
    """
    metadata = metadata_of(about)
    theirs, ours = FORMATS[0].pixels.std, parse_triple(metadata["input_std"])
    keys = model_keys(model)
    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items()}
    conv1 = keys["stem.conv.weight"]
    if ours != theirs:
        ratio = torch.tensor(theirs, dtype=torch.float64) / torch.tensor(ours, dtype=torch.float64)
        state[conv1] = (state[conv1].double() * ratio.view(1, 3, 1, 1, 1)).to(state[conv1].dtype)
    content = {"model_state": state, "vidgn": {**metadata, "input_std": format_triple(theirs)}}
    write_atomic(Path(path), lambda file: torch.save(content, file))


def save_torchvision(model: nn.Module, path: str | os.PathLike[str], **about: Unpack[About]) -> str:
    """A state dict with the names of torchvision's ResNets, which timm's have too, put in place whole.

    conv1 is rescaled to torchvision's std. The mean can't be folded in: see `input_mean` of the import's account.

    Returns:
        What the file's network takes, in words.

    Raises:
        CheckpointError: for another network than a ResNet-50 or -101 of images.
    """
    keys = model_keys(model)
    network = about["config"].model
    stem = (network.width, network.conv1_kernel, network.conv1_stride, network.pool1, network.pool2)
    depths = tuple(map(len, network.temporal_kernels))
    state: dict[str, torch.Tensor] = {}
    for canonical, key in keys.items():
        tensor = model.state_dict()[key].detach().cpu()
        if tensor.dim() == 5:
            if tensor.shape[2] != 1:
                raise CheckpointError(
                    f"{key} is a kernel over {tensor.shape[2]} frames, and torchvision's and timm's take images: write "
                    "--to pytorchvideo, or give --model resnet50 where the weights are those of an image network"
                )
            tensor = tensor[:, :, 0]
        state[torchvision_name(canonical)] = tensor.contiguous().clone()
    if depths not in _TORCHVISION_DEPTHS or stem != _TORCHVISION_STEM:
        raise CheckpointError(
            f"model={network.name} of depth {depths} and width {network.width} is none of torchvision's and timm's "
            "ResNets, which are resnet50 and resnet101: use --to safetensors, pytorchvideo or onnx"
        )
    theirs, ours = TORCHVISION_PIXELS.std, about["config"].data.std
    if ours != theirs:
        ratio = torch.tensor(theirs, dtype=torch.float64) / torch.tensor(ours, dtype=torch.float64)
        state["conv1.weight"] = (state["conv1.weight"].double() * ratio.view(1, 3, 1, 1)).to(torch.float32)
    write_atomic(Path(path), lambda file: torch.save(state, file))
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (about["input_mean"], theirs))
    return f"takes (RGB - [{mean}]) / [{std}], 0-255"


def read_about(file: WeightsFile) -> tuple[Config, tuple[str, ...]]:
    """The configuration and the class names that an export of ours holds.

    Raises:
        CheckpointError: where this version can't read them.
    """
    try:
        config = build(Config, json.loads(file.metadata["config"]))
        classes, steps = json.loads(file.metadata["classes"]), file.metadata["trained_steps"]
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("its classes are no list of names")
        if steps and not steps.isdecimal():
            raise ValueError(f"trained_steps is {steps[:20]!r}")
        mean = parse_triple(file.metadata["input_mean"])
        if not all(map(math.isfinite, (*mean, *config.data.std))) or min(config.data.std) <= 0:
            raise ValueError("mean or deviation of its pixels is no number that can be")
        if not (1 <= config.frames <= _MOST_FRAMES and 1 <= config.data.crop <= _MOST_PIXELS):
            raise ValueError(f"clips of {config.frames} frames of {config.data.crop} pixels")
        return config, tuple(classes)
    except (ValueError, KeyError, TypeError) as error:  # a ConfigError is a ValueError
        first = str(error).splitlines()[0][:120]
        raise CheckpointError(f"{file.path}: written by another version of vidgn ({first}); export it again") from None


def _without_places(config: Config) -> Config:
    """The bytes of a file must not depend on where it was made, nor on how many processes made it."""
    here = {"root": None, "train": None, "val": None, "classes": None, "workers": 0, "cache_gb": 0.0, "cache": None}
    data = dataclasses.replace(config.data, **here)
    weights = None if config.weights is None else os.path.basename(config.weights)
    return dataclasses.replace(config, runs_dir="runs", weights=weights, data=data, launch=_NO_LAUNCH)


def metadata_of(about: About) -> dict[str, str]:
    """`about` as the text that goes into a file."""
    steps = about["trained_steps"]
    return {
        "format": "vidgn",
        "format_version": FORMAT_VERSION,
        "vidgn_version": __version__,
        "config": json.dumps(dataclasses.asdict(_without_places(about["config"]))),
        "classes": json.dumps(list(about["classes"])),
        "input_mean": format_triple(about["input_mean"]),
        "input_std": format_triple(about["config"].data.std),
        "trained_steps": "" if steps is None else str(steps),
        "source": about.get("source", ""),
    }
