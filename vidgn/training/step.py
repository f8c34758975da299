"""What goes into a forward of the network and what is made of its logits, in training and in tests alike."""

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgn.config.schema import Config
from vidgn.data.clips.plan import plan_for
from vidgn.data.loading.batches import Batch
from vidgn.distributed.ranks import Ranks
from vidgn.errors import NonFiniteError
from vidgn.geometry import Geometry
from vidgn.rng_streams import Tag, stream
from vidgn.runs.directory import RunDirectory


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


def gradients_are_finite(model: nn.Module) -> bool:
    """Whether all of this rank's gradients are; with several ranks they have met, so each rank says the same."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))


def end_at_nonfinite(
    config: Config, run: RunDirectory, ranks: Ranks, *, step: int, state: dict[str, Any], used: Sequence[Batch]
) -> NoReturn:
    """Save the state before the bad step `step` and the plans of all ranks' clips in it, then raise NonFiniteError."""
    here = [
        {"position": p, "id": i, "plan": vars(plan_for(config.data, config.seed, p))}
        for batch in used
        for p, i in zip(batch.positions, batch.ids, strict=True)
    ]
    clips = sorted((c for part in ranks.gather(here) for c in part), key=lambda c: c["position"])
    if ranks.is_first:
        run.save_nonfinite(step, state, clips)
    ranks.barrier()  # the state is saved before any rank ends the others
    raise NonFiniteError(
        f"the loss or a gradient of step {step} is not finite; the state before it and the plan of its clips are in "
        f"{run.nonfinite_path(step)}: lower optim.lr_per_clip, or leave such steps out with trainer.on_nonfinite=skip"
    )
