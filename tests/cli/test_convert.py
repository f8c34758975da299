"""`vidgn convert`: real libraries' networks in, ours or pytorchvideo's out, every refusal one line."""

import json

import pytest
import torch
import torchvision
from torch import nn

from vidgn.cli.convert import SUMMARY, run
from vidgn.cli.main import main
from vidgn.config.compose import load_config
from vidgn.models.i3d import build_model
from vidgn.models.weights import load_file, load_weights, save_model
from vidgn.models.weights.containers import write_safetensors


@pytest.fixture(scope="module")
def torchvision_files(tmp_path_factory):
    """torchvision's own ResNet-50, BN and GN, with random weights and statistics: (folder, nets by kind)."""
    folder, nets, g = tmp_path_factory.mktemp("weights"), {}, torch.Generator().manual_seed(0)
    for kind, layer in (("bn", nn.BatchNorm2d), ("gn", lambda c: nn.GroupNorm(32, c))):
        net = torchvision.models.resnet50(weights=None, norm_layer=layer, num_classes=10).eval()
        for name, tensor in net.state_dict().items():
            if tensor.ndim == 1:
                low = 0.5 if name.endswith(("weight", "running_var")) else -0.2
                tensor.copy_(torch.rand(tensor.shape, generator=g) * 0.5 + low)
        torch.save(net.state_dict(), folder / f"{kind}.pth")
        nets[kind] = net
    return folder, nets


@pytest.mark.parametrize("kind", ["bn", "gn"])
def test_torchvisions_resnet50_left_an_image_network(kind, torchvision_files, tmp_path, capsys):
    folder, nets = torchvision_files
    out = tmp_path / "out.safetensors"
    assert run([str(folder / f"{kind}.pth"), str(out), "--model", "resnet50"]) == 0
    printed = capsys.readouterr().out
    assert "torchvision/timm ResNet" in printed
    assert f"resnet50, {kind}, 1 frames, 10 classes" in printed
    if kind == "bn":
        assert "dropped 53: counter of batches, not used" in printed
    config = load_config(["model=resnet50", f"norm={kind}", "frames=1", "span=1", "views=image"])
    net = build_model(config.model, config.norm, num_classes=10, frames=1, crop=64).eval()
    report = load_weights(net, out, std=config.data.std)
    x = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(1)).double()
    mean, std = (torch.tensor(v).double().view(1, 3, 1, 1) for v in (report.input_mean, config.data.std))
    theirs = torch.tensor([0.229, 0.224, 0.225]).double().view(1, 3, 1, 1)
    centre = torch.tensor([0.485, 0.456, 0.406]).double().view(1, 3, 1, 1)
    with torch.no_grad():
        ours = net.double()(((x - mean) / std).unsqueeze(2)).flatten(1)
        expected = nets[kind].double()((x / 255 - centre) / theirs)
    nets[kind].float()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_inflation_export_and_the_way_back(torchvision_files, tmp_path, capsys):
    folder, _ = torchvision_files
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"act {i}" for i in range(10)) + "\n")
    first, second, third = (tmp_path / n for n in ("a.safetensors", "b.pyth", "c.safetensors"))
    assert run([str(folder / "gn.pth"), str(first), "--classes", str(names), "--every"]) == 0
    printed = capsys.readouterr().out
    assert "inflated over 5 frames, scaled to our input std" in printed
    assert "layer1.0.conv1.weight -> blocks.1.res_blocks.0.branch2.conv_a.weight, inflated over 3 frames" in printed
    assert "made for a pool1 padded" in printed
    assert "i3d_r50, gn, 32 frames, 10 classes" in printed
    assert run([str(first), str(second), "--to", "pytorchvideo"]) == 0
    assert run([str(second), str(third)]) == 0
    a, c = load_file(first), load_file(third)
    assert a.tensors.keys() == c.tensors.keys()
    assert all(torch.equal(a.tensors[k], c.tensors[k]) for k in a.tensors)
    told = load_file(third).metadata
    assert json.loads(told["classes"])[3] == "act 3"
    assert json.loads(told["config"])["frames"] == 32
    assert told["trained_steps"] == ""
    assert told["source"] == "torchvision/timm ResNet: gn.pth"


def test_an_export_in_another_network_and_norm(torchvision_files, tmp_path, capsys):
    folder, _ = torchvision_files
    image, video = tmp_path / "image", tmp_path / "video"
    run([str(folder / "bn.pth"), str(image), "--model", "resnet50"])
    capsys.readouterr()
    assert run([str(image), str(video), "--model", "i3d_r50", "--norm", "gn", "--frames", "64"]) == 0
    printed = capsys.readouterr().out
    assert "trained with norm bn, and this model's is gn" in printed
    config = json.loads(load_file(video).metadata["config"])
    assert (config["frames"], config["span"], config["norm"]["kind"]) == (64, 64, "gn")


@pytest.mark.parametrize(("given", "expected"), [([], (16, 16)), (["--frames", "8"], (8, 16))])
def test_another_network_keeps_the_frames_that_were_trained(tmp_path, capsys, given, expected):
    """Not those that the network has in conf/."""
    config = load_config(["model=i3d_r50", "norm=gn", "frames=16", "span=16"])
    model = build_model(config.model, config.norm, num_classes=3, frames=16, crop=224)
    about = {"classes": ["a", "b", "c"], "input_mean": (1.0, 2.0, 3.0), "trained_steps": 5}
    save_model(model, tmp_path / "in", config=config, **about)
    assert run([str(tmp_path / "in"), str(tmp_path / "out"), "--model", "i3d_r50_8x8", *given]) == 0
    made = json.loads(load_file(tmp_path / "out").metadata["config"])
    assert (made["frames"], made["span"]) == expected
    assert f"i3d_r50_8x8, gn, {expected[0]} frames" in capsys.readouterr().out


