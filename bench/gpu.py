"""What vidgn does with a GPU, in one command: ceilings, norms, steps, memory, launches and waits. Under 8 minutes.

    python bench/gpu.py > bench/results/gpu_h100.txt
    python bench/gpu.py --device cpu --tiny          # that it runs, nothing else

The two ceilings are measured first: a large copy, counted as bytes read and written, and a large bf16 product. A norm's
bandwidth is what its forward and backward must move at least (16 bytes a value behind a ReLU in bf16, 22 with an add)
over the time they take. Times are medians of runs timed by events; inputs do not fit the cache. Launches and waits are
those of a training step as torch's profiler sees them.
"""

import argparse
import dataclasses
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from step import use_torchs_layers
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from vidgn.config.compose import load_config
from vidgn.config.schema import Config, NormConfig
from vidgn.distributed.ranks import Ranks
from vidgn.geometry import Geometry, group_clips
from vidgn.memory.measure import measure
from vidgn.memory.prediction import predict
from vidgn.memory.warm_step import WarmStep
from vidgn.models.norms import operators
from vidgn.models.norms.layers import make_norm, set_statistics_groups
from vidgn.training.norm_kernels import choose_norm_kernels, self_test
from vidgn.training.setup import make_model, place_model, set_precision
from vidgn.training.tasks import ClipForward, MadeUpClips

MAPS = {
    "res2": (8, 64, 8, 55, 55),
    "res2 wide": (8, 256, 8, 55, 55),
    "res3": (8, 128, 4, 28, 28),
    "res4": (8, 256, 4, 14, 14),
    "res5 wide": (8, 2048, 4, 7, 7),
}
IN_A_ROW = 5
RECORDED = 10  # runs in a graph that is timed: to launch one takes some 20 us
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="small maps and nets")
    parser.add_argument("--only", nargs="*", default=list(SECTIONS), choices=list(SECTIONS))
    arguments = parser.parse_args()
    bench = Bench(torch.device(arguments.device), tiny=arguments.tiny)
    where = torch.cuda.get_device_name() if bench.is_cuda else "CPU"
    print(f"{where}, torch {torch.__version__}", flush=True)
    failed = []
    for name in arguments.only:
        start = time.perf_counter()
        print(f"\n## {name}", flush=True)
        try:
            for line in SECTIONS[name](bench):
                print(line, flush=True)
        except Exception:  # the other sections are worth their time
            traceback.print_exc(limit=-4)
            failed.append(name)
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    print("\n## in short")
    for line in bench.summary:
        print(line)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


@dataclasses.dataclass
class Bench:
    """Where and how large, and the ceilings once they are known."""

    device: torch.device
    tiny: bool
    bytes_per_second: float = float("nan")
    summary: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def milliseconds(self, run: Callable[[], object], *, repeats: int = 20) -> float:
        """Median over runs."""
        if self.tiny:
            repeats = 2
        for _ in range(3):
            run()
        times = []
        for _ in range(repeats):
            if self.is_cuda:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                run()
                end.record()
                torch.cuda.synchronize()
                times.append(start.elapsed_time(end))
            else:
                begin = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times)

    def recorded(self, run: Callable[[], object]) -> Callable[[], object]:
        """`run` as a CUDA graph, so that what is timed is the device's work and not the host's."""
        if not self.is_cuda:
            return run
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(RECORDED):
                run()
        return graph.replay

    def config(self, *overrides: str) -> Config:
        """P, or the tiny net, in bf16 on a GPU."""
        small = ["model=i3d_tiny", "data.crop=28", "data.short_side=[28,32]"] if self.tiny else []
        precision = "bf16" if self.is_cuda else "fp32"
        return load_config([*small, f"trainer.precision={precision}", f"trainer.device={self.device.type}", *overrides])


