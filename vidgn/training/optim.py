"""SGD by role, and the learning rate as a pure function of the step."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from vidgn.config.schema import Config, OptimConfig
from vidgn.models.i3d import parameter_roles


def total_steps(config: Config, num_rows: int) -> int:
    """Optimizer updates of the run: enough to see `trainer.epochs` passes, at most `trainer.max_steps`."""
    steps = math.ceil(config.trainer.epochs * num_rows / config.slots_per_step)
    return min(steps, config.trainer.max_steps or steps)


def epoch_of(config: Config, step: int, num_rows: int) -> float:
    """Passes over the training rows after `step` steps."""
    return step * config.slots_per_step / num_rows


def learning_rate(optim: OptimConfig, *, step: int, total_steps: int, slots_per_step: int) -> float:
    """Learning rate of step `step` (0-based): lr_per_clip * S * schedule(step / total_steps).

    Source: linear rule, Goyal et al. 2017; step marks of NLN; cosine of Loshchilov & Hutter 2017.
    """
    progress = step / total_steps
    base = optim.lr_per_clip * slots_per_step
    if progress < optim.warmup:
        begun, steps = base * optim.warmup_from, max(1, math.ceil(optim.warmup * total_steps))
        return begun + (base - begun) * (step + 1) / steps
    if optim.schedule == "step":
        return base * optim.gamma ** sum(progress >= mark for mark in optim.milestones)
    return base * 0.5 * (1 + math.cos(math.pi * (progress - optim.warmup) / (1 - optim.warmup)))


def weight_decay(optim: OptimConfig, role: str) -> float:
    """Decay of a parameter by what it does, the same for every norm kind."""
    if role.endswith("_bias") and optim.bias_weight_decay is not None:
        return optim.bias_weight_decay
    return optim.norm_weight_decay if role.startswith("norm") else optim.weight_decay


def make_optimizer(model: nn.Module, config: Config, *, fused: bool = False) -> torch.optim.SGD:
    """SGD with a group for each decay and rate, in the order of the model's parameters; frozen ones are left out.

    Args:
        fused: torch's fused one, for which the device decides whether a step is left out. Its momentum begins at 0: it
            would be left without a value if the first step were left out.
    """
    roles = parameter_roles(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = config.optim.bias_lr_factor if roles[name].endswith("_bias") else 1.0
            groups.setdefault((weight_decay(config.optim, roles[name]), factor), []).append(parameter)
    optimizer = torch.optim.SGD(
        [{"params": p, "weight_decay": decay, "lr_factor": factor} for (decay, factor), p in groups.items()],
        lr=config.optim.lr_per_clip * config.slots_per_step,
        momentum=config.optim.momentum,
        nesterov=config.optim.nesterov,
        fused=fused or None,
    )
    _begin_momentum(optimizer)
    return optimizer


def _begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] and group["momentum"] else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over what `state_dict` gave, on any device; how steps are computed stays as it is here."""
    here = [(group.get("fused"), group.get("foreach")) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, (fused, foreach) in zip(optimizer.param_groups, here, strict=True):
        group["fused"], group["foreach"] = fused, foreach
    _begin_momentum(optimizer)  # a run on a CPU whose steps were all left out has none


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        rate = value * group.get("lr_factor", 1.0)  # checkpoints of earlier versions have none
        group["lr"] = float(np.float32(rate)) if group["fused"] else rate  # as a CUDA graph reads it
