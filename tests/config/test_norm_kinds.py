"""One table of norm kinds, and what is derived from it."""

from typing import get_args

import pytest
import torch
import yaml

from vidgn.config.compose import config_dir, load_config
from vidgn.config.norm_kinds import NORM_KINDS, NormKind
from vidgn.geometry import group_clips
from vidgn.models.norms.layers import BatchNorm, ClipNorm, FrozenBatchNorm, make_norm


def test_table_schema_and_files_have_the_same_kinds():
    files = {path.stem for path in (config_dir() / "norm").glob("*.yaml")}
    assert set(NORM_KINDS) == set(get_args(NormKind)) == files


@pytest.mark.parametrize("kind", NORM_KINDS)
def test_a_file_has_the_keys_of_its_kind(kind):
    assert tuple(yaml.safe_load((config_dir() / f"norm/{kind}.yaml").read_text())) == NORM_KINDS[kind].keys


@pytest.mark.parametrize(
    ("kind", "group", "layer", "groups"),
    [
        ("bn", 4, BatchNorm, None),
        ("sync_bn", 8, BatchNorm, None),
        ("frozen_bn", 1, FrozenBatchNorm, None),
        ("gn", 1, ClipNorm, 32),
        ("ln", 1, ClipNorm, 1),
        ("in", 1, ClipNorm, 64),
    ],
)
def test_what_follows_from_a_kind(kind, group, layer, groups):
    config = load_config([f"norm={kind}", "gpus=2", "clips_per_gpu=4", "weights=file"])
    made = make_norm(config.norm, default_groups=32)(num_features=64)
    assert group_clips(config) == group
    assert type(made) is layer
    assert getattr(made, "groups", None) == groups
    assert made(torch.randn(4, 64, 2, 3, 3)).shape == (4, 64, 2, 3, 3)
