"""float32 on 1, 2, 4 and 8 processes: the same bits. Steps of random geometries, and runs that change on the way."""

import contextlib
import itertools
import json
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.cells import in_world
from tests.killing import metrics, overrides
from vidgn.cli.main import main
from vidgn.config.compose import load_config
from vidgn.distributed.ranks import Ranks, statistics_process_group
from vidgn.geometry import Geometry, group_clips, is_legal
from vidgn.training.setup import make_model
from vidgn.training.step import Layout, TrainStep
from vidgn.training.tasks import ClipForward, dropout_scale

STEPS = 2


GPUS, CLIPS = (1, 2, 3, 4, 6, 8), (1, 2, 3, 4)
LARGEST_STEP = 16
SPANNING = ("bn", 2, 4, 2, [2, 4])  # its statistics groups span ranks


def worlds_of(norm: str, gpus: int, clips_per_gpu: int, clips: int, largest: int) -> list[int]:
    """The numbers of processes that can hold a geometry; none of one that is not looked at."""
    group, slots = clips_per_gpu if norm == "bn" else 1, gpus * clips_per_gpu
    if slots > LARGEST_STEP or slots % clips or (norm == "bn" and clips_per_gpu == 1):
        return []
    return [w for w in (1, 2, 4, 8) if w <= largest and is_legal(slots, group, w, clips)]


def geometries(largest: int) -> st.SearchStrategy[tuple[str, int, int, int, list[int]]]:
    """Norm, virtual GPUs, clips of one, clips of a forward, and the worlds that can hold it: at least two."""
    found = [
        (norm, gpus, clips_per_gpu, clips, worlds)
        for norm in ("bn", "gn", "in")
        for gpus in GPUS
        for clips_per_gpu in CLIPS
        for clips in range(1, LARGEST_STEP + 1)
        if len(worlds := worlds_of(norm, gpus, clips_per_gpu, clips, largest)) > 1
    ]
    return st.sampled_from(found)


class Noise:
    """Each slot's own clip, label and dropout, wherever it is computed."""

    def __init__(self, config):
        self.config = config

    def inputs(self, batch, *, step, slots):
        clips = [torch.randn(3, 8, 20, 20, generator=torch.Generator().manual_seed(100 * step + s)) for s in slots]
        scale = dropout_scale(self.config, channels=64, step=step, slots=slots, dtype=torch.float32)
        return torch.stack(clips), torch.tensor([s % 3 for s in slots]), scale

    def forward(self, module, inputs):
        clip_NCTHW, label_N, scale_NC = inputs
        return ClipForward(module(clip_NCTHW, scale_NC).flatten(1), label_N)


@contextlib.contextmanager
def collectives():
    """What goes over ranks meanwhile: all there is, but for gradients and statistics groups while forwards run."""
    calls, kept = [], {name: getattr(dist, name) for name in ("all_gather", "all_reduce", "all_gather_object")}
    for name, collective in kept.items():
        setattr(dist, name, lambda *a, _of=collective, **k: calls.append(_of) or _of(*a, **k))
    yield calls
    for name, collective in kept.items():
        setattr(dist, name, collective)


def train(rank, join, folder, drawn):
    """Two steps of every geometry that this world can hold; weights, statistics, momentum and losses to a file."""
    join()
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size > 1:
        store = f"file://{folder}/store{world_size}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    for number, (norm, gpus, clips_per_gpu, clips, worlds) in enumerate(drawn):
        if world_size not in worlds:
            continue
        config = load_config(
            ["model=i3d_tiny", "model.width=2", "frames=8", "data.crop=20", "data.short_side=[20,24]", f"norm={norm}",
             f"gpus={gpus}", f"clips_per_gpu={clips_per_gpu}", "model.norm_groups=2", "data.root=x"]
        )  # fmt: skip
        geometry = Geometry(config.slots_per_step, group_clips(config), world_size, clips)
        ranks = Ranks(rank, world_size, torch.device("cpu"))
        group = statistics_process_group(geometry) if world_size > 1 else None
        model = make_model(config, num_classes=3)
        step = TrainStep(config, model, Noise(config), Layout(geometry, ranks, group))  # type: ignore[arg-type]
        step.join_ranks()
        losses = []
        for index in range(STEPS):
            totals = step.accumulate(lambda: None, step=index, learning_rate=0.05)
            with collectives() as calls:
                totals = step.over_ranks(totals)
                assert step.update(totals[0])
            assert len(calls) == (world_size > 1)
            losses.append(totals)
        if rank == 0:
            momentum = [s["momentum_buffer"] for s in step.optimizer.state.values()]
            state = [*model.state_dict().values(), *momentum, *losses]
            torch.save(state, folder / f"{number}_{world_size}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


def ends_alike(drawn) -> None:
    """Every geometry on every world that can hold it: all tensors equal to the bit."""
    assert any(norm == "bn" and clips < clips_per_gpu for norm, _, clips_per_gpu, clips, _ in drawn)
    with tempfile.TemporaryDirectory() as folder:
        for size in sorted({w for *_, worlds in drawn for w in worlds}):
            in_world(size, train, Path(folder), drawn)
        for number, (*what, worlds) in enumerate(drawn):
            first, *others = [torch.load(f"{folder}/{number}_{w}.pt") for w in worlds]
            assert all(value.isfinite().all() for value in first)
            for other in others:
                assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True)), (what, worlds)


