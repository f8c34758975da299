"""A model's weights as one file that needs nothing beside it: safetensors of ours, or a pytorchvideo checkpoint."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from vidgn import __version__
from vidgn.config.schema import Config
from vidgn.models.weights.files import FORMAT_VERSION, write_safetensors, write_torch
from vidgn.models.weights.formats import FORMATS, format_triple, parse_triple
from vidgn.models.weights.transfer import model_keys


def save_model(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    config: Config,
    classes: Sequence[str],
    input_mean: Sequence[float],
    trained_steps: int | None,
    source: str = "",
) -> None:
    """`model.safetensors`: tensors in pytorchvideo's key names, and in its metadata all that `vidgn predict` needs.

    `classes`: names in label order. `input_mean`: 0-255 RGB, what training subtracted (an import's, or
    config.data.mean) before it divided by config.data.std. `trained_steps`: 0 says that the weights are random, None
    that they come from elsewhere (`source`). Put in place whole; the same arguments give the same bytes.
    """
    metadata = _metadata(config, classes, input_mean, trained_steps, source)
    write_safetensors(Path(path), dict(model.state_dict()), metadata)


def save_pytorchvideo(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    config: Config,
    classes: Sequence[str],
    input_mean: Sequence[float],
    trained_steps: int | None,
    source: str = "",
) -> None:
    """A pytorchvideo checkpoint, `{"model_state": ..., "vidgn": metadata}`; arguments as `save_model`.

    conv1 is rescaled to the std of pytorchvideo's models, (x / 255 - mean) / 0.225. The mean can't be folded in:
    `input_mean` of the metadata says it, where it is not their 0.45 * 255.
    """
    metadata = _metadata(config, classes, input_mean, trained_steps, source)
    theirs, ours = FORMATS[0].pixels.std, parse_triple(metadata["input_std"])
    keys = model_keys(model)
    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items()}
    conv1 = keys["stem.conv.weight"]
    if ours != theirs:
        ratio = torch.tensor(theirs, dtype=torch.float64) / torch.tensor(ours, dtype=torch.float64)
        state[conv1] = (state[conv1].double() * ratio.view(1, 3, 1, 1, 1)).to(state[conv1].dtype)
    write_torch(Path(path), {"model_state": state, "vidgn": {**metadata, "input_std": format_triple(theirs)}})


def _metadata(
    config: Config, classes: Sequence[str], input_mean: Sequence[float], trained_steps: int | None, source: str
) -> dict[str, str]:
    return {
        "format": "vidgn",
        "format_version": FORMAT_VERSION,
        "vidgn_version": __version__,
        "config": json.dumps(dataclasses.asdict(config)),
        "classes": json.dumps(list(classes)),
        "input_mean": format_triple(input_mean),
        "input_std": format_triple(config.data.std),
        "trained_steps": "" if trained_steps is None else str(trained_steps),
        "source": source,
    }
