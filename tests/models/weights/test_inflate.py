"""A still video gives what the image gave: conv by conv, and the whole net where no border is seen."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.models.foreign_files import torchvision_state
from tests.models.narrow_nets import IMAGE, OUR_STD, VIDEO, logits, ours, plain
from tests.models.plain_resnet import PlainResNet
from vidgn.models.weights import load_weights

CONV = {"a": "branch2.conv_a", "b": "branch2.conv_b", "c": "branch2.conv_c", "shortcut": "branch1_conv"}


@pytest.fixture(scope="module")
def image_weights(tmp_path_factory):
    """Torchvision's names; pool1 as the video net has it, so that the twin is the same network."""
    net = PlainResNet(dims=2, norm="bn", pool1=((3, 3), (2, 2), (0, 0)))
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(torchvision_state(net), path)
    return net, path


def test_each_inflated_conv_equals_its_image_conv_on_interior_frames(image_weights):
    image, path = image_weights
    video = ours(VIDEO, "bn")
    load_weights(video, path, std=image.std)  # type: ignore[arg-type]
    stages = {0: 1, 1: 3, 2: 4, 3: 5}  # blocks.2 is pool2
    g = torch.Generator().manual_seed(1)
    num_inflated = 0
    for unit in [("stem",), *image.units()]:
        kernel = image.params[(*unit, "conv")]
        if len(unit) == 1:
            conv, stride = video.get_submodule("blocks.0.conv"), (2, 2)
        else:
            stage, block, branch = unit
            conv = video.get_submodule(f"blocks.{stages[stage]}.res_blocks.{block}.{CONV[branch]}")
            stride = image.stride(*unit)
        x = torch.randn(1, kernel.shape[1], 12, 12, generator=g).double()
        still = x.unsqueeze(2).expand(-1, -1, 9, -1, -1)
        weight = conv.weight.double()
        y = F.conv3d(still, weight, stride=conv.stride, padding=conv.padding)
        expected = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        taps, step = weight.shape[2], conv.stride[0]
        interior = [t for t in range(y.shape[2]) if t * step >= taps // 2 and t * step + taps // 2 < 9]
        assert interior
        for t in interior:
            torch.testing.assert_close(y[:, :, t], expected, rtol=1e-6, atol=1e-6)
        if taps > 1:
            num_inflated += 1
            assert not torch.allclose(y[:, :, 0], expected, rtol=1e-2, atol=1e-2)  # the border sees zeros
    assert num_inflated == 1 + 3 + 2 + 3 + 1


def test_a_still_video_of_160_frames_gives_the_images_logits_where_no_border_is_seen(image_weights):
    image, path = image_weights
    video = ours(VIDEO, "bn", frames=8)
    report = load_weights(video, path, std=OUR_STD)
    picture = torch.randint(0, 256, (1, 3, 48, 48), generator=torch.Generator().manual_seed(3)).double()
    mean = torch.tensor(report.input_mean).double().view(1, 3, 1, 1)
    x = ((picture - mean) / torch.tensor(OUR_STD).double().view(1, 3, 1, 1)).unsqueeze(2).expand(-1, -1, 160, -1, -1)
    with torch.no_grad():
        map_NKT = video.double()(x)[..., 0, 0]
    assert map_NKT.shape == (1, 7, 20)
    expected = image(picture)
    torch.testing.assert_close(map_NKT[:, :, 10], expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert not torch.allclose(map_NKT[:, :, 0], expected, rtol=1e-2, atol=1e-2)


def test_a_c2d_kernel_of_one_frame_is_inflated_as_an_image_kernel_is(tmp_path):
    """Our own image net, saved by us, starts a video net: same names, kernels of one frame."""
    from tests.models.foreign_files import pytorchvideo_checkpoint

    flat = dataclasses.replace(VIDEO, conv1_kernel=(1, 7, 7), temporal_kernels=IMAGE.temporal_kernels)
    torch.save(pytorchvideo_checkpoint(plain(flat, "bn")), tmp_path / "c2d.pyth")
    inflated = ours(VIDEO, "bn")
    report = load_weights(inflated, tmp_path / "c2d.pyth", std=OUR_STD)
    assert {t.how for t in report.taken} == {"", "inflated over 5 frames", "inflated over 3 frames"}
    assert logits(inflated, torch.zeros(1, 3, 8, 48, 48), report).isfinite().all()
