"""`vidgn data index`: one row a video, kept when stopped, reused when nothing changed."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.data.encoded_videos import HEIGHT, KINDS, NUM_FRAMES, WIDTH, copy_from, encode
from vidgn.cli import data as verbs
from vidgn.config.compose import load_config
from vidgn.config.schema import DataConfig
from vidgn.data.datasets.listing import INDEX_COLUMNS
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.datasets.sources import find_sources
from vidgn.data.loading.pool import Limits
from vidgn.data.tools.index import write_index
from vidgn.errors import ConfigError, ManifestError

LIMITS = Limits()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/walk/{a,b}.mp4, train/run/c.mp4, train/run/bad.mp4: two classes, one bad file, b of variable rate."""
    folder = tmp_path_factory.mktemp("set") / "train"
    for name in ("walk", "run"):
        (folder / name).mkdir(parents=True)
    KINDS["h264_closed"](folder).rename(folder / "walk" / "a.mp4")
    encode(folder / "walk" / "b.mp4", "libx264", options={"preset": "veryfast"}, pts_of=lambda n: 3 * n + n % 3)
    copy_from(folder / "walk" / "a.mp4", folder / "run" / "c.mp4", first_keyframe=1)
    (folder / "run" / "bad.mp4").write_bytes((folder / "walk" / "a.mp4").read_bytes()[:1500])
    return folder


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_rows_say_what_decodes(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "index.csv"
    assert verbs.index([str(videos), "--out", str(out), "--workers", "1"]) == 0
    rows = rows_of(out)
    assert list(rows) == ["run/bad.mp4", "run/c.mp4", "walk/a.mp4", "walk/b.mp4"]
    a = rows["walk/a.mp4"]
    assert (a["label"], a["num_frames"], a["height"], a["width"]) == ("walk", str(NUM_FRAMES), str(HEIGHT), str(WIDTH))
    assert (a["fps"], a["duration_seconds"], a["codec"], a["flags"], a["status"]) == ("25", "1.6", "h264", "", "ok")
    assert rows["walk/b.mp4"]["flags"] == "vfr"
    assert rows["run/c.mp4"]["num_frames"] == str(NUM_FRAMES - 12)
    assert rows["run/bad.mp4"]["status"] == "unreadable"
    assert "is no video that can be read" in rows["run/bad.mp4"]["reason"]
    assert "4 videos: 3 ok, 1 unreadable; 108 frames" in capsys.readouterr().out


def test_an_index_is_a_manifest(videos: Path, tmp_path: Path, tiny_data: DataConfig) -> None:
    out = tmp_path / "index.csv"
    write_index(find_sources(str(videos)).files, str(out), workers=1, limits=LIMITS)
    data = replace(tiny_data, format="csv", root=str(videos), train=str(out), synthetic=None)
    manifest = read_manifest(data, "train")
    assert manifest.classes == ("run", "walk")
    assert [(row.id, row.num_frames) for row in manifest] == [
        ("run/c.mp4", NUM_FRAMES - 12),
        ("walk/a.mp4", NUM_FRAMES),
        ("walk/b.mp4", NUM_FRAMES),
    ]
    assert manifest.unreadable == ("run/bad.mp4",)


def test_annotations_of_all_formats_are_indexed(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("walk/a.mp4 1\nrun/c.mp4 0\nrun/gone.mp4 0\n")
    (tmp_path / "table.csv").write_text("path,label\nwalk/a.mp4,walk\n")
    (tmp_path / "kinetics.csv").write_text("label,youtube_id,time_start,time_end,split\nwalk,a,0,10,train\n")
    listed = find_sources(str(tmp_path / "list.txt"), root=str(videos))
    assert [(s.path, s.label) for s in listed.files] == [("walk/a.mp4", "1"), ("run/c.mp4", "0")]
    assert listed.missing == ("run/gone.mp4",)
    assert [s.label for s in find_sources(str(tmp_path / "table.csv"), root=str(videos)).files] == ["walk"]
    kinetics = find_sources(str(tmp_path / "kinetics.csv"), root=str(videos), split="train")
    assert [s.full_path for s in kinetics.files] == [str(videos / "walk" / "a.mp4")]
    with pytest.raises(ManifestError, match="no such file or folder"):
        find_sources(str(tmp_path / "nothing"))


def test_the_columns_of_an_annotation_are_kept_when_a_run_is_repeated_too(videos: Path, tmp_path: Path) -> None:
    listed, out = tmp_path / "list.csv", tmp_path / "index.csv"
    listed.write_text("scene,path,label,width\npark,walk/a.mp4,walk ,7\n")
    for _ in range(2):
        assert verbs.index([str(listed), "--root", str(videos), "--out", str(out), "--workers", "1"]) == 0
        assert out.read_text().splitlines()[0] == ",".join((*INDEX_COLUMNS, "scene"))
        row = rows_of(out)["walk/a.mp4"]
        assert (row["label"], row["scene"], row["width"]) == ("walk", "park", str(WIDTH))


def test_a_wrong_root_is_said(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("train/walk/a.mp4 1\n")
    with pytest.raises(ManifestError, match=r"none of the 1 files of .* \(first: train/walk/a.mp4\); give .* --root"):
        verbs.index([str(tmp_path / "list.txt"), "--root", str(videos), "--out", str(tmp_path / "out.csv")])


def test_what_is_wrong_is_told_in_flags(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k.csv").write_text("label,youtube_id,time_start,time_end,split\nwalk,a,0,10,train\n")
    (tmp_path / "list.txt").write_text("1.mp4,1\n")
    refused = {
        ("k.csv",): "k.csv is a Kinetics csv: give the folder that holds its videos with --root",
        ("list.txt", "--root", "/no"): "--root /no: no such folder",
        ("list.txt", "--separator", ";"): "set data.separator .*--separator.* to what parts them",
        ("list.txt", "--separator", ""): "--separator is empty",
    }
    monkeypatch.chdir(tmp_path)  # a bare name lies in the current folder
    for words, message in refused.items():
        with pytest.raises(ManifestError, match=message):
            verbs.index([*words, "--out", "out.csv"])
    (tmp_path / "1.mp4").symlink_to(videos / "walk" / "a.mp4")
    assert verbs.index(["list.txt", "--separator", ",", "--out", "out.csv", "--workers", "1"]) == 0


def test_a_video_under_two_labels_has_a_row_for_each(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("path,label\nwalk/a.mp4,walk\nrun/c.mp4,run\nwalk/a.mp4,stroll\n")
    sources, out = find_sources(str(tmp_path / "two.csv"), root=str(videos)).files, tmp_path / "index.csv"
    for num_reused in (0, 3):
        summary = write_index(sources, str(out), workers=1, limits=LIMITS)
        assert (summary.num_files, summary.num_ok, summary.num_reused) == (3, 3, num_reused)
        with open(out, newline="", encoding="utf-8") as file:
            found = [(row["path"], row["label"], row["num_frames"]) for row in csv.DictReader(file)]
        a, c = str(NUM_FRAMES), str(NUM_FRAMES - 12)
        assert found == [("walk/a.mp4", "walk", a), ("run/c.mp4", "run", c), ("walk/a.mp4", "stroll", a)]


def test_an_index_of_images_is_a_manifest(tmp_path: Path, tiny_data: DataConfig) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "set" / label).mkdir(parents=True)
        Image.new("RGB", (50, 40)).save(tmp_path / "set" / label / "1.png")
    out = tmp_path / "index.csv"
    assert verbs.index([str(tmp_path / "set"), "--out", str(out), "--workers", "1"]) == 0
    data = replace(tiny_data, format="csv", root=str(tmp_path / "set"), train=str(out), synthetic=None)
    manifest = read_manifest(data, "train")
    assert [(row.id, row.label, row.num_frames) for row in manifest] == [("cat/1.png", 0, 1), ("dog/1.png", 1, 1)]
    again = tmp_path / "again.csv"
    write_index(find_sources(str(out), root=str(tmp_path / "set")).files, str(again), workers=1, limits=LIMITS)
    assert again.read_bytes() == out.read_bytes()


def test_only_new_and_changed_files_are_decoded_again(videos: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(videos, tmp_path / "copy")
    out = tmp_path / "index.csv"
    first = write_index(find_sources(str(folder)).files, str(out), workers=1, limits=LIMITS)
    assert (first.num_files, first.num_ok, first.num_reused) == (4, 3, 0)
    before = out.read_bytes()
    again = write_index(find_sources(str(folder)).files, str(out), workers=1, limits=LIMITS)
    assert again.num_reused == 4
    assert out.read_bytes() == before
    shutil.copy(folder / "walk" / "a.mp4", folder / "run" / "bad.mp4")
    mended = write_index(find_sources(str(folder)).files, str(out), workers=1, limits=LIMITS)
    assert (mended.num_ok, mended.num_reused) == (4, 3)
    same_size = folder / "walk" / "a.mp4"
    os.utime(same_size, ns=(1, 1))
    looked = write_index(find_sources(str(folder)).files, str(out), workers=1, limits=LIMITS)
    assert looked.num_reused == 3


def test_bad_files_are_looked_at_again_when_asked(videos: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "index.csv")
    sources = find_sources(str(videos)).files
    write_index(sources, out, workers=1, limits=LIMITS)
    assert write_index(sources, out, workers=1, limits=LIMITS, retry=True).num_reused == 3


def test_what_it_says_to_write_can_be_written(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever folders are called: by a shell, and by Hydra."""
    root = tmp_path / 'a "set", of $HOME = {ours}'
    shutil.copytree(videos, root)
    out = tmp_path / "it's.csv"
    assert verbs.index([str(root), "--out", str(out), "--workers", "1"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    words = shlex.split(said.removeprefix("use it with ").removesuffix(" (or data.val=...)"))
    data = load_config([*words, words[-1].replace("data.train", "data.val")]).data
    assert (data.root, data.train, data.val) == (str(root), str(out), str(out))


def test_a_stopped_run_goes_on_where_it_was(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "index.csv"
    sources = find_sources(str(videos)).files
    seen = []

    def stop_after_two(source: object, status: str) -> None:
        seen.append(source)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_index(sources, str(out), workers=1, limits=LIMITS, on_done=stop_after_two)
    assert not out.exists()
    with open(f"{out}.part", "a", encoding="utf-8") as file:
        file.write("walk/b.mp4,wa")  # a run that was killed while it wrote
    summary = write_index(sources, str(out), workers=1, limits=LIMITS)
    assert summary.num_reused == 2
    whole = tmp_path / "whole.csv"
    write_index(sources, str(whole), workers=1, limits=LIMITS)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        name for stem in ("index", "whole") for name in (f"{stem}.csv", f"{stem}.csv.openings")
    ]


def test_ctrl_c_keeps_what_is_done(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        os.link(videos / "walk" / "a.mp4", folder / f"{number:03d}.mp4")
    out = tmp_path / "index.csv"
    command = [sys.executable, "-m", "vidgn", "data", "index", str(folder), "--out", str(out), "--workers", "1"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(rows_of(Path(f"{out}.part")) if Path(f"{out}.part").exists() else {}) < 5:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    printed, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    kept = len(rows_of(Path(f"{out}.part")))
    assert 5 <= kept < 300
    assert f"stopped after {kept} of 300 files, which are kept" in printed
    summary = write_index(find_sources(str(folder)).files, str(out), workers=1, limits=LIMITS)
    assert (summary.num_files, summary.num_ok, summary.num_reused) == (300, 300, kept)


def test_the_header_is_what_the_help_says() -> None:
    assert INDEX_COLUMNS[:2] == ("path", "label")
    assert "path, label, num_frames" in verbs._INDEX_EPILOG
    for column in INDEX_COLUMNS:
        assert column in verbs._INDEX_EPILOG


def test_an_official_list_becomes_a_manifest(videos: Path, tmp_path: Path) -> None:
    root, good = tmp_path / "videos", videos / "walk" / "a.mp4"
    (root / "Biking").mkdir(parents=True)
    for name in ("Biking/v_Biking_g01_c01.avi", "v_one.mp4"):
        shutil.copyfile(good, root / name)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Biking/v_Biking_g01_c01.avi 1\n")
    (lists / "testlist01.txt").write_text("Biking/v_Biking_g01_c01.avi\n")
    segments = [{"label": "Surfing", "segment": [0.2, 0.8]}, {"label": "Diving", "segment": [0.8, 1.6]}]
    one = {"subset": "training", "duration": 1.6, "annotations": segments}
    (tmp_path / "net.json").write_text(json.dumps({"database": {"one": one}}))
    for words in (["ucf101", str(lists), "--fold", "1"], ["activitynet", str(tmp_path / "net.json")]):
        out = tmp_path / f"{words[0]}.csv"
        given = ["--format", *words, "--root", str(root), "--split", "train", "--out", str(out), "--workers", "1"]
        assert verbs.index(given) == 0
        own = load_config([f"data={words[0]}", f"data.root={root}", f"data.train={words[1]}"]).data
        own = replace(own, val=own.train, fold=1 if "--fold" in words else None)
        by_index = load_config(["data=csv", f"data.root={root}", f"data.train={out}", f"data.val={out}"]).data
        was, now = read_manifest(own, "train"), read_manifest(by_index, "train")
        assert [(was[i].path, was.classes[was[i].label], was[i].segment) for i in range(len(was))] == [
            (now[i].path, now.classes[now[i].label], now[i].segment) for i in range(len(now))
        ]
        assert {now[i].num_frames for i in range(len(now))} == {NUM_FRAMES}
    for option in (["--fold", "1"], ["--label", "x"]):
        with pytest.raises(ConfigError, match="leave it out"):
            verbs.index([str(videos), *option, "--out", str(tmp_path / "x.csv")])
    with pytest.raises(ManifestError, match=r"give the folder that holds its videos with --root"):
        verbs.index(["--format", "ucf101", str(lists), "--fold", "1", "--out", str(tmp_path / "x.csv")])


def test_an_index_is_written_where_its_openings_can_not_be(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index.csv"
    Path(f"{out}.openings").mkdir()
    assert verbs.index([str(videos), "--out", str(out), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "index.csv.openings can't be written (unable to open database file): videos are opened without it" in said
    assert len(rows_of(out)) == 4
