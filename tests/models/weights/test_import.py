"""Every foreign format, written as its maker writes it from a second network, gives that network's logits."""

import pytest
import safetensors.torch
import torch

from tests.models.foreign_files import (
    caffe2_blobs,
    mmaction_checkpoint,
    pyslowfast_checkpoint,
    python2_pickle,
    pytorchvideo_checkpoint,
    torchvision_state,
)
from tests.models.narrow_nets import (
    DETECTRON,
    IMAGE,
    IMAGENET,
    NLN,
    OUR_STD,
    VIDEO,
    VIDEO_MMACTION,
    VIDEO_Q,
    clip,
    logits,
    ours,
    plain,
)
from vidgn.errors import CheckpointError
from vidgn.models.weights import Pixels, load_weights


def save_torch(content, path):
    torch.save(content, path)


def save_legacy_torch(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_safetensors(content, path):
    safetensors.torch.save_file(content, path, metadata={"format": "pt"})


def save_python2(content, path):
    path.write_bytes(python2_pickle(content))


def save_python2_text(content, path):
    path.write_bytes(python2_pickle(content, protocol=0))


REVERSED = "  MEAN: [0.4, 0.45, 0.5]\n  REVERSE_INPUT_CHANNEL: true\n  STD: [0.2, 0.225, 0.25]\n"
CASES = {
    "torchvision BN .pth": (IMAGE, "bn", IMAGENET, torchvision_state, save_torch),
    "torchvision BN legacy .pth": (
        IMAGE,
        "bn",
        IMAGENET,
        lambda net: torchvision_state(net, counters=False),
        save_legacy_torch,
    ),
    "timm BN safetensors": (IMAGE, "bn", IMAGENET, torchvision_state, save_safetensors),
    "timm GN safetensors": (IMAGE, "gn", IMAGENET, torchvision_state, save_safetensors),
    "torchvision GN .pth": (IMAGE, "gn", IMAGENET, lambda net: {"model": torchvision_state(net)}, save_torch),
    "wrapped in DataParallel": (
        IMAGE,
        "bn",
        IMAGENET,
        lambda net: {"state_dict": {f"module.{k}": v for k, v in torchvision_state(net).items()}, "epoch": 90},
        save_torch,
    ),
    "Detectron R-50-GN.pkl": (
        IMAGE,
        "gn",
        DETECTRON,
        lambda net: {"blobs": caffe2_blobs(net, momentum=False)},
        save_python2,
    ),
    "NLN ImageNet .pkl": (IMAGE, "bn", NLN, lambda net: {"blobs": caffe2_blobs(net)}, save_python2),
    "NLN ImageNet flat text .pkl": (IMAGE, "bn", NLN, caffe2_blobs, save_python2_text),
    "NLN I3D .pkl": (VIDEO, "bn", NLN, lambda net: {"blobs": caffe2_blobs(net)}, save_python2),
    "PySlowFast caffe2 .pkl": (VIDEO_Q, "bn", NLN, lambda net: {"blobs": caffe2_blobs(net)}, save_python2),
    "PySlowFast .pyth": (VIDEO_Q, "bn", NLN, pyslowfast_checkpoint, save_torch),
    "PySlowFast .pyth, own pixels": (
        VIDEO_Q,
        "bn",
        {"mean": (127.5, 114.75, 102.0), "std": (63.75, 57.375, 51.0), "bgr": True},
        lambda net: pyslowfast_checkpoint(net, data_cfg=REVERSED),
        save_torch,
    ),
    "pytorchvideo .pyth": (VIDEO_Q, "bn", NLN, pytorchvideo_checkpoint, save_torch),
    "mmaction2 .pth": (VIDEO_MMACTION, "bn", IMAGENET, mmaction_checkpoint, save_torch),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_second_implementation_and_every_tensor_is_accounted_for(case, tmp_path):
    model, kind, pixels, content, save = CASES[case]
    reference = plain(model, kind, **pixels)
    written = content(reference)
    save(written, tmp_path / "weights.bin")  # the name says nothing
    net = ours(model, kind)
    report = load_weights(net, tmp_path / "weights.bin", std=OUR_STD)

    told = [t.source for t in report.taken] + [name for name, _ in report.dropped]
    assert sorted(told) == sorted(_tensor_names(written))
    assert all(reason for _, reason in report.dropped)
    assert sorted([t.target for t in report.taken] + [k for k, _ in report.kept]) == sorted(net.state_dict())
    assert report.classifier == "taken"
    rgb_mean = pixels["mean"][::-1] if pixels.get("bgr") else pixels["mean"]
    assert report.input_mean == pytest.approx(rgb_mean)

    x = clip(model)
    expected = reference(x[:, :, 0] if model is IMAGE else x)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits(net, x, report), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def _tensor_names(content):
    """Names of all arrays and tensors as the reports tell them: bare for weights, dotted beside them."""
    for nest in ("blobs", "model", "state_dict", "model_state"):
        if nest in content:
            inner = [k.removeprefix("module.") for k, v in content[nest].items() if hasattr(v, "shape")]
            beside = ["optimizer_state.state.0.momentum_buffer"] if "optimizer_state" in content else []
            return inner + beside
    return [k for k, v in content.items() if hasattr(v, "shape")]


def test_reasons_and_how_are_told(tmp_path):
    blobs = caffe2_blobs(plain(IMAGE, "bn", classes=11, **NLN))
    (tmp_path / "w.pkl").write_bytes(python2_pickle({"blobs": blobs}))
    report = load_weights(ours(VIDEO, "bn"), tmp_path / "w.pkl", std=(50.0, 57.375, 57.375))
    reasons = dict(report.dropped)
    assert reasons["conv1_w_momentum"] == "optimizer state (momentum)"
    assert reasons["lr"] == "state of the training that wrote it"
    assert "classifier for 11 classes where this model has 7" in reasons["pred_w"]
    how = {t.source: t.how for t in report.taken}
    assert how["conv1_w"] == "inflated over 5 frames, scaled to our input std"
    assert how["res2_0_branch2a_w"] == "inflated over 3 frames"
    assert how["res2_0_branch2b_w"] == how["res2_0_branch2a_bn_riv"] == ""
    assert report.classifier == "new"
    text = report.summary()
    assert str(report) == text
    assert "inflated over 3 frames" in text
    assert "made for a pool1 padded" not in text  # caffe2 files come with either pool
    assert "classifier for 11 classes" in text
    assert "input mean [114.75, 114.75, 114.75], std [50, 57.375, 57.375]" in text


def test_a_new_classifier_keeps_its_initial_weights(tmp_path):
    save_torch(torchvision_state(plain(IMAGE, "gn", classes=1000)), tmp_path / "w.pth")
    net = ours(VIDEO, "gn")
    before = {k: v.clone() for k, v in net.state_dict().items() if "proj" in k}
    report = load_weights(net, tmp_path / "w.pth", std=OUR_STD)
    for key, value in before.items():
        assert torch.equal(net.state_dict()[key], value)
    assert {key for key, _ in report.kept} == set(before)
    assert any("pool1 padded by (0, 1, 1), this model pads by (0, 0, 0)" in w for w in report.warnings)


def test_pixels_given_overrule_the_format(tmp_path):
    odd = {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)}
    reference = plain(IMAGE, "bn", **odd)
    save_torch(torchvision_state(reference), tmp_path / "w.pth")
    net = ours(IMAGE, "bn")
    report = load_weights(net, tmp_path / "w.pth", std=OUR_STD, pixels=Pixels(**odd))
    x = clip(IMAGE)
    torch.testing.assert_close(logits(net, x, report), reference(x[:, :, 0]), rtol=1e-5, atol=1e-5)


def test_bn_weights_in_a_gn_model_give_affine_and_say_so(tmp_path):
    reference = plain(IMAGE, "bn")
    save_torch(torchvision_state(reference), tmp_path / "w.pth")
    net = ours(IMAGE, "gn")
    report = load_weights(net, tmp_path / "w.pth", std=IMAGENET["std"])
    assert dict(report.dropped)["bn1.running_mean"] == "running statistics, of which this model's norm has none"
    assert any("trained with norm bn, and this model's is gn" in w for w in report.warnings)
    assert torch.equal(net.state_dict()["blocks.0.norm.weight"], reference.params["stem", "gamma"].float())


@pytest.mark.parametrize("kind", ["ln", "in"])
def test_gn_weights_in_another_clip_norm_are_said_to_be_another_network(kind, tmp_path):
    save_torch(torchvision_state(plain(IMAGE, "gn")), tmp_path / "w.pth")
    report = load_weights(ours(IMAGE, kind), tmp_path / "w.pth", std=OUR_STD)
    assert any(f"trained with norm gn, and this model's is {kind}" in w for w in report.warnings)


@pytest.mark.parametrize("kind", ["bn", "sync_bn", "frozen_bn"])
def test_gn_weights_lack_what_bn_needs(kind, tmp_path):
    save_torch(torchvision_state(plain(IMAGE, "gn")), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"without running statistics, which this model's BN needs.*norm=gn"):
        load_weights(ours(IMAGE, kind), tmp_path / "w.pth", std=OUR_STD)


def test_caffe2_weights_stripped_of_statistics_do_for_bn_but_not_frozen(tmp_path):
    blobs = caffe2_blobs(plain(IMAGE, "bn", **NLN), momentum=False, statistics=False)
    (tmp_path / "w.pkl").write_bytes(python2_pickle(blobs, protocol=0))
    report = load_weights(ours(IMAGE, "bn"), tmp_path / "w.pkl", std=OUR_STD)
    assert len(report.kept) == 2 * 53
    assert any("0 and 1 until they are measured" in w for w in report.warnings)
    with pytest.raises(CheckpointError, match="without running statistics"):
        load_weights(ours(IMAGE, "frozen_bn"), tmp_path / "w.pkl", std=OUR_STD)


def test_frozen_bn_takes_statistics(tmp_path):
    reference = plain(VIDEO, "bn", **NLN)
    (tmp_path / "w.pkl").write_bytes(python2_pickle({"blobs": caffe2_blobs(reference)}))
    net = ours(VIDEO, "frozen_bn")
    report = load_weights(net, tmp_path / "w.pkl", std=OUR_STD)
    x = clip(VIDEO)
    torch.testing.assert_close(logits(net.train(), x, report), reference(x), rtol=1e-5, atol=1e-5)
