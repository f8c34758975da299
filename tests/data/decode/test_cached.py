"""Kept frames are the bytes that decoding gives, are whole whoever was killed, and are never another video's."""

import errno
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.decode.test_wrong_words import without_ctts
from tests.data.encoded_videos import KINDS, NUM_FRAMES, encode, write_damaged
from vidgn.config.schema import DataConfig
from vidgn.data.clips.read import ClipGeometry
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.decode import cached, open_cached, open_video
from vidgn.data.decode.base import Box, ResolvedClip, VideoReader
from vidgn.data.decode.cached import CachedReader
from vidgn.data.loading.batches import train_batches

ROOM = 10**8


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "_counted", {})
    monkeypatch.setattr(cached, "_not_kept", set())


def opened(path: Path, folder: Path, *, limit_bytes: int = ROOM, timeout_seconds: float | None = None) -> VideoReader:
    return open_cached(path, timeout_seconds=timeout_seconds, folder=str(folder), limit_bytes=limit_bytes)


def clips(reader: VideoReader) -> list[ResolvedClip]:
    high, wide = reader.height, reader.width
    cut = ResolvedClip((7, 0, reader.num_frames - 1, 7), Box(3, 5, high - 9, wide - 11), 30, 40, flip=True)
    return [cut, ResolvedClip((4, 5), Box(0, 0, high, wide), high, wide, flip=False)]


@pytest.mark.parametrize("kind", ["h264_open", "h264_rotated", "h264_variable_rate", "mpeg4_avi", "h264_odd_size"])
def test_kept_frames_are_those_of_the_decoder(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path)
    with open_video(path) as reader:
        right = (reader.decoder, reader.num_frames, reader.shown_seconds(), reader.nominal_fps)
        right_THWC = reader.read(clips(reader))
    for _ in range(2):  # the one that keeps them, and one that finds them
        with opened(path, tmp_path / "kept") as reader:
            assert isinstance(reader, CachedReader)
            assert (reader.decoder, reader.num_frames, reader.shown_seconds(), reader.nominal_fps) == right
            for read_THWC, expected_THWC in zip(reader.read(clips(reader)), right_THWC, strict=True):
                np.testing.assert_array_equal(read_THWC, expected_THWC)


def test_another_file_of_the_same_name_is_another_video(tmp_path: Path) -> None:
    path = KINDS["h264_closed"](tmp_path)
    opened(path, tmp_path / "kept").close()
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    before = set((tmp_path / "kept").rglob("*.npy"))
    opened(path, tmp_path / "kept").close()
    assert len(set((tmp_path / "kept").rglob("*.npy")) - before) == 1


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path) -> None:
    paths = [KINDS[kind](tmp_path) for kind in ("h264_closed", "mpeg4", "mjpeg")]
    one = NUM_FRAMES * 64 * 96 * 3
    readers = [opened(path, tmp_path / "kept", limit_bytes=2 * one + 10_000) for path in paths]
    assert [isinstance(reader, CachedReader) for reader in readers] == [True, True, False]
    for reader in readers:
        reader.read(clips(reader))
        reader.close()


def test_a_damaged_video_is_not_kept_and_reads_as_before(tmp_path: Path) -> None:
    path = write_damaged("torn.mp4", tmp_path)
    with opened(path, tmp_path / "kept") as reader:
        assert not isinstance(reader, CachedReader)
        reader.read([ResolvedClip((0, 3), Box(0, 0, 64, 96), 64, 96, flip=False)])
    assert not [file for file in (tmp_path / "kept").rglob("*") if file.is_file()]


def test_a_video_that_takes_too_long_to_keep_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, given = KINDS["h264_closed"](tmp_path), []

    def too_long(self: VideoReader, out_THWC: np.ndarray) -> None:
        given.append(getattr(self, "_timeout_seconds", None))
        raise self.error("took longer than 5 s")

    monkeypatch.setattr(VideoReader, "read_all", too_long)
    for _ in range(2):
        with opened(path, tmp_path / "kept", timeout_seconds=20.0) as reader:
            assert getattr(reader, "_timeout_seconds", None) == 20.0
            reader.read(clips(reader))
    assert given == [5.0]


