"""What is the same experiment, key by key: a new key must be placed on one side or the other."""

import dataclasses

import pytest

from vidgn.config.compose import load_config
from vidgn.config.fingerprint import differing_keys, fingerprint, identity, pair_fingerprint

DIGESTS = {"data_digest": "d", "weights_digest": "w"}
MACHINE = [
    "study=other",
    "runs_dir=/elsewhere",
    "tag=x",
    "launch.nproc_per_node=4",
    "views=center",
    "bn_stats=ema",
    "bn_stats_steps=7",
    "data.root=/other",
    "data.train=other.csv",
    "data.workers=3",
    "trainer.device=cpu",
    "trainer.compile=true",
    "trainer.memory_format=contiguous",
    "trainer.activation_memory=lean",
    "trainer.clips_per_forward=2",
    "trainer.checkpoint_steps=9",
    "trainer.keep=5",
    "trainer.eval_every=0",
    "weights=moved.pt",
]
EXPERIMENT = [
    "seed=1",
    "frames=64",
    "span=32",
    "clips_per_gpu=4",
    "gpus=4",
    "model=i3d_r101",
    "norm.eps=1e-3",
    "norm=bn",
    "data.flip=false",
    "data.crop=112",
    "data.decoder=decord",
    "data.clips_per_video=2",
    "optim.lr_per_clip=0.1",
    "optim.norm_weight_decay=1e-4",
    "trainer.epochs=3",
    "trainer.max_steps=3",
    "trainer.precision=bf16",
    "trainer.on_nonfinite=skip",
    "trainer.deterministic=true",
]


def of(*overrides):
    return identity(load_config(overrides), **DIGESTS)


@pytest.mark.parametrize("override", MACHINE)
def test_the_machine_s_choices_are_left_out(override):
    assert fingerprint(of(override)) == fingerprint(of())


@pytest.mark.parametrize("override", EXPERIMENT)
def test_the_experiment_is_in(override):
    assert fingerprint(of(override)) != fingerprint(of())
    assert pair_fingerprint(of(override)) != pair_fingerprint(of()) or override.startswith("norm")


@pytest.mark.parametrize("change", [{"data_digest": "other"}, {"weights_digest": "other"}])
def test_rows_and_weights_are_in(change):
    other = identity(load_config(), **{**DIGESTS, **change})
    assert fingerprint(other) != fingerprint(of())
    assert (pair_fingerprint(other) == pair_fingerprint(of())) == ("weights_digest" in change)


def test_arms_pair():
    assert pair_fingerprint(of("norm=bn")) == pair_fingerprint(of("norm=gn", "norm.groups=8"))


def test_what_differs_is_named():
    assert differing_keys(of("seed=1"), of()) == ["seed (here 1, there 0)"]


def test_every_key_of_the_trainer_is_placed():
    named = {o.split("=")[0].split(".")[1] for o in MACHINE + EXPERIMENT if o.startswith("trainer.")}
    assert named == {f.name for f in dataclasses.fields(load_config().trainer)}
