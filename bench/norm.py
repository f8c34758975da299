"""Forward and backward of vidgn's norms beside torch's, as ratios taken side by side in one run.

python bench/norm.py [--device cpu|cuda] [--repeats 15] [--json PATH]

Each contender runs in turn, `repeats` times; the ratio is that of the shortest. Shapes are maps inside the blocks
of the paper's net, 8 clips of 32 frames. CPU: one thread, in CPU time, so that a busy machine blurs it less.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from vidgn.models.norms.layers import BatchNorm, ClipNorm, set_statistics_groups

SHAPES = {
    "res2": (8, 64, 8, 55, 55),
    "res3": (8, 128, 4, 28, 28),
    "res4": (8, 256, 4, 14, 14),
    "res5": (8, 512, 4, 7, 7),
}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for dtype in (torch.float32, torch.bfloat16) if args.device == "cuda" else (torch.float32,):
        for name, memory_format in FORMATS.items():
            total: dict[str, float] = {}
            for stage, shape in SHAPES.items():
                x = torch.randn(shape, device=args.device, dtype=dtype).contiguous(memory_format=memory_format)
                seconds = measure(x, repeats=args.repeats)
                total = {k: total.get(k, 0.0) + v for k, v in seconds.items()}
                rows.append({"dtype": str(dtype), "format": name, "stage": stage, **ratios(seconds)})
                show(rows[-1])
            rows.append({"dtype": str(dtype), "format": name, "stage": "sum", **ratios(total)})
            show(rows[-1])
    if args.json:
        args.json.write_text(json.dumps({"device": args.device, "torch": torch.__version__, "rows": rows}, indent=1))


def measure(x: Tensor, *, repeats: int) -> dict[str, float]:
    """The shortest seconds of each contender."""
    channels = x.shape[1]
    contenders = {
        "torch_bn": nn.BatchNorm3d(channels),
        "bn": BatchNorm(channels),
        "ghost_bn_4": ghost(channels, group_clips=4),
        "ghost_bn_2": ghost(channels, group_clips=2),
        "torch_gn": nn.GroupNorm(32, channels),
        "gn": ClipNorm(channels, groups=32),
    }
    dy = torch.randn_like(x)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, module in contenders.items():
            elapsed = step_seconds(module.to(x.device), x, dy)
            if repeat > 0:
                seconds[name].append(elapsed)
    return {name: min(values) for name, values in seconds.items()}


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """Milliseconds of torch's norms, and ratios of vidgn's to them."""
    result = {f"{name}_ms": 1e3 * seconds[name] for name in ("torch_bn", "torch_gn")}
    result |= {f"{name}/torch_bn": seconds[name] / seconds["torch_bn"] for name in ("bn", "ghost_bn_4", "ghost_bn_2")}
    return result | {"gn/torch_gn": seconds["gn"] / seconds["torch_gn"]}


def show(row: dict) -> None:
    print(" ".join(f"{k}={v:.2f}" if isinstance(v, float) else f"{v}" for k, v in row.items()), flush=True)


def ghost(channels: int, *, group_clips: int) -> BatchNorm:
    module = BatchNorm(channels)
    set_statistics_groups(module, group_clips=group_clips)
    return module


def step_seconds(module: nn.Module, x: Tensor, dy: Tensor) -> float:
    x = x.detach().requires_grad_()
    synchronise(x)
    clock = time.perf_counter if x.is_cuda else time.process_time
    start = clock()
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        y = module(x)
    torch.autograd.grad(y, (x, module.weight, module.bias), dy.to(y.dtype))
    synchronise(x)
    return clock() - start


def synchronise(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
