"""The videos that a run began with are its data set, whatever becomes of the files and of the annotation."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.small_run import BASE, RUN, begin, patched, train, write_data
from vidgn import run as running
from vidgn.cli.main import main
from vidgn.data.clips import read as reading
from vidgn.data.datasets import annotations
from vidgn.runs import kept_rows
from vidgn.runs.kept_rows import kept_rows as read_kept

MANY = BASE | {"data.max_unreadable": "100"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)


def lines() -> list[dict]:
    found = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "clock"} for line in found]


def test_videos_that_vanish_between_two_starts_end_it_as_those_that_vanish_on_the_way(capsys):
    """A run that is stopped, loses two videos and goes on leaves the bytes of one that lost them without a stop."""
    names = ["videos/5.mp4", "videos/6.mp4"]
    ordinary, step = reading.read_clips, Counter()

    def losing(task, out):
        """From the third step on, of two clips each, the files are gone."""
        step["clips"] += 1
        if step["clips"] == 5:
            for name in names:
                Path(name).rename(f"{name}.gone")
        return ordinary(task, out)

    with patched("vidgn.data.clips.read.read_clips", losing):
        assert train(MANY | {"data.workers": "0"}) == 0
    whole = Path("whole")
    RUN.rename(whole)
    for name in names:
        Path(f"{name}.gone").rename(name)
    begin(**{"data.max_unreadable": "100"})
    for name in names:
        Path(name).unlink()
    capsys.readouterr()
    assert train(MANY) == 0
    said = capsys.readouterr().out
    assert (
        f"1 of the 6 training videos that {RUN} began with can't be found any more below videos (first: 5.mp4)" in said
    )
    assert f"1 of the 2 validation videos that {RUN} began with" in said
    assert lines()[2]["substitutions"][0]["id"] == "5.mp4"
    told = json.loads((RUN / "result.json").read_text())
    assert (told["num_unreadable"], told["num_videos"], told["num_missing"], told["num_substituted"]) == (1, 2, 0, 1)
    for name in ("result.json", "model.safetensors", "tests/curve-none.csv"):
        assert (RUN / name).read_bytes() == (whole / name).read_bytes(), name
    assert main(["evaluate", str(RUN), "views=center"]) == 0
    tested = json.loads((RUN / "tests/center-none.json").read_text())
    assert (tested["num_unreadable"], tested["num_videos"]) == (1, 2)


def test_another_annotation_is_another_experiment(capsys):
    begin()
    for change in ("0.mp4,walk", "7.mp4,run"):  # another label; another video
        before = Path("train.csv").read_text()
        name = change.partition(",")[0]
        kept = [row for row in before.splitlines() if not row.startswith(name)]
        Path("train.csv").write_text("\n".join([*kept, change]) + "\n")
        assert train(BASE) == 1
        assert "holds another experiment: data rows" in capsys.readouterr().err
        Path("train.csv").write_text(before)
    assert train(BASE) == 0


def test_the_same_rows_in_another_order_and_place_are_the_same():
    assert train(BASE | {"study": "whole"}) == 0
    begin()
    header, *rows = Path("train.csv").read_text().splitlines()
    Path("turned.csv").write_text("\n".join([header, *reversed(rows)]) + "\n")
    shutil.move("videos", "moved")
    assert train(BASE | {"data.root": "moved", "data.train": "turned.csv", "data.classes": "names.txt"}) == 0
    whole = RUN.parents[1] / "whole" / RUN.name
    assert (RUN / "result.json").read_bytes() == (whole / "result.json").read_bytes()


def test_a_video_that_was_missing_and_came_stays_out():
    Path("videos/0.mp4").rename("0.mp4")
    begin(**{"data.missing": "skip"})
    Path("0.mp4").rename("videos/0.mp4")
    assert train(BASE | {"data.missing": "skip"}) == 0
    rows = read_kept(RUN, "train")
    assert rows is not None
    assert (len(rows), rows.missing) == (5, ("0.mp4",))


def test_moved_videos_must_all_be_there(capsys):
    begin()
    shutil.copytree("videos", "moved")
    Path("moved/3.mp4").unlink()
    assert train(BASE | {"data.root": "moved"}) == 1
    assert "1 of the 6 training videos" in (said := capsys.readouterr().err)
    assert "below moved (first: 3.mp4): give data.root=FOLDER where they are" in said


def test_a_smaller_generated_set_is_another_experiment_and_writes_nothing(capsys):
    small = BASE | {"data": "synthetic", "data.root": "made", "data.train": "null", "data.val": "null"}
    small |= {"data.synthetic.num_train": "8", "data.synthetic.num_val": "4", "data.synthetic.num_classes": "2"}
    small |= {"data.synthetic.size": "32", "data.synthetic.num_frames": "10"}
    assert train(small) == 0
    (RUN / "result.json").unlink()
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert train(small | {"data.synthetic.num_train": "4"}) == 1
    said = capsys.readouterr()
    assert "holds another experiment: data rows" in said.err
    assert "can't be found" not in said.out
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("ranks", [1, 2])
def test_files_are_listed_once_a_start(monkeypatch, ranks):
    """By the process that is started; ranks have the rows from its file."""
    listed = Counter()
    ordinary = annotations.read_listing

    def counting(data, split):
        listed[split] += 1
        with Path("listed").open("a") as file:
            file.write(f"{split}\n")
        return ordinary(data, split)

    monkeypatch.setattr(kept_rows.rows_of, "__kwdefaults__", {**kept_rows.rows_of.__kwdefaults__, "read": counting})
    group = {"gpus": "2", "clips_per_gpu": "1", "launch.nproc_per_node": str(ranks)}
    if ranks > 1:  # theirs are other processes: where they list, there is nothing any more
        monkeypatch.setattr("vidgn.run.launch", losing_the_lists(running.launch))
    assert train(BASE | group) == 0
    assert listed == {"train": 1, "val": 1}


def losing_the_lists(launch):
    def started(*arguments):
        for split in ("train", "val"):
            Path(f"{split}.csv").rename(f"{split}.away")
        return launch(*arguments)

    return started


def test_class_folders_keep_their_videos_too(capsys):
    for split, which in (("train", range(6)), ("val", range(6, 8))):
        for i in which:
            folder = Path("tree", split, "walk" if i % 2 else "run")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(f"videos/{i}.mp4", folder)
    folders = MANY | {"data": "folders", "data.root": "tree", "data.train": "null", "data.val": "null"}
    begin(**{k: v for k, v in folders.items() if k not in BASE or BASE[k] != v})
    Path("tree/train/run/4.mp4").unlink()
    Path("tree/val/walk/7.mp4").unlink()
    Path("tree/val/walk").rmdir()  # and with it a class, as far as folders tell
    assert train(folders) == 0
    assert json.loads((RUN / "result.json").read_text())["num_unreadable"] == 1
