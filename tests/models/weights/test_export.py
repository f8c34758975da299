"""What we write: round trips are exact, bytes are reproducible, and pytorchvideo itself takes its checkpoint."""

import dataclasses
import hashlib
import json
import warnings

import pytest
import safetensors
import torch
from torch import nn

from tests.models.foreign_files import torchvision_state
from tests.models.narrow_nets import IMAGE, OUR_STD, VIDEO, VIDEO_Q, clip, logits, norm, ours, plain
from vidgn import __version__
from vidgn.config.compose import load_config
from vidgn.errors import CheckpointError
from vidgn.models.weights import load_file, load_weights, save_model, save_pytorchvideo

NAMES = ["abseiling", "zumba", 'quotes " and Ümlaut', "d", "e", "f", "g"]


def config_of(model, kind, std=OUR_STD):
    base = load_config(["data=kinetics400", "frames=8"])
    return dataclasses.replace(base, model=model, norm=norm(kind), data=dataclasses.replace(base.data, std=std))


def trained(model, kind):
    """Our net with every tensor drawn at random, statistics too."""
    net, g = ours(model, kind), torch.Generator().manual_seed(11)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=g) + 0.5 if tensor.ndim == 1 else _small(tensor, g))
    return net


def _small(tensor, g):
    return torch.randn(tensor.shape, generator=g) * (1.5 / tensor[0].numel()) ** 0.5


def about(model, kind, **kwargs):
    values = {"classes": NAMES, "input_mean": (100.5, 0.1, 1 / 3), "trained_steps": 12}
    return {"config": config_of(model, kind), **values, **kwargs}


@pytest.mark.parametrize("kind", ["bn", "gn", "frozen_bn"])
@pytest.mark.parametrize("model", [IMAGE, VIDEO])
def test_our_own_file_comes_back_to_the_bit(model, kind, tmp_path):
    net, path = trained(model, kind), tmp_path / "model.safetensors"
    save_model(net, path, **about(model, kind))
    other = ours(model, kind)
    report = load_weights(other, path, std=OUR_STD)
    for key, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    assert report.format == "vidgn"
    assert report.dropped == report.kept == report.warnings == ()
    assert report.input_mean == (100.5, 0.1, 1 / 3)
    assert {t.how for t in report.taken} == {""}


@pytest.mark.parametrize(
    ("classes", "fate"),
    [
        ((), "taken"),  # not known
        (NAMES, "taken"),
        (["Abseiling", *NAMES[1:]], "taken"),
        ([str(label) for label in range(7)], "taken"),  # numbers name nothing
        ([*NAMES[:3], "running_fast", *NAMES[4:]], "3 is 'd' there and 'running_fast' here"),
        ([NAMES[1], NAMES[0], *NAMES[2:]], "0 is 'abseiling' there and 'zumba' here"),
    ],
)
def test_a_classifier_of_as_many_other_classes_is_not_taken(classes, fate, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(trained(VIDEO, "gn"), path, **about(VIDEO, "gn"))
    net = ours(VIDEO, "gn")
    before = {k: v.clone() for k, v in net.state_dict().items() if "proj" in k}
    report = load_weights(net, path, std=OUR_STD, classes=classes)
    if fate == "taken":
        assert report.classifier == "taken"
        assert not report.kept
    else:
        assert report.classifier == "new"
        assert f"classifier for other classes ({fate}): a new one" in str(report)
        assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())


