"""Folds are grouped, stratified, and a function of the list alone; each video is tested once."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.folds import assign_folds
from vidgn.data.datasets.manifest import Manifest, check_data, read_manifest
from vidgn.errors import ConfigError

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=60)


def named(rows: list[tuple[int, int]]) -> list[tuple[str, str, str]]:
    return [(f"{i}.mp4", f"class {label}", f"group {group}") for i, (label, group) in enumerate(rows)]


@given(ROWS, st.integers(2, 6), st.integers(0, 3), st.randoms(use_true_random=False))
def test_groups_stay_together_and_order_does_not_matter(rows, folds, seed, random) -> None:
    listed = named(rows)
    found = assign_folds(listed, folds=folds, seed=seed)
    assert found.keys() == {id for id, _, _ in listed}
    by_group = {group: {found[id] for id, _, g in listed if g == group} for _, _, group in listed}
    assert all(len(of_group) == 1 for of_group in by_group.values())
    assert set(found.values()) <= set(range(folds))
    random.shuffle(listed)
    assert assign_folds(listed, folds=folds, seed=seed) == found


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(2, 6))
def test_without_groups_each_class_is_spread_as_evenly_as_it_can_be(labels, folds) -> None:
    listed = [(f"{i}.mp4", str(label), f"{i}.mp4") for i, label in enumerate(labels)]
    found = assign_folds(listed, folds=folds, seed=0)
    for label in set(labels):
        counts = Counter(found[id] for id, name, _ in listed if name == str(label))
        of_fold = [counts[fold] for fold in range(folds)]
        assert max(of_fold) - min(of_fold) <= 1
    sizes = Counter(found.values())
    assert max(sizes.values()) - min(sizes[fold] for fold in range(folds)) <= len(set(labels))


@pytest.fixture
def data(tiny_data: DataConfig, tmp_path: Path) -> DataConfig:
    lines = ["path,label,scene"]
    for number in range(24):
        name = f"{'run' if number % 2 else 'walk'}/{number}.mp4"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        lines.append(f"{name},{name[:3]},scene {number % 8}")
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "all.txt").write_text("\n".join(" ".join(line.split(",")[:2]) for line in lines[1:]) + "\n")
    return replace(
        tiny_data, format="csv", root=str(tmp_path), synthetic=None, train=str(tmp_path / "all.csv"), val=None, folds=4
    )


def ids(manifest: Manifest) -> list[str]:
    return [manifest[index].id for index in range(len(manifest))]


@pytest.mark.parametrize("format", ["csv", "list", "folders"])
def test_each_video_is_tested_once_by_a_net_that_was_not_trained_on_it(data: DataConfig, format: str) -> None:
    changes = {"csv": {"group": "scene"}, "list": {"train": str(data.train)[:-3] + "txt"}, "folders": {"train": None}}
    data = replace(data, format=format, **changes[format])
    tested = []
    for fold in range(4):
        asked = replace(data, fold=fold)
        check_data(asked)
        train, val = read_manifest(asked, "train"), read_manifest(asked, "val")
        assert train.classes == val.classes == (("run", "walk") if format == "folders" else ("run", "wal"))
        assert sorted(ids(train) + ids(val)) == sorted(f"{'run' if n % 2 else 'walk'}/{n}.mp4" for n in range(24))
        assert Counter(val.labels) == {0: 3, 1: 3}
        tested += ids(val)
        if format == "csv":
            scenes = [{int(id.split("/")[1][:-4]) % 8 for id in ids(rows)} for rows in (train, val)]
            assert not scenes[0] & scenes[1]
    assert len(tested) == len(set(tested)) == 24


def test_a_video_that_is_not_there_moves_no_other(data: DataConfig, tmp_path: Path) -> None:
    data = replace(data, fold=1, missing="skip")
    before = ids(read_manifest(data, "val"))
    (tmp_path / before[0]).unlink()
    assert ids(read_manifest(data, "val")) == before[1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fold": None}, "at least 2 folds, and one of 0 to folds - 1 to test: write data.folds=5 data.fold=0"),
        ({"fold": 4}, "data.folds=4 data.fold=4: at least 2 folds"),
        ({"folds": 1}, "data.folds=1 data.fold=0: at least 2 folds"),
        ({"folds": None}, "part a list into folds: write data.folds=5 with them"),
        ({"val": "val.csv"}, "data.folds=4 tests a part of data.train: write data.val=null"),
        ({"format": "kinetics"}, "data.folds=4 is for csv, list and folders, not kinetics: leave it out"),
        ({"format": "folders", "group": "scene"}, "data.group=scene is a column of a csv, not of folders"),
    ],
)
def test_what_does_not_go_together_is_said(data: DataConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_data(replace(data, **{"fold": 0, **change}))
