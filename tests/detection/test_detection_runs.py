"""Detectors through the command line: any number of processes, kills, a sweep and its report, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

import vidgn
from tests.detection.small_detector import SMALL_COCO, write_coco
from tests.models.foreign_files import caffe2_blobs, python2_pickle, torchvision_state
from tests.models.narrow_nets import IMAGE, plain
from vidgn.cli.main import main
from vidgn.config.compose import load_config
from vidgn.config.schema import NormConfig
from vidgn.models.i3d import build_model
from vidgn.models.weights import load_weights
from vidgn.models.weights.containers import read_file

TRAIN = [
    "train",
    *SMALL_COCO,
    "norm=gn",
    "model.freeze_at=0",
    "model.head_channels=16",
    "model.head_features=32",
    "trainer.max_steps=4",
    "trainer.epochs=100",
    "trainer.checkpoint_steps=1",
    "trainer.eval_every=0",
    "trainer.device=cpu",
    "launch.threads=1",
    "loggers=[]",
    "study=s",
]
RUN = Path("runs/s/mask_rcnn_tiny_fpn_1f_2x2_gn_s0")
RESULT = (
    "model.safetensors",
    "result.json",
    "tests/coco-none/bbox.json",
    "tests/coco-none/segm.json",
    "tests/coco-none.npz",
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_coco(tmp_path / "set")


def result_bytes(run):
    return {name: (run / name).read_bytes() for name in RESULT}


def lines_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "clock"} for line in lines]


@pytest.mark.parametrize("norm", ["bn", "frozen_bn", "ln", pytest.param("in", marks=pytest.mark.long)])
def test_other_norms_train_and_test(data, norm, tmp_path):
    more = [f"norm={norm}", "trainer.max_steps=2", "bn_stats_steps=2"]
    if norm == "frozen_bn":  # of weights that were trained with BN
        write_classes(tmp_path)
        assert main(["train", *IMAGENET, "norm=bn"]) == 0
        more += ["weights=runs/i/resnet_tiny_1f_4x2_bn_s0", "model.freeze_at=2"]
    assert main([*TRAIN, *data, *more]) == 0
    (result,) = Path("runs/s").glob("*/result.json")
    found = json.loads(result.read_text())
    assert found["bn_stats"] == ("precise" if norm == "bn" else None)
    assert 0 <= found["box_ap"] <= 100


def test_precise_statistics_are_the_same_on_two_processes(data):
    found = []
    for processes in (1, 2):
        more = ["norm=bn", "bn_stats_steps=2", "trainer.max_steps=1", f"launch.nproc_per_node={processes}"]
        assert main([*TRAIN, *data, *more, f"runs_dir=runs{processes}"]) == 0
        (model,) = Path(f"runs{processes}/s").glob("*/model.safetensors")
        found.append(read_file(model).tensors)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    moved = [name for name in found[0] if name.endswith("running_mean") and "mask_head" in name]
    assert moved
    assert all(found[0][name].abs().sum() > 0 for name in moved)


def test_a_run_that_is_killed_ends_in_the_same_bytes_as_one_on_two_processes_that_is_not(data):
    assert main([*TRAIN, *data, "runs_dir=whole", "launch.nproc_per_node=2", "data.workers=2"]) == 0
    for step in (1, 3):
        started = subprocess.Popen([sys.executable, "-m", "vidgn", *TRAIN, *data], start_new_session=True)
        deadline = time.monotonic() + 120
        while not list(RUN.glob(f"checkpoints/*{step}*")) and started.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    assert main([*TRAIN, *data]) == 0
    whole = Path("whole") / RUN.relative_to("runs")
    assert result_bytes(RUN) == result_bytes(whole)
    assert lines_of(RUN) == lines_of(whole)
    starts = json.loads((RUN / "machine.json").read_text())
    assert len(starts) >= 2
    line = lines_of(RUN)[-1]
    parts = [line[f"loss_{name}"] for name in ("classifier", "box_reg", "mask", "objectness", "rpn_box_reg")]
    assert line["loss"] == pytest.approx(sum(parts), rel=1e-6)
    assert 0 <= line["top1_boxes"] <= 100


@pytest.mark.long
def test_a_few_images_are_learnt_by_heart(data):
    """The smoke test of the whole: boxes, classes and masks of six images, from scratch."""
    more = ["trainer.max_steps=300", "trainer.checkpoint_steps=100", "optim.lr_per_clip=0.01"]
    more += ["optim.warmup=0.05", "optim.milestones=[0.8,0.93]", "bn_stats_steps=4", "trainer.epochs=1000"]
    same = [word if not word.startswith("data.val") else word.replace("val.json", "train.json") for word in data]
    words = [word for word in TRAIN if not word.startswith(("model.head", "trainer.epochs"))]
    assert main([*words, *same, *more]) == 0
    (result,) = Path("runs/s").glob("*/result.json")
    found = json.loads(result.read_text())
    assert found["box_ap"] > 50
    assert found["mask_ap"] > 50


# -- the other half: weights of classified images ---------------------------------------------------------------------

IMAGENET = [
    "model=resnet_tiny",
    "data=imagenet",
    "views=image",
    "frames=1",
    "span=1",
    "clips_per_gpu=4",
    "gpus=2",
    "data.root=classes",
    "data.crop=32",
    "data.short_side=[36,36]",
    "data.workers=0",
    "trainer.max_steps=4",
    "trainer.epochs=10",
    "trainer.eval_every=0",
    "trainer.device=cpu",
    "launch.threads=1",
    "loggers=[]",
    "study=i",
]


def write_classes(folder):
    """Crops of one colour or another, in class folders."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number, name in enumerate(("bar", "box")):
            place = folder / "classes" / split / name
            place.mkdir(parents=True, exist_ok=True)
            for k in range(6):
                picture = rng.integers(90, 140, (40, 40, 3)).astype(np.uint8)
                picture[10:30, 10:30, 2 * number] = 220
                Image.fromarray(picture).save(place / f"{k}.png")