def ceilings(bench: Bench) -> Iterator[str]:
    """Copy and product."""
    size = 2**20 if bench.tiny else 2**30
    source = torch.empty(size, dtype=torch.uint8, device=bench.device).random_()
    target = torch.empty_like(source)
    ms = bench.milliseconds(lambda: target.copy_(source))
    bench.bytes_per_second = 2 * size / ms * 1e3
    yield f"copy: {bench.bytes_per_second / 1e9:.0f} GB/s"
    if bench.is_cuda:
        pinned = torch.empty(8 * 32 * 224 * 224 * 3, dtype=torch.uint8, pin_memory=True)
        ms = bench.milliseconds(lambda: pinned.to(bench.device, non_blocking=True))
        yield f"8 clips of 32 frames to the device: {ms:.2f} ms"
    n = 128 if bench.tiny else 8192
    a, b = (torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    ms = bench.milliseconds(lambda: a @ b)
    product = f"{2 * n**3 / ms * 1e3 / 1e12:.0f} TFLOP/s"
    yield f"bf16 product: {product}"
    bench.summary.append(f"copy {bench.bytes_per_second / 1e9:.0f} GB/s, bf16 product {product}")


def correct(bench: Bench) -> Iterator[str]:
    """Each kind against float64, in each type and format; and the same bytes twice."""
    for precision, memory_format in (("bf16", "channels_last"), ("fp32", "channels_last"), ("bf16", "contiguous")):
        for kind in ("bn", "frozen_bn", "gn", "ln", "in"):
            overrides = (f"trainer.precision={precision}", f"trainer.memory_format={memory_format}")
            config = bench.config("model=i3d_tiny", *overrides)
            config = dataclasses.replace(config, norm=dataclasses.replace(config.norm, kind=kind))
            lines: list[str] = []
            model = make_model(config, num_classes=8)
            kernels = choose_norm_kernels(config, model, Ranks(0, 1, bench.device), log=lines.append)
            wrong = self_test(config, model, bench.device)
            yield f"{kind:9} {precision} {memory_format:13} {kernels}: {wrong or 'right'} {'; '.join(lines)}"
    operators.use_triton(bench.is_cuda)
    for kind in ("bn", "gn"):
        module, x, residual, dy = norm_case(bench, kind, MAPS["res3"])
        runs = [forward_backward(module, x, residual, dy) for _ in range(3)]
        same = all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))
        yield f"{kind}: {'the same bytes three times' if same else 'OTHER BYTES'}"


def norm_case(bench: Bench, kind: str, shape: tuple[int, ...], group_clips: int | None = None) -> Any:
    """A norm with x, residual and dy in the GPU's format."""
    if bench.tiny:
        shape = (2, 32, 2, 5, 5)
    config = NormConfig(kind=kind, groups=None, channels_per_group=None, eps=1e-5, momentum=0.1)  # type: ignore[arg-type]
    module = make_norm(config, default_groups=32)(num_features=shape[1]).to(bench.device)
    set_statistics_groups(module, group_clips=group_clips)
    dtype = torch.bfloat16 if bench.is_cuda else torch.float32
    maps = (torch.randn(shape, device=bench.device, dtype=dtype) for _ in range(3))
    x, residual, dy = (m.contiguous(memory_format=torch.channels_last_3d) for m in maps)
    return module, x.requires_grad_(), residual.requires_grad_(), dy


def forward_backward(module: nn.Module, x: Tensor, residual: Tensor | None, dy: Tensor) -> list[Tensor]:
    y = module(x, residual, relu=True)
    inputs = [x, module.weight, module.bias, *([residual] if residual is not None else [])]
    return [y.detach(), *torch.autograd.grad(y, inputs, dy)]


