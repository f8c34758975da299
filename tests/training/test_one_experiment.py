"""One experiment, any hardware: every legal layout of one cell ends in the same parameters, statistics and result."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from tests.cells import cell, in_world, last_state, train_cells
from tests.killing import metrics
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.loading.batches import train_batches
from vidgn.geometry import group_clips, legal_clips_per_forward
from vidgn.models.norms.layers import BatchNorm
from vidgn.rng_streams import Tag, stream

KINDS = ("bn", "gn", "sync_bn")
WORLDS = (1, 2, 4)
NARROW = ("model.width=8",)
TOLERANCE = 1e-10  # of the largest value of a tensor


@pytest.fixture(scope="module")
def larger_data(tiny_data):
    """Crops that leave more than one pixel of the last map: BN over 4 values magnifies rounding a million times."""
    synthetic = dataclasses.replace(tiny_data.synthetic, size=44)
    return dataclasses.replace(tiny_data, short_side=(40, 44), crop=40, synthetic=synthetic)


# The same forwards on each world, the fewest and the most clips of one; groups in and over ranks.
SOME = {
    "bn": {(1, 4), (1, 16), (2, 4), (4, 1), (4, 4)},
    "gn": {(1, 1), (1, 16), (2, 1), (4, 1), (4, 4)},
}


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.long)])
def finished(request, tmp_path_factory, larger_data):
    """Legal layouts, trained and tested: {kind: {(world, clips_per_forward): config}}."""
    cells = {kind: {} for kind in KINDS}
    for world in WORLDS:
        for kind in KINDS:
            example = cell(tmp_path_factory.mktemp("x"), larger_data, f"norm={kind}", *NARROW)
            for clips in legal_clips_per_forward(example.slots_per_step, group_clips(example), world):
                if request.param == "some" and kind in SOME and (world, clips) not in SOME[kind]:
                    continue
                folder = tmp_path_factory.mktemp(f"{kind}_{world}x{clips}")
                cells[kind][world, clips] = cell(
                    folder, larger_data, f"norm={kind}", f"trainer.clips_per_forward={clips}", *NARROW
                )
        in_world(world, train_cells, [c for kind in KINDS for (w, _), c in cells[kind].items() if w == world])
    return cells


def assert_close(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (value - other[name]).abs().max() <= TOLERANCE * value.abs().max(), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_ends_in_the_same_parameters(finished, kind):
    layouts = finished[kind]
    assert len(layouts) in {"bn": (5, 9), "gn": (5, 12), "sync_bn": (3,)}[kind]
    states = {layout: last_state(config)["model"] for layout, config in layouts.items()}
    first, *others = states.values()
    for other in others:
        assert_close(first, other)  # running averages are among them


@pytest.mark.parametrize("kind", ["bn", "gn"])
def test_the_same_forwards_end_in_the_same_bits_on_1_2_and_4_processes(finished, kind):
    """Parameters, statistics and momentum; per-video scores with every kind of statistics; lines of metrics."""
    by_clips = {}
    for (_, clips), config in finished[kind].items():
        by_clips.setdefault(clips, []).append(config)
    compared = 0
    for first, *others in by_clips.values():
        files = sorted(p.name for p in (first.run_dir / "tests").iterdir())
        for other in others:
            one, two = last_state(first), last_state(other)
            assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())
            for a, b in zip(one["optimizer"]["state"].values(), two["optimizer"]["state"].values(), strict=True):
                assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])
            assert metrics(first.run_dir) == metrics(other.run_dir)
            for name in files:
                assert (first.run_dir / "tests" / name).read_bytes() == (other.run_dir / "tests" / name).read_bytes()
            compared += 1
    assert compared in {"bn": (2, 4), "gn": (2, 7)}[kind]


def test_what_is_compared_can_differ(finished):
    """Groups of 4 and of 16 clips, which differ in nothing else, end a million tolerances apart."""
    weights = [last_state(finished[kind][1, 16])["model"]["blocks.0.conv.weight"] for kind in ("bn", "sync_bn")]
    assert weights[0].dtype == torch.float64
    assert (weights[0] - weights[1]).abs().max() > 1e6 * TOLERANCE * weights[0].abs().max()


@pytest.mark.parametrize(
    ("kind", "use"), [("gn", "none"), *[(k, u) for k in ("bn", "sync_bn") for u in ("precise", "ema", "batch")]]
)
def test_every_layout_has_the_same_scores(finished, kind, use):
    name = f"curve-{use}"
    read = []
    for config in finished[kind].values():
        text = (config.run_dir / "tests" / f"{name}.csv").read_text().splitlines()
        result = json.loads((config.run_dir / "tests" / f"{name}.json").read_text())
        read.append((text, result))
    first, *others = read
    assert first[1]["num_videos"] == len(first[0]) - 1 == 9
    for text, result in others:
        assert result == first[1]
        for row, expected in zip(text[1:], first[0][1:], strict=True):
            *exact, score = row.split(",")
            *expected_exact, expected_score = expected.split(",")
            assert exact[:4] + exact[5:] == expected_exact[:4] + expected_exact[5:]
            assert float(score) == pytest.approx(float(expected_score), rel=1e-9)


def test_result_is_the_same_file(finished):
    for kind in KINDS:
        assert len({(c.run_dir / "result.json").read_bytes() for c in finished[kind].values()}) == 1


def test_arms_saw_the_same_clips(finished):
    digests = {
        json.loads((c.run_dir / "result.json").read_text())["plan_digest"] for k in KINDS for c in finished[k].values()
    }
    assert len(digests) == 1


def test_statistics_differ_between_the_kinds_of_test(finished):
    config = next(iter(finished["bn"].values()))
    scores = {use: (config.run_dir / "tests" / f"curve-{use}.csv").read_text() for use in ("precise", "ema", "batch")}
    assert len(set(scores.values())) == 3


def plain_training(rank: int, join, config, folder: Path) -> None:
    """The experiment as anybody would write it: DistributedDataParallel around plain BatchNorm3d, one GPU a rank."""
    from vidgn.distributed.ranks import joined
    from vidgn.training.setup import ToModel, make_model

    join()
    with joined(config) as ranks:
        train = read_manifest(config.data, "train")
        model = make_model(config, num_classes=len(train.classes)).double()
        for name, module in list(model.named_modules()):
            if isinstance(module, BatchNorm):
                plain = nn.BatchNorm3d(module.num_features, eps=module.eps, momentum=config.norm.momentum).double()
                plain.weight.data.copy_(module.weight.data)
                plain.bias.data.copy_(module.bias.data)
                parent, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(parent), attribute, plain)
        decayed = [p for n, p in model.named_parameters() if "norm" not in n]
        free = [p for n, p in model.named_parameters() if "norm" in n]
        optim = config.optim
        sgd = torch.optim.SGD(
            [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": free, "weight_decay": 0.0}],
            lr=optim.lr_per_clip * 16,
            momentum=optim.momentum,
            nesterov=True,
        )
        wrapped = DistributedDataParallel(model, forward_sync_buffers=False)
        to_model = ToModel(config, ranks.device)
        positions = [[step * 16 + 4 * rank + i for i in range(4)] for step in range(6)]
        batches = train_batches(
            train, config.data, seed=0, frames=config.frames, stride=config.stride, positions=positions
        )
        model.train()
        with batches:
            for step, batch in enumerate(batches):
                p = config.model.dropout
                keep = [stream(Tag.DROPOUT, 0, step, 4 * rank + i).random(256) >= p for i in range(4)]
                scale = torch.stack([torch.from_numpy(k) for k in keep]).double() / (1 - p)
                for group in sgd.param_groups:  # x0.1 at 37.5 % and 75 % of 6 steps: steps 3 and 5
                    group["lr"] = optim.lr_per_clip * 16 * (1 if step < 3 else 0.1 if step < 5 else 0.01)
                sgd.zero_grad()
                F.cross_entropy(wrapped(to_model(batch.clip_NTHWC), scale).flatten(1), batch.label_N).backward()
                sgd.step()
        state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        for key, value in state.items():
            if "running" in key:
                state[key] = ranks.sum(value) / 4
        if rank == 0:
            torch.save(state, folder / "plain.pt")


def test_emulated_gpus_are_the_real_thing(finished, tmp_path):
    config = dataclasses.replace(next(iter(finished["bn"].values())), runs_dir=str(tmp_path))
    in_world(4, plain_training, config, tmp_path)
    plain = torch.load(tmp_path / "plain.pt", weights_only=True)
    for layout in [
        (1, 4),
        (1, 16),
        (2, 4),
        (4, 1),
    ]:  # a forward is a virtual GPU, all of them, and a quarter of one
        assert_close(last_state(finished["bn"][layout])["model"], plain)
