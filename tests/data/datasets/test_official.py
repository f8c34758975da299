"""Lists as the usual data sets bring them, written here as their pages describe them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.encoded_videos import number_shown, picture
from vidgn.config.schema import DataConfig
from vidgn.data.datasets.manifest import Manifest, read_manifest
from vidgn.data.datasets.sources import find_sources
from vidgn.data.decode import open_frames
from vidgn.data.decode.base import Box, ResolvedClip
from vidgn.data.tools.probe import probe
from vidgn.errors import DecodeError, ManifestError

CASES = Path(__file__).resolve().parents[4] / "shared" / "data" / "cases"


@pytest.fixture
def data(tiny_data: DataConfig, tmp_path: Path) -> DataConfig:
    return replace(tiny_data, root=str(tmp_path), synthetic=None, train=None, val=None)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def rows(manifest: Manifest) -> list[tuple[str, str]]:
    return [(manifest[i].id, manifest.classes[manifest[i].label]) for i in range(len(manifest))]


def test_ucf101(data: DataConfig, tmp_path: Path) -> None:
    touch(tmp_path, "Biking/v_Biking_g01_c01.avi", "Archery/v_Archery_g08_c01.avi", "Biking/v_Biking_g02_c01.avi")
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist02.txt").write_text("Archery/v_Archery_g08_c01.avi 1\r\nBiking/v_Biking_g01_c01.avi 2\r\n")
    (lists / "testlist02.txt").write_text("Biking/v_Biking_g02_c01.avi\n")
    by_file = replace(data, format="ucf101", train=str(lists / "trainlist02.txt"), val=str(lists / "testlist02.txt"))
    by_fold = replace(data, format="ucf101", train=str(lists), fold=2)
    for asked in (by_file, by_fold):
        assert rows(read_manifest(asked, "train")) == [
            ("Archery/v_Archery_g08_c01.avi", "Archery"),
            ("Biking/v_Biking_g01_c01.avi", "Biking"),
        ]
        assert rows(read_manifest(asked, "val")) == [("Biking/v_Biking_g02_c01.avi", "Biking")]
    with pytest.raises(ManifestError, match=r"trainlist03.txt: .*No such file"):
        read_manifest(replace(by_fold, fold=3), "train")


def test_hmdb51(data: DataConfig, tmp_path: Path) -> None:
    touch(tmp_path, *(f"{label}/{n}.avi" for label in ("brush_hair", "wave") for n in "abc"))
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "brush_hair_test_split1.txt").write_text("a.avi 1 \nb.avi 2 \nc.avi 0 \n")
    (splits / "wave_test_split1.txt").write_text("a.avi 2 \nb.avi 0 \nc.avi 1 \n")
    (splits / "wave_test_split2.txt").write_text("a.avi 1 \n")
    data = replace(data, format="hmdb51", train=str(splits), fold=1)
    assert rows(read_manifest(data, "train")) == [("brush_hair/a.avi", "brush_hair"), ("wave/c.avi", "wave")]
    assert rows(read_manifest(data, "val")) == [("brush_hair/b.avi", "brush_hair"), ("wave/a.avi", "wave")]
    with pytest.raises(ManifestError, match=r"no CLASS_test_split7.txt in it"):
        read_manifest(replace(data, fold=7), "train")
    as_list = replace(data, format="list", train=str(splits / "wave_test_split1.txt"), fold=None)
    with pytest.raises(ManifestError, match=r"flags of a split .* and no labels: write data=hmdb51 .*data.fold=1"):
        read_manifest(as_list, "train")


@pytest.mark.shared
def test_the_split_that_failed(data: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="flags of a split"):
        read_manifest(replace(data, format="list", train=str(CASES / "hmdb51_split.txt")), "train")


def test_something_something(data: DataConfig, tmp_path: Path) -> None:
    touch(tmp_path, "78687.webm", "42326.webm")
    train, val = tmp_path / "train.json", tmp_path / "validation.json"
    holding = {"label": "holding potato next to vicks", "template": "Holding [something] next to [something]"}
    train.write_text(json.dumps([{"id": "78687", **holding, "placeholders": ["potato", "vicks"]}]))
    val.write_text(json.dumps([{"id": "42326", **holding}]))
    data = replace(data, format="ssv2", train=str(train), val=str(val))
    assert rows(read_manifest(data, "train")) == [("78687", "Holding something next to something")]
    assert read_manifest(data, "val")[0].path == str(tmp_path / "42326.webm")
    train.write_text('{"id": 3}')
    with pytest.raises(ManifestError, match=r"is no list of objects with id and template; give Something-Something's"):
        read_manifest(data, "train")
    train.write_text("[" * 100_000)
    with pytest.raises(ManifestError, match="is no json"):
        read_manifest(data, "train")


def test_jester_is_folders_of_frames(data: DataConfig, tmp_path: Path) -> None:
    touch(tmp_path, "34870/00001.jpg", "56557/00001.jpg")
    train = tmp_path / "jester-v1-train.csv"
    train.write_text("34870;Drumming Fingers\n56557;Sliding Two Fingers Right\n")
    data = replace(data, format="jester", train=str(train), val=str(train))
    assert rows(read_manifest(data, "train")) == [
        ("34870", "Drumming Fingers"),
        ("56557", "Sliding Two Fingers Right"),
    ]


def test_diving48(data: DataConfig, tmp_path: Path) -> None:
    touch(tmp_path, "a_0.mp4", "b_1.mp4")
    train = tmp_path / "train.json"
    train.write_text(json.dumps([{"vid_name": "a_0", "label": 1, "end_frame": 9}, {"vid_name": "b_1", "label": 0}]))
    data = replace(data, format="diving48", train=str(train), val=str(train))
    assert read_manifest(data, "train").labels == [1, 0]


def test_activitynet_is_segments(data: DataConfig, tmp_path: Path) -> None:
    touch(tmp_path, "v_QOlSCBRmfWY.mp4", "sJFgo9H6zNo.mkv")
    path = tmp_path / "activity_net.v1-3.min.json"
    dancing = [{"segment": [0.5, 29.25], "label": "Dancing ballet"}, {"segment": [40, 50], "label": "Knitting"}]
    video = {"duration": 99.9, "subset": "training", "url": "", "annotations": dancing}
    other = {**video, "subset": "validation", "annotations": dancing[:1]}
    path.write_text(
        json.dumps({"database": {"QOlSCBRmfWY": video, "sJFgo9H6zNo": other, "x": {**video, "subset": "testing"}}})
    )
    data = replace(data, format="activitynet", train=str(path), val=str(path))
    train, val = read_manifest(data, "train"), read_manifest(data, "val")
    assert rows(train) == [("QOlSCBRmfWY@0.500-29.250", "Dancing ballet"), ("QOlSCBRmfWY@40.000-50.000", "Knitting")]
    assert [train[i].segment for i in range(2)] == [(0.5, 29.25), (40.0, 50.0)]
    assert (val[0].path, val[0].segment) == (str(tmp_path / "sJFgo9H6zNo.mkv"), (0.5, 29.25))
    for text in ("[1]", '{"database": {"x": {"subset": "training"}}}', '{"database": [1]}'):
        path.write_text(text)
        with pytest.raises(ManifestError, match="has no database of videos with subset and annotations"):
            read_manifest(data, "train")


def test_epic_kitchens_by_verb_or_noun(data: DataConfig, tmp_path: Path) -> None:
    touch(tmp_path, "P01_01.MP4")
    path = tmp_path / "EPIC_100_train.csv"
    header = "narration_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,verb_class,noun_class"
    path.write_text(
        f"{header}\nP01_01_0,P01_01,00:00:00.14,00:00:03.37,8,202,1,2\nP01_01_1,P01_01,00:01:04,01:00:00,9,9,0,0\n"
    )
    data = replace(data, format="epic", train=str(path), val=str(path))
    train = read_manifest(data, "train")
    assert (train.labels, [train[i].segment for i in range(2)]) == ([1, 0], [(0.14, 3.37), (64.0, 3600.0)])
    assert read_manifest(replace(data, label="noun_class"), "train").labels == [2, 0]
    with pytest.raises(ManifestError, match=r"no column nuon_class"):
        read_manifest(replace(data, label="nuon_class"), "train")


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ("1,", r"t.csv: 0.mp4: start '1', end '' are not both seconds; mend the row"),
        ("one,two", "are not both seconds"),
        ("-1,2", "are not both seconds"),
        ("nan,2", "are not both seconds"),
        ("3,3", "its segment ends at 3 and starts at 3; mend the row"),
    ],
)
def test_segments_that_are_none(data: DataConfig, tmp_path: Path, times: str, message: str) -> None:
    touch(tmp_path, "0.mp4")
    path = tmp_path / "t.csv"
    path.write_text(f"path,label,start,end\n0.mp4,x,{times}\n")
    with pytest.raises(ManifestError, match=message):
        read_manifest(replace(data, format="csv", train=str(path)), "train")


def test_lists_with_counts_of_frames(data: DataConfig, tmp_path: Path) -> None:
    """mmaction2's lists of raw frames."""
    touch(tmp_path, "some/folder/img_00001.jpg", "other folder/img_00001.jpg")
    path = tmp_path / "t.txt"
    path.write_text("some/folder 163 1\nother folder 122 0\n")
    manifest = read_manifest(replace(data, format="list", train=str(path)), "train")
    assert [manifest[i].num_frames for i in range(2)] == [163, 122]
    assert [manifest[i].path for i in range(2)] == [str(tmp_path / "some/folder"), str(tmp_path / "other folder")]
    assert manifest.labels == [1, 0]


