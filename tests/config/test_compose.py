"""Composition: every option loads, every wrong command line is one line that says what to write."""

import os
import shlex

import pytest
from hydra import initialize_config_dir
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vidgn.config import compose as compose_module
from vidgn.config.build import build, to_plain
from vidgn.config.compose import compose_all, config_dir, load_config
from vidgn.config.schema import Config
from vidgn.errors import ConfigError
from vidgn.training.tester import CURVE

GROUPS = {
    "model": [
        *("i3d_r50", "i3d_r50_8x8", "i3d_r101", "i3d_tiny", "resnet50", "resnet101", "resnet_tiny"),
        *("mask_rcnn_r50_fpn", "mask_rcnn_r101_fpn", "mask_rcnn_r50_c4", "mask_rcnn_tiny_fpn"),
    ],
    "norm": ["bn", "gn", "ln", "in", "sync_bn", "frozen_bn"],
    "data": [
        *("kinetics400", "list", "csv", "folders", "frames", "synthetic", "imagenet", "coco"),
        *("ucf101", "hmdb51", "ssv2", "jester", "diving48", "activitynet", "epic"),
    ],
    "views": ["paper", "center", "curve", "image", "coco"],
}


@pytest.mark.parametrize("option", [f"{g}={o}" for g, options in GROUPS.items() for o in options])
def test_every_option_composes_and_says_its_name(option):
    group, name = option.split("=")
    images = ["frames=1", "span=1"] if name in ("imagenet", "image", "coco") or "rcnn" in name else []
    detection = ["model=mask_rcnn_tiny_fpn", "data=coco", "views=coco"] if name == "coco" or "rcnn" in name else []
    config = load_config([*detection, option, "weights=w.pt", *images])
    node = getattr(config, group)
    assert (node.kind if group == "norm" else node.name) == name
    assert build(Config, to_plain(config)) == config  # what config.yaml holds reads back


def test_groups_hold_these_options_and_no_others():
    for group, options in GROUPS.items():
        assert sorted(p.stem for p in (config_dir() / group).glob("*.yaml")) == sorted(options)


def test_the_paper_is_the_default():
    config = load_config()
    assert (config.frames, config.stride, config.clips_per_gpu, config.gpus) == (32, 2, 8, 8)
    assert config.optim.lr_per_clip * config.slots_per_step == pytest.approx(0.01)
    assert config.trainer.epochs * 234643 / 64 == pytest.approx(400_000, rel=0.002)
    assert load_config(["frames=64"]).stride == 1
    assert str(config.run_dir) == "runs/study/i3d_r50_32f_8x8_gn_s0"
    assert load_config(["tag=lr${optim.lr_per_clip}", "norm=bn"]).run_dir.name.endswith("8x8_bn_lr0.00015625_s0")


@pytest.mark.parametrize("views", ["paper", "center", "curve", "image"])
def test_every_view_composes_for_a_run_of_images(views):
    assert load_config([f"views={views}", "frames=1", "span=1"]).views.name == views


