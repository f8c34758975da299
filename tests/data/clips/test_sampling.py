"""From a plan to frames: every sampler on every kind of video, against a decode of all and sums done by hand."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.encoded_videos import FPS, KINDS, NUM_FRAMES, encode, picture
from vidgn.config.schema import DataConfig, ViewsConfig
from vidgn.data.clips.plan import balanced_row_at, plan_for, resolve_clip
from vidgn.data.clips.read import ClipGeometry, ReadTask, clips_in, read_into
from vidgn.data.datasets.manifest import Manifest, Row, read_manifest
from vidgn.data.decode import open_frames, open_video
from vidgn.data.decode.base import Box, ResolvedClip, resize
from vidgn.data.loading.batches import train_batches, view_videos
from vidgn.errors import ConfigError, DecodeError

X264 = {"preset": "veryfast"}
HELD = (0, 1, 2, 5, 6, 7, 20, 21, 22, 23, 24, 25, 26, 27, 60, 61, 62, 63)  # when frames are shown, in 1/25 s


def frames_folder(folder: Path) -> Path:
    (folder / "frames").mkdir()
    for number in range(NUM_FRAMES):
        Image.fromarray(picture(number)).save(folder / "frames" / f"{number}.png")
    return folder / "frames"


VIDEOS = {
    "h264": lambda folder: KINDS["h264_open"](folder),
    "vfr": lambda folder: encode(
        folder / "vfr.mp4", "libx264", options=X264, pts_of=lambda n: HELD[n], num_frames=len(HELD)
    ),
    "no times": lambda folder: KINDS["h264_avi"](folder),
    "frames": frames_folder,
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, list[np.ndarray]]]:
    """Path, and all frames as one sequential reading gives them."""
    found = {}
    for name, make in VIDEOS.items():
        path = str(make(tmp_path_factory.mktemp("sampled")))
        with (open_frames if name == "frames" else open_video)(path) as reader:
            box = Box(0, 0, reader.height, reader.width)
            every = ResolvedClip(tuple(range(reader.num_frames)), box, reader.height, reader.width, flip=False)
            found[name] = (path, list(reader.read([every])[0]))
    return found


def ticks(name: str, fps: float | None, num_frames: int) -> list[int]:
    """Frame numbers at a rate, by the definition: the last frame whose time is not after the tick's."""
    if fps is None:
        return list(range(num_frames))
    times = [Fraction(time, FPS) for time in (HELD if name == "vfr" else range(num_frames))]
    count = floor((times[-1] - times[0]) * Fraction(fps)) + 1
    return [max(i for i, t in enumerate(times) if t <= times[0] + tick / Fraction(fps)) for tick in range(count)]


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(["h264", "vfr", "no times", "frames"]),
    sampling=st.sampled_from(["clip", "segments"]),
    fps=st.sampled_from([None, 5.0, 12.5, 50.0]),
    position=st.integers(0, 10**6),
    frames=st.integers(1, 9),
    stride=st.integers(1, 12),
)
def test_a_training_clip_is_what_its_plan_says(
    videos, tiny_data, name, sampling, fps, position, frames, stride
) -> None:
    path, all_frames = videos[name]
    fps = None if name == "frames" else fps
    data = replace(tiny_data, sampling=sampling, fps=fps)
    plan = plan_for(data, 3, position, frames=frames)
    numbers = ticks(name, fps, len(all_frames))
    if sampling == "segments":
        wanted = [numbers[floor((i + o) * len(numbers) / frames)] for i, o in enumerate(plan.offsets)]
    else:
        start = floor(plan.start * (max(len(numbers) - frames * stride, 0) + 1))
        wanted = [numbers[(start + i * stride) % len(numbers)] for i in range(frames)]
    box = resolve_clip(
        plan, num_frames=9, height=64, width=96, frames=1, stride=1, short_side=data.short_side, crop=data.crop
    ).box
    cut_THWC = np.stack([all_frames[n][box.top :, box.left :][: box.height, : box.width] for n in wanted])
    right_THWC = resize(np.ascontiguousarray(cut_THWC), data.crop, data.crop)
    np.testing.assert_array_equal(
        clip_of(data, path, plan, frames, stride), right_THWC[:, :, ::-1] if plan.flip else right_THWC
    )


