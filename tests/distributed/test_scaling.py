"""The cost formula: by hand, against the recorded measurement, and as docs/scaling.md prints it."""

import json
import math
from pathlib import Path

import pytest
import torch

from vidgn.config.compose import load_config
from vidgn.distributed.scaling import Link, all_reduce_seconds, step_seconds, traffic
from vidgn.geometry import Geometry, group_clips, legal_world_sizes
from vidgn.models.i3d import build_model

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs" / "scaling.md").read_text()
PAPER_BYTES = 4 * 28_043_472  # P's parameters, fp32
PAPER_FLOPS = 178.1e9  # forward and backward of a clip of 32 x 224 x 224
NVLINK, NETWORK = Link(230e9, 10e-6), Link(20e9, 15e-6)


def test_all_reduce_by_hand():
    link = Link(bytes_per_second=1e9, latency_seconds=0.001)
    assert all_reduce_seconds(1e9, 1, link) == 0
    assert all_reduce_seconds(1e9, 2, link) == pytest.approx(1 + 0.002)  # each sends half, twice
    assert all_reduce_seconds(1e9, 4, link) == pytest.approx(1.5 + 0.006)


def test_step_by_hand():
    def step(world_size, gradient_bytes):
        link = Link(bytes_per_second=100 * 2**20, latency_seconds=0)
        return step_seconds(
            slots=8,
            clips_per_forward=4,
            world_size=world_size,
            clip_seconds=0.3,
            gradient_bytes=gradient_bytes,
            link=link,
        )

    assert step(1, 10**9) == pytest.approx(8 * 0.3)
    # 50 MiB in 0.5 s hide behind 4 clips' backward, 0.8 s, but for the last bucket of 25 MiB: 0.25 s
    assert step(2, 50 * 2**20) == pytest.approx(4 * 0.3 + 0.25)
    # 150 MiB take 1.5 s: 0.7 s stick out
    assert step(2, 150 * 2**20) == pytest.approx(4 * 0.3 + 1.5 - 0.8)


@pytest.mark.parametrize("kind", ["gn", "bn"])
def test_bytes_are_those_of_the_gradients(kind):
    config = load_config(["model=i3d_tiny", f"norm={kind}", "data=synthetic", "frames=8", "span=8"])
    model = build_model(config.model, config.norm, num_classes=5, frames=8, crop=56)
    parameters = sum(p.numel() for p in model.parameters())
    channels = sum(b.numel() for n, b in model.named_buffers() if n.endswith("running_mean"))
    assert (channels > 0) == (kind == "bn")
    within = traffic(model, Geometry(64, 8, 2, 8))
    assert (within.gradient_bytes, within.statistics_bytes) == (4 * parameters, 8 * channels)
    spread = traffic(model, Geometry(64, 8, 4, 4))  # 4 forwards, each with a group over two ranks
    assert spread.statistics_bytes == 8 * channels * (1 + 2 * 4)
    alone = traffic(model, Geometry(64, 8, 1, 8))
    assert (alone.gradient_bytes, alone.statistics_bytes) == (0, 0)


def test_paper_bytes():
    config = load_config(["data.root=x"])
    with torch.device("meta"):
        model = build_model(config.model, config.norm, num_classes=400, frames=32, crop=224)
    assert traffic(model, Geometry(64, 1, 8, 8)).gradient_bytes == PAPER_BYTES == 112_173_888
    assert "112.2 MB" in PAGE


def test_formula_against_the_measurement():
    """bench/scaling.py measured one and two processes; the formula knows the one and the link."""
    record = json.loads((REPO / "bench" / "results" / "scaling_cpu.json").read_text())
    one, _, two = record["seconds"].values()
    predicted = step_seconds(
        slots=record["slots"],
        clips_per_forward=record["slots"] // 2,
        world_size=2,
        clip_seconds=one / record["slots"],
        gradient_bytes=record["gradient_bytes"],
        link=Link(**record["link"]),
    )
    assert predicted > one / 2
    assert math.log(two / predicted) == pytest.approx(0, abs=math.log(1.3))
    for number in (f"{1e3 * one:.0f} ms", f"{1e3 * two:.0f} ms", f"{1e3 * predicted:.0f} ms"):
        assert number in PAGE


@pytest.mark.parametrize(("precision", "flops"), [("fp32", 19.5e12 * 0.5), ("bf16", 312e12 * 0.25)])
def test_table_on_paper(precision, flops):
    clip = PAPER_FLOPS / flops
    for gpus, link in ((1, NVLINK), (8, NVLINK), (16, NETWORK), (32, NETWORK), (64, NETWORK)):
        seconds = step_seconds(
            slots=64,
            clips_per_forward=min(8, 64 // gpus),
            world_size=gpus,
            clip_seconds=clip,
            gradient_bytes=PAPER_BYTES,
            link=link,
        )
        share = 64 / gpus * clip / seconds
        row = (
            f"| {precision} | {gpus} | {64 // gpus} | {1e3 * seconds:.1f} | {64 / seconds:.0f} | {100 * share:.0f} % |"
        )
        assert row in PAGE, row


def test_where_it_ends():
    """One GPU per clip of a step, for GN; for BN too, but beyond `gpus` only by spreading its groups."""
    for clips, most in ((8, 64), (4, 32)):
        for kind in ("gn", "bn"):
            config = load_config(["data.root=x", f"clips_per_gpu={clips}", f"norm={kind}"])
            assert max(legal_world_sizes(config.slots_per_step, group_clips(config))) == most
    bn = load_config(["data.root=x", "norm=bn"])
    assert Geometry(64, group_clips(bn), 8, 8).ranks_per_group == 1
    assert Geometry(64, group_clips(bn), 16, 4).ranks_per_group == 2