BATCH = {"min_size": 3, "unique_by": str}  # of geometries that one start of the processes goes through
ONCE = {"deadline": None, "phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}


@settings(max_examples=1, derandomize=True, **ONCE)
@given(st.lists(geometries(4), max_size=3, **BATCH))
def test_random_geometries_on_every_world_that_can_hold_them(drawn):
    ends_alike([SPANNING, *drawn])


@pytest.mark.long
@settings(max_examples=3, **ONCE)
@given(st.lists(geometries(8), max_size=15, **BATCH))
def test_random_geometries_on_up_to_eight_processes(drawn):
    ends_alike([SPANNING, *drawn])


def run_on(warm, folder, arguments, run, worlds):
    """Start after start on other numbers of processes, each stopped a few steps on; the last goes to the end."""
    for world_size in worlds[:-1]:
        before = num_steps(run)
        started = warm.start([*arguments, f"launch.nproc_per_node={world_size}"], folder=folder)
        end = time.monotonic() + 60
        while num_steps(run) < before + 4:
            assert started.poll() is None, started.log.read_text()
            assert time.monotonic() < end
            time.sleep(0.005)
        os.kill(started.pid, signal.SIGTERM)
        assert started.wait(60) == 75, started.log.read_text()
    started = warm.start([*arguments, f"launch.nproc_per_node={worlds[-1]}"], folder=folder)
    assert started.wait(180) == 0, started.log.read_text()
    return started.log.read_text()


def num_steps(run):
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b'"kind": "train"') if file.exists() else 0


@pytest.mark.parametrize(
    ("options", "worlds"),
    [
        (["norm=bn", "trainer.clips_per_forward=2"], (1, 4, 2, 1)),
        pytest.param(["norm=gn", "trainer.clips_per_forward=1"], (1, 8, 4, 2), marks=pytest.mark.long),
        pytest.param(["norm=gn", "gpus=3", "trainer.clips_per_forward=1"], (1, 2), marks=pytest.mark.long),
        pytest.param(["norm=bn", "clips_per_gpu=4", "trainer.clips_per_forward=2"], (2, 4, 2), marks=pytest.mark.long),
        pytest.param(["norm=sync_bn", "trainer.clips_per_forward=4"], (2, 2), marks=pytest.mark.long),
    ],
)
def test_another_number_of_processes_at_each_start(warm, videos, tmp_path, capsys, options, worlds):
    """Ends in the bytes of a run on the first number that nothing disturbed."""
    arguments = overrides(videos, "gpus=4", *options)
    (name,) = {f"i3d_tiny_8f_{c.clips_per_gpu}x{c.gpus}_{c.norm.kind}_s0" for c in [load_config(arguments[1:])]}
    whole, changing = (tmp_path / folder / "runs/s" / name for folder in ("whole", "changing"))
    run_on(warm, tmp_path / "whole", arguments, whole, worlds[:1])
    said = run_on(warm, tmp_path / "changing", arguments, changing, worlds)
    assert metrics(changing) == metrics(whole)
    for file in ("result.json", "model.safetensors", *(f"tests/{p.name}" for p in (whole / "tests").iterdir())):
        assert (changing / file).read_bytes() == (whole / file).read_bytes(), file
    starts = json.loads((changing / "machine.json").read_text())
    assert [start["world_size"] for start in starts] == list(worlds)
    if worlds[-1] != worlds[-2]:
        assert f"world_size={worlds[-1]} ({worlds[-2]} before): the same bytes" in said
    assert main(["status", str(changing.parent)]) == 0
    told = capsys.readouterr().out
    assert told.count("the same bytes") == sum(a != b for a, b in itertools.pairwise(worlds))
    assert "not to the bit" not in told
