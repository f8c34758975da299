"""`vidgn data check`: why each bad file is bad, and which decoder gives way to PyAV."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.data.encoded_videos import DAMAGED, HEIGHT, KINDS, WIDTH, picture, write_damaged, write_set
from vidgn.cli import data as verbs
from vidgn.data.datasets.sources import find_sources
from vidgn.data.loading.pool import Limits
from vidgn.data.tools.probe import check_files, probe, report_text
from vidgn.errors import ConfigError


def test_every_damaged_file_has_a_status_and_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in DAMAGED:
        write_damaged(name, tmp_path / "made")
        os.rename(tmp_path / "made" / name, tmp_path / name)
    shutil.rmtree(tmp_path / "made")
    assert verbs.check([str(tmp_path), "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    said = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines[1 : 1 + len(DAMAGED)]}
    assert said.keys() == DAMAGED.keys()
    for name, (_, status, words) in DAMAGED.items():
        assert said[name][0] == status
        assert words in said[name][1]
    assert lines[-1] == f"{len(DAMAGED)} files: 0 ok, {len(DAMAGED)} bad"


def test_files_of_every_kind_are_good(tmp_path: Path) -> None:
    report = check_files(find_sources(str(write_set(tmp_path) / "train.csv")), workers=1, limits=Limits())
    assert (report.num_ok, report.bad) == (len(KINDS), ())


@pytest.mark.shared
def test_every_broken_file_has_a_status_and_a_reason(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.check([str(shared_data / "clips" / "broken"), "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "passed over by their endings: 1 .wav"
    status = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines[2:11]}
    assert len(status) == 9
    assert status.pop("corrupted.mp4") == [
        "damaged",
        "21 of 50 frames do not decode or build on one that does not, frame 29 is the first (Invalid data found when "
        "processing input)",
    ]
    assert all(kind == "unreadable" and len(why) > 10 for kind, why in status.values())
    assert lines[-1] == "9 files: 0 ok, 9 bad"


@pytest.mark.shared
def test_good_and_odd_files_are_good(shared_data: Path) -> None:
    for name in ("good", "odd"):
        sources = find_sources(str(shared_data / "clips" / name))
        report = check_files(sources, workers=1, limits=Limits())
        assert (report.num_files, report.bad) == (8, ())


def test_a_good_folder_exits_with_0_and_names_distrusted_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    KINDS["h264_closed"](tmp_path)
    KINDS["h264_open"](tmp_path)
    assert verbs.check([str(tmp_path), "--workers", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "data.decoder=decord: PyAV reads 1 of the good files instead: decord returns wrong frames on open GOPs "
        "(h264_open.mp4)",
        "2 files: 2 ok, 0 bad",
    ]


def test_a_truncated_file_is_bad(tmp_path: Path) -> None:
    whole = KINDS["h264_late_start"](tmp_path).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    found = probe(cut)
    assert found.status in ("ok", "damaged")  # Matroska has no list of frames that a cut would contradict
    assert 0 < found.num_frames < 40
    (tmp_path / "cut.mp4").write_bytes(whole[:100])
    assert probe(tmp_path / "cut.mp4").status == "unreadable"


def test_missing_files_of_a_manifest_are_bad(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("gone.mp4 0\n")
    report = check_files(find_sources(str(tmp_path / "list.txt")), workers=1, limits=Limits())
    assert report.num_ok == 0
    assert "gone.mp4  missing  is not there" in report_text(report)


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("h264_closed", ()),
        ("h264_open", ("open_gop",)),
        ("h264_variable_rate", ("vfr",)),
        ("h264_rotated", ("rotated",)),
        ("h264_edit_list", ("edit_list",)),
        ("h264_late_start", ("late_start",)),
        ("mpeg4_b_frames_avi", ("no_timestamps",)),
        ("vp9", ()),
    ],
)
def test_flags(tmp_path: Path, kind: str, flags: tuple[str, ...]) -> None:
    assert probe(KINDS[kind](tmp_path)).flags == flags


def test_images_are_checked_where_there_is_no_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cat").mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "cat" / "good.JPEG")
    whole = (tmp_path / "cat" / "good.JPEG").read_bytes()
    (tmp_path / "cat" / "torn.JPEG").write_bytes(whole[: len(whole) // 2])
    assert verbs.check([str(tmp_path), "--workers", "1"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[1].startswith("cat/torn.JPEG  unreadable  is no image that can be read")
    assert told[-1] == "2 files: 1 ok, 1 bad"
    found = probe(tmp_path / "cat" / "good.JPEG")
    assert (found.status, found.num_frames, found.height, found.width) == ("ok", 1, HEIGHT, WIDTH)
    KINDS["h264_closed"](tmp_path)  # what lies beside videos is no part of the set
    assert [source.path for source in find_sources(str(tmp_path)).files] == ["h264_closed.mp4"]


@pytest.mark.parametrize("words", ["--workers -1", "--workers 0", "--timeout 0", "--timeout nan", "--memory -5"])
def test_limits_that_leave_nothing_are_refused(tmp_path: Path, words: str) -> None:
    with pytest.raises(ConfigError, match=f"{words}.*: must lie between"):
        verbs.check([str(tmp_path), *words.split()])
