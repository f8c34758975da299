"""A training step on a CPU beside the same network out of torch's own layers: CPU time, as ratios taken side by side.

    python bench/step.py > bench/results/step_cpu.txt

One thread. Both make the same step in turn: forward, backward and update on the same clips; the ratio is that of the
shortest of each. Torch's own: nn.BatchNorm3d or nn.GroupNorm, nn.ReLU, and nn.Conv3d where vidgn runs a convolution
over time as a 2-D one.
"""

import argparse
import time

import torch
from torch import nn

from vidgn.config.compose import load_config
from vidgn.geometry import Geometry, group_clips
from vidgn.memory.warm_step import WarmStep
from vidgn.models.i3d import TemporalConv
from vidgn.models.norms.layers import ClipNorm, norm_layers
from vidgn.training.setup import make_model, place_model

CELLS = {
    "i3d_tiny, 8 clips of 16 frames at 56": [
        "model=i3d_tiny",
        "frames=16",
        "span=32",
        "data.crop=56",
        "clips_per_gpu=8",
    ],
    "i3d_r50, 2 clips of 8 frames at 112": ["model=i3d_r50", "frames=8", "span=64", "data.crop=112", "clips_per_gpu=2"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, CPU, one thread; seconds of a step, and vidgn's as a share of torch's")
    for cell, overrides in CELLS.items():
        for norm in ("bn", "gn"):
            steps = {plain: warm_step([*overrides, f"norm={norm}"], plain=plain) for plain in (True, False)}
            seconds: dict[bool, list[float]] = {True: [], False: []}
            for repeat in range(repeats + 2):
                for plain, step in steps.items():
                    start = time.process_time()
                    step.whole()
                    if repeat > 1:
                        seconds[plain].append(time.process_time() - start)
            ours, torchs = min(seconds[False]), min(seconds[True])
            print(f"{cell}, {norm}: torch {torchs:.3f}, vidgn {ours:.3f}, {ours / torchs:.2f}", flush=True)


def warm_step(overrides: list[str], *, plain: bool) -> WarmStep:
    """A step of one virtual GPU, in fp32."""
    crop = next(int(o.partition("=")[2]) for o in overrides if o.startswith("data.crop"))
    config = load_config([*overrides, f"data.short_side=[{crop},{crop}]", "gpus=1", "trainer.device=cpu"])
    model, device = make_model(config, num_classes=400), torch.device("cpu")
    if plain:
        use_torchs_layers(model)
    geometry = Geometry(config.slots_per_step, group_clips(config), 1, config.clips_per_gpu)
    step = WarmStep(config, place_model(model, config, device), geometry=geometry, device=device)
    size = (config.clips_per_gpu, config.frames, crop, crop, 3)
    noise = torch.randint(256, size, dtype=torch.uint8)
    step.made_up.clips = lambda count, crop: noise
    step.join_ranks()
    return step


def use_torchs_layers(model: nn.Module) -> None:
    """Put torch's norms and convolutions in the place of vidgn's."""
    for name, layer in norm_layers(model):
        parent, _, child = name.rpartition(".")
        channels = layer.num_features
        plain = nn.GroupNorm(layer.groups, channels) if isinstance(layer, ClipNorm) else nn.BatchNorm3d(channels)
        setattr(model.get_submodule(parent), child, plain.to(next(model.parameters()).dtype))
    for module in model.modules():
        if isinstance(module, TemporalConv):
            module.__class__ = nn.Conv3d


if __name__ == "__main__":
    main()