def norms(bench: Bench) -> Iterator[str]:
    """Milliseconds of norm and ReLU, forward and backward, and the share of the copy's bandwidth; without launches."""
    if bench.bytes_per_second != bench.bytes_per_second:
        list(ceilings(bench))
    names = ["gn", "bn", "ghost bn 2", "gn + add", "nn.GroupNorm", "nn.BatchNorm3d", "compiled gn"]
    yield f"{'map':10} " + " ".join(f"{n:>14}" for n in names)
    for stage, shape in MAPS.items():
        cells, times = [], {}
        for name in names:
            times[name], floor = norm_time(bench, name, shape)
            cells.append(f"{times[name]:7.3f} {100 * 1e3 * floor / bench.bytes_per_second / times[name]:4.0f} %")
        yield f"{stage:10} " + " ".join(f"{c:>14}" for c in cells)
        gn, bn = times["gn"] / times["nn.GroupNorm"], times["bn"] / times["nn.BatchNorm3d"]
        bench.summary.append(
            f"norm and ReLU on {stage}: gn {gn:.2f} of nn.GroupNorm's time, bn {bn:.2f} of nn.BatchNorm3d's"
        )
    yield "the parts of gn + add: moments reads x; normalise x, residual, writes y; gradient the rest"
    for stage, shape in MAPS.items():
        module, x, residual, dy = norm_case(bench, "gn", shape)
        operators.use_triton(bench.is_cuda)
        gamma, beta = module.weight.detach(), module.bias.detach()
        x, residual, n = x.detach(), residual.detach(), x.shape[0]
        mean, var = operators.batch_moments(x, rows=n, groups=32)
        y = operators.normalise(x, mean, var, gamma, beta, residual, 1e-5, True)
        parts: dict[str, tuple[Callable[[], object], int]] = {
            "moments": (lambda x=x, n=n: operators.batch_moments(x, rows=n, groups=32), 2),
            "normalise": (
                lambda x=x, m=mean, v=var, r=residual, g=gamma, b=beta: operators.normalise(
                    x, m, v, g, b, r, 1e-5, True
                ),
                6,
            ),
            "gradient": (
                lambda x=x, m=mean, v=var, y=y, d=dy, g=gamma, b=beta: operators.gradient(
                    d, x, y, m, v, g, b, 1, 1e-5, True, True, None
                ),
                14,
            ),
        }
        cells = []
        for name, (run, width) in parts.items():
            ms = bench.milliseconds(bench.recorded(run)) / (RECORDED if bench.is_cuda else 1)
            share = 1e3 * width * x.numel() / bench.bytes_per_second / ms
            cells.append(f"{name} {1e3 * ms:6.1f} us {100 * share:4.0f} %")
        yield f"{stage:10} " + "   ".join(cells)


