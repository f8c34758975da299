"""`vidgn data transcode`: the same frames, smaller, in short closed GOPs; never half a file; goes on when stopped."""

import csv
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.encoded_videos import HEIGHT, KINDS, NUM_FRAMES, WIDTH, encode, number_shown
from vidgn.cli import data as verbs
from vidgn.config.compose import load_config
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.decode import open_video
from vidgn.data.decode.base import Box, ResolvedClip
from vidgn.data.decode.openings import ends_digest
from vidgn.data.decode.pixels import AS_CODED
from vidgn.data.decode.write import Recoding, recode
from vidgn.errors import ConfigError, DecodeError, ManifestError

RECODING = Recoding(short_side=32, keyframe_distance=8, crf=10, preset="veryfast")


def all_frames(path: Path, height: int, width: int) -> np.ndarray:
    with open_video(path) as reader:
        box = Box(0, 0, reader.height, reader.width)
        clip = ResolvedClip(tuple(range(reader.num_frames)), box, height, width, False)
        return reader.read([clip])[0]


@pytest.mark.parametrize(
    "kind",
    [
        "h264_open",
        "h264_rotated",
        "h264_variable_rate",
        "h264_edit_list",
        "hevc_open_trim",
        "mpeg4_b_frames_avi",
        "vp9",
    ],
)
def test_frames_keep_their_number_look_and_times(tmp_path: Path, kind: str) -> None:
    source, target = KINDS[kind](tmp_path), tmp_path / "out" / "new.mp4"
    num_frames = recode(str(source), str(target), RECODING)
    with open_video(source) as old, open_video(target) as new:
        assert num_frames == old.num_frames == new.num_frames
        assert new.orientation == AS_CODED
        assert min(new.height, new.width) == 32
        assert (new.height > new.width) == (old.height > old.width)
        assert not new.timeline.is_open_gop()
        assert max(np.diff([*new.timeline.keyframes, new.num_frames])) <= 8
        if old.timeline is not None:
            old_seconds, new_seconds = (np.array(r.shown_seconds()) for r in (old, new))
            np.testing.assert_allclose(new_seconds - new_seconds[0], old_seconds - old_seconds[0], atol=1e-3)
        size = (new.height, new.width)
    # the picture itself: far closer to its own frame than to the next one
    before, after = (all_frames(path, *size).astype(float) for path in (source, target))
    own = np.abs(before - after).mean(axis=(1, 2, 3))
    other = np.abs(before[1:] - after[:-1]).mean(axis=(1, 2, 3))
    assert own.max() < other.min() / 2


def test_sound_is_dropped_and_small_videos_keep_their_size(tmp_path: Path) -> None:
    target = tmp_path / "new.mp4"
    recode(str(KINDS["h264_closed"](tmp_path)), str(target), Recoding(short_side=256, keyframe_distance=30))
    with av.open(str(target)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert (container.streams.video[0].height, container.streams.video[0].width) == (HEIGHT, WIDTH)


def test_nothing_is_left_of_a_video_that_fails(tmp_path: Path) -> None:
    source = KINDS["h264_closed"](tmp_path)
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packet = [p for p in container.demux(video=0) if p.size][20]
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    source.write_bytes(data)
    target = tmp_path / "out" / "new.mp4"
    with pytest.raises(DecodeError, match="frames decode"):
        recode(str(source), str(target), RECODING)
    assert list(target.parent.iterdir()) == []


def test_a_folder_is_copied_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "old", tmp_path / "new"
    (folder / "walk").mkdir(parents=True)
    KINDS["h264_closed"](folder / "walk")
    KINDS["mpeg4_avi"](folder / "walk")
    (folder / "bad.mp4").write_bytes(b"\0" * 5000)
    words = [str(folder), str(out), "--short-side", "32", "--keyframes", "8", "--workers", "1", "--preset", "veryfast"]
    assert verbs.transcode(words) == 1
    printed = capsys.readouterr().out
    assert "not written: bad.mp4: is no video that can be read" in printed
    assert "2 videos written, 0 were there, 1 not written" in printed
    assert "% saved" in printed
    assert "times as fast" in printed
    made = ["recoding.txt", "walk/h264_closed.mp4", "walk/mpeg4.mp4"]
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) == made
    first = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    assert verbs.transcode(words) == 1
    assert "0 videos written, 2 were there, 1 not written" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")} == first


