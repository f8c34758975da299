"""Every format to a manifest, and every way an annotation can be wrong to one line with a remedy."""

import csv
import hashlib
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.manifest import Manifest, read_manifest
from vidgn.errors import ManifestError


@pytest.fixture
def data(tiny_data: DataConfig) -> DataConfig:
    return replace(tiny_data, format="csv", root=None, synthetic=None)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def rows(manifest: Manifest) -> list[tuple[str, int]]:
    return [(manifest[i].id, manifest[i].label) for i in range(len(manifest))]


KINETICS_HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"


@pytest.mark.parametrize(
    "folders",
    [
        ("train/air drumming/", "train/zumba/"),
        ("train/air_drumming/", "train/zumba/"),
        ("videos_train/air_drumming/", "videos_train/zumba/"),
        ("air drumming/", "zumba/"),
        ("train/", "train/"),
        ("", ""),
    ],
)
def test_kinetics_layouts(data, tmp_path, folders):
    root = tmp_path / "videos"
    touch(root, f"{folders[1]}-_a_000001_000_000004_000014.mp4", f"{folders[0]}_axE99QAhe8_000026_000036.mkv")
    touch(root, f"{folders[1]}notes.txt", f"{folders[0]}plainname00.mp4")
    lines = ["zumba,-_a_000001_000,4,14", '"air drumming",_axE99QAhe8,26.0,36.0', "zumba,plainname00,1,11"]
    path = write(tmp_path / "train.csv", KINETICS_HEADER + "".join(f"{line},train,0\n" for line in lines))
    manifest = read_manifest(replace(data, format="kinetics", root=str(root), train=path), "train")
    assert manifest.classes == ("air drumming", "zumba")
    assert rows(manifest) == [
        ("-_a_000001_000_000004_000014", 1),
        ("_axE99QAhe8_000026_000036", 0),
        ("plainname00_000001_000011", 1),
    ]
    assert all(os.path.isfile(manifest[i].path) for i in range(3))
    assert manifest.num_missing == 0


def test_a_kinetics_file_of_several_splits_is_filtered(data, tmp_path):
    touch(tmp_path, "train/aaaaaaaaaaa_000000_000010.mp4", "val/bbbbbbbbbbb_000000_000010.mp4")
    text = KINETICS_HEADER + "x,aaaaaaaaaaa,0,10,train,0\ny,bbbbbbbbbbb,0,10,validate,0\n"
    path = write(tmp_path / "all.csv", text)
    both = replace(
        data, format="kinetics", root=str(tmp_path), train=path, val=path, classes=write(tmp_path / "c", "x\ny")
    )
    assert rows(read_manifest(both, "train")) == [("aaaaaaaaaaa_000000_000010", 0)]
    assert rows(read_manifest(both, "val")) == [("bbbbbbbbbbb_000000_000010", 1)]


@pytest.mark.parametrize("format", ["csv", "folders", "kinetics"])
def test_a_link_to_nothing_is_a_missing_file(data, tmp_path, format):
    names = ["train/a/aaaaaaaaaaa_000000_000001.mp4", "train/a/bbbbbbbbbbb_000000_000001.mp4"]
    touch(tmp_path, names[0], "elsewhere.mp4")
    (tmp_path / "val/a").mkdir(parents=True)
    (tmp_path / names[1]).symlink_to(tmp_path / "elsewhere.mp4")
    kinetics = KINETICS_HEADER + "".join(f"a,{n[8:19]},0,1,train,0\n" for n in names)
    listed = {"csv": "path,label\n" + "".join(f"{n},a\n" for n in names), "kinetics": kinetics}
    train = write(tmp_path / "t.csv", listed[format]) if format in listed else None
    asked = replace(data, format=format, root=str(tmp_path), train=train, missing="skip")
    assert len(read_manifest(asked, "train")) == 2
    (tmp_path / "elsewhere.mp4").unlink()
    found = read_manifest(asked, "train")
    assert (len(found), found.num_missing) == (1, 1)