def norm_time(bench: Bench, name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Milliseconds, and the bytes that must be moved."""
    kind = "gn" if "gn" in name or "Group" in name else "bn"
    module, x, residual, dy = norm_case(bench, kind, shape, group_clips=2 if "ghost" in name else None)
    operators.use_triton(bench.is_cuda and "torch" not in name)
    adds = residual if "add" in name else None
    channels = x.shape[1]
    if "Norm" in name or "compiled" in name:
        plain = (nn.GroupNorm(32, channels) if kind == "gn" else nn.BatchNorm3d(channels)).to(bench.device)
        chain = nn.Sequential(plain, nn.ReLU(inplace=True))
        function: Any = torch.compile(chain) if "compiled" in name and bench.is_cuda else chain

        def run() -> object:
            with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.is_cuda):
                y = function(x)
            return torch.autograd.grad(y, [x, plain.weight, plain.bias], dy.to(y.dtype))
    else:

        def run() -> object:
            return forward_backward(module, x, adds, dy)

    ms = bench.milliseconds(bench.recorded(run)) / (RECORDED if bench.is_cuda else 1)
    return ms, (22 if adds is not None else 16) * x.numel() * x.element_size() / 2


WAYS = ("triton, graph", "triton", "torch", "plain torch")


class FromHost(MadeUpClips):
    """Clips of noise in pinned memory, as readers leave them."""

    def __init__(self, config: Config, model: Any, device: torch.device, clips: int) -> None:
        super().__init__(config, model, device)
        size = (clips, config.frames, config.data.crop, config.data.crop, 3)
        self.clip_NTHWC = torch.randint(256, size, dtype=torch.uint8, pin_memory=True)

    def inputs(self, batch: None, *, step: int, slots: range) -> tuple[Tensor, ...]:
        return (self.clip_NTHWC,)

    def forward(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> ClipForward:
        scale = self._dropout_scale(len(inputs[0]))
        return ClipForward(module(self.to_model(inputs[0]), scale).flatten(1), None)


def steps(bench: Bench) -> Iterator[str]:
    """A training step: forward, backward, update; pixels on the device, but where said. Plain torch: its own norms."""
    yield f"{'cell':44} {'ms':>8} {'clips/s':>8} {'reserved':>9}"
    for frames, clips in ((32, 8), (64, 4)):
        for norm in ("gn", "bn"):
            times = {}
            ways = ("graph, from the host", *WAYS) if frames == 32 else ("triton, graph", "plain torch")
            for way in ways if bench.is_cuda else ("torch", "plain torch"):
                if bench.is_cuda:
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                step = warm_step(bench, frames, clips, norm, way)
                times[way] = ms = bench.milliseconds(lambda s=step: in_a_row(s), repeats=5) / IN_A_ROW
                reserved = torch.cuda.max_memory_reserved() / GIB if bench.is_cuda else 0.0
                label = f"{frames} frames x {clips} clips, {norm}, {way}"
                yield f"{label:44} {ms:8.1f} {1e3 * clips / ms:8.1f} {reserved:5.2f} GiB"
                del step
            in_turn = ", ".join(f"{way} {ms:.1f} ms" for way, ms in times.items())
            bench.summary.append(f"step of {frames} frames x {clips} clips, {norm}: {in_turn}")


def in_a_row(step: WarmStep) -> None:
    """As in a run: the host begins with a step while the one before is computed."""
    for _ in range(IN_A_ROW):
        step.whole()


def warm_step(bench: Bench, frames: int, clips: int, norm: str, way: str) -> WarmStep:
    if bench.tiny:
        frames = frames // 4
    kernels = "triton" if way.startswith("triton") or "graph" in way else "torch"
    config = bench.config(
        f"norm={norm}",
        f"frames={frames}",
        f"clips_per_gpu={clips}",
        "gpus=1",
        f"trainer.norm_kernels={kernels}",
        f"trainer.cuda_graph={str('graph' in way).lower()}",
    )
    set_precision(config)
    model = make_model(config, num_classes=400)
    choose_norm_kernels(config, model, Ranks(0, 1, bench.device))
    if way == "plain torch":
        use_torchs_layers(model)
    geometry = Geometry(config.slots_per_step, group_clips(config), 1, clips)
    step = WarmStep(config, place_model(model, config, bench.device), geometry=geometry, device=bench.device)
    size = (clips, config.frames, config.data.crop, config.data.crop, 3)
    noise = torch.randint(256, size, dtype=torch.uint8, device=bench.device)  # zeros would run faster
    step.made_up.clips = lambda count, crop: noise
    if "host" in way:
        step.objective = FromHost(config, model, bench.device, clips)
    step.join_ranks()
    return step


RUN = (
    *("model=i3d_tiny", "data=synthetic", "data.synthetic.num_train=64", "data.synthetic.num_val=8", "norm=bn"),
    *("frames=8", "span=16", "gpus=2", "clips_per_gpu=4", "views=curve", "bn_stats_steps=2", "trainer.max_steps=30"),
    *("trainer.checkpoint_steps=10", "trainer.eval_every=2", "trainer.deterministic=true", "data.workers=1"),
)


def runs(bench: Bench) -> Iterator[str]:
    """A training as a user starts it: as it is, killed on the way and gone on with, by a graph, in other forwards."""
    folder = Path(tempfile.mkdtemp())
    precision = "bf16" if bench.is_cuda else "fp32"
    where = [f"trainer.device={bench.device.type}", f"trainer.precision={precision}", *(TINY_RUN if bench.tiny else ())]

    def start(name: str, *overrides: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "vidgn",
            "train",
            *RUN,
            *where,
            f"runs_dir={folder / name}",
            "study=s",
            f"data.root={folder / 'data'}",
        ]
        with open(folder / f"{name}.txt", "ab") as log:
            return subprocess.Popen([*command, *overrides], stdout=log, stderr=log)

    def directory(name: str) -> Path:
        return next((folder / name / "s").glob("*/metrics.jsonl")).parent

    in_two, graph = "trainer.clips_per_forward=4", "trainer.cuda_graph=true"
    processes = {
        "whole": start("whole"),
        "killed": start("killed"),
        "graph": start("graph", graph),
        "lean graph": start("lean graph", graph, "trainer.activation_memory=lean"),
        "in two forwards": start("in two forwards", in_two),
        "graph in two": start("graph in two", in_two, graph),
    }
    while not any((folder / "killed").glob("s/*/metrics.jsonl")) or number_of_lines(directory("killed")) < 17:
        assert processes["killed"].poll() is None, (folder / "killed.txt").read_text()[-2000:]
        time.sleep(0.01)
    processes["killed"].kill()
    processes["killed"].wait()
    processes["killed"] = start("killed")
    for name, process in processes.items():
        undisturbed = "in two forwards" if name == "graph in two" else "whole"
        if process.wait() != 0:
            yield f"{name}: {(folder / f'{name}.txt').read_text()[-1000:]}"
        elif name not in ("whole", "in two forwards"):
            one, other = (load_file(directory(n) / "model.safetensors") for n in (undisturbed, name))
            apart = max(float((one[k].double() - other[k].double()).norm() / one[k].double().norm()) for k in one)
            same = all(torch.equal(one[k], other[k]) for k in one)
            line = f"{name:15} {'the same bytes' if same else f'{apart:.1e} apart'} as: {undisturbed}"
            yield line
            bench.summary.append(line)
    yield from (line for line in (folder / "graph.txt").read_text().splitlines() if "norms run" in line)
    shutil.rmtree(folder)


TINY_RUN = ("trainer.max_steps=24", "data.crop=28", "data.short_side=[28,32]")


def number_of_lines(directory: Path) -> int:
    return (directory / "metrics.jsonl").read_text().count("\n")


def memory(bench: Bench) -> Iterator[str]:
    """Peak against prediction."""
    if not bench.is_cuda:
        yield "needs a GPU"
        return
    yield f"{'cell':26} {'predicted':>10} {'measured':>10} {'ratio':>6}"
    ratios = []
    for norm, lengths in (("gn", (8, 16, 32, 64)), ("bn", (8, 16, 32, 64))):
        for frames in lengths:
            config = bench.config(f"norm={norm}", f"frames={frames}", "clips_per_gpu=4", "gpus=1")
            model = make_model(config, num_classes=400)
            choose_norm_kernels(config, model, Ranks(0, 1, bench.device))
            del model
            predicted = predict(config, clips_per_forward=4).peak_bytes
            peak = measure(config, clips_per_forward=4).peak_bytes or 0
            numbers = f"{predicted / GIB:6.2f} GiB {peak / GIB:6.2f} GiB {peak / predicted:6.3f}"
            yield f"{norm}, {frames:2} frames, 4 clips   {numbers}"
            ratios.append(peak / predicted)
    bench.summary.append(f"memory measured: {min(ratios):.3f} to {max(ratios):.3f} of what was predicted")


def launches(bench: Bench) -> Iterator[str]:
    """Launches and waits of a warm step."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if bench.is_cuda else [])
    for norm in ("bn", "gn"):
        for way in WAYS if bench.is_cuda else ("torch", "plain torch"):
            step = warm_step(bench, 32, 8, norm, way)
            for _ in range(5):
                step.whole()
            with profile(activities=activities, acc_events=True) as profiled:
                step.whole()
            calls = Counter(event.name for event in profiled.events())
            launched = sum(n for name, n in calls.items() if "LaunchKernel" in name or name == "cudaGraphLaunch")
            waits = {name: n for name, n in calls.items() if "StreamSynchronize" in name or "scalar_dense" in name}
            yield f"{norm}, {way:14}: {launched:5} launches, waits: {waits or 'none'}"
            bench.summary.append(f"a step of {norm}, {way}: {launched} launches, waits: {waits or 'none'}")


SECTIONS: dict[str, Callable[[Bench], Iterator[str]]] = {
    "ceilings": ceilings,
    "runs": runs,
    "steps": steps,
    "launches": launches,
    "norms": norms,
    "memory": memory,
    "correct": correct,
}

if __name__ == "__main__":
    main()
