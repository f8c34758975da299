"""Plans: bounds, order and independence for all inputs; numbers of the paper's views worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgn.data.clips.plan import (
    Box,
    ClipPlan,
    plan_clip,
    plan_digest,
    resolve_clip,
    resolve_views,
    row_at,
    substitute_row,
    video_position,
)
from vidgn.rng_streams import Tag

SIZES = st.integers(1, 700)


@given(
    seed=st.integers(0, 2**40),
    position=st.integers(0, 2**45),
    num_frames=st.integers(1, 400),
    height=SIZES,
    width=SIZES,
    frames=st.integers(1, 64),
    stride=st.integers(1, 8),
    low=st.integers(16, 300),
    spread=st.integers(0, 64),
    augment=st.sampled_from(["video", "image"]),
)
def test_a_training_clip_stays_inside_its_video(
    seed, position, num_frames, height, width, frames, stride, low, spread, augment
):
    plan = plan_clip(seed, position, flip=True, augment=augment)
    crop = max(1, low * 7 // 8)
    clip = resolve_clip(
        plan,
        num_frames=num_frames,
        height=height,
        width=width,
        frames=frames,
        stride=stride,
        short_side=(low, low + spread),
        crop=crop,
    )
    assert len(clip.frame_indices) == frames
    assert all(0 <= i < num_frames for i in clip.frame_indices)
    start = clip.frame_indices[0]
    assert clip.frame_indices == tuple((start + k * stride) % num_frames for k in range(frames))
    if num_frames >= frames * stride:
        assert list(clip.frame_indices) == sorted(clip.frame_indices)  # long enough: never wraps
    else:
        assert start == 0
    box = clip.box
    assert box.height >= 1
    assert box.width >= 1
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width
    assert (clip.height, clip.width) == (crop, crop)
    if augment == "video":
        short = min(height, width)
        assert box.height == box.width
        assert abs(box.height - crop * short / low) <= 0.5 or box.height < crop * short / low


@given(st.integers(1, 300), st.integers(0, 5), st.integers(0, 2**30))
def test_an_epoch_shows_every_row_once(num_rows, epoch, seed):
    rows = [row_at(seed, epoch * num_rows + item, num_rows) for item in range(num_rows)]
    assert sorted(rows) == list(range(num_rows))


def test_the_order_is_that_of_the_epochs_stream_and_epochs_differ():
    first = [row_at(3, p, 50) for p in range(50)]
    second = [row_at(3, p, 50) for p in range(50, 100)]
    assert first != second
    assert [row_at(3, p, 50) for p in reversed(range(50))] == first[::-1]  # a pure function of the position
    assert [row_at(3, p, 50, tag=Tag.BN_STATS_ORDER) for p in range(50)] != first
    assert [row_at(4, p, 50) for p in range(50)] != first


def test_plans_are_uniform_and_independent_of_each_other():
    plans = [plan_clip(0, p, flip=True) for p in range(4000)]
    for name in ("start", "scale", "top", "left"):
        values = np.array([getattr(plan, name) for plan in plans])
        assert abs(values.mean() - 0.5) < 4 * math.sqrt(1 / 12 / len(plans))
        assert np.histogram(values, 10, (0, 1))[0].min() > 330
    assert abs(np.mean([plan.flip for plan in plans]) - 0.5) < 4 * 0.5 / math.sqrt(len(plans))
    assert not any(plan_clip(0, p, flip=False).flip for p in range(100))
    assert plan_clip(0, 7, flip=True) == plan_clip(0, 7, flip=True)
    assert plan_clip(0, 7, flip=True) != plan_clip(0, 7, flip=True, tag=Tag.CURVE)
    assert plan_clip(0, 7, flip=False).start == plan_clip(0, 7, flip=True).start  # switching flip moves nothing else


def test_the_start_is_any_at_which_the_whole_span_fits():
    def start(fraction: float, num_frames: int) -> int:
        plan = ClipPlan(fraction, 0, 0, 0, False)
        clip = resolve_clip(
            plan, num_frames=num_frames, height=8, width=8, frames=8, stride=2, short_side=(8, 8), crop=8
        )
        return clip.frame_indices[0]

    almost_one = 1 - 2**-53
    assert (start(0, 20), start(almost_one, 20)) == (0, 4)  # 16 raw frames in 20: starts 0 to 4
    assert (start(0, 16), start(almost_one, 16)) == (0, 0)
    assert start(almost_one, 5) == 0


def test_a_training_crop_by_hand():
    plan = ClipPlan(start=0.5, scale=0.999, top=0.999, left=0.0, flip=True)
    clip = resolve_clip(
        plan, num_frames=100, height=256, width=340, frames=32, stride=2, short_side=(256, 320), crop=224
    )
    assert clip.frame_indices[:3] == (18, 20, 22)  # 37 starts, 0.5 of them
    assert clip.box == Box(77, 0, 179, 179)  # scale 320 / 256: 224 are 179.2 source pixels; 256 - 179 at the bottom
    assert clip.flip


def test_the_papers_views_by_hand(all_views):
    views = resolve_views(
        all_views["paper"],
        num_frames=250,
        height=256,
        width=340,
        frames=32,
        stride=2,
        short_side=(256, 320),
        crop=224,
    )
    assert len(views) == 30
    assert [view.frame_indices[0] for view in views[::3]] == [0, 25, 50, 75, 100, 125, 150, 175, 200, 225]
    assert views[-1].frame_indices[12:14] == (249, 1)  # wraps around
    assert [view.box for view in views[:3]] == [Box(0, 0, 256, 256), Box(0, 42, 256, 256), Box(0, 84, 256, 256)]
    assert views[0].frame_indices == views[2].frame_indices
    assert (views[0].height, views[0].width, views[0].flip) == (256, 256, False)


def test_crops_of_a_tall_video_go_down(all_views):
    size = {"num_frames": 5, "height": 90, "width": 60, "frames": 4, "stride": 3, "short_side": (56, 64), "crop": 56}
    views = resolve_views(all_views["paper"], **size)
    assert [(v.box.top, v.box.left, v.box.height) for v in views[:3]] == [(0, 0, 60), (15, 0, 60), (30, 0, 60)]
    assert views[0].height == 64  # round(56 * 256 / 224)
    assert [v.frame_indices[0] for v in views[::3]] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_centre_and_image_views_crop_the_training_size(all_views):
    size = {"num_frames": 1, "height": 300, "width": 400, "frames": 1, "stride": 1, "short_side": (256, 320)}
    (view,) = resolve_views(all_views["image"], crop=224, **size)
    assert view.box == Box(19, 69, 262, 262)  # 224 of 256 parts of 300: 262.5, and the middle
    assert (view.height, view.width) == (224, 224)
    views = resolve_views(all_views["center"], crop=224, **{**size, "num_frames": 30})
    assert [v.frame_indices for v in views] == [(3 * j,) for j in range(10)]


def test_the_curves_view_is_a_training_clip(all_views):
    plan = plan_clip(0, 5, tag=Tag.CURVE, flip=True)
    size = {"num_frames": 90, "height": 120, "width": 160, "frames": 8, "stride": 4, "short_side": (64, 80), "crop": 56}
    assert resolve_views(all_views["curve"], **size, plan=plan) == (resolve_clip(plan, **size),)


def test_a_random_resized_crop_has_the_area_and_aspect_asked_for():
    areas, aspects = [], []
    for position in range(500):
        plan = plan_clip(0, position, flip=True, augment="image")
        box = resolve_clip(
            plan, num_frames=1, height=400, width=500, frames=1, stride=1, short_side=(256, 256), crop=224
        ).box
        areas.append(box.height * box.width / (400 * 500))
        aspects.append(box.width / box.height)
    assert 0.078 < min(areas) < 0.1
    assert 0.9 < max(areas) <= 1
    assert min(aspects) >= 3 / 4 - 0.01
    assert max(aspects) <= 4 / 3 + 0.01


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), st.integers(0, 3))
def test_copies_of_a_video_never_share_a_virtual_gpu(gpus, clips_per_gpu, repeats, step):
    slots = gpus * clips_per_gpu
    if slots % repeats or repeats > gpus:
        return
    where: dict[int, list[int]] = {}
    for slot in range(slots):
        video = video_position(step * slots + slot, clips_per_video=repeats, slots_per_step=slots)
        where.setdefault(video, []).append(slot // clips_per_gpu)
    videos = slots // repeats
    assert sorted(where) == list(range(step * videos, (step + 1) * videos))
    for gpus_of_video in where.values():
        assert len(gpus_of_video) == len(set(gpus_of_video)) == repeats


def test_substitutes_are_drawn_by_position_and_attempt():
    draws = [substitute_row(0, 11, attempt, 1000) for attempt in range(20)]
    assert len(set(draws)) > 15
    assert draws == [substitute_row(0, 11, attempt, 1000) for attempt in range(20)]
    assert draws != [substitute_row(0, 12, attempt, 1000) for attempt in range(20)]


def test_the_digest_tells_position_row_and_plan_apart():
    plan = plan_clip(0, 1, flip=True)
    mirrored = ClipPlan(plan.start, plan.scale, plan.top, plan.left, not plan.flip)
    shifted = ClipPlan(math.nextafter(plan.start, 1), plan.scale, plan.top, plan.left, plan.flip)
    resized = ClipPlan(plan.start, plan.scale, plan.top, plan.left, plan.flip, ((0.1, 0.2),))
    digests = [
        plan_digest(1, "a", plan, 7),
        plan_digest(2, "a", plan, 7),
        plan_digest(1, "b", plan, 7),
        plan_digest(1, "a", plan, 8),
        *(plan_digest(1, "a", other, 7) for other in (mirrored, shifted, resized)),
    ]
    assert len(set(digests)) == len(digests)
    assert all(0 <= digest < 2**128 for digest in digests)
    assert max(digests) > 2**120


@pytest.mark.parametrize("augment", ["video", "image"])
def test_a_plan_holds_fractions_only(augment):
    plan = plan_clip(0, 0, flip=True, augment=augment)
    numbers = [plan.start, plan.scale, plan.top, plan.left, *(x for pair in plan.resized for x in pair)]
    assert all(0 <= number < 1 for number in numbers)
    assert len(plan.resized) == (10 if augment == "image" else 0)