def test_missing_files_are_an_error_with_count_and_names_or_skipped_and_counted(data, tmp_path):
    touch(tmp_path, "here.mp4")
    lines = "path,label\n" + "".join(f"gone{i}.mp4,x\n" for i in range(5)) + "here.mp4,x\n"
    data = replace(data, root=str(tmp_path), train=write(tmp_path / "t.csv", lines))
    with pytest.raises(ManifestError, match=r"5 of 6 videos .*gone0.mp4, gone1.mp4, gone2.mp4\).*data.missing=skip"):
        read_manifest(data, "train")
    manifest = read_manifest(replace(data, missing="skip"), "train")
    assert rows(manifest) == [("here.mp4", 0)]
    assert (manifest.num_missing, manifest.missing[0]) == (5, "gone0.mp4")
    (tmp_path / "here.mp4").unlink()
    with pytest.raises(ManifestError, match=r"no usable video \(6 missing"):
        read_manifest(replace(data, missing="skip"), "train")


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_lists(data, tmp_path, separator):
    touch(tmp_path, "a b/1.mp4", "2.avi")
    path = write(tmp_path / "list.txt", f"a b/1.mp4{separator}2\n\n2.avi{separator}0\n")
    manifest = read_manifest(replace(data, format="list", separator=separator, root=str(tmp_path), train=path), "train")
    assert manifest.classes == ("0", "1", "2")
    assert rows(manifest) == [("a b/1.mp4", 2), ("2.avi", 0)]
    assert manifest[0].path == str(tmp_path / "a b/1.mp4")


def test_paths_without_a_root_are_relative_to_the_annotation_and_absolute_ones_stay(data, tmp_path):
    touch(tmp_path, "sets/1.mp4", "elsewhere/2.mp4")
    path = write(tmp_path / "sets" / "t.csv", f"path,label\n1.mp4,x\n{tmp_path}/elsewhere/2.mp4,x\n")
    manifest = read_manifest(replace(data, train=path), "train")
    assert [manifest[i].path for i in range(2)] == [f"{tmp_path}/sets/1.mp4", f"{tmp_path}/elsewhere/2.mp4"]