def test_an_annotation_gets_its_manifest_with_its_own_columns(tmp_path: Path) -> None:
    KINDS["h264_closed"](tmp_path)
    KINDS["mpeg4_avi"](tmp_path)
    (tmp_path / "t.csv").write_text("path,label,scene\nh264_closed.mp4,1,park\nmpeg4.avi,0,street\n")
    out = tmp_path / "new"
    words = [str(tmp_path / "t.csv"), str(out), "--short-side", "32", "--workers", "1", "--preset", "veryfast"]
    assert verbs.transcode(words) == 0
    with open(out / "t.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "label", "scene", "transcoded_from", "transcoded_as"]
    made_of = [ends_digest(str(tmp_path / name)) for name in ("h264_closed.mp4", "mpeg4.avi")]
    how = "small, colours as in the source, short side 32, GOP 30, crf 20, veryfast"
    assert rows == [["h264_closed.mp4", "1", "park", made_of[0], how], ["mpeg4.mp4", "0", "street", made_of[1], how]]
    lists = [f"data.{split}={out}/t.csv" for split in ("train", "val")]
    assert read_manifest(load_config(["data=csv", *lists]).data, "train").transcoded_as == (how,)
    (tmp_path / "v.csv").write_text("path,label\nmpeg4.avi,0\nh264_closed.mp4,1\n")
    assert verbs.transcode([str(tmp_path / "v.csv"), *words[1:]]) == 0  # another list's files may lie in one folder
    assert sorted(path.name for path in out.glob("*.csv")) == ["t.csv", "v.csv"]
    (tmp_path / "other").mkdir()
    for copied in ("h264_closed.mp4", "mpeg4.avi"):
        (tmp_path / copied).rename(tmp_path / "other" / copied)
    (tmp_path / "other" / "t.csv").write_text("path,label\nother/mpeg4.avi,0\nother/h264_closed.mp4,1\n")
    before = {path: path.read_bytes() for path in (out / "t.csv", tmp_path / "other" / "t.csv")}
    of_others = [str(tmp_path / "other" / "t.csv"), "--root", str(tmp_path), *words[2:]]
    for folder in (out, tmp_path / "other"):  # another list's manifest, and the annotation itself
        with pytest.raises(ManifestError, match=r"t\.csv is there and is no list of these videos; give another folder"):
            verbs.transcode([of_others[0], str(folder), *of_others[1:]])
    assert {path: path.read_bytes() for path in before} == before
    with open_video(out / "mpeg4.mp4") as reader:
        assert reader.num_frames == NUM_FRAMES


def test_the_fast_profile_keeps_all_frames_and_needs_no_picture_that_waits_for_another(tmp_path: Path) -> None:
    source = KINDS["h264_closed"](tmp_path)
    for fast in (False, True):
        target = tmp_path / f"{fast}.mp4"
        recode(str(source), str(target), Recoding(64, 30, fast=fast))
        with open_video(target) as reader:
            box = Box(0, 0, reader.height, reader.width)
            clip = ResolvedClip(tuple(range(NUM_FRAMES)), box, reader.height, reader.width, flip=False)
            assert [number_shown(frame_HWC) for frame_HWC in reader.read([clip])[0]] == list(range(NUM_FRAMES))
        told = target.read_bytes()  # x264 writes down its settings
        assert (b"cabac=0" in told, b"deblock=0" in told, b"b_pyramid=0" in told) == (fast, fast, fast)


def test_an_annotation_of_which_nothing_comes_out_gets_an_empty_manifest(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    (tmp_path / "list.txt").write_text("a.mp4 1\nb.mp4 0\n")
    words = [str(tmp_path / "list.txt"), "--short-side", "32", "--workers", "1"]
    assert verbs.transcode([words[0], str(tmp_path / "new"), *words[1:]]) == 1
    assert (tmp_path / "new" / "list.csv").read_text().split() == ["path,label,transcoded_from,transcoded_as"]
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError, match=r"file: .*; free space, or give another folder"):
        verbs.transcode([words[0], str(tmp_path / "file"), *words[1:]])


def test_a_video_is_never_written_over_itself(tmp_path: Path) -> None:
    KINDS["h264_closed"](tmp_path)
    with pytest.raises(Exception, match="would be written over itself"):
        verbs.transcode([str(tmp_path), str(tmp_path), "--short-side", "32"])


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give at least 2 pixels, at least 1 frame"):
        verbs.transcode([str(tmp_path), str(tmp_path), "--short-side", "0"])
    with pytest.raises(SystemExit, match="2"):
        verbs.transcode([str(tmp_path), str(tmp_path), "--short-side", "32", "--preset", "foo"])
    (tmp_path / "image.png").touch()
    with pytest.raises(ManifestError, match=r"image\.png is an image: only videos are written anew"):
        verbs.transcode([str(tmp_path), str(tmp_path / "new"), "--short-side", "32"])


def test_a_folder_has_one_way_of_writing(tmp_path: Path) -> None:
    """Files that are there are left alone: else the manifest would say of them what is not so."""
    KINDS["h264_closed"](tmp_path / ".").rename(tmp_path / "a.mp4")
    words = [str(tmp_path / "a.mp4"), str(tmp_path / "new"), "--short-side", "32", "--workers", "1"]
    assert verbs.transcode([*words, "--preset", "veryfast"]) == 0
    assert verbs.transcode([*words, "--preset", "veryfast"]) == 0
    with pytest.raises(ManifestError, match=r"was begun as small, .* veryfast, and is asked for as fast, .*; give ano"):
        verbs.transcode([*words, "--preset", "veryfast", "--profile", "fast"])
    (tmp_path / "new" / "recoding.txt").unlink()
    with pytest.raises(ManifestError, match=r"new/a\.mp4 is there, and was not made of .*/a\.mp4 as it is now; give"):
        verbs.transcode([*words, "--preset", "veryfast"])


def test_a_file_is_left_alone_only_where_it_was_made_of_this_video(tmp_path: Path) -> None:
    """Training and validation often have files of the same names: one's are not taken for the other's."""
    for name, kind in (("train", "h264_closed"), ("val", "vp9")):
        (tmp_path / name).mkdir()
        KINDS[kind](tmp_path / name).rename(tmp_path / name / "a.mp4")
    out = str(tmp_path / "new")
    words = ["--short-side", "32", "--workers", "1", "--preset", "veryfast"]
    assert verbs.transcode([str(tmp_path / "train"), out, *words]) == 0
    made = (tmp_path / "new" / "a.mp4").read_bytes()
    with pytest.raises(ManifestError, match=r"new/a\.mp4 is there, and was not made of .*val/a\.mp4 as it is now"):
        verbs.transcode([str(tmp_path / "val"), out, *words])
    assert (tmp_path / "new" / "a.mp4").read_bytes() == made
    (tmp_path / "val" / "a.mp4").replace(tmp_path / "train" / "a.mp4")  # or the video is another by now
    with pytest.raises(ManifestError, match="give another folder, or take the file away"):
        verbs.transcode([str(tmp_path / "train"), out, *words])
    (tmp_path / "new" / "a.mp4").unlink()
    assert verbs.transcode([str(tmp_path / "train"), out, *words]) == 0
    with open(tmp_path / "new" / "recoding.txt", "a", encoding="utf-8") as file:
        file.write('0123 "b.m')  # killed while it wrote
    KINDS["vp9"](tmp_path / "train").rename(tmp_path / "train" / 'c "d".mp4')
    for _ in range(2):
        assert verbs.transcode([str(tmp_path / "train"), out, *words]) == 0
    lines = (tmp_path / "new" / "recoding.txt").read_text().splitlines()
    assert len(lines) == 5  # the way, a.mp4 twice, the torn one, the last


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize(
    ("colorspace", "pix_fmt"), [(1, "yuv420p"), (9, "yuv420p"), (1, "yuvj420p"), (None, "yuvj420p")]
)
def test_colours_are_those_of_the_source(tmp_path: Path, colorspace: int | None, pix_fmt: str, rotation: int) -> None:
    """HD's matrix (1), UHD's (9) and full range are not what a reader takes untagged video for."""
    source, target = tmp_path / "a.mp4", tmp_path / "new.mp4"
    encode(source, "libx264", options={"crf": "4"}, pix_fmt=pix_fmt, colorspace=colorspace, rotation=rotation)
    recode(str(source), str(target), Recoding(HEIGHT, 12, crf=4, preset="veryfast"))
    with open_video(source) as reader:
        size = (reader.height, reader.width)
    before, after = (all_frames(path, *size).astype(float) for path in (source, target))
    assert np.abs(before - after).mean() < 3
    assert np.abs((before - after).mean(axis=(0, 1, 2))).max() < 0.9


def test_segments_of_a_video_are_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    KINDS["h264_closed"](tmp_path)
    (tmp_path / "t.csv").write_text("path,label,start,end\nh264_closed.mp4,x,0,1\nh264_closed.mp4,y,1,1.6\n")
    out = tmp_path / "new"
    words = [str(tmp_path / "t.csv"), str(out), "--short-side", "32", "--workers", "2", "--preset", "veryfast"]
    assert verbs.transcode(words) == 0
    assert "1 videos written, 0 were there, 0 not written" in capsys.readouterr().out
    assert [path.name for path in out.glob("*.mp4")] == ["h264_closed.mp4"]
    lists = [f"data.{split}={out}/t.csv" for split in ("train", "val")]
    manifest = read_manifest(load_config(["data=csv", *lists]).data, "train")
    assert [manifest[i].segment for i in range(2)] == [(0.0, 1.0), (1.0, 1.6)]
