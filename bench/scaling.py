"""Two ranks over gloo against the same step in one process, and the cost formula against both.

    python bench/scaling.py [--json FILE]      about 3 minutes on two free cores

Three layouts of one experiment take turns, so that what else the machine does falls on all of them: one process with
one thread, one process with two, two processes with one each. Seconds of a step are the run's own (metrics.jsonl) less
its waits for data; of each start the lower quartile counts, of the starts the median.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vidgn.distributed.scaling import Link, all_reduce_seconds, step_seconds

SLOTS = 8
CELL = [
    *("model=i3d_tiny", "norm=gn", "frames=16", "span=16", "gpus=2", "clips_per_gpu=4", "views=curve"),
    *("data=synthetic", "data.synthetic.num_train=64", "data.synthetic.num_val=8"),
    *("trainer.max_steps=24", "trainer.eval_every=0", "trainer.device=cpu"),
    "data.workers=0",  # readers would take the cores that are compared
]
LAYOUTS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    seconds: dict[str, list[float]] = {name: [] for name in LAYOUTS}
    links = []
    with tempfile.TemporaryDirectory() as folder:
        gradient_bytes = 0
        for repeat in range(arguments.repeats):
            for name, (processes, threads) in LAYOUTS.items():
                step, sent = run(Path(folder), f"{processes}x{threads}-{repeat}", processes, threads)
                seconds[name].append(step)
                gradient_bytes = max(gradient_bytes, sent)
            links.append(measure_link(gradient_bytes))
    link = Link(
        statistics.median(li.bytes_per_second for li in links), statistics.median(li.latency_seconds for li in links)
    )
    found = {name: statistics.median(values) for name, values in seconds.items()}
    one_thread, same_cores, two = found.values()
    formula = step_seconds(
        slots=SLOTS,
        clips_per_forward=SLOTS // 2,
        world_size=2,
        clip_seconds=one_thread / SLOTS,
        gradient_bytes=gradient_bytes,
        link=link,
    )
    for name, value in found.items():
        spread = f"{min(seconds[name]) * 1e3:.0f} to {max(seconds[name]) * 1e3:.0f}"
        print(f"{name:<28} {value * 1e3:7.1f} ms a step of {SLOTS} clips ({spread})")
    print(f"all-reduce of {gradient_bytes / 1e6:.2f} MB: {all_reduce_seconds(gradient_bytes, 2, link) * 1e3:.2f} ms")
    print(f"2 ranks / 1 process on the same cores: {two / same_cores:.2f}   (target 1.15 on free cores)")
    print(f"2 ranks / half of 1 process on one:    {two / (one_thread / 2):.2f}")
    print(f"formula for 2 processes: {formula * 1e3:.1f} ms, measured / formula: {two / formula:.2f}")
    if arguments.json:
        record = {
            "slots": SLOTS,
            "gradient_bytes": gradient_bytes,
            "link": vars(link),
            "seconds": found,
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def run(folder: Path, name: str, processes: int, threads: int) -> tuple[float, int]:
    """Seconds of a step in one start of a layout, and the bytes of its gradients."""
    overrides = [
        *CELL, f"data.root={folder}/data", f"runs_dir={folder}/runs", f"tag={name}", f"launch.threads={threads}",
        f"launch.nproc_per_node={processes}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "vidgn", "train", *overrides]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    (run_dir,) = (folder / "runs" / "study").glob(f"*_{name}_*")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    clocks = [line["clock"] for line in lines if line["kind"] == "train"][4:]
    steps = [c["step_seconds"] * (1 - c["data_wait_fraction"]) for c in clocks]
    sent = json.loads((run_dir / "machine.json").read_text())[0]["communication"]["gradient_bytes"]
    return statistics.quantiles(steps, n=4)[0], sent


def measure_link(num_bytes: int) -> Link:
    """Bandwidth and latency of gloo between two processes, from an all-reduce of `num_bytes` and one of 4 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_all_reduce, (num_bytes, folder), nprocs=2)
        large, small = json.loads(Path(folder, "seconds").read_text())
    return Link(bytes_per_second=num_bytes / max(large - small, 1e-9), latency_seconds=small / 2)


def _all_reduce(rank: int, num_bytes: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = []
    for size in (num_bytes // 4, 1):
        tensor, times = torch.ones(size), []
        for _ in range(30):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(tensor)
            times.append(time.perf_counter() - began)
            tensor.fill_(1)
        found.append(statistics.quantiles(times[5:], n=4)[0])
    if rank == 0:
        Path(folder, "seconds").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