def clip_of(data, path, plan, frames, stride):
    task = ReadTask(0, Row("x", path, 0, None), (plan,), ClipGeometry.of(data, frames=frames, stride=stride))
    buffer = bytearray(task.num_bytes)
    read_into(task, memoryview(buffer))
    return clips_in(memoryview(buffer), task)[0]


@pytest.mark.parametrize("clips", [1, 2])
def test_a_test_clip_of_segments_has_the_frame_at_the_same_place_of_each_part(videos, tiny_data, clips: int) -> None:
    path, all_frames = videos["h264"]
    data = replace(tiny_data, sampling="segments", crop=56)
    views = ViewsConfig("center", clips=clips, crops=1, crop="training", plan="uniform")
    task = ReadTask(0, Row("x", path, 0, None), (), ClipGeometry.of(data, frames=4, stride=1, views=views))
    buffer = bytearray(task.num_bytes)
    read_into(task, memoryview(buffer))
    wanted = {1: [[5, 15, 25, 35]], 2: [[2, 12, 22, 32], [7, 17, 27, 37]]}[clips]
    for clip_THWC, numbers in zip(clips_in(memoryview(buffer), task), wanted, strict=True):
        middle = slice(4, 60), slice(20, 76)  # 56 of 64 pixels: the short side at test is 64
        np.testing.assert_array_equal(clip_THWC, np.stack([all_frames[n][middle] for n in numbers]))


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(["h264", "vfr", "no times"]),
    fps=st.sampled_from([None, 10.0]),
    position=st.integers(0, 10**6),
    ends=st.tuples(st.integers(0, 30), st.integers(1, 40)),
    unit=st.sampled_from(["seconds", "frames"]),
)
def test_a_clip_never_leaves_its_segment(videos, tiny_data, name, fps, position, ends, unit):
    """Times of segments are those of frames, so that it shows on which side of an end a frame lies."""
    path, all_frames = videos[name]
    times = [Fraction(time, FPS) for time in (HELD if name == "vfr" else range(len(all_frames)))]
    start, end = Fraction(ends[0], FPS), Fraction(ends[0] + ends[1], FPS)
    inside = [number for number, time in enumerate(times) if start <= time - times[0] < end]
    segment, message = (float(start), float(end)), r"has no frame between .* s; mend start and end of its row"
    if unit == "frames":
        segment, message = (float(ends[0]), float(sum(ends))), "and a segment ends at .*; mend end_frame of its row"
        inside = list(range(ends[0], sum(ends))) if sum(ends) <= len(all_frames) else []
    data = replace(tiny_data, fps=fps, crop=28, short_side=(28, 28))
    plan = plan_for(data, 3, position, frames=3)
    row = Row("x", path, 0, None, None, segment, unit)
    task = ReadTask(0, row, (plan,), ClipGeometry.of(data, frames=3, stride=2))
    buffer = bytearray(task.num_bytes)
    if not inside:
        with pytest.raises(DecodeError, match=message):
            read_into(task, memoryview(buffer))
        return
    read_into(task, memoryview(buffer))
    numbers = inside
    if fps is not None:
        count = floor((times[inside[-1]] - times[inside[0]]) * Fraction(fps)) + 1
        due = [times[inside[0]] + tick / Fraction(fps) for tick in range(count)]
        numbers = [max(number for number in inside if times[number] <= time) for time in due]
    begin = floor(plan.start * (max(len(numbers) - 6, 0) + 1))
    wanted = [numbers[(begin + 2 * i) % len(numbers)] for i in range(3)]
    box = resolve_clip(plan, num_frames=9, height=64, width=96, frames=1, stride=1, short_side=(28, 28), crop=28).box
    cut_THWC = np.stack([all_frames[n][box.top :, box.left :][: box.height, : box.width] for n in wanted])
    right_THWC = resize(np.ascontiguousarray(cut_THWC), 28, 28)
    np.testing.assert_array_equal(
        clips_in(memoryview(buffer), task)[0], right_THWC[:, :, ::-1] if plan.flip else right_THWC
    )


