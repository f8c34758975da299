"""What backward keeps of the forward pass, and what it computes again.

| mode | kept | computed again |
| --- | --- | --- |
| keep | eager's own | nothing |
| lean | inputs of blocks, outputs of convs | norms, ReLUs, pools with their indices |
| leaner | as lean, but not the outputs of 1x1x1 convs that widen (c and shortcut) | those convs too |
| block | inputs of blocks | whole blocks |

In every mode the statistics of norms are kept, with the collectives behind them: they are computed once. The means are
torch's selective checkpointing (Chen et al. 2016).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from vidgn.models.norms import across_ranks, operators

Mode = Literal["keep", "lean", "leaner", "block"]

_CONVOLUTION = torch.ops.aten.convolution.default
_STATISTICS = {operators.moments, across_ranks.pool_moments, across_ranks.pool_uneven}


def set_activation_memory(model: nn.Module, mode: Mode) -> None:
    """Set what the `VideoResNet` keeps for backward; losses and gradients are the same in every mode."""
    assert hasattr(model, "activation_memory")
    model.activation_memory = mode  # type: ignore[assignment]


def run_units(units: Sequence[tuple[nn.Module, ...]], x: Tensor, *, mode: Mode) -> Tensor:
    """`units`, chains of modules, one after the other; each is recomputed as one where the mode says so."""
    for unit in units:
        if mode == "keep" or not torch.is_grad_enabled():
            x = _chain(unit, x)
        else:
            x = checkpoint(  # type: ignore[assignment]
                _chain,
                unit,
                x,
                use_reentrant=False,
                preserve_rng_state=False,  # nothing in a unit draws
                context_fn=partial(create_selective_checkpoint_contexts, _policy(mode)),
            )
    return x


def _chain(modules: tuple[nn.Module, ...], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


def _policy(mode: Mode) -> Callable[..., CheckpointPolicy]:
    def policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        keep = op in _STATISTICS or (op is _CONVOLUTION and _keeps_convolution(mode, args[1]))
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return policy


def _keeps_convolution(mode: Mode, weight_OITHW: Tensor) -> bool:
    out_channels, in_channels, *kernel = weight_OITHW.shape
    widens = out_channels > in_channels and max(kernel) == 1
    return mode == "lean" or (mode == "leaner" and not widens)
