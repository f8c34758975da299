"""The same step on a real GPU, beside its prediction."""

import gc
from dataclasses import dataclass

import torch

from vidgn.config.schema import Config
from vidgn.distributed.ranks import Ranks
from vidgn.geometry import Geometry, group_clips
from vidgn.memory.prediction import KINETICS_CLASSES, evaluation_forwards
from vidgn.memory.warm_step import WarmStep
from vidgn.training.norm_kernels import choose_norm_kernels
from vidgn.training.setup import make_model, place_model, set_precision

_WARM_STEPS = 2  # cuDNN chooses its algorithms in the first
_STEPS = 3


@dataclass(frozen=True)
class Measurement:
    """What CUDA's allocator says of a few warm steps; None where they did not run."""

    peak_bytes: int | None  # max_memory_allocated
    reserved_bytes: int | None  # max_memory_reserved
    status: str


NOT_MEASURED = Measurement(None, None, "ok")


def measure(
    config: Config, *, clips_per_forward: int, world_size: int = 1, num_classes: int = KINETICS_CLASSES
) -> Measurement:
    """Train a few steps and test on made-up clips on the first GPU, in this process; running out of memory is a result.

    With `world_size` above 1 it is one of its ranks, its buckets there and its collectives left out.

    Raises:
        ConfigError: if `clips_per_forward` is not legal.
    """
    geometry = Geometry(config.slots_per_step, group_clips(config), world_size, clips_per_forward)
    set_precision(config)
    device = torch.device("cuda", 0)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    try:
        _steps(config, geometry, device, num_classes)
    except torch.cuda.OutOfMemoryError as error:
        return Measurement(None, None, f"out of memory: {str(error).splitlines()[0].split('. ')[0]}")
    else:
        peak = torch.cuda.max_memory_allocated(device) - before[0]
        return Measurement(peak, torch.cuda.max_memory_reserved(device) - before[1], "ok")
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def _steps(config: Config, geometry: Geometry, device: torch.device, num_classes: int) -> None:
    model = place_model(make_model(config, num_classes=num_classes), config, device)
    choose_norm_kernels(config, model, Ranks(0, 1, device))
    step = WarmStep(config, model, geometry=geometry, device=device)
    for index in range(_WARM_STEPS + _STEPS):
        if index == _WARM_STEPS:
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        if geometry.forwards_per_step == 1:
            step.optimizer.zero_grad(set_to_none=True)
        step.backward(step.forward(None))
        step.optimizer.step()
    for clips, crop in evaluation_forwards(config):
        step.test(clips=clips, crop=crop)
    torch.cuda.synchronize(device)