@pytest.mark.parametrize(("train", "val"), [("train", "test"), ("training", "testing"), ("train", "val")])
def test_folders_of_other_names(data: DataConfig, tmp_path: Path, train: str, val: str) -> None:
    touch(tmp_path, f"{train}/run/a.mp4", f"{val}/run/b.ts")
    data = replace(data, format="folders")
    assert rows(read_manifest(data, "train")) == [("run/a.mp4", "run")]
    assert rows(read_manifest(data, "val")) == [("run/b.ts", "run")]


# -- folders of frames -----------------------------------------------------------------------------------------------


def write_frames(folder: Path, numbers: range, name: str = "img_{:05d}.png") -> Path:
    folder.mkdir(parents=True)
    for number in numbers:
        Image.fromarray(picture(number)).save(folder / name.format(number))
    return folder


def clip(*numbers: int) -> ResolvedClip:
    return ResolvedClip(numbers, Box(0, 0, 64, 96), 64, 96, flip=False)


@pytest.mark.parametrize("name", ["img_{:05d}.png", "{}.png", "frame-{:02d}.bmp"])
def test_frames_come_by_their_number(tmp_path: Path, name: str) -> None:
    folder = write_frames(tmp_path / "v", range(1, 13), name)  # 1 and 10 are neighbours by name alone
    with open_frames(folder) as reader:
        assert (reader.num_frames, reader.height, reader.width) == (12, 64, 96)
        read_THWC = reader.read([clip(11, 0, 9, 1, 0)])[0]
        assert [number_shown(frame_HWC) for frame_HWC in read_THWC] == [12, 1, 10, 2, 1]
        np.testing.assert_array_equal(read_THWC[1], picture(1))


