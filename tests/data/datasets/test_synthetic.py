"""The motion set: seeded, cached, safe to ask for twice at once; motion tells its classes and single frames do not."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vidgn.config.schema import DataConfig, SyntheticConfig
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.datasets.synthetic import MOTIONS, ensure_synthetic, folder_name, render_video
from vidgn.data.decode import open_video
from vidgn.data.decode.base import Box, ResolvedClip
from vidgn.errors import ConfigError, ManifestError

SET = SyntheticConfig(
    num_train=40, num_val=40, num_classes=8, num_frames=8, size=64, speed=1, distractors=2, noise=16, seed=0
)


def target(frame_HWC: np.ndarray) -> np.ndarray:
    """(H, W) weights of the target: what is warmer than the background ever is."""
    red, _, blue = np.moveaxis(frame_HWC.astype(float), -1, 0)
    smooth = sum(np.roll(red - blue, shift, axis) for axis in (0, 1) for shift in (-1, 0, 1)) / 6
    return np.clip(smooth - 100, 0, 60)


def place(weights_HW: np.ndarray) -> complex:
    """Centre of mass on the torus, as x + iy in pixels."""
    angle = np.exp(2j * np.pi * np.arange(64) / 64)
    x, y = np.angle(weights_HW.sum(0) @ angle), np.angle(weights_HW.sum(1) @ angle)
    return complex(x, y) * 64 / (2 * np.pi)


def wrapped(d: complex) -> complex:
    return complex((d.real + 32) % 64 - 32, (d.imag + 32) % 64 - 32)


@pytest.fixture(scope="module")
def videos() -> tuple[np.ndarray, np.ndarray]:
    """Videos (N, T, H, W, 3) and labels of the eight directions, without distractors."""
    plain = replace(SET, distractors=0)
    labels_N = np.tile(np.arange(8), 40)
    return np.stack([render_video(plain, 0, int(label), item) for item, label in enumerate(labels_N)]), labels_N


def test_two_frames_tell_the_class(videos):
    found = []
    for video_THWC in videos[0]:
        moved = wrapped(place(target(video_THWC[7])) - place(target(video_THWC[0])))
        found.append(max(range(8), key=lambda k: MOTIONS[k].right * moved.real + MOTIONS[k].down * moved.imag))
    assert np.mean(np.array(found) == videos[1]) > 0.85


def test_one_frame_does_not(videos):
    features = []
    for video_THWC in videos[0]:
        weights_HW = target(video_THWC[3])
        x, y = np.meshgrid(*[np.exp(2j * np.pi * np.arange(64) / 64)] * 2)
        mass = weights_HW.sum() + 1e-9
        moments = [(weights_HW * f).sum() / mass for f in (x, y, x * y, x / y, x**2, y**2)]
        features.append([1, mass / 1e4, *np.real(moments), *np.imag(moments)])
    features_NF, labels_N = np.array(features), videos[1]
    half = len(labels_N) // 2
    weights_FK, *_ = np.linalg.lstsq(features_NF[:half], np.eye(8)[labels_N[:half]], rcond=None)
    right = np.mean((features_NF[half:] @ weights_FK).argmax(1) == labels_N[half:])
    assert right < 0.125 + 3 * (0.125 * 0.875 / half) ** 0.5


def test_speed_is_how_far_all_goes_between_two_frames():
    """At twice the speed the picture at frame 2i is that of frame 4i, but for its noise."""
    slow, fast = (
        render_video(replace(SET, num_frames=n, speed=s, distractors=0, noise=0), 0, 3, 1) for n, s in ((9, 1), (5, 2))
    )
    np.testing.assert_array_equal(slow[::2], fast)


def test_turning_and_growing_are_told_by_time_alone():
    twelve = replace(SET, num_classes=12, distractors=0, noise=0, num_frames=24)
    for label, sign in ((10, 1), (11, -1)):
        masses = [target(f).sum() for f in render_video(twelve, 0, label, 3)]
        steps = np.diff(masses)
        assert np.median(np.sign(steps)) == sign
        assert np.abs(steps).max() > 3 * np.median(np.abs(steps))  # wraps around: the size at any one time is any
    still = [place(target(f)) for f in render_video(twelve, 0, 8, 3)]
    assert max(abs(wrapped(p - still[0])) for p in still) < 1.5


def test_a_video_is_a_function_of_seed_split_label_and_item():
    one = render_video(SET, 0, 2, 5)
    assert one.shape == (8, 64, 64, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, render_video(replace(SET, num_train=999), 0, 2, 5))
    for other in (
        render_video(SET, 1, 2, 5),
        render_video(SET, 0, 3, 5),
        render_video(SET, 0, 2, 6),
        render_video(replace(SET, seed=1), 0, 2, 5),
    ):
        assert not np.array_equal(one, other)


def test_the_files_hold_the_pictures_in_kinetics_layout(tiny_data):
    manifest = read_manifest(tiny_data, "train")
    assert (len(manifest), len(read_manifest(tiny_data, "val"))) == (24, 9)
    assert manifest.classes == ("moving left", "moving right", "moving up")
    kinetics = ensure_synthetic(tiny_data)
    assert (kinetics.format, kinetics.crop) == ("kinetics", tiny_data.crop)
    assert kinetics.train is not None
    with open(kinetics.train, newline="") as file:
        assert next(csv.reader(file)) == ["label", "youtube_id", "time_start", "time_end", "split", "is_cc"]
    assert manifest[4].path.endswith("/train/moving left/train_01_00001_000000_000001.mp4")
    assert tiny_data.synthetic is not None
    drawn_THWC = render_video(tiny_data.synthetic, 0, 1, 1).astype(float)
    with open_video(manifest[4].path) as reader:
        assert (reader.num_frames, reader.height, reader.width) == (12, 32, 32)
        (read_THWC,) = reader.read([ResolvedClip(tuple(range(12)), Box(0, 0, 32, 32), 32, 32, False)])
    assert np.abs(read_THWC - drawn_THWC).mean() < 12  # lossy, chroma at half the size, and noise


def test_the_files_are_a_function_of_the_settings(tiny_data, tmp_path):
    """x264 is not one of its input by itself: see decode/write.py."""
    sets = []
    for name in ("one", "two"):
        written = ensure_synthetic(replace(tiny_data, root=str(tmp_path / name), synthetic=replace(SET, num_frames=24)))
        assert written.root is not None
        sets.append({p.name: p.read_bytes() for p in Path(written.root).rglob("*.mp4")})
    assert len(sets[0]) == 80
    assert sets[0] == sets[1]


def test_the_folder_names_every_setting(tiny_data):
    assert tiny_data.synthetic is not None
    names = {folder_name(tiny_data.synthetic)}
    for field, value in vars(tiny_data.synthetic).items():
        names.add(folder_name(replace(tiny_data.synthetic, **{field: value + 2})))
    assert len(names) == 1 + len(vars(tiny_data.synthetic))


def test_a_set_that_is_there_is_left_alone(tiny_data):
    folder = ensure_synthetic(tiny_data).root
    assert folder is not None
    before = os.stat(folder).st_mtime_ns
    assert ensure_synthetic(tiny_data).root == folder
    assert os.stat(folder).st_mtime_ns == before


def test_two_processes_at_once_write_it_once(tiny_data, tmp_path):
    data: DataConfig = replace(tiny_data, root=str(tmp_path / "new" / "root"))
    code = (
        "from vidgn.config.schema import *; from vidgn.data.datasets.synthetic import ensure_synthetic; "
        f"print(ensure_synthetic({data!r}).root)"
    )
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert results[0][0] == results[1][0]
    assert sum("writing 33 synthetic videos" in errors for _, errors in results) == 1
    assert len(read_manifest(data, "train")) == 24
    left = [name for name in os.listdir(tmp_path / "new" / "root") if not name.endswith(".lock")]
    assert left == [folder_name(data.synthetic)] if data.synthetic else False


def test_an_interrupted_writer_leaves_nothing_that_counts(tiny_data, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    data = replace(tiny_data, root=str(tmp_path))
    monkeypatch.setattr("vidgn.data.datasets.synthetic.write_video", fail)
    with pytest.raises(KeyboardInterrupt):
        ensure_synthetic(data)
    assert [name for name in os.listdir(tmp_path) if not name.endswith(".lock")] == []
    monkeypatch.undo()
    assert len(read_manifest(data, "val")) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 13}, "num_classes=13: there are 12 motions; use 2 to 12"),
        ({"size": 33}, "size=33: H.264 wants an even size"),
        ({"num_val": 1}, "num_val=1: each of 3 classes needs one"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"noise": -1.0}, "noise=-1"),
    ],
)
def test_settings_no_set_can_be_made_of(tiny_data, change, message):
    with pytest.raises(ConfigError, match=message):
        ensure_synthetic(replace(tiny_data, synthetic=replace(tiny_data.synthetic, **change)))


def test_a_root_that_cant_be_written(tiny_data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError, match="give a folder that can be written"):
        ensure_synthetic(replace(tiny_data, root=str(tmp_path / "file")))
