"""What a result depends on, and by how much: one cell, trained in float32 again and again in other ways.

    python bench/same_bytes.py [--quick] [--python OTHER]      about 12 minutes on two cores

Each row is a run of the same experiment that differs from the first in what the row says: number of processes, kills,
reader, memory mode, clips of a forward, threads, order of sums, torch. Compared are the weights and running statistics
of the last checkpoint (relative: norm of the difference of all weights to their norm), the steps' losses, and the
per-video predictions of the final test.

    --python OTHER    the Python of an environment with another torch and what vidgn needs
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from vidgn.runs.checkpoint import list_checkpoints, load_checkpoint

REPO = Path(__file__).resolve().parents[1]
CELL = [
    *("model=i3d_tiny", "frames=8", "span=16", "gpus=4", "clips_per_gpu=4", "views=center", "bn_stats_steps=8"),
    *("data=synthetic", "data.synthetic.num_train=256", "data.synthetic.num_val=200", "data.synthetic.size=56"),
    *("data.crop=48", "data.short_side=[48,56]", "trainer.eval_every=0", "trainer.device=cpu", "data.workers=0"),
    *("trainer.clips_per_forward=4", "trainer.checkpoint_steps=4", "launch.threads=1"),
]
# What a row says -> what it changes, and where its run is killed
WAYS: dict[str, list[str]] = {
    "first": [],
    "again": [],
    "2 processes": ["launch.nproc_per_node=2"],
    "4 processes": ["launch.nproc_per_node=4"],
    "killed twice": [],
    "killed, 4, 2 and 1 processes": [],
    "2 reader processes": ["data.workers=2"],
    "decoder decord": ["data.decoder=decord"],
    "decoder torchcodec": ["data.decoder=torchcodec"],
    "memory mode block": ["trainer.activation_memory=block"],
    "summation=fast, 1 process": ["trainer.summation=fast"],
    "summation=fast, 4 processes": ["trainer.summation=fast", "launch.nproc_per_node=4"],
    "8 clips a forward": ["trainer.clips_per_forward=8"],
    "16 clips a forward": ["trainer.clips_per_forward=16"],
    "2 threads": ["launch.threads=2"],
    "another seed": ["seed=1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps of a few rows, to see that it runs")
    parser.add_argument("--python", help="the Python of an environment with another torch")
    arguments = parser.parse_args()
    ways = dict(list(WAYS.items())[:3]) if arguments.quick else WAYS
    print(f"torch {torch.__version__}, {os.cpu_count()} cores; float32")
    for norm in ("bn", "gn"):
        lengths = (4,) if arguments.quick else (5, 60)
        with tempfile.TemporaryDirectory() as folder:
            print(f"\nnorm={norm}: difference of the weights after {' and '.join(map(str, lengths))} steps; "
                  f"of the losses of {lengths[-1]} steps, how many differ; of 200 test videos, how many are told to be "
                  f"of another class; top-1")  # fmt: skip
            first: dict[int, dict] = {}
            for way, changed in ways.items():
                row = []
                for steps in lengths:
                    found = run(Path(folder), [*CELL, f"norm={norm}", *changed], steps, way)
                    first.setdefault(steps, found)
                    row.append(found)
                report(way, row, list(first.values()))
            if arguments.python:
                row = [
                    run(Path(folder), [*CELL, f"norm={norm}"], steps, "torch", arguments.python) for steps in lengths
                ]
                report(f"torch {row[0]['torch']}", row, list(first.values()))


def run(folder: Path, overrides: list[str], steps: int, way: str, python: str = sys.executable) -> dict:
    """One run, killed on its way where the row says so; what it left."""
    tag = f"{way.replace(' ', '_').replace(',', '').replace('=', '')}_{len(os.listdir(folder))}"
    arguments = [*overrides, f"trainer.max_steps={steps}", f"data.root={folder}/data", f"runs_dir={folder}/{tag}"]
    worlds = [4, 2] if way.startswith("killed,") else [1, 1] if way.startswith("killed") else []
    for number, world_size in enumerate(worlds, 1):
        process = start(python, [*arguments, f"launch.nproc_per_node={world_size}"])
        metrics = folder / tag / "study"
        while process.poll() is None:
            written = sum(p.read_bytes().count(b'"train"') for p in metrics.glob("*/metrics.jsonl"))
            if written >= number * steps / 3:
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        if process.wait() != -signal.SIGKILL:
            raise SystemExit(f"{way}: it was done before it could be killed")
    process = start(python, arguments)
    if process.wait():
        raise SystemExit(f"{way}: {' '.join(arguments)} failed")
    (run_dir,) = (folder / tag / "study").glob("i3d*")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    (csv,) = (run_dir / "tests").glob("*.csv")
    result = json.loads((run_dir / "result.json").read_text())
    return {
        "model": load_checkpoint(list_checkpoints(run_dir / "checkpoints")[-1])["model"],
        "losses": [line["loss"] for line in lines if line["kind"] == "train"],
        "predictions": [line.split(",")[5] for line in csv.read_text().splitlines()[1:]],
        "top1": result["top1"],
        "torch": result["versions"]["torch"],
    }


def start(python: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [python, "-m", "vidgn", "train", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )


def report(way: str, row: list[dict], first: list[dict]) -> None:
    differences = []
    for one, other in zip(row, first, strict=True):
        squares = [((one["model"][k].double() - v.double()).square().sum(), v.double().square().sum())
                   for k, v in other["model"].items()]  # fmt: skip
        difference = float((sum(d for d, _ in squares) / sum(s for _, s in squares)) ** 0.5)
        same = all(torch.equal(one["model"][k], v) for k, v in other["model"].items())
        differences.append("same bits" if same else f"{difference:.1e}")
    losses = sum(a != b for a, b in zip(row[-1]["losses"], first[-1]["losses"], strict=True))
    videos = sum(a != b for a, b in zip(row[-1]["predictions"], first[-1]["predictions"], strict=True))
    columns = "  ".join(f"{text:>10}" for text in differences)
    print(f"  {way:<30} {columns}  {losses:>4} losses  {videos:>3} videos  {row[-1]['top1']:5.1f} %", flush=True)


if __name__ == "__main__":
    main()
