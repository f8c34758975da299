"""Labels are right or refused: how the two lists go together, and what is said of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.annotations import read_listing
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.datasets.splits import check_splits
from vidgn.errors import ManifestError

CASES = Path(__file__).resolve().parents[4] / "shared" / "data" / "cases"


@pytest.fixture
def data(tiny_data: DataConfig, tmp_path: Path) -> DataConfig:
    for number in range(12):
        (tmp_path / f"{number}.mp4").touch()
    return replace(tiny_data, format="csv", root=str(tmp_path), synthetic=None)


def lists(data: DataConfig, train: str, val: str) -> DataConfig:
    """Two lists of labels, separated by bars; training takes the videos from 0 on, validation those from 6 on."""
    paths = []
    for name, labels, first in (("train", train, 0), ("val", val, 6)):
        path = Path(str(data.root)) / f"{name}.csv"
        rows = [f"{first + number}.mp4,{label}" for number, label in enumerate(labels.split("|"))]
        path.write_text("\n".join(["path,label", *rows]) + "\n")
        paths.append(str(path))
    return replace(data, train=paths[0], val=paths[1])


def notes(data: DataConfig) -> list[str]:
    return check_splits(read_manifest(data, "train"), read_manifest(data, "val"), data)


def labels_of(data: DataConfig) -> tuple[list[int], list[int]]:
    return read_manifest(data, "train").labels, read_manifest(data, "val").labels


def test_whole_numbers_in_both_lists_are_positions(data: DataConfig) -> None:
    assert labels_of(lists(data, "0|1|10|2", "0|1|2")) == ([0, 1, 10, 2], [0, 1, 2])
    assert labels_of(lists(data, "1|2", "0|2|1")) == ([1, 2], [0, 2, 1])  # the smallest may be in either


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("0.0|1.0|10.0|2.0", "0|1|2", r"label '0' .* numbers count classes only where every label of both lists"),
        ("0|1|2", "0.0|1.0", r"label '0\.0' is not one of the 3 classes .* no training video has it"),
        ("0|1|2", "walk|1", "label 'walk' is not one of the 3 classes"),
        ("1|2|3", "1|2", r"train.csv: labels are whole numbers from 1 on.*data\.first_label=1"),
        ("2019|2021", "2021", r"from 2019 on.* else list all classes in the file data\.classes"),
        ("run| ", "run", r"1.mp4 has no label"),
        ("run|walk", "run||walk", r"val.csv: 7.mp4 has no label"),
        ("run|walk", "run|jump", r"label 'jump' .* no training video has it: .*data\.untrained_classes=allow"),
    ],
)
def test_labels_that_cant_be_right_are_refused(data: DataConfig, train: str, val: str, message: str) -> None:
    data = lists(data, train, val)
    with pytest.raises(ManifestError, match=message):
        labels_of(data)


def test_one_list_from_0_and_one_from_1_are_told_by_a_class_that_is_not_trained(data: DataConfig) -> None:
    data = lists(data, "1|2|3", "0|1|2")
    with pytest.raises(ManifestError, match=r"1 classes are tested that no training video has: 0; see that both lists"):
        notes(data)


def test_numbers_may_begin_elsewhere_where_that_is_said(data: DataConfig) -> None:
    data = replace(lists(data, "1|2|3", "3|1"), first_label=1)
    assert labels_of(data) == ([0, 1, 2], [2, 0])
    assert read_manifest(data, "train").classes == ("1", "2", "3")
    with pytest.raises(ManifestError, match=r"from 0 on, and classes are counted from 1: write data\.first_label=0"):
        read_manifest(replace(lists(data, "0|1", "1"), first_label=1), "train")


def test_numbers_beside_a_file_of_names(data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("run\nwalk\njump\n")
    data = replace(lists(data, "1|2|3", "3|1"), classes=str(tmp_path / "names.txt"))
    with pytest.raises(ManifestError, match=r"label '3' .* write data\.first_label=1 if classes are"):
        labels_of(data)
    assert labels_of(replace(data, first_label=1)) == ([0, 1, 2], [2, 0])


def test_names_are_stripped(data: DataConfig) -> None:
    data = lists(data, "run|run | walk|walk", " run|walk")
    assert read_manifest(data, "train").classes == ("run", "walk")
    assert labels_of(data) == ([0, 0, 1, 1], [0, 1])


def test_untrained_classes_are_classes_where_that_is_allowed(data: DataConfig) -> None:
    data = replace(lists(data, "run|walk", "jump|run"), untrained_classes="allow")
    assert read_manifest(data, "train").classes == ("jump", "run", "walk")
    assert notes(data) == [
        "1 classes are tested that no training video has: jump",
        "1 classes have no validation video: walk",
    ]


def test_a_video_with_two_labels_is_an_error_within_a_list_and_between_both(data: DataConfig) -> None:
    data = lists(data, "run|walk", "run|walk")
    train = Path(str(data.train))
    train.write_text(train.read_text() + "./0.mp4,walk\n")
    with pytest.raises(ManifestError, match=r"train.csv: .*0.mp4 is 'run' and 'walk'; a video has one label"):
        notes(data)
    train.write_text("path,label\n0.mp4,run\n7.mp4,run\n1.mp4,walk\n")
    with pytest.raises(ManifestError, match=r"val.csv: .*7.mp4 is 'run' and 'walk'"):
        notes(data)


def test_what_a_reader_of_the_result_should_know_is_said(data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("run\nwalk\nsit\n")
    data = replace(lists(data, "run|walk", "run|run"), classes=str(tmp_path / "names.txt"))
    train = Path(str(data.train))
    train.write_text(train.read_text() + "1.mp4,walk\n7.mp4,run\n")
    assert notes(data) == [
        f"1 videos are listed more than once in train: {tmp_path}/1.mp4",
        f"1 videos are in training and in validation: {tmp_path}/7.mp4",
        "1 classes have no video at all: sit",
        "1 classes have no validation video: walk",
    ]


def test_lists_that_go_together_are_not_spoken_of(data: DataConfig) -> None:
    assert notes(lists(data, "run|walk", "walk|run")) == []


def test_columns_that_are_not_read_are_said(data: DataConfig) -> None:
    path = Path(str(data.root)) / "t.csv"
    path.write_text("path,label,scene,begin,width\n0.mp4,run,1,2,96\n")
    (note,) = read_listing(replace(data, train=str(path)), "train").notes
    assert note == f"{path}: columns that are not read: scene, begin"
    (note,) = read_listing(replace(data, train=str(path), group="scene"), "train").notes
    assert note == f"{path}: columns that are not read: begin"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,class\n0.mp4,run\n", r"no column path, label .*\(filename,class\).*rename its columns"),
        ("0.mp4,run\n1.mp4,walk\n", r"its first line \(0.mp4,run\) is a row; write a first line .*path,label"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of Git LFS.*git lfs pull"),
    ],
)
def test_a_csv_that_is_another_is_told_what_it_is(data: DataConfig, text: str, message: str) -> None:
    path = Path(str(data.root)) / "t.csv"
    path.write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_listing(replace(data, train=str(path)), "train")


@pytest.mark.parametrize("mark", ["\t", ";"])
def test_what_parts_the_first_line_parts_all(data: DataConfig, mark: str) -> None:
    path = Path(str(data.root)) / "t.csv"
    path.write_bytes(f"path{mark}label\n0.mp4{mark}run, fast\n".encode("utf-16"))
    listing = read_listing(replace(data, train=str(path)), "train")
    assert (listing.paths, listing.labels) == (["0.mp4"], ["run, fast"])


@pytest.mark.shared
def test_the_lists_that_failed(data: DataConfig) -> None:
    for name in ("a1", "a2", "a3", "a4"):
        (Path(str(data.root)) / f"{name}.mp4").touch()
    decimal = replace(data, train=str(CASES / "labels_float_train.csv"), val=str(CASES / "labels_int_val.csv"))
    with pytest.raises(ManifestError, match="numbers count classes only where every label"):
        read_manifest(decimal, "val")
    assert read_manifest(replace(data, train=str(CASES / "labels_blanks.csv")), "train").classes == ("run", "walk")