def fails(capsys, *argv):
    assert main(["convert", *map(str, argv)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert told.err.startswith("vidgn convert: ")
    return told.err


def test_refusals_are_one_line(torchvision_files, tmp_path, capsys):
    folder, _ = torchvision_files
    source, out = folder / "gn.pth", tmp_path / "out"
    assert "no such weights file" in fails(capsys, tmp_path / "absent", out)
    assert "no place for a file" in fails(capsys, source, tmp_path / "absent" / "out")
    assert "did you mean model=i3d_r50" in fails(capsys, source, out, "--model", "i3d_r5")
    assert "without running statistics" in fails(capsys, source, out, "--norm", "bn")
    assert "does not fit this model" in fails(capsys, source, out, "--model", "i3d_tiny")
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    assert "2 names, and the classifier has 10" in fails(capsys, source, out, "--classes", tmp_path / "two.txt")
    assert "can't be read" in fails(capsys, source, out, "--classes", tmp_path / "absent.txt")
    headless = {k: v for k, v in torch.load(source).items() if not k.startswith("fc")}
    torch.save(headless, tmp_path / "headless.pth")
    assert "has no classifier; name the classes" in fails(capsys, tmp_path / "headless.pth", out)
    assert not out.exists()


def test_an_export_that_this_version_cannot_read(torchvision_files, tmp_path, capsys):
    folder, _ = torchvision_files
    ours = load_file(folder / "gn.pth")
    config = json.dumps({"norm": {"kind": "gn"}})
    told = {"format": "vidgn", "input_mean": "1,2,3", "input_std": "1,2,3", "config": config, "classes": "["}
    write_safetensors(tmp_path / "in", ours.tensors, told)
    assert "written by another version of vidgn" in fails(capsys, tmp_path / "in", tmp_path / "out")


def test_a_network_of_another_depth_asks_for_its_model(tmp_path, capsys):
    state = torchvision.models.resnet18(weights=None, num_classes=3).state_dict()
    torch.save(state, tmp_path / "r18.pth")
    assert "is none of conf/model; give the one it is for with --model" in fails(capsys, tmp_path / "r18.pth", "out")
    assert "does not fit this model" in fails(capsys, tmp_path / "r18.pth", "out", "--model", "resnet50")


def test_help_and_usage(capsys):
    assert "other libraries" in SUMMARY
    for argv, code in ((["--help"], 0), ([], 2), (["a", "b", "--to", "caffe"], 2)):
        with pytest.raises(SystemExit) as stopped:
            run(argv)
        assert stopped.value.code == code
    assert "--to {safetensors,pytorchvideo,torchvision,timm,onnx,torch-export}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("std", "0", "pixels are divided by it"), ("std", "inf", "must be a finite number"), ("mean", "nan", "must be a")],
)
def test_pixels_that_no_network_was_trained_on(option, value, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(["in", "out", f"--input-{option}", "1", value, "1"])
    assert stopped.value.code == 2
    assert f"argument --input-{option}: {value}: {says}" in capsys.readouterr().err


def resnet50_of(library, kind):
    """A library's own, of 10 classes."""
    layer = nn.BatchNorm2d if kind == "bn" else lambda channels, **_: nn.GroupNorm(32, channels)
    if library == "torchvision":
        return torchvision.models.resnet50(norm_layer=layer, num_classes=10).eval()
    timm = pytest.importorskip("timm", reason="pip install timm")
    return timm.create_model("resnet50", norm_layer=layer, num_classes=10).eval()


@pytest.mark.parametrize(
    ("library", "kind"),
    [
        ("torchvision", "gn"),
        ("timm", "bn"),
        pytest.param("torchvision", "bn", marks=pytest.mark.long),
        pytest.param("timm", "gn", marks=pytest.mark.long),
    ],
)
def test_an_image_network_in_others_names(library, kind, torchvision_files, tmp_path, capsys):
    """Their own ResNet loads it strictly, and says what the one says that it came from."""
    folder, nets = torchvision_files
    words = ["--model", "resnet50", "--to", library]
    assert main(["convert", str(folder / f"{kind}.pth"), str(tmp_path / "out.pth"), *words]) == 0
    assert "takes (RGB - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375], 0-255" in capsys.readouterr().out
    back = resnet50_of(library, kind)
    back.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True), strict=True)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = nets[kind](image)
        torch.testing.assert_close(back(image), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_networks_that_others_do_not_have(torchvision_files, tmp_path, capsys):
    folder, _ = torchvision_files
    out = tmp_path / "out"
    assert main(["convert", str(folder / "bn.pth"), str(out), "--to", "timm"]) == 1  # inflated
    assert "is a kernel over 5 frames, and torchvision's and timm's take images" in capsys.readouterr().err
    config = load_config(["model=resnet_tiny", "norm=gn", "frames=1", "span=1", "views=image"])
    model = build_model(config.model, config.norm, num_classes=2, frames=1, crop=224)
    about = {"classes": ["a", "b"], "input_mean": (1.0, 2.0, 3.0), "trained_steps": 5}
    save_model(model, tmp_path / "tiny", config=config, **about)
    assert main(["convert", str(tmp_path / "tiny"), str(out), "--to", "torchvision"]) == 1
    said = capsys.readouterr().err
    assert "model=resnet_tiny of depth (1, 1, 1, 1) and width 16 is none of torchvision's and timm's ResNets" in said
    assert not out.exists()
    assert main(["convert", str(tmp_path / "tiny"), str(out), "--to", "safetensors"]) == 0
