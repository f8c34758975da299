"""What each memory mode saves and costs: saved bytes and time of a step relative to keep, in one run.

    python bench/memory.py --rounds 5                        # CPU, float32, a small clip of the paper's net
    python bench/memory.py --device cuda --crop 224 --precision bf16 --clips 8

Bytes are counted on tensors without values, on the net, clip and precision that are timed. The modes take turns
within a round, in an order that turns too; what is printed is the median over rounds of a mode's step time divided by
that of keep in the same round, by process CPU time (other load on the machine hardly moves it) and by wall time.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from vidgn.config.compose import load_config
from vidgn.config.schema import Config
from vidgn.geometry import Geometry, group_clips
from vidgn.memory.measure import measure
from vidgn.memory.prediction import Prediction, predict
from vidgn.memory.warm_step import WarmStep
from vidgn.runs.checkpoint import versions
from vidgn.training.setup import make_model, place_model, set_precision

MODES = ("keep", "lean", "leaner", "block")
NORMS = ("bn", "gn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="i3d_r50")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--crop", type=int, default=112)
    parser.add_argument("--clips", type=int, default=2, help="clips in the forward")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="a json file, for example bench/results/memory.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells = {(norm, mode): config_of(arguments, norm, mode) for norm in NORMS for mode in MODES}
    seconds = time_steps(cells, arguments)
    rows = []
    for norm in NORMS:
        keep = predict(cells[norm, "keep"], clips_per_forward=arguments.clips)
        for mode in MODES:
            predicted = predict(cells[norm, mode], clips_per_forward=arguments.clips)
            rows.append(row(norm, mode, predicted, keep, seconds))
            if arguments.device == "cuda":
                rows[-1] |= vars(measure(cells[norm, mode], clips_per_forward=arguments.clips))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    result = {
        "command": {k: str(v) for k, v in vars(arguments).items() if k != "out"},
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu, one thread",
        "versions": versions(),
        "rows": rows,
    }
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def config_of(arguments: argparse.Namespace, norm: str, mode: str) -> Config:
    return load_config(
        [
            f"model={arguments.model}",
            f"norm={norm}",
            f"frames={arguments.frames}",
            f"data.crop={arguments.crop}",
            f"data.short_side=[{arguments.crop},{arguments.crop * 8 // 7}]",
            f"clips_per_gpu={arguments.clips}",
            "gpus=2",
            f"trainer.precision={arguments.precision}",
            f"trainer.activation_memory={mode}",
            f"trainer.device={arguments.device}",
        ]
    )


def row(norm: str, mode: str, predicted: Prediction, keep: Prediction, seconds: dict) -> dict:
    of_mode, of_keep = seconds[norm, mode], seconds[norm, "keep"]
    cpu, wall = (
        statistics.median(a[clock] / b[clock] for a, b in zip(of_mode, of_keep, strict=True)) for clock in (0, 1)
    )
    return {
        "norm": norm,
        "mode": mode,
        "saved_mib": round(predicted.saved_bytes / 2**20, 1),
        "saved_ratio": round(predicted.saved_bytes / keep.saved_bytes, 3),
        "cpu_time_ratio": round(cpu, 3),
        "wall_time_ratio": round(wall, 3),
        "keep_seconds": round(statistics.median(b[1] for b in of_keep), 3),
    }


def time_steps(cells: dict, arguments: argparse.Namespace) -> dict:
    """(process CPU seconds, wall seconds) of a warm step, per round and cell."""
    device = torch.device(arguments.device)
    steps = {cell: _step(config, arguments.clips, device) for cell, config in cells.items()}
    seconds: dict = {cell: [] for cell in cells}
    order = list(cells)
    for round_ in range(arguments.rounds + 1):
        for cell in order[round_ % len(order) :] + order[: round_ % len(order)]:
            start = time.process_time(), time.perf_counter()
            steps[cell].backward(steps[cell].forward(None))
            steps[cell].optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_ > 0:  # the first warms up
                seconds[cell].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return seconds


def _step(config: Config, clips: int, device: torch.device) -> WarmStep:
    set_precision(config)
    geometry = Geometry(config.slots_per_step, group_clips(config), 1, clips)
    return WarmStep(
        config, place_model(make_model(config, num_classes=400), config, device), geometry=geometry, device=device
    )


if __name__ == "__main__":
    main()