def test_a_sweep_from_weights_of_our_own_and_its_report(data, tmp_path, capsys):
    """Frozen BN against GN, two seeds: weights by norm, what is frozen stays, both arms are compared image by image."""
    write_classes(tmp_path)
    for norm in ("bn", "gn"):
        assert main(["train", *IMAGENET, f"norm={norm}"]) == 0
    for kind, norm in (("frozen_bn", "bn"), ("gn", "gn")):
        Path(f"r_{kind}.safetensors").write_bytes(
            Path(f"runs/i/resnet_tiny_1f_4x2_{norm}_s0/model.safetensors").read_bytes()
        )
    more = ["norm=frozen_bn,gn", "seed=0,1", "weights='r_${norm.kind}.safetensors'", "model.freeze_at=2"]
    capsys.readouterr()
    assert main(["train", "-m", *TRAIN[1:], *data, *more, "trainer.max_steps=2"]) == 0
    text = capsys.readouterr().out
    assert "box AP" in text
    for kind, norm in (("frozen_bn", "bn"), ("gn", "gn")):
        before = read_file(Path(f"r_{kind}.safetensors")).tensors
        after = read_file(Path(f"runs/s/mask_rcnn_tiny_fpn_1f_2x2_{kind}_s0/model.safetensors")).tensors
        frozen = [name for name in before if name.startswith(("blocks.0.", "blocks.1."))]
        assert len(frozen) > 10
        assert all(torch.equal(before[name], after[f"backbone.body.{name}"]) for name in frozen)
        moved = [name for name in before if "blocks.2." in name and "conv" in name]
        assert not any(torch.equal(before[name], after[f"backbone.body.{name}"]) for name in moved)
        log = Path(f"runs/s/mask_rcnn_tiny_fpn_1f_2x2_{kind}_s0/log.txt").read_text()
        assert "a classifier, of which a detector has its own (blocks.5.proj.bias, blocks.5.proj.weight)" in log
        assert norm in log
    told = json.loads(Path("runs/s/report.json").read_text())
    assert [gap["is_gap"] for gap in told["gaps"]] == [True]
    (gap,) = told["gaps"]
    assert gap["seeds"] == [0, 1]
    assert gap["interval"] is not None
    assert any("norms, and biases where there is none" in remark for remark in gap["remarks"])
    results = [json.loads(path.read_text()) for path in sorted(Path("runs/s").glob("*/result.json"))]
    assert len({r["pair_fingerprint"] for r in results if r["seed"] == 0}) == 1
    assert gap["points"]["mean"] == pytest.approx(
        np.mean([r["box_ap"] for r in results if r["norm"] == "gn"])
        - np.mean([r["box_ap"] for r in results if r["norm"] == "frozen_bn"])
    )
    markdown = Path("runs/s/report.md").read_text()
    assert "Box / mask AP: mask_rcnn_tiny_fpn" in markdown
    assert "Chance is" not in markdown
    page = Path("runs/s/report.html").read_text()
    assert "tested images" in page
    assert "✗" not in page.partition("Whether the arms differ")[2].partition("Gap to")[0]
    assert '<th scope="col">box AP</th>' in page
    assert main(["status", "runs/s"]) == 0
    assert "box AP" in capsys.readouterr().out
    run = "runs/s/mask_rcnn_tiny_fpn_1f_2x2_gn_s0"
    assert main(["evaluate", run, "trainer.device=cpu"]) == 0
    capsys.readouterr()
    pictures = ["set/images/val_1005.png", "set/images/val_1016.png"]
    Path("out").mkdir()
    assert main(["predict", run, "set/images", "--json"]) == 0
    listed = [entry["image"] for entry in json.loads(capsys.readouterr().out)["images"]]
    assert listed == sorted(map(str, Path("set/images").iterdir()))
    assert main(["predict", run, *pictures, "--score", "0.05", "--json", "--out", "out"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["image"] for entry in told["images"]] == pictures
    with Image.open("out/val_1005.png") as painted, Image.open(pictures[0]) as picture:
        assert painted.size == picture.size
    assert main(["predict", run, "nothing.png"]) == 1
    assert main(["predict", run, *pictures, "--out", "one.png"]) == 1
    assert "2 images need a folder that is there" in capsys.readouterr().err
    assert main(["predict", "runs/i/resnet_tiny_1f_4x2_gn_s0", pictures[0], "--out", "x.png"]) == 1
    assert "--out x.png: must end in .mp4" in capsys.readouterr().err
    Path("out/a.png").write_bytes(Path(pictures[0]).read_bytes())
    for words, told in (
        ([pictures[0], "--out", pictures[0]], "is an image itself"),
        (["out/a.png", "--out", "out"], "is an image itself"),
        (["set/images/val_1005.png", "out/val_1005.png", "--out", "set"], "and another image would both be"),
        ([pictures[0], "--score", "2"], "between 0.05"),
        ([pictures[0], "--views", "center"], "--views center is of videos"),
        ([pictures[0], "--windows", "0"], "--windows 0.0 is of videos"),
        ([pictures[0], "--per-clip"], "--per-clip is of videos"),
        ([pictures[0], "--format", "srt"], "--format srt is of videos"),
    ):
        assert main(["predict", run, *words]) == 1
        assert told in capsys.readouterr().err


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told", "right"),
    [
        (["model.freeze_at=2"], "would leave stages as they are drawn", ["model.freeze_at=0"]),
        (["model.freeze_at=9", "weights=w"], "conv1 and res2 to res5 are 5 stages", None),
        (["norm=sync_bn"], "write launch.nproc_per_node=2, or norm=bn", ["norm=sync_bn", "launch.nproc_per_node=2"]),
        (["norm=bn", "model.detector=c4"], "res5 sees boxes and masks in turn", ["norm=gn", "model.detector=c4"]),
        (["norm=bn", "bn_stats=batch"], "write bn_stats=ema or precise", ["norm=bn", "bn_stats=ema"]),
        (["trainer.clips_per_forward=1"], "trainer.clips_per_forward=auto", ["trainer.clips_per_forward=auto"]),
        (["trainer.compile=true"], "trainer.compile=false", ["trainer.compile=false", "trainer.cuda_graph=false"]),
        (["data.balance=class"], "data.balance is of clips", []),
        (["data.fps=5"], "data.fps is of clips that have one class, and does nothing for a detector", []),
        (["model.head_channels=18", "norm.groups=16"], "does not divide the 18 channels", None),
        (["frames=2", "span=2"], "write frames=1 span=1", ["frames=1", "span=1"]),
        (["views=image"], "write sweep=coco", ["views=coco"]),
        (["launch.nproc_per_node=4"], "can't carry a detector's 2 virtual GPUs: start 2", ["launch.nproc_per_node=2"]),
    ],
)
def test_what_can_t_be_is_refused_and_the_remedy_works(data, wrong, told, right, capsys):
    assert main([*TRAIN, *data, *wrong]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    if right is not None:
        load_config([*TRAIN[1:], *data, *right])


@pytest.mark.parametrize("kind", ["gn", "bn"])
def test_files_of_other_libraries_start_the_body(data, kind):
    """Detectron's GN ResNet-50 and torchvision's, narrow: every tensor told, and the pixels that it was trained on."""
    if kind == "gn":
        content = python2_pickle({"blobs": caffe2_blobs(plain(IMAGE, "gn"), statistics=False)})
        Path("weights.pkl").write_bytes(content)
        norm, mean = "gn", [122.7717, 115.9465, 102.9801]
    else:
        torch.save(torchvision_state(plain(IMAGE, "bn")), "weights.pkl")
        norm, mean = "frozen_bn", [123.675, 116.28, 103.53]
    narrow = ["model=mask_rcnn_r50_fpn", "model.width=8", "model.norm_groups=2", "weights=weights.pkl"]
    words = [word for word in TRAIN if not word.startswith(("model=", "model.freeze_at"))]
    more = ["trainer.max_steps=1", "model.freeze_at=5", f"norm={norm}"]  # the body stays as it came
    assert main([*words, *data, *narrow, *more]) == 0
    (run,) = Path("runs/s").glob("*")
    assert json.loads((run / "result.json").read_text())["input_mean"] == mean
    log = (run / "log.txt").read_text()
    assert "a classifier, of which a detector has its own" in log
    assert ("channels turned from BGR to RGB" in log) == (kind == "gn")
    net = build_model(
        load_config([*narrow[:3], *SMALL_COCO[1:], f"norm={norm}", "weights=w", "model.freeze_at=5"]).model,
        NormConfig(kind=norm, groups=None, channels_per_group=None, eps=1e-5, momentum=0.1),
        num_classes=1,
        frames=1,
        crop=96,
    )
    load_weights(net, Path("weights.pkl"), std=(58.395, 57.12, 57.375))
    after = read_file(run / "model.safetensors").tensors
    body = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("blocks.5.")}
    assert len(body) > 100
    assert all(torch.equal(tensor, after[f"backbone.body.{name}"]) for name, tensor in body.items())


