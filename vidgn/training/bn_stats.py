"""Where BatchNorm's test statistics come from, defined apart from the hardware.

Variance convention: `precise` uses the population variance of everything it saw, pooled exactly:
var = mean(var_g + mean_g^2) - mean(mean_g)^2 over groups g, weighted by their elements. Training normalises with
population variances too, and the counts (hundreds of groups x T x H x W) make n/(n-1) vanish. `ema` keeps torch's
convention (unbiased variance, momentum per step), so that it equals BatchNorm3d under DistributedDataParallel with
running statistics averaged over ranks.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vidgn.config.schema import BnStats, Config
from vidgn.distributed.ranks import Ranks
from vidgn.models.norms.layers import BatchNorm, statistics_layers
from vidgn.summation import sum_in_order

Statistics = dict[str, tuple[torch.Tensor, torch.Tensor]]  # layer -> mean, variance


def statistics_used(config: Config) -> BnStats | None:
    """Where BN's statistics at test come from; None for a norm that has no such choice."""
    return config.bn_stats if config.norm.traits.has_running_statistics else None


class StepStatistics:
    """Batch statistics of one step, summed over its forwards, then over ranks: a few operations for all layers."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = [layer for _, layer in statistics_layers(model)]
        self._last: torch.Tensor | None = None  # of a forward: all means, then all unbiased variances; stays in place
        self._unbiased: torch.Tensor | None = None  # n / (n - 1) of each variance, 1 of each mean
        self._counts: list[int] = []  # elements behind each layer's, of which those factors are
        self._num_groups = 0  # of a forward
        self._groups_of_step = 0  # of the last one, on this rank
        self._forwards: list[torch.Tensor] = []

    @torch.no_grad()
    def add_forward(self) -> None:
        """Take the moments that the last training forward left in the layers. CUDA may have recorded this."""
        if not self._layers:
            return
        moments = [_batch_moments(layer) for layer in self._layers]
        sums = torch.cat([mean for mean, _ in moments] + [var for _, var in moments], dim=1).sum(0)
        counts = [layer.batch_count for layer in self._layers]
        if self._last is None or self._unbiased is None or counts != self._counts:
            self._last = torch.empty_like(sums) if self._last is None else self._last
            self._unbiased, self._counts = self._factors(sums), counts
            self._num_groups = moments[0][0].shape[0]
        torch.mul(sums, self._unbiased, out=self._last)

    def keep_forward(self) -> None:
        """Count what `add_forward` has taken, here or in a graph."""
        if self._last is not None:
            self._forwards.append(self._last.clone())

    def sum_of_step(self) -> torch.Tensor | None:
        """The moments of a step, summed over this rank's virtual GPUs, and begin again; None without any."""
        if not self._forwards:
            return None
        self._groups_of_step = self._num_groups * len(self._forwards)
        total = sum_in_order(self._forwards)
        self.forget()
        return total

    @torch.no_grad()
    def update_running(self, total: torch.Tensor, world_size: int, counts: torch.Tensor | None = None) -> None:
        """Update the running statistics once, with the mean over all virtual GPUs. CUDA may have recorded this.

        Args:
            total: what `sum_of_step` gave, summed over ranks.
            counts: whether the step does, where the device is to decide.
        """
        mean = total / (self._groups_of_step * world_size)
        running = [layer.running_mean for layer in self._layers] + [layer.running_var for layer in self._layers]
        if counts is not None:
            mean = torch.where(counts, mean, torch.cat(running))
        momentum = self._layers[0].momentum  # one norm config makes all layers
        parts = list(mean.split([r.numel() for r in running]))
        torch._foreach_lerp_(running, parts, momentum)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    def forget(self) -> None:
        """Drop the sums: the step does not count."""
        self._forwards.clear()

    def _factors(self, sums: torch.Tensor) -> torch.Tensor:
        factors = torch.ones_like(sums)
        at = sums.numel() // 2
        for layer in self._layers:
            channels = layer.running_var.numel()
            factors[at : at + channels] = max(1, layer.batch_count) / max(1, layer.batch_count - 1)
            at += channels
        return factors


@torch.no_grad()
def precise_statistics(
    model: nn.Module,
    forwards: Iterable[Any],
    ranks: Ranks,
    *,
    forwards_per_step: int = 1,
    run: Callable[[Any], Any] | None = None,
) -> Statistics:
    """Mean and variance per layer over all elements of `forwards` and all ranks, in float64.

    Args:
        forwards: of this rank, whole steps in the training geometry; normalised clips (N, C, T, H, W) unless `run`
            takes others. Neither the parameters, the running statistics nor the mode of `model` are changed.
        run: what puts one through the model; None: the model itself.
    """
    layers, run = statistics_layers(model), run or model
    with batch_statistics(model):
        sums: list[torch.Tensor] = []  # of a step's forwards, each over all steps
        counts = torch.zeros(len(layers), dtype=torch.float64)
        for number, forward in enumerate(forwards):
            run(forward)
            new = []
            for place, (_, layer) in enumerate(layers):
                mean_GC, var_GC = (moment.double() for moment in _batch_moments(layer))
                count = layer.batch_count
                new += [mean_GC.sum(0) * count, (var_GC + mean_GC.square()).sum(0) * count]
                counts[place] += len(mean_GC) * count
            if number < forwards_per_step:
                sums.append(torch.cat(new))
            else:
                sums[number % forwards_per_step] += torch.cat(new)
    assert sums, "bn_stats_steps is at least 1"
    flat, totals = ranks.sum(sum_in_order(sums)), ranks.sum(counts).tolist()
    statistics, offset = {}, 0
    for (name, layer), total in zip(layers, totals, strict=True):
        n = layer.running_mean.numel()
        if total == 0:  # nothing was in any forward: the running ones stay
            offset += 2 * n
            continue
        mean, square = (flat[offset : offset + 2 * n] / total).view(2, n)
        statistics[name] = (mean, (square - mean.square()).clamp_min(0))
        offset += 2 * n
    return statistics


@contextmanager
def batch_statistics(model: nn.Module) -> Generator[None]:
    """Norms use the statistics of what they see; everything else is in test mode (no dropout)."""
    mode = model.training
    model.eval()
    for _, layer in statistics_layers(model):
        layer.train()
    try:
        yield
    finally:
        model.train(mode)


@contextmanager
def statistics_at_test(model: nn.Module, statistics: Statistics | None) -> Generator[None]:
    """Test mode with `statistics` in place of the running ones (None: the running ones); put back at the end."""
    layers = dict(statistics_layers(model))
    kept = {name: (layers[name].running_mean.clone(), layers[name].running_var.clone()) for name in statistics or {}}
    mode = model.training
    _put(layers, statistics or {})
    model.eval()
    try:
        yield
    finally:
        _put(layers, kept)
        model.train(mode)


def _batch_moments(layer: BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """What the last forward with batch statistics left in a layer: mean and variance, (groups, C)."""
    assert layer.batch_mean_GC is not None
    assert layer.batch_var_GC is not None
    return layer.batch_mean_GC, layer.batch_var_GC


@torch.no_grad()
def _put(layers: dict[str, BatchNorm], statistics: Statistics) -> None:
    for name, (mean, var) in statistics.items():
        layers[name].running_mean.copy_(mean)
        layers[name].running_var.copy_(var)