def test_a_set_of_frames_is_trained_on_checked_and_indexed(data: DataConfig, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_frames(tmp_path / split / "run" / "a", range(10))
        write_frames(tmp_path / split / "walk" / "b", range(10))
    data = replace(data, format="frames")
    assert rows(read_manifest(data, "train")) == [("run/a", "run"), ("walk/b", "walk")]
    found = probe(tmp_path / "train" / "run" / "a")
    assert (found.status, found.num_frames, found.width, found.codec) == ("ok", 10, 96, "png")
    listed = tmp_path / "t.csv"
    listed.write_text("path,label\ntrain/run/a,run\n")
    (source,) = find_sources(str(listed)).files
    assert probe(source.full_path).num_frames == 10


def test_a_folder_of_frames_is_told_from_one_of_images(tmp_path: Path) -> None:
    write_frames(tmp_path / "run" / "a", range(1, 10))
    write_frames(tmp_path / "run" / "b", range(1, 10, 3))
    images = find_sources(str(tmp_path))
    assert len(images.files) == 12
    assert images.notes() == [
        "images of 1 folders are numbered like frames, and are taken one by one: if a folder is a video, give --format "
        "frames"
    ]
    videos = find_sources(str(tmp_path), format="frames")
    assert [(source.path, source.label) for source in videos.files] == [("run/a", "run"), ("run/b", "run")]
    assert videos.notes() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "img_00004.png").unlink(), "frame 4 is not between img_00001.png and img_00009.png"),
        (lambda f: (f / "cover.png").write_bytes(b""), "its image cover.png has no number of its own at its end"),
        (lambda f: (f / "9.png").write_bytes(b""), "has no number of its own"),
        (lambda f: [p.unlink() for p in f.iterdir()], "is a folder without images"),
        (
            lambda f: Image.new("RGB", (8, 8)).save(f / "img_00005.png"),
            "img_00005.png is 8x8 pixels, and the",
        ),
        (lambda f: (f / "img_00005.png").write_bytes(b"x"), "img_00005.png: is no image that can be read"),
    ],
)
def test_folders_that_are_no_video_are_refused(tmp_path: Path, change, message: str) -> None:
    folder = write_frames(tmp_path / "v", range(1, 10))
    change(folder)
    with pytest.raises(DecodeError, match=message), open_frames(folder) as reader:
        reader.read([clip(0, 4)])
    assert probe(folder).status == "unreadable"


def test_segments_in_frames(data: DataConfig, tmp_path: Path) -> None:
    touch(tmp_path, "0.mp4")
    path = tmp_path / "list.csv"
    path.write_text("path,label,start_frame,end_frame\n0.mp4,x,3,12\n0.mp4,y,12,40\n")
    own = replace(data, format="csv", train=str(path), val=str(path))
    manifest = read_manifest(own, "train")
    assert [(manifest[i].segment, manifest[i].segment_unit) for i in range(2)] == [
        ((3.0, 12.0), "frames"),
        ((12.0, 40.0), "frames"),
    ]
    assert manifest.listing().segment_unit == "frames"
    for row, message in (("12,3", "no numbers of frames that rise"), ("a,3", "start_frame 'a', end_frame '3' are no")):
        path.write_text(f"path,label,start_frame,end_frame\n0.mp4,x,{row}\n")
        with pytest.raises(ManifestError, match=message):
            read_manifest(own, "train")
    path.write_text("path,label,start,end,start_frame,end_frame\n0.mp4,x,0,1,0,25\n")
    with pytest.raises(ManifestError, match="has columns start and start_frame; leave one pair of them out"):
        read_manifest(own, "train")
