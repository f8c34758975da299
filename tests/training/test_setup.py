"""Length of a run, what goes into the model, and the refusal of a bf16 that computes nonsense."""

import dataclasses
import re

import pytest
import torch

from vidgn.config.compose import load_config
from vidgn.distributed.ranks import Ranks
from vidgn.errors import ConfigError
from vidgn.models.i3d import TemporalConv, parameter_roles
from vidgn.training import setup
from vidgn.training.norm_kernels import ways_on_gpu
from vidgn.training.optim import epoch_of, total_steps
from vidgn.training.setup import ToModel, check_bf16, make_model


def test_length_is_passes_over_the_rows_or_max_steps():
    config = load_config(["gpus=8", "clips_per_gpu=8", "trainer.epochs=1.5"])
    assert total_steps(config, 1000) == 24  # 1500 clips in steps of 64
    assert total_steps(load_config(["trainer.max_steps=5"]), 1000) == 5
    assert total_steps(load_config(["trainer.epochs=1", "trainer.max_steps=50"]), 10) == 1
    assert epoch_of(config, 24, 1000) == pytest.approx(1.536)


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_pixels_become_what_the_paper_s_code_made_of_them(memory_format):
    config = load_config([f"trainer.memory_format={memory_format}", "trainer.precision=fp64"])
    clip_NTHWC = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)
    made = ToModel(config, torch.device("cpu"))(clip_NTHWC)
    assert made.shape == (2, 3, 3, 4, 5)
    for n, t, h, w, c in [(0, 0, 0, 0, 0), (1, 2, 3, 4, 2), (0, 1, 2, 3, 1)]:
        assert made[n, c, t, h, w] == (clip_NTHWC[n, t, h, w, c].double() - 114.75) / 57.375
    channels_last = made.is_contiguous(memory_format=torch.channels_last_3d)
    assert channels_last == (memory_format == "channels_last")
    shifted = ToModel(config, torch.device("cpu"), input_mean=(1.0, 2.0, 3.0))(clip_NTHWC)
    assert torch.equal(
        ((made - shifted) * 57.375).round(decimals=9)[0, :, 0, 0, 0], torch.tensor([-113.75, -112.75, -111.75]).double()
    )


def test_bf16_is_taken_where_its_gradients_are_right_and_refused_where_not(monkeypatch):
    """On contiguous maps of a CPU, where the temporal convolution is a 2-D one, they are."""
    config, cpu = load_config(["data.root=x"]), torch.device("cpu")
    check_bf16(config, cpu)

    class Wrong(TemporalConv):
        def forward(self, input):
            y = super().forward(input)
            return y if input.dtype == torch.float32 else y * 1.2

    monkeypatch.setattr(setup, "TemporalConv", Wrong)
    with pytest.raises(
        ConfigError, match=r"bf16: gradients of a bf16 conv3d are wrong .* trainer.precision=fp32, or set"
    ):
        check_bf16(config, cpu)
    config = load_config(["data.root=x", "trainer.memory_format=channels_last"])
    with pytest.raises(ConfigError, match=r"trainer.precision=fp32, or trainer.memory_format=contiguous"):
        check_bf16(config, cpu)


def test_bf16_of_the_first_convolution_is_looked_at_too(monkeypatch):
    """It is longer in time than a clip of a few frames."""

    class Wrong(torch.nn.Conv3d):
        def forward(self, input):
            assert input.shape[2] == 8
            y = super().forward(input)
            return y if input.dtype == torch.float32 else y * 1.2

    monkeypatch.setattr(torch.nn, "Conv3d", Wrong)
    with pytest.raises(ConfigError, match="gradients of a bf16 conv3d are wrong"):
        check_bf16(load_config(["data.root=x", "frames=8", "span=8"]), torch.device("cpu"))


@pytest.mark.parametrize(
    ("world_size", "device", "overrides", "reason"),
    [
        (1, "cpu", [], "the run is on a CPU"),
        (2, "cuda", [], "2 processes exchange gradients while backward runs"),
        (1, "cuda", ["trainer.compile=true"], "trainer.compile=true has a way of its own"),
        (1, "cuda", [], None),
    ],
)
def test_a_graph_that_cannot_be_is_said(world_size, device, overrides, reason):
    config, said = load_config(["trainer.cuda_graph=true", *overrides]), []
    told = ways_on_gpu(config, Ranks(0, world_size, torch.device(device)), "triton", log=said.append)
    assert said == ([] if reason is None else [f"warning: trainer.cuda_graph=true is left alone: {reason}"])
    assert told == ({} if device == "cpu" else {"norm_kernels": "triton", "cuda_graph": reason is None})


def test_first_weights_depend_on_the_seed_and_not_on_the_norm_or_global_state():
    def weights(*overrides):
        config = load_config(
            ["model=i3d_tiny", "frames=8", "span=8", "data.crop=32", "data.short_side=[32,32]", *overrides]
        )
        return make_model(config, num_classes=5).state_dict()

    torch.manual_seed(0)
    one = weights("norm=bn")
    torch.manual_seed(1)
    other, seeded = weights("norm=gn"), weights("norm=bn", "seed=1")
    assert all(torch.equal(one[name], value) for name, value in other.items())
    assert not torch.equal(one["blocks.0.conv.weight"], seeded["blocks.0.conv.weight"])


def test_every_parameter_has_a_role():
    config = dataclasses.replace(load_config(["model=i3d_tiny"]))
    roles = parameter_roles(make_model(config, num_classes=5))
    assert set(roles.values()) == {"conv", "fc", "fc_bias", "norm_gamma", "norm_gamma_last", "norm_beta"}
    assert all(re.search("norm", name) for name, role in roles.items() if role.startswith("norm"))