def test_curve_of_training_is_the_view_of_that_name():
    assert load_config(["views=curve"]).views == CURVE


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.epoch=3"], "unknown key 'trainer.epoch': did you mean 'trainer.epochs'?"),
        (["epochs=3"], "did you mean 'trainer.epochs'?"),
        (["norm=gm"], "norm=gm: no such option. did you mean norm=gn? Known are bn, frozen_bn, gn, in, ln, sync_bn"),
        (["frames=abc"], "frames must be a whole number, not 'abc'"),
        (
            ["frames=24"],
            "frames=24 does not divide span=64 (the raw frames a clip covers): write frames=16 or frames=32",
        ),
        (["frames=0"], "frames=0: must be at least 1"),
        (["frames"], "can't read 'frames': write KEY=VALUE"),
        (["trainer.precision=fp16"], "trainer.precision must be one of fp32, tf32, bf16, fp64, not 'fp16'"),
        (["norm.groups=4", "norm.channels_per_group=4"], "give one of them"),
        (["norm=bn", "norm.groups=4"], "norm.groups is for norm=gn alone: leave it out, or write norm=gn"),
        (["norm.momentum=0.2"], "norm.momentum is for norm=bn and norm=sync_bn alone: leave it out, or write norm=bn"),
        (["norm=bn", "+norm.groups=4"], "norm.groups=4 is for norm=gn, not norm=bn: leave it out, or write norm=gn"),
        (["norm=gn", "+norm.momentum=0.2"], "norm.momentum=0.2 is for norm=bn, not norm=gn: leave it out"),
        (["norm=frozen_bn"], "write weights=FILE"),
        (["data.crop=300"], "write data.crop=256 or data.short_side=[300,320]"),
        (["data.short_side=[320,256]"], "write data.short_side=[256,320]"),
        (["views=image"], "frames=1 span=1"),
        (["views.clips=0"], "views.clips=0: views=paper has clips=10, leave it out"),
        (["views=curve", "views.crops=3"], "views.crops=3: views=curve has crops=1, leave it out"),
        (["model=i3d_tiny", "model.temporal_kernels=[[3],[2],[3],[3]]"], "has 2: a block adds its input to its output"),
        (["trainer.log_every=5"], "unknown key 'trainer.log_every'"),
        (["optim.milestones=[0.75,0.5]"], "fractions of training, rising"),
        (["data.clips_per_video=3"], "must divide gpus * clips_per_gpu = 64"),
        (["study=a/b"], "a folder name"),
        (["frames=32,64"], "Ambiguous value"),
        (["seed=-1"], "seed=-1: must be 0 or more"),
        (["weights=${nothing}"], "Interpolation key 'nothing' not found"),
    ],
)
def test_each_mistake_is_one_line(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cells_of_a_sweep():
    found = compose_all(["frames=32,64", "norm=bn,gn", "seed=3"], multirun=True)
    assert [(c.frames, c.norm.kind, c.seed) for c in found.configs] == [
        (32, "bn", 3),
        (32, "gn", 3),
        (64, "bn", 3),
        (64, "gn", 3),
    ]
    assert found.is_sweep


def test_a_ready_made_sweep_sweeps_without_m_and_gives_way_to_the_command_line():
    found = compose_all(["sweep=demo", "norm=gn"], multirun=False)
    assert len(found.cells) == 4
    assert found.launcher == "joblib"
    assert {c.norm.kind for c in found.configs} == {"gn"}
    assert {c.model.name for c in found.configs} == {"i3d_tiny"}
    assert len(compose_all(["sweep=paper"], multirun=False).cells) == 8
    image = compose_all(["sweep=imagenet_batch"], multirun=False)
    assert len(image.cells) == 20
    first = image.configs[0]
    assert first.optim.lr_per_clip * 8 * 32 == pytest.approx(0.1)
    assert (first.optim.milestones, first.optim.weight_decay, first.optim.norm_weight_decay) == (
        (0.3, 0.6, 0.9),
        1e-4,
        1e-4,
    )


@pytest.mark.parametrize(
    ("overrides", "multirun", "message"),
    [
        (["frames=32,64"], False, "add -m, as in vidgn train -m frames=32,64"),
        (["frames=32,24"], True, "(in the cell frames=24)"),
        (["trainer.epochs=1,2"], True, "would share the directory"),
    ],
)
def test_a_wrong_sweep_is_refused_before_its_first_cell(overrides, multirun, message):
    with pytest.raises(ConfigError) as caught:
        compose_all(overrides, multirun=multirun)
    assert message in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), min_size=1))
@example("/a=b/c#d(e)'f\"g\\")
@example('/视频/\\"')
def test_an_override_that_cannot_be_read_is_told_how_to_write(value):
    """What the line says, given to a shell as it stands, is the value that was meant."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        try:
            compose_module._parse([f"data.root={value}"])
        except ConfigError as error:
            _, _, written = str(error).partition("once for the shell: ")
            (override,) = shlex.split(written)
            (parsed,) = compose_module._parse([override])
            assert parsed.value() == os.path.expanduser(value)


@pytest.mark.parametrize("override", ["sweep=null", "norm=null"])
def test_a_group_without_an_option_is_left_out(override):
    with pytest.raises(ConfigError, match=f"{override}: leave {override.partition('=')[0]} out, or give one"):
        load_config([override])
