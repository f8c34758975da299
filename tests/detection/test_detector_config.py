"""The paper's recipe as `sweep=coco` composes it, and what stands beside its results."""

import dataclasses

import pytest
import torch

from tests.detection.small_detector import SMALL_COCO, config_of, write_coco
from vidgn.cli.main import main
from vidgn.config.build import to_plain
from vidgn.config.compose import compose_all, load_config
from vidgn.config.fingerprint import fingerprint, identity, pair_fingerprint
from vidgn.detection.networks import build_detector
from vidgn.geometry import Geometry, choose_geometry
from vidgn.models.weights.containers import read_file
from vidgn.report.read.published import COCO, find
from vidgn.training.audit import audit
from vidgn.training.optim import learning_rate, make_optimizer, total_steps

DATA = ("data.root=.", "data.train=a", "data.val=b", "weights=w")


def test_the_sweep_is_the_paper_s_table():
    cells = compose_all(["sweep=coco", *DATA], multirun=True, are_run=False).configs
    assert {(c.model.name, c.norm.kind) for c in cells} == {
        (f"mask_rcnn_r50_{form}", norm) for form in ("c4", "fpn") for norm in ("frozen_bn", "gn")
    }
    for cell in cells:
        assert published(cell) is not None


def published(cell):
    of = {"model": cell.model.name, "norm": cell.norm.kind, "frames": 1, "clips": cell.clips_per_gpu}
    return find(COCO, **of, gpus=cell.gpus, config=to_plain(cell))


@pytest.mark.parametrize(
    ("words", "box_ap"),
    [
        (["norm=gn"], 40.3),
        (["norm=gn", "trainer.max_steps=270000"], 40.8),
        (["norm=gn", "trainer.max_steps=270000", "weights=null", "model.freeze_at=0"], 39.5),
        (["norm=gn", "trainer.max_steps=100"], None),
        (["norm=gn", "trainer.max_steps=100", "tag=3x"], None),  # whatever the tag says
        (["norm=frozen_bn"], 38.8),
        (["norm=frozen_bn", "model.box_head=2fc"], 38.6),
        (["norm=gn", "model.box_head=2fc"], None),
        (["norm=gn", "model=mask_rcnn_r101_fpn"], 41.8),
        (["norm=frozen_bn", "model=mask_rcnn_r101_fpn"], None),
        (["norm=frozen_bn", "model=mask_rcnn_r101_fpn", "model.box_head=2fc"], 40.9),
        (["norm=gn", "gpus=4"], None),
    ],
)
def test_published_numbers_stand_beside_runs_of_their_own_settings(words, box_ap):
    cell = load_config(["sweep=coco", "model=mask_rcnn_r50_fpn", *DATA, *words])
    found = published(cell)
    assert (None if found is None else found.top1) == box_ap


def test_rates_steps_and_decays_are_detectron_s():
    cell = load_config(["sweep=coco", "model=mask_rcnn_r50_fpn", "norm=gn", *DATA])
    total = total_steps(cell, 117_266)
    assert total == 180_000

    def rate(step):
        return learning_rate(cell.optim, step=step, total_steps=total, slots_per_step=cell.slots_per_step)

    assert cell.slots_per_step == 16
    assert rate(0) == pytest.approx(0.02 / 3, rel=0.01)
    assert rate(249) == pytest.approx(0.02 * 2 / 3, rel=0.01)
    assert rate(501) == rate(119_999) == pytest.approx(0.02)
    assert rate(120_001) == rate(159_999) == pytest.approx(0.002)
    assert rate(160_001) == pytest.approx(0.0002)
    long = load_config(
        ["sweep=coco", "model=mask_rcnn_r50_fpn", *DATA, "trainer.max_steps=270000", "optim.warmup=0.00185",
         "optim.milestones=[0.77778,0.92593]"]
    )  # fmt: skip
    drops = [round(mark * 270_000, -2) for mark in long.optim.milestones]
    assert (drops, round(long.optim.warmup * 270_000)) == ([210_000, 250_000], 500)
    assert (cell.data.short_side, cell.data.long_side, cell.data.flip) == ((800, 800), 1333, True)


