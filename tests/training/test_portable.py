"""ONNX files and programs of torch.export say what the network says, without vidgn; nothing else is written."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
import torchvision

import vidgn
from tests.cli.test_predict import NAMES, export
from tests.small_run import patched
from vidgn.cli.main import main
from vidgn.config.compose import load_config
from vidgn.data.decode.write import write_video
from vidgn.errors import ConfigError, VidgnError
from vidgn.models.i3d import build_model
from vidgn.models.norms.layers import ClipNorm
from vidgn.models.weights import load_file, save_model
from vidgn.models.weights.onnx_file import open_session
from vidgn.training.portable import export_onnx, export_program

NETS = ["i3d_tiny", "i3d_r50", "i3d_r50_8x8", "i3d_r101", "resnet_tiny", "resnet50", "resnet101"]
CONVERTED = {"gn.onnx": ["onnx"], "bn.onnx": ["onnx", "--uint8"], "bn.pt2": ["torch-export", "--uint8"]}
NORMS = ["gn", "bn", "sync_bn", "frozen_bn", "ln", "in"]


def trained(name, norm):
    """A narrow network whose every vector is drawn at random, and what its file says of it."""
    is_image = name.startswith("resnet")
    frames = ["frames=1", "span=1", "views=image"] if is_image else ["frames=8", "span=16"]
    size = ["data.crop=48", "data.short_side=[48,56]", "model.width=8", "model.norm_groups=4"]
    config = load_config([f"model={name}", f"norm={norm}", *frames, *size, "weights=given"])
    net = build_model(config.model, config.norm, num_classes=7, frames=config.frames, crop=48).eval()
    generator = torch.Generator().manual_seed(4)
    for tensor in net.state_dict().values():
        if tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    net.head.proj.weight.data.mul_(30)  # logits worth comparing
    return net, {"config": config, "classes": NAMES, "input_mean": (90.0, 100.0, 110.0), "trained_steps": 5}


@torch.no_grad()
def assert_says_the_same(session, net, frames, crop):
    """Of any batch and size, with float64 as the judge."""
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("clip", "tensor(float)")
    assert given.shape == ["batch", 3, frames, "height", "width"]
    for shape in ((1, 3, frames, crop, crop), (5, 3, frames, crop, crop), (2, 3, frames, crop + 7, crop + 33)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))
        scores, logits = map(torch.from_numpy, session.run(["scores", "logits"], {"clip": x.numpy()}))
        expected = net.double()(x.double())
        net.float()
        assert expected.std() > 0.01
        torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scores.double(), expected.softmax(1).mean((2, 3, 4)), rtol=0, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETS)
def test_onnx_says_what_the_network_says(name, norm, tmp_path):
    net, about = trained(name, norm)
    assert "differs from the network on random clips by at most" in export_onnx(net, tmp_path / "net", **about)
    assert_says_the_same(open_session(str(tmp_path / "net")), net, about["config"].frames, 48)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Of a network with GN an ONNX file, of one with BN one that takes uint8 and a program; and a video."""
    folder = tmp_path_factory.mktemp("files")
    for norm in ("gn", "bn"):
        export(folder / f"{norm}.safetensors", norm=norm, steps=7)
    for file, words in CONVERTED.items():
        assert main(["convert", str(folder / f"{file[:2]}.safetensors"), str(folder / file), "--to", *words]) == 0
    frames = np.random.default_rng(0).integers(0, 256, (20, 8, 9, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    write_video(str(folder / "clip.mp4"), frames)
    return folder


def test_a_converted_file_says_what_its_network_says(files):
    net = vidgn.load(files / "gn.safetensors", device="cpu").model
    assert_says_the_same(open_session(str(files / "gn.onnx")), net, 8, 56)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"classes": '["a", "b", "c"]'}, "says that it names 3 classes; convert it again"),
        ({"classes": '"ab"'}, "its classes are no list of names"),
        ({"input_mean": "nan,nan,nan"}, "mean or deviation of its pixels"),
        ({"trained_steps": "many"}, "trained_steps is 'many'"),
        ({"trained_steps": None}, "'trained_steps'"),
        ({"frames": 16}, "says that clips have 16 frames of RGB; convert it again"),
        ({"crop": 10**6}, "clips of 8 frames of 1000000 pixels"),
    ],
)
def test_what_an_onnx_file_says_of_itself_is_not_believed(files, tmp_path, capsys, said, why):
    model = onnx.load(files / "gn.onnx")
    told = {entry.key: entry.value for entry in model.metadata_props}
    config = json.loads(told["config"])
    config["frames"], config["data"]["crop"] = said.pop("frames", 8), said.pop("crop", 56)
    told |= {"config": json.dumps(config), **said}
    del model.metadata_props[:]
    for key, value in told.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    onnx.save(model, tmp_path / "other.onnx")
    assert main(["predict", "--onnx", str(tmp_path / "other.onnx"), str(files / "clip.mp4")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line


class Halved(ClipNorm):
    """A kind of somebody's own."""

    def _of_clips(self, x, residual, *, relu):
        y = x / 2 if residual is None else x / 2 + residual
        return y.relu() if relu else y


def test_a_kind_that_says_anew_what_it_does_is_exported_as_that():
    x = torch.randn(2, 8, 2, 3, 3)
    program = torch.export.export(Halved(8, groups=2), (x,))
    torch.testing.assert_close(program.module()(x), x / 2)


def test_onnxruntime_reports_to_nobody(files, tmp_path):
    """Since 1.32 it sends telemetry unless it is told not to, and gives a machine an id in its user's folder."""
    command = [sys.executable, "-m", "vidgn", "predict", "--onnx", str(files / "gn.onnx"), str(files / "clip.mp4")]
    environment = {**os.environ, "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert not [path for path in tmp_path.rglob("*") if "matplotlib" not in str(path)]


def predicted(capsys, *argv):
    assert main(["predict", *map(str, argv), "--json", "--device", "auto"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("views", ["center", "paper"])
@pytest.mark.parametrize("norm", ["gn", "bn"])
def test_predict_says_the_same_of_both_files(files, norm, views, capsys):
    told, expected = (
        predicted(capsys, *words, files / "clip.mp4", "--views", views)
        for words in (["--onnx", files / f"{norm}.onnx"], [files / f"{norm}.safetensors"])
    )
    assert told.pop("weights").endswith(f"{norm}.onnx")
    assert expected.pop("weights").endswith(f"{norm}.safetensors")
    scores, others = ([g["score"] for g in t["videos"][0]["top"]] for t in (told, expected))
    assert scores == pytest.approx(others, abs=1e-4)
    names, others = ([g["class"] for g in t["videos"][0]["top"]] for t in (told, expected))
    assert names == others
    assert (told.pop("videos") and told) == (expected.pop("videos") and expected)


def test_from_python_an_onnx_file_is_a_predictor_of_scores_alone(files):
    ours, other = (vidgn.load(files / name, device="cpu") for name in ("gn.onnx", "gn.safetensors"))
    assert (ours.classes, ours.trained_steps, ours.report.input_mean) == (tuple(NAMES), 7, (90.0, 100.0, 110.0))
    scores, expected = ({s.name: s.score for s in p(files / "clip.mp4")} for p in (ours, other))
    assert scores == pytest.approx(expected, abs=1e-4)
    with pytest.raises(VidgnError, match=r"gn\.onnx: an ONNX file gives scores alone"):
        ours.features(files / "clip.mp4")


@pytest.mark.long
@pytest.mark.parametrize("file", CONVERTED)
def test_the_same_network_gives_the_same_bytes(files, tmp_path, file):
    words = [str(files / f"{file[:2]}.safetensors"), str(tmp_path / "again"), "--to", *CONVERTED[file]]
    assert main(["convert", *words]) == 0
    assert (tmp_path / "again").read_bytes() == (files / file).read_bytes()


def test_a_file_says_what_prediction_needs_and_nothing_of_this_machine(files):
    content = (files / "gn.onnx").read_bytes()
    assert b".py" not in content
    assert b"torch.nn" not in content
    told, expected = load_file(files / "gn.onnx").metadata, load_file(files / "gn.safetensors").metadata
    assert told == {**expected, "source": "vidgn: gn.safetensors"}


@torch.no_grad()
def test_a_program_needs_no_vidgn(files):
    extra = {"vidgn.json": ""}
    program = torch.export.load(io.BytesIO((files / "bn.pt2").read_bytes()), extra_files=extra)
    assert json.loads(extra["vidgn.json"])["classes"] == json.dumps(NAMES)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith(("aten.", "<built-in")) for name in called), called
    assert b"tests/" not in (files / "bn.pt2").read_bytes()
    predictor = vidgn.load(files / "bn.safetensors", device="cpu")
    for clips in (1, 4):
        frames = torch.randint(0, 256, (clips, 8, 56, 56, 3), dtype=torch.uint8)
        scores, logits = program.module()(frames)
        expected = predictor.model(predictor.to_model(frames))
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scores, expected.softmax(1).flatten(1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("save", [pytest.param(export_onnx, marks=pytest.mark.long), export_program])
def test_an_export_that_differs_is_not_written(save, tmp_path):
    net, about = trained("i3d_tiny", "gn")
    right = ClipNorm._by_torch
    (tmp_path / "net").write_text("as it was")
    with (
        patched("vidgn.models.norms.layers.ClipNorm._by_torch", lambda self, x: 1.001 * right(self, x)),
        pytest.raises(ConfigError, match=r"differs .* not written; use --to safetensors"),
    ):
        save(net, tmp_path / "net", **about)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]
    assert (tmp_path / "net").read_text() == "as it was"


def test_other_people_s_networks_with_our_norms_export_too():
    net = torchvision.models.resnet18(num_classes=3)
    vidgn.replace_norms(net, "gn")
    x = torch.randn(2, 3, 64, 64)
    program = torch.export.export(net.eval(), (x,))
    assert not [node for node in program.graph.nodes if "vidgn" in str(node.target)]
    torch.testing.assert_close(program.module()(x), net(x), rtol=1e-4, atol=1e-5)
    net = torchvision.models.resnet18(num_classes=3)
    vidgn.replace_norms(net, "bn")
    with pytest.raises(ConfigError, match="BN by the statistics of the batch can't be exported: call model"):
        torch.export.export(net.train(), (x,))


# -- what can't be ---------------------------------------------------------------------------------------------------


def refused(capsys, *argv):
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_statistics_of_the_batch_are_refused_and_the_remedy_works(tmp_path, capsys):
    export(tmp_path / "net", norm="bn", steps=7, overrides=["bn_stats=batch"])
    words = ["convert", tmp_path / "net", tmp_path / "out", "--to", "torch-export"]
    assert "(bn_stats=batch), of which an export has none: --bn-stats ema exports the" in refused(capsys, *words)
    assert not (tmp_path / "out").exists()
    assert main([*map(str, words), "--bn-stats", "ema"]) == 0
    assert (tmp_path / "out").exists()
    export(tmp_path / "precise", norm="bn", steps=7)
    said = refused(capsys, "convert", tmp_path / "precise", tmp_path / "ema", "--bn-stats", "ema")
    assert "is of no run with bn_stats=batch: leave it out" in said


def test_a_file_is_not_written_over_by_what_is_made_of_it(tmp_path, capsys):
    export(tmp_path / "net", steps=7)
    before = (tmp_path / "net").read_bytes()
    (tmp_path / "link").symlink_to("net")
    assert "is IN itself, which would be gone" in refused(capsys, "convert", tmp_path / "net", tmp_path / "link")
    assert (tmp_path / "net").read_bytes() == before


def test_what_is_no_onnx_file_of_ours_and_what_one_is_not_for(files, tmp_path, capsys):
    net, out, clip = files / "bn.safetensors", tmp_path / "out", files / "clip.mp4"
    assert "no ONNX file: leave it out" in refused(capsys, "predict", "--onnx", net, clip)
    assert "--uint8 is of --to onnx and torch-export" in refused(capsys, "convert", net, out, "--uint8")
    said = refused(capsys, "convert", files / "gn.onnx", out)
    assert "an ONNX file, which vidgn predict runs; for all else give the weights file it was made of" in said
    assert "may run anything and is not opened here" in refused(capsys, "predict", files / "bn.pt2", clip)
    assert "leave it out" in refused(capsys, "predict", files / "gn.onnx", clip, "--device", "cuda")
    out.write_bytes((files / "gn.onnx").read_bytes()[:9000])
    assert "a torn ONNX file" in refused(capsys, "predict", out, clip)
    model = onnx.load(files / "gn.onnx")
    (version,) = (entry for entry in model.metadata_props if entry.key == "format_version")
    version.value = "2"
    onnx.save(model, out)
    assert "vidgn weights of format 2; this vidgn reads 1: update it" in refused(capsys, "predict", out, clip)
    del model.metadata_props[:]
    onnx.save(model, out)
    assert "an ONNX file of others, which says neither classes nor frames" in refused(capsys, "predict", out, clip)


def test_detectors_are_not_converted(tmp_path, capsys):
    config = load_config(
        ["model=mask_rcnn_tiny_fpn", "norm=gn", "frames=1", "span=1", "data=coco", "views=coco", "model.freeze_at=0"]
    )
    about = {"classes": ["a"], "input_mean": (1.0, 2.0, 3.0), "trained_steps": 1}
    save_model(torch.nn.Linear(1, 1), tmp_path / "net", config=config, **about)
    assert "a detector, and networks that classify are converted: vidgn predict runs it" in refused(
        capsys, "convert", tmp_path / "net", tmp_path / "out", "--to", "onnx"
    )


def test_packages_that_are_not_there_are_named(files, tmp_path, capsys):
    with patched("vidgn.models.weights.onnx_file.PACKAGES", ("onnx", "not_installed")):
        said = refused(capsys, "convert", files / "bn.safetensors", tmp_path / "out", "--to", "onnx")
    assert "ONNX files need not_installed, not installed here: pip install 'vidgn[export]'" in said
