"""What opening a video has told is kept: the same frames come out, and no packet is looked at for it."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.encoded_videos import KINDS, NUM_FRAMES, encode
from vidgn.config.compose import load_config
from vidgn.data.clips.read import ClipGeometry
from vidgn.data.datasets.sources import find_sources
from vidgn.data.decode import open_video, openings
from vidgn.data.decode.base import Box, ResolvedClip, VideoReader
from vidgn.data.decode.guided import DecordReader, GuardedReader
from vidgn.data.decode.indexed import IndexedVideo
from vidgn.data.decode.pyav import PyavReader
from vidgn.data.loading.pool import Limits
from vidgn.data.tools.index import write_index


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a video of every kind, and the table of its index."""
    folder = tmp_path_factory.mktemp("indexed")
    for write in KINDS.values():
        write(folder)
    out = folder.parent / "index.csv"
    write_index(find_sources(str(folder)).files, str(out), workers=2, limits=Limits())
    return folder, f"{out}.openings"


@pytest.fixture
def unlooked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of which packets were looked at to open them."""
    looked, read = list[str](), IndexedVideo._read_timeline

    def noted(self: IndexedVideo):
        looked.append(self.path)
        return read(self)

    monkeypatch.setattr(IndexedVideo, "_read_timeline", noted)
    return looked


def frame(reader: VideoReader, number: int) -> np.ndarray:
    box = Box(0, 0, reader.height, reader.width)
    return reader.read([ResolvedClip((number,), box, reader.height, reader.width, flip=False)])[0][0]


def test_every_kind_gives_the_same_frames(indexed: tuple[Path, str], unlooked: list[str]) -> None:
    folder, table = indexed
    for path in sorted(folder.iterdir()):
        with open_video(path) as plain, open_video(path, openings=(table,)) as told:
            assert unlooked.count(str(path)) == 1, f"{path} is looked at again"
            assert (told.num_frames, told.height, told.width) == (plain.num_frames, plain.height, plain.width)
            assert told.shown_seconds() == plain.shown_seconds()
            for number in (plain.num_frames - 1, 0, plain.num_frames // 2):
                assert (frame(told, number) == frame(plain, number)).all(), (path, number)


def test_a_video_that_was_moved_is_found(indexed: tuple[Path, str], unlooked: list[str], tmp_path: Path) -> None:
    folder, table = indexed
    moved = tmp_path / "moved.mp4"
    shutil.copy2(folder / "h264_closed.mp4", moved)
    with open_video(moved, openings=(table,)) as reader:
        assert reader.num_frames == NUM_FRAMES
    assert unlooked == []
    data, found = bytearray(moved.read_bytes()), moved.stat()
    data[-1] ^= 1
    moved.write_bytes(data)
    os.utime(moved, ns=(found.st_atime_ns, found.st_mtime_ns))
    open_video(moved, openings=(table,)).close()
    assert unlooked == [str(moved)]


def test_a_video_that_was_edited_in_place_is_looked_at_again(indexed, unlooked: list[str], tmp_path: Path) -> None:
    """Of a long film the header may lie behind the first bytes and before the last: its time of change tells."""
    folder, table = indexed
    edited = tmp_path / "edited.mp4"
    shutil.copy2(folder / "h264_closed.mp4", edited)
    os.utime(edited, (1, edited.stat().st_mtime + 2))
    open_video(edited, openings=(table,)).close()
    assert unlooked == [str(edited)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table.write_bytes(b"no table at all"),
        lambda table: table.write_bytes(table.read_bytes()[: table.stat().st_size // 3]),
        lambda table: table.unlink(),
        lambda table: execute(table, "UPDATE openings SET packed = x'00'"),
        lambda table: execute(table, "DROP TABLE openings"),
    ],
    ids=["none", "torn", "gone", "other bytes", "other tables"],
)
def test_a_table_that_can_not_be_used_costs_a_look(
    indexed: tuple[Path, str], unlooked: list[str], tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    folder, table = indexed
    own = tmp_path / "own.openings"
    shutil.copyfile(table, own)
    spoil(own)
    path = folder / "h264_open.mp4"
    with open_video(path, openings=(str(own),)) as reader:
        assert reader.num_frames == NUM_FRAMES
    assert unlooked == [str(path)]


def execute(table: Path, command: str) -> None:
    with sqlite3.connect(table) as connection:
        connection.execute(command)
    connection.close()


def test_a_table_that_is_none_is_made_anew(tmp_path: Path) -> None:
    table = tmp_path / "a.openings"
    table.write_bytes(b"no table at all" * 100)
    path = KINDS["h264_closed"](tmp_path)
    with PyavReader(str(path)) as reader:
        opening = reader.opening()
    openings.write(str(table), [(openings.digest_of(str(path)), openings.packed(opening))])
    assert openings.find((str(table),), str(path)) == opening


def test_what_is_packed_comes_back(tmp_path: Path) -> None:
    for write in KINDS.values():
        with PyavReader(str(write(tmp_path))) as reader:
            opening = reader.opening()
            assert openings.unpacked(openings.packed(opening)) == opening


def test_a_long_video_is_looked_at_once_a_process(
    unlooked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openings, "_LONG", NUM_FRAMES)
    monkeypatch.setattr(openings, "_MOST_PACKETS", 2 * NUM_FRAMES)
    monkeypatch.setattr(openings, "_long", {})
    paths = [encode(tmp_path / f"{n}.mp4", "libx264", gop=5 + n) for n in range(3)]
    for path in (paths[0], paths[0], paths[1], paths[0]):
        open_video(path).close()
    assert unlooked == [str(path) for path in paths[:2]]
    open_video(paths[2]).close()
    open_video(paths[1]).close()  # the third had pushed the first out
    open_video(paths[0]).close()
    assert unlooked == [str(paths[n]) for n in (0, 1, 2, 0)]


@pytest.mark.decord
def test_the_verdict_on_a_decoder_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unlooked: list[str]) -> None:
    good = KINDS["h264_closed"](tmp_path)
    out = tmp_path / "index.csv"
    write_index(find_sources(str(good)).files, str(out), workers=1, limits=Limits(), decoders=("decord",))
    table = (f"{out}.openings",)
    compared = list[int]()

    def compare(self: GuardedReader, number: int) -> str | None:
        compared.append(number)
        return f"gives another frame {number}"

    monkeypatch.setattr(GuardedReader, "_wrong_at", compare)
    with open_video(good, decoder="decord", openings=table) as reader:
        assert (reader.decoder, compared, unlooked) == ("decord", [], [])
    monkeypatch.setattr(DecordReader, "version", lambda self: "another")
    with open_video(good, decoder="decord", openings=table) as reader:
        assert (reader.decoder, len(compared)) == ("pyav", 1)


def test_training_finds_the_tables_beside_its_lists(indexed: tuple[Path, str], tmp_path: Path) -> None:
    train, val = tmp_path / "train.csv", tmp_path / "val.csv"
    for path in (train, val):
        path.write_text("path,label\n")
    shutil.copyfile(indexed[1], f"{val}.openings")
    data = load_config(["data=csv", f"data.train={train}", f"data.val={val}"]).data
    assert ClipGeometry.of(data, frames=4, stride=1).openings == (f"{val}.openings",)