def test_metadata_tells_all_that_prediction_needs(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(trained(VIDEO, "gn"), path, **about(VIDEO, "gn", trained_steps=0, source="nowhere"))
    with safetensors.safe_open(path, framework="np") as file:  # as any tool reads it
        told = file.metadata()
        assert "blocks.3.res_blocks.0.branch1_conv.weight" in file.keys()  # noqa: SIM118
    assert told == load_file(path).metadata
    assert json.loads(told["classes"]) == NAMES
    assert json.loads(told["config"])["model"]["temporal_kernels"][1] == [3, 1, 3, 1]
    assert told["format"] == "vidgn"
    assert told["format_version"] == "1"
    assert told["vidgn_version"] == __version__
    assert [float(x) for x in told["input_mean"].split(",")] == [100.5, 0.1, 1 / 3]
    assert [float(x) for x in told["input_std"].split(",")] == [57.375] * 3
    assert told["trained_steps"] == "0"
    report = load_weights(ours(VIDEO, "gn"), path, std=OUR_STD)
    assert any("the weights are random" in w for w in report.warnings)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    """safetensors' own writer orders metadata anew each time."""
    net, digests = trained(IMAGE, "gn"), set()
    for i in range(8):
        save_model(net, tmp_path / f"{i}", **about(IMAGE, "gn"))
        digests.add(hashlib.sha256((tmp_path / f"{i}").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(trained(IMAGE, "gn"), path, **about(IMAGE, "gn"))
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    for save in (save_model, save_pytorchvideo):
        with pytest.raises(OSError, match="disk full"):
            save(trained(IMAGE, "gn"), path, **about(IMAGE, "gn", trained_steps=99))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_a_newer_format_is_refused(tmp_path):
    from vidgn.models.weights.containers import write_safetensors

    state = dict(trained(IMAGE, "gn").state_dict())
    write_safetensors(tmp_path / "w", state, {"format": "vidgn", "format_version": "2"})
    with pytest.raises(CheckpointError, match="vidgn weights of format 2; this vidgn reads 1: update it"):
        load_weights(ours(IMAGE, "gn"), tmp_path / "w", std=OUR_STD)


@pytest.mark.parametrize("told", [{}, {"input_mean": "1,2", "input_std": "1,2,3"}, {"config": "{}"}, {"config": "["}])
def test_metadata_of_ours_that_cannot_be_read_is_told(told, tmp_path):
    from vidgn.models.weights.containers import write_safetensors

    write_safetensors(tmp_path / "w", dict(trained(IMAGE, "gn").state_dict()), {"format": "vidgn", **told})
    with pytest.raises(CheckpointError, match="its metadata can't be read") as caught:
        load_weights(ours(IMAGE, "gn"), tmp_path / "w", std=OUR_STD)
    assert "\n" not in str(caught.value)


def test_metadata_of_others_is_not_ours(tmp_path):
    from vidgn.models.weights.containers import write_safetensors

    state = dict(trained(IMAGE, "gn").state_dict())
    write_safetensors(tmp_path / "w", state, {"format": "pt", "config": "[", "input_mean": "?"})
    report = load_weights(ours(IMAGE, "gn"), tmp_path / "w", std=OUR_STD)
    assert (report.format, report.metadata) == ("pytorchvideo", {})


def test_other_norms_of_ours_are_told_apart(tmp_path):
    save_model(trained(IMAGE, "ln"), tmp_path / "w", **about(IMAGE, "ln"))
    report = load_weights(ours(IMAGE, "in"), tmp_path / "w", std=OUR_STD)
    assert any("trained with norm ln, and this model's is in" in w for w in report.warnings)


def pytorchvideo_net(kind):
    """pytorchvideo's own network of VIDEO_Q's shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.models.head import create_res_basic_head
        from pytorchvideo.models.net import Net
        from pytorchvideo.models.resnet import create_bottleneck_block, create_res_stage
        from pytorchvideo.models.stem import create_res_basic_stem
    make = nn.BatchNorm3d if kind == "bn" else _group_norm
    blocks = [create_res_basic_stem(in_channels=3, out_channels=8, conv_kernel_size=(5, 7, 7), conv_stride=(1, 2, 2),
              conv_padding=(2, 3, 3), pool_kernel_size=(1, 3, 3), pool_stride=(1, 2, 2), pool_padding=(0, 1, 1),
              norm=make)]  # fmt: skip
    fan_in = 8
    for stage, taps in enumerate(VIDEO_Q.temporal_kernels):
        inner, step = 8 * 2**stage, 1 if stage == 0 else 2
        blocks.append(create_res_stage(depth=len(taps), dim_in=fan_in, dim_inner=inner, dim_out=4 * inner,
                      bottleneck=create_bottleneck_block, conv_a_kernel_size=[(t, 1, 1) for t in taps],
                      conv_a_stride=(1, 1, 1), conv_a_padding=[(t // 2, 0, 0) for t in taps],
                      conv_b_stride=(1, step, step), norm=make))  # fmt: skip
        if stage == 0:
            blocks.append(nn.MaxPool3d((2, 1, 1), (2, 1, 1)))
        fan_in = 4 * inner
    head = create_res_basic_head(in_features=fan_in, out_features=7, pool=nn.AvgPool3d, pool_kernel_size=(4, 2, 2))
    return Net(blocks=nn.ModuleList([*blocks, head])).eval()


def _group_norm(num_features, eps=1e-5, momentum=0.1):
    return nn.GroupNorm(4, num_features, eps=eps)


@pytest.mark.parametrize("kind", ["bn", "gn"])
@pytest.mark.parametrize("std", [OUR_STD, (58.395, 57.12, 57.375)])
def test_pytorchvideo_takes_its_checkpoint_and_so_do_we(kind, std, tmp_path):
    net, path = trained(VIDEO_Q, kind), tmp_path / "out.pyth"
    mean = (123.675, 116.28, 103.53)
    save_pytorchvideo(net, path, **about(VIDEO_Q, kind, input_mean=mean, config=config_of(VIDEO_Q, kind, std)))

    theirs = pytorchvideo_net(kind)
    missing, unexpected = theirs.load_state_dict(torch.load(path, weights_only=True)["model_state"], strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)

    other = ours(VIDEO_Q, kind)
    report = load_weights(other, path, std=std)
    assert report.format == "vidgn"
    x = clip(VIDEO_Q)
    expected = logits(net, x, report, std=std)
    torch.testing.assert_close(logits(other, x, report, std=std), expected, rtol=1e-5, atol=1e-5)
    if std == OUR_STD:
        state = other.double().state_dict()
        assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    # Their transform: pixels in [0, 1], less the mean, over 0.225.
    fed = (x / 255 - torch.tensor(mean).view(1, 3, 1, 1, 1) / 255) / 0.225
    with torch.no_grad():
        torch.testing.assert_close(theirs.double()(fed.double()), expected, rtol=1e-5, atol=1e-5)


def test_foreign_to_ours_to_pytorchvideo_to_ours_keeps_the_logits(tmp_path):
    reference = plain(IMAGE, "bn")
    torch.save(torchvision_state(reference), tmp_path / "a.pth")
    net = ours(IMAGE, "bn")
    report = load_weights(net, tmp_path / "a.pth", std=OUR_STD)
    save_model(net, tmp_path / "b", **about(IMAGE, "bn", input_mean=report.input_mean))
    net = ours(IMAGE, "bn")
    report = load_weights(net, tmp_path / "b", std=OUR_STD)
    save_pytorchvideo(net, tmp_path / "c", **about(IMAGE, "bn", input_mean=report.input_mean))
    net = ours(IMAGE, "bn")
    report = load_weights(net, tmp_path / "c", std=(30.0, 40.0, 50.0))  # and a run that divides by something else
    x = clip(IMAGE)
    torch.testing.assert_close(
        logits(net, x, report, std=(30.0, 40.0, 50.0)), reference(x[:, :, 0]), rtol=1e-5, atol=1e-5
    )


def test_a_run_directory_stands_for_its_model(tmp_path):
    save_model(trained(IMAGE, "gn"), tmp_path / "model.safetensors", **about(IMAGE, "gn"))
    assert load_file(tmp_path).path == tmp_path / "model.safetensors"
    assert len(load_weights(ours(IMAGE, "gn"), tmp_path, std=OUR_STD).taken) == 53 * 3 + 2