def test_an_indexed_csv_gives_lengths_and_leaves_bad_files_out_of_training_alone(data, tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4")
    text = (
        "path,label,num_frames,width,height,fps,duration_seconds,codec,flags,status\n"
        '1.mp4,x,250,340,256,25.0,10.0,h264,"open_gop,vfr",ok\n2.mp4,x,,,,,,,,unreadable\n'
    )
    path = write(tmp_path / "t.csv", text)
    data = replace(data, train=path, val=path)
    train, val = read_manifest(data, "train"), read_manifest(data, "val")
    assert train[0].num_frames == 250
    assert (len(train), train.unreadable) == (1, ("2.mp4",))
    assert len(val) == 2
    assert val[1].num_frames is None


@pytest.mark.parametrize(("format", "extension"), [("folders", "mp4"), ("imagenet", "JPEG")])
def test_class_folders(data, tmp_path, format, extension):
    names = [f"train/b/2.{extension}", f"train/b/10.{extension}", f"train/a/1.{extension}", f"val/b/1.{extension}"]
    touch(tmp_path, *names, "train/b/readme.txt", "train/.cache/x")
    data = replace(data, format=format, root=str(tmp_path))
    assert rows(read_manifest(data, "train")) == [
        (f"a/1.{extension}", 0),
        (f"b/10.{extension}", 1),
        (f"b/2.{extension}", 1),
    ]
    assert rows(read_manifest(data, "val")) == [(f"b/1.{extension}", 1)]
    touch(tmp_path, f"val/c/1.{extension}")
    with pytest.raises(ManifestError, match="label 'c' is not one of the 2 classes"):
        read_manifest(data, "val")


def test_validation_has_the_classes_of_training(data, tmp_path):
    touch(tmp_path, "1.mp4")
    train = write(tmp_path / "t.csv", "path,label\n1.mp4,walk\n1.mp4,run\n1.mp4,jump\n")
    val = write(tmp_path / "v.csv", "path,label\n1.mp4,walk\n")
    data = replace(data, root=str(tmp_path), train=train, val=val)
    manifest = read_manifest(data, "val")
    assert manifest.classes == ("jump", "run", "walk")
    assert manifest[0].label == 2
    assert read_manifest(replace(data, train=None), "val").classes == ("walk",)


def test_the_class_file_sets_the_labels(data, tmp_path):
    touch(tmp_path, "1.mp4")
    classes = write(tmp_path / "classes.txt", "zero\none\ntwo\n\n")
    names = write(tmp_path / "t.csv", "path,label\n1.mp4,two\n1.mp4,one\n")
    numbers = write(tmp_path / "n.csv", "path,label\n1.mp4,2\n1.mp4,01\n")
    for train in (names, numbers):
        assert rows(read_manifest(replace(data, train=train, classes=classes), "train")) == [("1.mp4", 2), ("1.mp4", 1)]
    with pytest.raises(ManifestError, match=r"label '2' is not one .* numbers count classes only where every label"):
        read_manifest(replace(data, train=numbers, val=names, classes=classes), "train")


def test_the_digest_is_of_ids_and_labels_in_order(data, tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4", "moved/1.mp4", "moved/2.mp4")
    path = write(tmp_path / "t.csv", "path,label\n1.mp4,b\n2.mp4,a\n")
    manifest = read_manifest(replace(data, train=path), "train")
    assert manifest.digest() == hashlib.sha256(b"1.mp4\x001\n2.mp4\x000\n").hexdigest()
    moved = read_manifest(replace(data, train=path, root=str(tmp_path / "moved")), "train")
    assert moved.digest() == manifest.digest()
    (tmp_path / "2.mp4").unlink()
    fewer = read_manifest(replace(data, train=path, missing="skip"), "train")
    assert fewer.digest() != manifest.digest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n1.mp4,x\n", r"no column path .*\(file,label\); the header must have path,label"),
        ("", "no column path, label"),
        ("path,label\n", "no usable video"),
        ("path,label\n1.mp4\n", "line 2: 1 fields under 2 columns"),
        ("path,label\n1.mp4,z\n", r"label 'z' is not one of the 2 classes \(x, y, ...\)"),
        ("path,label\n1.mp4,2\n", "label '2' is not one of the 2 classes"),
        ("path,label\n1.mp4,-1\n", "label '-1' is not one of the 2 classes"),
        (f"path,label\n1.mp4,{'9' * 5000}\n", "is not one of the 2 classes"),
        ('path,label\n1.mp4,x\n1.mp4,"x\n1.mp4,x\n', "line 3: unexpected end of data; mend the line, and close every"),
        ('path,label\n1.mp4,"x\n' + "1.mp4,x\n" * 20_000, "line 2: field larger than field limit"),
        ('path,"label\n1.mp4,x\n', "line 1: unexpected end of data"),
        ("path,label,num_frames\n1.mp4,x,99999999999\n", "num_frames=99999999999 of 1.mp4 is no such number"),
    ],
)
def test_a_bad_csv_is_one_line(data, tmp_path, text, message):
    touch(tmp_path, "1.mp4")
    data = replace(data, train=write(tmp_path / "t.csv", text), classes=write(tmp_path / "c.txt", "x\ny\n"))
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(data, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": None}, "data.train is not set"),
        ({"train": "/no/such.csv"}, "data.train=/no/such.csv: no such file"),
        ({"root": "/no/such"}, "data.root=/no/such: no such folder"),
        ({"classes": "/no/such.txt"}, "data.classes=/no/such.txt: .*one class name a line"),
        ({"format": "folders", "root": "/no/such"}, "data.root=/no/such: no such folder"),
        ({"format": "folders", "root": None}, "data.root is not set"),
        ({"format": "folders"}, "train: no such folder; data.root must hold train/CLASS/ folders"),
        ({"format": "kinetics"}, "no column youtube_id, time_start, time_end"),
        ({"format": "list", "separator": ";"}, "line 1: 'path,label' is not a path and a label parted by ';'"),
    ],
)
def test_what_is_not_there_is_one_line(data, tmp_path, change, message):
    touch(tmp_path, "1.mp4")
    data = replace(data, root=str(tmp_path), train=write(tmp_path / "t.csv", "path,label\n1.mp4,x\n"))
    with pytest.raises(ManifestError, match=message):
        read_manifest(replace(data, **change), "train")


def test_odd_text_files(data, tmp_path):
    touch(tmp_path, "ä.mp4")
    (tmp_path / "bom.csv").write_bytes("path,label\r\nä.mp4,x\r\n".encode("utf-8-sig"))
    assert rows(read_manifest(replace(data, train=str(tmp_path / "bom.csv")), "train")) == [("ä.mp4", 0)]
    (tmp_path / "latin.csv").write_bytes("path,label\nä.mp4,x\n".encode("latin-1"))
    with pytest.raises(ManifestError, match=r"1 of 1 videos of .* are not below"):
        read_manifest(replace(data, train=str(tmp_path / "latin.csv")), "train")
    touch(tmp_path, os.fsdecode("ä.mp4".encode("latin-1")))
    assert rows(read_manifest(replace(data, train=str(tmp_path / "latin.csv")), "train")) == [("\udce4.mp4", 0)]
    twice = write(tmp_path / "twice.txt", "x\ny\nx\n")
    with pytest.raises(ManifestError, match="'x' is there twice"):
        read_manifest(replace(data, train=str(tmp_path / "bom.csv"), classes=twice), "train")