def test_a_disk_that_is_full_costs_speed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is taken before the file is mapped: writing to a map for which there is none kills the process."""
    path = KINDS["h264_closed"](tmp_path)

    def full(descriptor: int, start: int, size: int) -> None:
        assert size > NUM_FRAMES * 64 * 96 * 3
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with opened(path, tmp_path / "kept") as reader:
        assert not isinstance(reader, CachedReader)
        reader.read(clips(reader))
    assert not [file for file in (tmp_path / "kept").rglob("*") if file.is_file()]


def test_kept_times_are_those_that_a_file_is_opened_with(tmp_path: Path) -> None:
    """Also where reading shows that they are not those of the pictures: the same clip comes out of both."""
    path = without_ctts(encode(tmp_path / "c.mp4", "libx264", options={"preset": "veryfast", "bf": "2"}))
    with open_video(path) as reader:
        seconds = reader.shown_seconds()
    assert len(seconds) == NUM_FRAMES
    with opened(path, tmp_path / "kept") as reader:
        assert isinstance(reader, CachedReader)
        assert reader.shown_seconds() == seconds


def test_a_folder_that_cant_be_written_costs_speed_alone(tmp_path: Path) -> None:
    path = KINDS["h264_closed"](tmp_path)
    (tmp_path / "kept").touch()
    with opened(path, tmp_path / "kept") as reader:
        assert reader.decoder == "pyav"
        reader.read(clips(reader))


@pytest.mark.parametrize("damage", [b"", b"no array", None])
def test_what_is_not_whole_is_not_used(tmp_path: Path, damage: bytes | None) -> None:
    """Nothing is pickled, cut off or half written: such a file counts for none."""
    path = KINDS["h264_closed"](tmp_path)
    opened(path, tmp_path / "kept").close()
    (file,) = (tmp_path / "kept").rglob("*.npy")
    file.write_bytes(file.read_bytes()[:-1000] if damage is None else damage)
    with open_video(path) as right, opened(path, tmp_path / "kept") as reader:
        for read_THWC, expected_THWC in zip(reader.read(clips(reader)), right.read(clips(right)), strict=True):
            np.testing.assert_array_equal(read_THWC, expected_THWC)


def _keep_forever(path: Path, folder: Path) -> None:
    def slow(self: VideoReader, out_THWC: np.ndarray) -> None:
        out_THWC[:] = 1
        (folder / "begun").touch()
        time.sleep(600)

    VideoReader.read_all = slow
    opened(path, folder)


def test_a_process_that_is_killed_half_way_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = KINDS["h264_closed"](tmp_path), tmp_path / "kept"
    folder.mkdir()
    process = multiprocessing.get_context("fork").Process(target=_keep_forever, args=(path, folder))
    process.start()
    deadline = time.monotonic() + 60
    while not (folder / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    (left,) = folder.rglob("*.part")
    with opened(path, folder) as reader, open_video(path) as right:
        assert isinstance(reader, CachedReader)
        np.testing.assert_array_equal(reader.read(clips(reader))[1], right.read(clips(right))[1])
    os.utime(left, (0, 0))
    monkeypatch.setattr(cached, "_counted", {})
    opened(KINDS["mjpeg"](tmp_path), folder).close()
    assert not left.exists()  # an hour later it is removed


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_same_clips(tiny_data: DataConfig, tmp_path: Path, workers: int) -> None:
    plain = replace(tiny_data, workers=workers, cache_gb=0.0)
    keeping = replace(plain, cache_gb=0.1, cache=str(tmp_path / "kept"))
    assert ClipGeometry.of(plain, frames=2, stride=1).cache is None
    found = []
    for data in (plain, keeping, keeping):
        with train_batches(
            read_manifest(data, "train"), data, positions=[range(24)], seed=1, frames=4, stride=2
        ) as stream:
            (batch,) = stream
        found.append(batch)
    assert all(torch.equal(found[0].clip_NTHWC, batch.clip_NTHWC) for batch in found)
    assert len({batch.digest for batch in found}) == 1
    assert len(list((tmp_path / "kept").rglob("*.npy"))) == 24
