"""A model's weights as one file that needs nothing beside it: safetensors of ours, or a pytorchvideo checkpoint."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from vidgn import __version__
from vidgn.config.schema import Config
from vidgn.models.weights.files import FORMAT_VERSION, write_safetensors, write_torch
from vidgn.models.weights.formats import FORMATS, Triple, format_triple, parse_triple
from vidgn.models.weights.transfer import model_keys


def make_metadata(
    config: Config,
    *,
    classes: Sequence[str],
    input_mean: Triple,
    trained_steps: int | None,
    source: str = "",
) -> dict[str, str]:
    """What an export must say for `vidgn predict` to need no run directory.

    `input_mean`: 0-255 RGB, what training subtracted (the import's, or config.data.mean). `trained_steps`: 0 says that
    the weights are random; None that they come from elsewhere (`source`).
    """
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


def save_model(model: nn.Module, path: str | os.PathLike[str], *, metadata: Mapping[str, str]) -> None:
    """`model.safetensors`: the model's tensors in pytorchvideo's key names, with `make_metadata`'s account.

    Put in place whole; the same weights and metadata give the same bytes.
    """
    write_safetensors(Path(path), dict(model.state_dict()), metadata)


def save_pytorchvideo(model: nn.Module, path: str | os.PathLike[str], *, metadata: Mapping[str, str]) -> None:
    """A pytorchvideo checkpoint, `{"model_state": ...}`: conv1 rescaled to the std of its models, (x/255 - m) / 0.225.

    The mean can't be folded: `input_mean` of the entry `vidgn` holds it, where it is not pytorchvideo's 0.45 * 255.
    """
    theirs = FORMATS[0].pixels.std
    std = parse_triple(metadata["input_std"])
    keys = model_keys(model)
    state = {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}
    if std != theirs:
        kernel = state[keys["stem.conv.weight"]]
        ratio = torch.tensor(theirs, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        state[keys["stem.conv.weight"]] = (kernel.double() * ratio.view(1, 3, 1, 1, 1)).to(kernel.dtype)
    head = keys["head.weight"]
    state[head] = state[head].flatten(1)  # a linear layer there
    write_torch(Path(path), {"model_state": state, "vidgn": {**metadata, "input_std": format_triple(theirs)}})