def test_a_number_far_beyond_the_rows_is_no_class(data, tmp_path):
    touch(tmp_path, "1.mp4")
    for label in ("9999999", "1" + "0" * 5000):
        path = write(tmp_path / "t.csv", f"path,label\n1.mp4,0\n1.mp4,{label}\n")
        with pytest.raises(ManifestError, match=r"t.csv: label \d+ would make \d+ classes of 2 rows; mend the label"):
            read_manifest(replace(data, train=path), "train")
    path = write(tmp_path / "t.csv", "path,label\n1.mp4,0\n1.mp4,21840\n")  # two rows of ImageNet-21k
    assert len(read_manifest(replace(data, train=path), "train").classes) == 21841


@pytest.mark.parametrize("format", ["csv", "list"])
def test_an_annotation_in_the_current_folder_needs_no_root(data, tmp_path, monkeypatch, format):
    touch(tmp_path, "1.mp4")
    write(tmp_path / "t.csv", {"csv": "path,label\n1.mp4,x\n", "list": "1.mp4 x\n"}[format])
    monkeypatch.chdir(tmp_path)
    assert rows(read_manifest(replace(data, format=format, train="t.csv"), "train")) == [("1.mp4", 0)]


@pytest.mark.parametrize("seconds", ["soon", "inf", "nan"])
def test_bad_kinetics_times(data, tmp_path, seconds):
    path = write(tmp_path / "t.csv", KINETICS_HEADER + f"x,aaaaaaaaaaa,{seconds},later,train,0\n")
    with pytest.raises(ManifestError, match=f"time_start='{seconds}', .* of aaaaaaaaaaa are not seconds"):
        read_manifest(replace(data, format="kinetics", root=str(tmp_path), train=path), "train")


def test_folders_are_names_and_never_numbers(data, tmp_path):
    touch(tmp_path, "train/2019/a.mp4", "train/2021/b.mp4", "val/2021/c.mp4")
    folders = replace(data, format="folders", root=str(tmp_path), train=None, val=None)
    assert read_manifest(folders, "train").classes == ("2019", "2021")
    assert rows(read_manifest(folders, "val")) == [("2021/c.mp4", 1)]
    touch(tmp_path, "val/1/d.mp4")
    with pytest.raises(ManifestError, match="label '1' is not one of the 2 classes"):
        read_manifest(folders, "val")


def test_240000_rows_stay_small(data, tmp_path):
    num = 240_000
    for label in range(40):
        touch(tmp_path, f"train/class {label}/{'x' * 11}_{label:06d}_000010.mp4")
    with open(tmp_path / "t.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "num_frames", "width", "height", "status"])
        for i in range(num):
            name = f"train/class {i % 40}/{'x' * 11}_{i % 40:06d}_000010.mp4"
            writer.writerow([name, f"class {i % 40}", 250, 340, 256, "ok"])
    manifest = read_manifest(replace(data, train=str(tmp_path / "t.csv")), "train")
    assert len(manifest) == num
    assert manifest[num - 1].num_frames == 250
    assert len(pickle.dumps(manifest)) < 30e6  # what stays: no object a row


@pytest.mark.shared
def test_egogestar(data, shared_data):
    root = shared_data / "egogestar"
    data = replace(
        data, root=str(root), train=str(shared_data / "egogestar/128_train.csv"), val=str(root / "128_val.csv")
    )
    train, val = read_manifest(data, "train"), read_manifest(data, "val")
    assert (len(train), len(val), len(val.classes)) == (264, 60, 10)
    labels = [val[i].label for i in range(60)]
    assert [labels.count(c) for c in range(10)] == [6] * 10
    assert val.classes[val[59].label] == "swipe_up"


@pytest.mark.shared
def test_three_real_kinetics_clips_through_the_official_csv(data, shared_data):
    data = replace(
        data,
        format="kinetics",
        root=str(shared_data / "clips/good"),
        train=str(shared_data / "kinetics/tiny_train.csv"),
        val=str(shared_data / "kinetics/k400_val.csv"),
        classes=str(shared_data / "kinetics/k400_labels.txt"),
    )
    with pytest.raises(ManifestError, match="19903 of 19906 videos"):
        read_manifest(data, "val")
    manifest = read_manifest(replace(data, missing="skip"), "val")
    assert manifest.num_missing == 19903
    assert {manifest.classes[label] for _, label in rows(manifest)} == {"using segway"}
    assert len(manifest) == 3
    without_file = read_manifest(replace(data, missing="skip", classes=None), "val")
    assert without_file.classes == manifest.classes  # alphabetical, like the official label file
