"""What is the same experiment, key by key, and what may change between two starts of a run."""

import dataclasses
from typing import Annotated

import pytest

from vidgn.config.compose import load_config
from vidgn.config.fingerprint import (
    declared_kinds,
    differing_keys,
    fingerprint,
    identity,
    kind_of,
    pair_fingerprint,
    policy,
)

CONTENT = {"data_digest": "d", "classes": ("walk", "run"), "weights_digest": "w"}
MACHINE = [
    "study=other",
    "runs_dir=/elsewhere",
    "tag=x",
    "launch.nproc_per_node=4",
    "data.root=/other",
    "data.train=other.csv",
    "data.classes=/other/names.txt",
    "data.separator=';'",
    "data.first_label=1",
    "data.label=noun_class",
    "data.cache_gb=3",
    "data.cache=frames",
    "data.fold=2",
    "data.folds=5",
    "data.fold_seed=3",
    "data.group=scene",
    "data.workers=3",
    "trainer.device=cpu",
    "trainer.compile=true",
    "trainer.memory_format=contiguous",
    "trainer.norm_kernels=torch",
    "loggers=[tensorboard,wandb]",
    "trainer.cuda_graph=true",
    "trainer.summation=fast",
    "trainer.activation_memory=lean",
    "trainer.clips_per_forward=2",
    "trainer.deterministic=true",
    "weights=moved.pt",
]
POLICY = [
    "views=center",
    "bn_stats=ema",
    "bn_stats_steps=7",
    "data.decoder=decord",
    "data.missing=skip",
    "data.untrained_classes=allow",
    "data.max_unreadable=5",
    "data.timeout_seconds=7",
    "trainer.checkpoint_steps=9",
    "trainer.keep=5",
    "trainer.eval_every=0",
    "trainer.on_nonfinite=skip",
    "trainer.max_skipped=3",
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
    "data.clips_per_video=2",
    "data.fps=12.5",
    "data.sampling=segments",
    "data.balance=class",
    "data.flip_pairs=[[left,right]]",
    "optim.lr_per_clip=0.1",
    "optim.norm_weight_decay=1e-4",
    "trainer.epochs=3",
    "trainer.max_steps=3",
    "trainer.precision=bf16",
]


def of(*overrides):
    return identity(load_config(overrides), **CONTENT)


@pytest.mark.parametrize("override", MACHINE + POLICY)
def test_what_may_change_between_starts_is_left_out(override):
    assert fingerprint(of(override)) == fingerprint(of())
    assert not differing_keys(of(override), of())


@pytest.mark.parametrize("override", MACHINE + EXPERIMENT + POLICY)
def test_policies_are_told_from_what_is_not(override):
    assert (policy(load_config([override])) != policy(load_config())) == (override in POLICY)


def test_a_norm_has_the_keys_of_all_kinds_in_its_identity():
    """As runs had before conf/norm had each kind's own alone."""
    found = {key: value for key, value in of("norm=ln").items() if key.startswith("norm.")}
    others = {"norm.groups": None, "norm.channels_per_group": None, "norm.momentum": 0.1}
    assert found == {"norm.kind": "ln", "norm.eps": 1e-5} | others


@pytest.mark.parametrize("override", EXPERIMENT)
def test_the_experiment_is_in(override):
    assert fingerprint(of(override)) != fingerprint(of())
    assert pair_fingerprint(of(override)) != pair_fingerprint(of()) or override.startswith("norm")


@pytest.mark.parametrize(
    "change", [{"data_digest": "other"}, {"weights_digest": "other"}, {"classes": ("run", "walk")}]
)
def test_what_files_hold_is_in(change):
    other = identity(load_config(), **{**CONTENT, **change})
    assert fingerprint(other) != fingerprint(of())
    assert (pair_fingerprint(other) == pair_fingerprint(of())) == ("weights_digest" in change)


def test_arms_pair():
    assert pair_fingerprint(of("norm=bn")) == pair_fingerprint(of("norm=gn", "norm.groups=8"))


def test_what_differs_is_named():
    assert differing_keys(of("seed=1"), of()) == ["seed (here 1, there 0)"]


def test_a_run_of_an_earlier_version_is_the_same_experiment():
    """Its identity has keys that are no more of the experiment, and no class names."""
    earlier = {**of(), "trainer.on_nonfinite": "stop", "data.missing": "error", "trainer.deterministic": False}
    del earlier["class names"]
    assert not differing_keys(earlier, of("trainer.on_nonfinite=skip"))
    assert not differing_keys({**of("norm=gn"), "norm.momentum": 0.2}, of("norm=gn"))  # which did nothing
    assert differing_keys({**of("norm=bn"), "norm.momentum": 0.2}, of("norm=bn"))


def test_every_key_is_declared_where_it_is_defined():
    assert {kind_of(key) for key in declared_kinds()} == {"experiment", "policy", "machine"}
    assert kind_of("model.pool1.kernel") == "experiment"
    assert kind_of("launch.threads") == "machine"
    assert kind_of("data") is None
    for group in ("data.", "trainer."):  # where keys differ, each is placed by a case above
        named = {o.split("=")[0] for o in MACHINE + EXPERIMENT + POLICY if o.startswith(group)}
        declared = {key for key in declared_kinds() if key.startswith(group)}
        assert declared - named <= {
            *("data.long_side",),  # of detectors: tests/detection/test_detector_config.py
            *("data.name", "data.format", "data.val", "data.short_side", "data.augment", "data.mean", "data.std"),
            "data.synthetic",
        }


def test_a_key_that_is_not_declared_is_an_error():
    @dataclasses.dataclass
    class Group:
        placed: Annotated[int, "policy"]
        forgotten: int

    with pytest.raises(TypeError, match=r"group\.forgotten: declare it in schema\.py as Experiment, Policy or Machine"):
        declared_kinds(Group, "group.")


def test_keys_that_a_later_version_has_added_leave_the_identity_of_earlier_runs_as_it_was():
    assert not {"data.fps", "data.sampling", "data.balance", "data.flip_pairs"} & of().keys()
    assert of("data.fps=12.5")["data.fps"] == 12.5
