"""What gradients added in one order cost: `trainer.summation=canonical` beside `fast` and plain torch.

    python bench/summation.py [--quick]      about 6 minutes on two free cores

Whole steps (forward, backward, exchange, update) on made-up clips in 1, 2 and 4 processes over gloo, one thread each.
The three take turns step by step, so that what else the machine does falls on all of them; the lower quartile counts.
Plain torch: torch.optim.SGD on DistributedDataParallel (no_sync between forwards) around the same net and loss. Bytes
are what the loopback device has sent, of all processes together.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vidgn.config.compose import load_config
from vidgn.distributed.ranks import Ranks
from vidgn.geometry import choose_geometry
from vidgn.training.setup import make_model
from vidgn.training.step import Layout, TrainStep
from vidgn.training.tasks import MadeUpClips

CPU = torch.device("cpu")
# net, clips of a step, clips a forward
CASES = {
    "i3d_tiny, 2.4 MB of gradients": (["model=i3d_tiny", "frames=16", "data.crop=56"], 8, 2),
    "i3d_r50, 110 MB of gradients": (["model=i3d_r50", "frames=8", "data.crop=112"], 4, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps of the small net, to see that it runs")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, 1 thread a process; ms of a step, lower quartile; MB sent by all in a step")
    for name, (overrides, clips, clips_per_forward) in list(CASES.items())[: 1 if arguments.quick else None]:
        for processes in (1, 2) if arguments.quick else (1, 2, 4):
            rounds = 3 if arguments.quick else 40 if "tiny" in name else 8
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(_rank, (processes, overrides, clips, clips_per_forward, rounds, folder), nprocs=processes)
                found = torch.load(Path(folder, "found.pt"))
            times = {way: statistics.quantiles(values, n=4)[0] for way, values in found["seconds"].items()}
            print(f"\n{name}; {clips} clips a step, {clips_per_forward} a forward, {processes} processes")
            for way, seconds in times.items():
                ratios = [statistics.median(a / b for a, b in zip(found["seconds"][way], other, strict=True))
                          for other in found["seconds"].values()]  # fmt: skip
                print(
                    f"  {way:<10} {seconds * 1e3:8.1f} ms   of plain {ratios[0]:.3f}, of fast {ratios[1]:.3f}"
                    f"   {found['bytes'][way] / 1e6:8.2f} MB"
                )


def _rank(
    rank: int, processes: int, overrides: list[str], clips: int, clips_per_forward: int, rounds: int, folder: str
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    ways = {"plain torch": _plain(rank, processes, overrides, clips, clips_per_forward)}
    for summation in ("fast", "canonical"):
        step = _step(rank, processes, [*overrides, f"trainer.summation={summation}"], clips, clips_per_forward)
        ways[summation] = _whole(step)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    sent: dict[str, float] = {}
    for number in range(rounds + 2):
        for way, run in ways.items():
            dist.barrier()
            bytes_before, began = _loopback_bytes(), time.perf_counter()
            run()
            dist.barrier()
            if number >= 2:
                seconds[way].append(time.perf_counter() - began)
                sent[way] = _loopback_bytes() - bytes_before
    if rank == 0:
        torch.save({"seconds": seconds, "bytes": sent}, Path(folder, "found.pt"))
    dist.barrier()
    dist.destroy_process_group()


def _step(rank: int, processes: int, overrides: list[str], clips: int, clips_per_forward: int) -> TrainStep:
    config = load_config(
        [*overrides, "norm=gn", f"gpus={clips // clips_per_forward}", f"clips_per_gpu={clips_per_forward}",
         f"trainer.clips_per_forward={clips_per_forward}", "trainer.device=cpu", "data.root=x"]
    )  # fmt: skip
    model = make_model(config, num_classes=400)
    ranks = Ranks(rank, processes, CPU)
    layout = Layout(choose_geometry(config, world_size=processes), ranks)
    step = TrainStep(config, model, MadeUpClips(config, model, CPU), layout)
    step.join_ranks()
    return step


def _whole(step: TrainStep) -> Callable[[], None]:
    def run() -> None:
        totals = step.accumulate(lambda: None, step=0, learning_rate=0.001)  # type: ignore[arg-type,return-value]
        step.update(step.over_ranks(totals)[0])

    return run


def _plain(rank: int, processes: int, overrides: list[str], clips: int, clips_per_forward: int) -> Callable[[], None]:
    step = _step(rank, processes, [*overrides, "trainer.summation=fast"], clips, clips_per_forward)
    module, forwards = step.module, step.geometry.forwards_per_step  # that of `fast` is DDP's
    optimizer = torch.optim.SGD(step.model.parameters(), lr=0.001, momentum=0.9)
    objective = step.objective
    inputs = objective.inputs(None, step=0, slots=range(clips_per_forward))

    def forward() -> None:
        (objective.forward(module, inputs).loss_sum() / (clips_per_forward * forwards)).backward()

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        for number in range(forwards):
            if processes > 1 and number < forwards - 1:
                with module.no_sync():  # type: ignore[operator]
                    forward()
            else:
                forward()
        optimizer.step()

    return run


def _loopback_bytes() -> int:
    (line,) = (li for li in Path("/proc/net/dev").read_text().splitlines() if li.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


if __name__ == "__main__":
    main()
