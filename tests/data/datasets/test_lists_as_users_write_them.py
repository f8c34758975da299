"""Lists, folders and links as people have them: labels, files and parts are those that are meant, or it is said."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.datasets.test_labels import labels_of, lists, notes
from vidgn.config.schema import DataConfig
from vidgn.data.datasets.annotations import read_listing
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.datasets.sources import find_sources
from vidgn.errors import ManifestError


@pytest.fixture
def data(tiny_data: DataConfig, tmp_path: Path) -> DataConfig:
    for number in range(12):
        (tmp_path / f"{number}.mp4").touch()
    return replace(tiny_data, format="csv", root=str(tmp_path), synthetic=None)


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_comma_that_is_not_quoted_makes_no_class_of_its_first_half(data: DataConfig) -> None:
    with pytest.raises(ManifestError, match=r"line 2: 3 fields under 2 columns; .*quote values that hold a comma"):
        labels_of(lists(data, "jump, high|jump, low", "jump, low"))
    spaced = lists(data, ' "jump, high"| "jump, low"', ' "jump, low"')
    assert read_manifest(spaced, "train").classes == ("jump, high", "jump, low")
    assert labels_of(lists(data, "run,|walk,", "run,"))[0] == [0, 1]  # as spreadsheets end lines


def test_two_columns_of_one_name_are_refused(data: DataConfig, tmp_path: Path) -> None:
    path = put(tmp_path / "t.csv", "path,label,label\n0.mp4,run,walk\n")
    with pytest.raises(ManifestError, match="two columns are called label; rename one"):
        read_listing(replace(data, train=str(path)), "train")


def test_a_status_of_the_user_s_own_leaves_no_video_out(data: DataConfig, tmp_path: Path) -> None:
    path = put(tmp_path / "t.csv", "path,label,status\n0.mp4,run,approved\n1.mp4,walk,ok\n")
    with pytest.raises(ManifestError, match=r"0.mp4 has the status 'approved', .*; rename the column, or index"):
        read_listing(replace(data, train=str(path)), "train")


def test_a_group_is_a_group_whatever_blanks_are_about_it(data: DataConfig, tmp_path: Path) -> None:
    rows = "".join(f"{n}.mp4,{'ab'[n % 2]},scene {n // 4}{' ' * (n % 2)}\n" for n in range(12))
    path = put(tmp_path / "t.csv", f"path,label,scene\n{rows}")
    folded = replace(data, train=str(path), folds=3, fold=0, group="scene")
    tested = {int(Path(id).stem) // 4 for id in read_listing(folded, "val").ids}
    trained = {int(Path(id).stem) // 4 for id in read_listing(folded, "train").ids}
    assert not tested & trained
    put(path, path.read_text() + "0.mp4,a, \n")
    with pytest.raises(ManifestError, match=r"0.mp4 has no scene, by which folds are made: write one for every row"):
        read_listing(folded, "train")


def test_a_tab_may_be_written_as_it_is_typed(data: DataConfig, tmp_path: Path) -> None:
    path = put(tmp_path / "t.txt", "0.mp4\trun\n1.mp4\twalk\n")
    listing = read_listing(replace(data, format="list", train=str(path), separator="\\t"), "train")
    assert (listing.ids, listing.labels) == (["0.mp4", "1.mp4"], ["run", "walk"])
    assert [s.label for s in find_sources(str(path), separator="\\t").files] == ["run", "walk"]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_the_verbs_know_a_csv_by_its_header_whatever_parts_it(tmp_path: Path, mark: str) -> None:
    put(tmp_path / "a.mp4")
    path = put(tmp_path / "t.csv", f"path{mark}label\na.mp4{mark}run\n")
    assert [(s.path, s.label) for s in find_sources(str(path)).files] == [("a.mp4", "run")]


def test_a_picture_beside_a_video_is_not_the_video(data: DataConfig, tmp_path: Path) -> None:
    for name in ("x/one.mp4", "x/one.jpg", "x/two.webp", "x/two.webm"):
        put(tmp_path / name)
    path = put(tmp_path / "t.json", json.dumps([{"vid_name": "one", "label": 0}, {"vid_name": "two", "label": 1}]))
    of_list = replace(data, format="diving48", root=str(tmp_path / "x"), train=str(path))
    assert read_listing(of_list, "train").paths == ["one.mp4", "two.webm"]
    put(tmp_path / "x/two.mp4")
    with pytest.raises(ManifestError, match=r"two.mp4 and two.webm are both two of the list; take one of them away"):
        read_listing(of_list, "train")


def test_what_class_folders_hold_besides_is_said_and_hidden_files_are_none(tmp_path: Path, data: DataConfig) -> None:
    for name in ("a.mp4", "._a.mp4", "b.h264", "sub/c.mp4"):
        put(tmp_path / "f/train/run" / name)
    listing = read_listing(replace(data, format="folders", root=str(tmp_path / "f")), "train")
    assert listing.ids == ["run/a.mp4"]
    assert listing.notes == [f"{tmp_path}/f/train: passed over in class folders: 1 .h264, 1 folders"]


def test_classes_are_those_of_training_whatever_its_folder_is_called(tmp_path: Path, data: DataConfig) -> None:
    for name in ("training/run/a.mp4", "training/walk/b.mp4", "test/run/c.mp4"):
        put(tmp_path / "f" / name)
    of_folders = replace(data, format="folders", root=str(tmp_path / "f"))
    assert read_manifest(of_folders, "val").classes == ("run", "walk")


def test_folders_that_are_links_are_looked_into_once(tmp_path: Path) -> None:
    put(tmp_path / "store/run/a.mp4")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/run").symlink_to(tmp_path / "store/run")
    (tmp_path / "store/run/loop").symlink_to(tmp_path / "set")
    assert [s.path for s in find_sources(str(tmp_path / "set")).files] == ["run/a.mp4"]


def test_links_and_absolute_paths_do_not_hide_a_leak(data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.mp4").symlink_to(tmp_path / "0.mp4")
    made = lists(data, "run|walk", "run|walk")
    put(Path(str(made.val)), f"path,label\nelsewhere/x.mp4,run\n{tmp_path}/1.mp4,walk\n")
    here = replace(made, root=os.path.relpath(str(data.root)))
    assert notes(here) == [f"2 videos are in training and in validation: {tmp_path}/0.mp4, {tmp_path}/1.mp4"]
    put(Path(str(made.val)), "path,label\nelsewhere/x.mp4,walk\n")
    with pytest.raises(ManifestError, match=r"0.mp4 is 'run' and 'walk'; a video has one label"):
        notes(here)


def test_a_blank_line_among_class_names_is_refused(data: DataConfig, tmp_path: Path) -> None:
    names = put(tmp_path / "classes.txt", "run\n\nwalk\n\n")
    with pytest.raises(ManifestError, match="a blank line; write one class name a line"):
        labels_of(replace(lists(data, "0|1", "0"), classes=str(names)))
    put(names, "run\nwalk\n\n")
    assert labels_of(replace(lists(data, "0|1", "0"), classes=str(names))) == ([0, 1], [0])


def test_one_name_in_two_spellings_is_no_two_classes(data: DataConfig) -> None:
    with pytest.raises(ManifestError, match="is written in two ways, its accents once as part of the letter"):
        labels_of(lists(data, "caf\u00e9|run", "cafe\u0301|run"))