def test_biases_learn_twice_as_fast_and_nothing_of_a_norm_decays():
    config = config_of("model.freeze_at=0")
    detector = build_detector(config, num_classes=3)
    optimizer = make_optimizer(detector, config)
    of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in detector.named_parameters():
        group = of[id(parameter)]
        is_norm = parameter.dim() == 1 and "bias" not in name
        is_weight = parameter.dim() > 1
        assert group["weight_decay"] == (1e-4 if is_weight else 0.0), name
        is_bias = name.endswith("bias") and (name[:-4] + "weight") in dict(detector.named_parameters())
        is_bias = is_bias and dict(detector.named_parameters())[name[:-4] + "weight"].dim() > 1
        assert group["lr_factor"] == (2.0 if is_bias else 1.0), name
        assert not (is_norm and is_bias)


@pytest.mark.parametrize("norm", ["gn", "bn", "ln", "in", "sync_bn"])
@pytest.mark.parametrize("freeze", [0, 1, 2, 5])
def test_the_tiny_net_has_the_parameters_that_arithmetic_gives(norm, freeze):
    config = config_of(f"norm={norm}", f"model.freeze_at={freeze}")
    detector = build_detector(config, num_classes=7)
    w, c, f, k = config.model.width, config.model.head_channels, config.model.head_features, 8
    stem = 3 * w * 49 + 2 * w
    stages, wide = [], w
    for i in range(4):
        inner = w * 2**i
        convs = wide * inner + inner * inner * 9 + inner * 4 * inner + wide * 4 * inner
        stages.append(convs + 2 * (inner + inner + 4 * inner + 4 * inner))
        wide = 4 * inner
    pyramid = sum(4 * w * 2**i * c + 2 * c + c * c * 9 + 2 * c for i in range(4))
    proposals = c * c * 9 + c + 3 * (c + 1) + 12 * (c + 1)
    boxes = 4 * (c * c * 9 + 2 * c) + (c * 49 + 1) * f + (f + 1) * k * 5
    masks = 4 * (c * c * 9 + 2 * c) + c * c * 4 + c + (c + 1) * k
    assert sum(p.numel() for p in detector.parameters()) == stem + sum(stages) + pyramid + proposals + boxes + masks
    frozen = sum(p.numel() for p in detector.parameters() if not p.requires_grad)
    assert frozen == sum([stem, *stages][:freeze])
    told = audit(detector, config)
    assert told["num_norms"] == 1 + 4 * 4 + 8 + 4 + 4


def test_a_detector_runs_on_any_number_of_processes_that_divides_its_virtual_gpus():
    config = config_of("gpus=6", "clips_per_gpu=2")
    assert [choose_geometry(config, world_size=w) for w in (1, 2, 3, 6)] == [
        Geometry(12, 2, w, 2) for w in (1, 2, 3, 6)
    ]


def test_what_makes_another_experiment_of_a_detector(tmp_path):
    base = config_of()

    def of(config):
        return identity(config, data_digest="d", classes=("a",), weights_digest=None)

    for words in ("data.long_side=200", "model.box_head=2fc", "model.freeze_at=1", "optim.bias_lr_factor=1"):
        assert fingerprint(of(config_of(words))) != fingerprint(of(base)), words
        assert pair_fingerprint(of(config_of(words))) != pair_fingerprint(of(base)), words
    other = dataclasses.replace(base, data=dataclasses.replace(base.data, workers=7))
    assert fingerprint(of(other)) == fingerprint(of(base))
    assert pair_fingerprint(of(config_of("norm=frozen_bn"))) == pair_fingerprint(of(base))


@pytest.mark.parametrize("precision", ["fp64", "bf16"])
def test_precisions(precision, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vidgn.run.check_bf16", lambda config, device: None)
    data = write_coco(tmp_path / "set")
    words = [
        "model.freeze_at=0",
        "model.head_channels=8",
        "model.head_features=16",
        "trainer.max_steps=1",
        "trainer.device=cpu",
        "loggers=[]",
        "launch.threads=1",
    ]
    assert main(["train", *SMALL_COCO, *data, *words, f"trainer.precision={precision}"]) == 0
    (model,) = (tmp_path / "runs").glob("*/*/model.safetensors")
    wanted = torch.float64 if precision == "fp64" else torch.float32
    assert all(t.dtype == wanted and t.isfinite().all() for t in read_file(model).tensors.values())
