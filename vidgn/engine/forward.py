"""What goes into a forward of the network and what is made of its logits, in training and in tests alike."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from vidgn.config.schema import Config
from vidgn.engine.geometry import Geometry
from vidgn.streams import Tag, stream


def positions(geometry: Geometry, *, rank: int, steps: range) -> Iterator[list[int]]:
    """Positions of the clips of each forward of one rank, in order."""
    for step in steps:
        for forward in range(geometry.forwards_per_step):
            yield [step * geometry.slots_per_step + slot for slot in geometry.slots(rank, forward)]


def dropout_scale(config: Config, *, channels: int, step: int, slots: range, dtype: torch.dtype) -> Tensor | None:
    """(N, C) of 0 and 1/(1-p), drawn per slot: which process holds a clip does not matter. None where p is 0."""
    p = config.model.dropout
    if p == 0:
        return None
    rows = [stream(Tag.DROPOUT, config.seed, step, slot).random(channels) >= p for slot in slots]
    return torch.stack([torch.from_numpy(row) for row in rows]).to(dtype) / (1 - p)


def summed_loss(logits_NK: Tensor, label_N: Tensor) -> Tensor:
    """Cross-entropy summed over the clips of a forward, in float32 at least."""
    return F.cross_entropy(_wide(logits_NK), label_N, reduction="sum")


def backward(loss_sum: Tensor, geometry: Geometry) -> None:
    """Gradients of the mean over the slots of a step, of which DDP takes the mean over ranks."""
    (loss_sum * (geometry.world_size / geometry.slots_per_step)).backward()


def class_scores(logits_NKTHW: Tensor) -> Tensor:
    """Softmax over classes, averaged over the final map: (N, K), in float32 at least."""
    return _wide(logits_NKTHW).softmax(1).mean((2, 3, 4))


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