def test_a_rate_needs_times(videos, tiny_data) -> None:
    data = replace(tiny_data, fps=5.0)
    with pytest.raises(DecodeError, match=r"has no times of its frames, by which data\.fps or a segment takes"):
        clip_of(data, videos["frames"][0], plan_for(data, 0, 0, frames=2), 2, 1)


# -- order and labels ------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 3))
def test_balanced_classes_come_equally_often_and_so_do_the_videos_of_each(sizes: list[int], seed: int) -> None:
    ends = np.cumsum(sizes)
    rows_of_class = [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    times = 2 * 420  # every size divides it
    drawn = [balanced_row_at(seed, p, rows_of_class) for p in range(times * len(sizes))]
    counts = Counter(drawn)
    for rows, size in zip(rows_of_class, sizes, strict=True):
        assert [counts[row] for row in rows] == [times // size] * size
    for first in range(0, len(drawn), len(sizes)):
        classes = np.searchsorted(ends, drawn[first : first + len(sizes)], side="right")
        assert sorted(classes) == list(range(len(sizes)))
    place = len(drawn) // 2
    assert drawn[place] == balanced_row_at(seed, place, rows_of_class)  # a function of the position alone


@pytest.fixture
def uneven(tiny_data: DataConfig, tmp_path: Path) -> tuple[Manifest, DataConfig]:
    """Six videos, of which two go left, one right and three nowhere."""
    base = read_manifest(tiny_data, "train")
    labels = ["left", "left", "right", "none", "none", "none"]
    rows = "".join(f"{base[i].path},{label}\n" for i, label in enumerate(labels))
    (tmp_path / "t.csv").write_text(f"path,label\n{rows}")
    data = replace(tiny_data, format="csv", root=None, synthetic=None, train=str(tmp_path / "t.csv"), val=None)
    return read_manifest(data, "train"), data


def test_the_loader_draws_balanced_classes(uneven) -> None:
    manifest, data = uneven
    with train_batches(
        manifest, replace(data, balance="class"), positions=[range(12)], seed=0, frames=2, stride=1
    ) as stream:
        (batch,) = stream
    assert Counter(batch.label_N.tolist()) == {0: 4, 1: 4, 2: 4}
    assert Counter(batch.ids)[manifest[2].id] == 4


def test_a_mirror_exchanges_the_classes_of_a_pair(uneven) -> None:
    manifest, data = uneven
    data = replace(data, flip=True, flip_pairs=(("left", "right"),))
    assert manifest.classes == ("left", "none", "right")
    with train_batches(manifest, data, positions=[range(48)], seed=0, frames=2, stride=1) as stream:
        (batch,) = stream
    own = {manifest[i].id: manifest[i].label for i in range(6)}
    flipped = [plan_for(data, 0, p, frames=2).flip for p in range(48)]
    assert {(id, flip) for id, flip in zip(batch.ids, flipped, strict=True)} == {
        (id, flip) for id in own for flip in (False, True)
    }
    right = [
        {0: 2, 2: 0}.get(own[id], own[id]) if flip else own[id] for id, flip in zip(batch.ids, flipped, strict=True)
    ]
    assert batch.label_N.tolist() == right
    curve = ViewsConfig("curve", clips=1, crops=1, crop="training", plan="training")
    with view_videos(manifest, data, curve, seed=0, frames=2, stride=1, rows=range(6)) as stream:
        shown = {video.label for video in stream if own[video.id] == 0}
    assert shown <= {0, 2}


def test_a_pair_of_names_that_are_no_classes_is_refused(uneven) -> None:
    manifest, data = uneven
    data = replace(data, flip_pairs=(("left", "rihgt"),))
    with pytest.raises(ConfigError, match=r"data.flip_pairs: 'rihgt' is not one of the 3 classes \(left, none, right"):
        train_batches(manifest, data, positions=[[0]], seed=0, frames=2, stride=1)