def test_what_a_detector_s_file_finds_is_what_its_test_found(data):
    """`load_detector` on the images of the test: the written detections, to the bit."""
    assert main([*TRAIN, *data]) == 0
    found = json.loads((RUN / "tests/coco-none/bbox.json").read_text())
    masks = json.loads((RUN / "tests/coco-none/segm.json").read_text())
    found = [{**mask, **box} for box, mask in zip(found, masks, strict=True)]
    detector = vidgn.load_detector(RUN, device="cpu")
    truth = json.loads(Path("set/val.json").read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    assert found
    for image in truth["images"]:
        expected = [e for e in found if e["image_id"] == image["id"]]
        seen = detector(Path("set/images") / image["file_name"])
        assert [(d.name, d.score) for d in seen] == [(names[e["category_id"]], e["score"]) for e in expected]
        for d, e in zip(seen, expected, strict=True):
            assert [d.box[0], d.box[1], d.box[2] - d.box[0], d.box[3] - d.box[1]] == pytest.approx(e["bbox"])
            assert np.array_equal(d.mask_HW, rle.decode(e["segmentation"]).astype(bool))
    with pytest.raises(vidgn.VidgnError, match=r"a detector finds boxes in images: vidgn\.load_detector"):
        vidgn.load(RUN)
    with pytest.raises(vidgn.VidgnError, match="detects: train it with vidgn train sweep=coco"):
        vidgn.create_model("mask_rcnn_r50_fpn")


def test_a_classifier_is_not_for_boxes(data, capsys):
    assert main(["train", *SMALL_COCO, *data, "model=resnet_tiny"]) == 1
    assert "data=coco is for a detector, not model=resnet_tiny: write sweep=coco" in capsys.readouterr().err
    assert load_config(["sweep=coco", *data, "weights=w"]).model.detector == "fpn"


def test_synchronous_bn_takes_its_statistics_over_all_virtual_gpus(data):
    """On as many processes as there are; one virtual GPU on one process has the statistics of bn."""
    more = ["norm=sync_bn", "trainer.max_steps=2", "bn_stats_steps=2"]
    assert main([*TRAIN, *data, *more, "launch.nproc_per_node=2"]) == 0
    alone = ["gpus=1", "trainer.max_steps=2", "bn_stats_steps=2"]
    for norm in ("sync_bn", "bn"):
        assert main([*TRAIN, *data, *alone, f"norm={norm}"]) == 0
    models = [
        read_file(Path(f"runs/s/mask_rcnn_tiny_fpn_1f_2x{size}_s0/model.safetensors")).tensors
        for size in ("2_sync_bn", "1_sync_bn", "1_bn")
    ]
    assert all(torch.equal(models[1][name], models[2][name]) for name in models[1])
    assert not all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_without_pycocotools_it_is_said_what_brings_it(data, capsys, monkeypatch):
    monkeypatch.setattr("vidgn.preflight.find_spec", lambda name: None)
    assert main([*TRAIN, *data]) == 1
    assert "reads masks with pycocotools: pip install 'vidgn[detection]'" in capsys.readouterr().err


def test_memory_of_a_detector_is_not_predicted(data, capsys):
    assert main(["memory", *TRAIN[1:], *data]) == 1
    assert "depends on the objects in its images, and is not predicted" in capsys.readouterr().err
    assert main(["data", "bench", *TRAIN[1:], *data]) == 1
    assert "data bench reads clips" in capsys.readouterr().err


def test_a_missing_file_and_a_truncated_one_cost_one_line_each_and_nothing_else(data, capsys):
    """Of the test each is a miss; in training another image stands in."""
    picture = Path("set/images/train_27.png")
    picture.write_bytes(picture.read_bytes()[:80])
    tested = Path("set/images/val_1016.png")
    tested.write_bytes(tested.read_bytes()[:80])
    assert main([*TRAIN, *data, "trainer.max_steps=3"]) == 0
    result = json.loads((RUN / "result.json").read_text())
    assert (result["num_videos"], result["num_unreadable"]) == (5, 1)
    assert result["num_substituted"] >= 1
    replaced = [s for line in lines_of(RUN) for s in line.get("substitutions", ())]
    assert {s["id"] for s in replaced} == {"train_27.png"}
    (unreadable,) = json.loads((RUN / "tests/coco-none.json").read_text())["unreadable"]
    assert unreadable.startswith("val_1016.png: ")
    Path("set/images/train_5.png").unlink()
    capsys.readouterr()
    assert main([*TRAIN, *data, "tag=new"]) == 1
    assert "(first: train_5.png)" in capsys.readouterr().err
