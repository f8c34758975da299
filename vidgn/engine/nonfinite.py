"""A loss or a gradient that is not a finite number: how it is seen, and the end that leaves all there is to look at."""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import nn

from vidgn.config.schema import Config
from vidgn.data.loader import Batch
from vidgn.data.plan import plan_for
from vidgn.engine.distributed import Ranks
from vidgn.engine.rundir import RunDirectory
from vidgn.errors import NonFiniteError


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
