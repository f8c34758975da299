"""The main job as a user runs it: videos of every kind, real decoders, real processes, through the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.encoded_videos import KINDS, write_damaged
from vidgn.cli.main import main

QUICK = [
    "model=i3d_tiny",
    "frames=8",
    "span=16",
    "gpus=2",
    "clips_per_gpu=4",
    "data.crop=48",
    "data.short_side=[48,56]",
    "trainer.device=cpu",
    "trainer.eval_every=0",
    "bn_stats_steps=2",
    "launch.threads=1",
]


def vidgn(*arguments: str, folder: Path, code: int = 0) -> str:
    """Run the command in `folder`; its output. An error is one line on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "vidgn", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    if code:
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stdout + done.stderr


def metrics(run: Path) -> list[dict]:
    """Lines of metrics.jsonl less what a clock gives."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "clock"} for line in lines]


def assert_trains(root, train, val, folder, *, num_videos, num_classes, processes):
    """Four steps and a test on videos whose right and left may be classes, so without flips."""
    arguments = [*QUICK, "data=csv", f"data.root={root}", f"data.train={train}", f"data.val={val}", "data.flip=false"]
    arguments += ["trainer.max_steps=4", "views=center", "norm=bn", f"launch.nproc_per_node={processes}"]
    vidgn("train", *arguments, folder=folder)
    run = folder / "runs/study/i3d_tiny_8f_4x2_bn_s0"
    result = json.loads((run / "result.json").read_text())
    assert (result["num_videos"], result["num_unreadable"], result["classes"]) == (num_videos, 0, num_classes)
    rows = (run / "tests/center-precise.csv").read_text().splitlines()[1:]
    assert len(rows) == num_videos
    right = sum(row.split(",")[3] == "0" for row in rows)
    assert result["top1"] == pytest.approx(100 * right / num_videos)
    assert [line["step"] for line in metrics(run) if line["kind"] == "train"] == [1, 2, 3, 4]
    assert (run / "model.safetensors").exists()
    assert "is done" in vidgn("train", *arguments, folder=folder)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.long), 2])
def test_videos_of_every_kind_on_one_and_two_ranks(videos, tmp_path, processes):
    num_videos = len(list(KINDS)[::2])
    files = {"root": videos.folder, "train": videos.train, "val": videos.val}
    assert_trains(**files, folder=tmp_path, num_videos=num_videos, num_classes=5, processes=processes)


@pytest.mark.shared
def test_real_videos(shared_data, tmp_path):
    root = shared_data / "egogestar"
    files = {"root": root, "train": root / "128_train.csv", "val": root / "128_val.csv"}
    assert_trains(**files, folder=tmp_path, num_videos=60, num_classes=10, processes=2)


def assert_trains_on_what_is_there(csv, root, folder, *, there, rows, num_classes):
    """A Kinetics csv lists more than anybody could still fetch."""
    arguments = [*QUICK, "trainer.max_steps=1", "views=curve", f"data.root={root}", "norm=gn"]
    arguments += [f"data.train={csv}", f"data.val={csv}"]
    refused = vidgn("train", *arguments, folder=folder, code=1)
    assert f"{rows - there} of {rows}" in refused
    assert "data.missing=skip" in refused
    vidgn("train", *arguments, "data.missing=skip", folder=folder)
    result = json.loads((folder / "runs/study/i3d_tiny_8f_4x2_gn_s0/result.json").read_text())
    assert (result["num_videos"], result["num_missing"], result["classes"]) == (there, rows - there, num_classes)


def test_kinetics_clips_through_a_csv_of_the_official_form(tmp_path):
    lines = ["label,youtube_id,time_start,time_end,split,is_cc"]
    lines += [f"motion {i % 5},-_video{i:04d},{i},{i + 10},val,0" for i in range(20)]
    (tmp_path / "val.csv").write_text("\n".join(lines) + "\n")
    for number, kind in {0: "h264_closed", 7: "h264_rotated", 13: "hevc_open"}.items():
        KINDS[kind](tmp_path).rename(tmp_path / f"-_video{number:04d}_{number:06d}_{number + 10:06d}.mp4")
    assert_trains_on_what_is_there(tmp_path / "val.csv", tmp_path, tmp_path, there=3, rows=20, num_classes=5)


@pytest.mark.shared
def test_real_kinetics_clips_through_the_official_csv(shared_data, tmp_path):
    csv, root = shared_data / "kinetics/k400_val.csv", shared_data / "clips/good"
    assert_trains_on_what_is_there(csv, root, tmp_path, there=3, rows=19906, num_classes=400)


SYNTHETIC = [
    *QUICK,
    "data=synthetic",
    "data.crop=32",
    "data.short_side=[32,36]",
    "data.synthetic.num_train=24",
    "data.synthetic.num_val=16",
    "data.synthetic.size=36",
    "views=curve",
]


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Where the small generated set is cached for this module."""
    return f"data.root={tmp_path_factory.mktemp('videos')}"


def test_the_same_seed_and_other_worker_counts_give_the_same_run(generated, tmp_path):
    arguments = [*SYNTHETIC, generated, "norm=bn", "trainer.max_steps=7", "trainer.eval_every=1"]
    for study, workers in (("a", 0), ("b", 2), ("c", 1)):
        vidgn("train", *arguments, f"study={study}", f"data.workers={workers}", folder=tmp_path)
    runs = [tmp_path / "runs" / study / "i3d_tiny_8f_4x2_bn_s0" for study in "abc"]
    first = metrics(runs[0])
    assert [line["kind"] for line in first] == ["train"] * 3 + ["curve"] + ["train"] * 3 + ["curve", "train", "curve"]
    for run in runs[1:]:
        assert metrics(run) == first
        assert (run / "result.json").read_bytes() == (runs[0] / "result.json").read_bytes()
    vidgn("train", *arguments, "study=d", "seed=1", folder=tmp_path)
    other = metrics(tmp_path / "runs/d/i3d_tiny_8f_4x2_bn_s1")
    assert [line["loss"] for line in other] != [line["loss"] for line in first]


def test_a_data_set_smaller_than_a_step(generated, tmp_path):
    arguments = [*SYNTHETIC, generated, "gpus=8", "clips_per_gpu=4", "trainer.epochs=3", "norm=gn"]
    vidgn("train", *arguments, folder=tmp_path)
    lines = [line for line in metrics(tmp_path / "runs/study/i3d_tiny_8f_4x8_gn_s0") if line["kind"] == "train"]
    assert [line["epoch"] for line in lines] == pytest.approx([32 / 24, 64 / 24, 96 / 24])


def test_a_sweep_with_a_failing_cell(generated, tmp_path):
    """A learning rate of 1e30 leaves the numbers at the second step: that cell fails while it runs."""
    arguments = [*SYNTHETIC, generated, "study=s", "norm=gn", "trainer.max_steps=2", "tag=lr${optim.lr_per_clip}"]
    command = [sys.executable, "-m", "vidgn", "train", "-m", *arguments, "optim.lr_per_clip=1e30,1e-3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    failed, fine = (tmp_path / "runs/s" / f"i3d_tiny_8f_4x2_gn_lr{lr}_s0" for lr in ("1e+30", "0.001"))
    assert not (failed / "result.json").exists()
    assert "not finite" in (failed / "error.txt").read_text()
    assert (fine / "result.json").exists()
    assert "not finite" in (tmp_path / "runs/s/report.md").read_text()
    assert "not finite" in done.stderr


@pytest.mark.parametrize("name", [pytest.param("cut_off.mp4", marks=pytest.mark.long), "torn.mp4"])
def test_an_unreadable_training_video_is_replaced_counted_and_named(tmp_path, name):
    for kind in ("h264_closed", "vp9"):
        KINDS[kind](tmp_path)
    write_damaged(name, tmp_path)
    (tmp_path / "list.txt").write_text(f"h264_closed.mp4 0\nvp9.webm 1\n{name} 0\n")
    arguments = [*QUICK, "data=list", f"data.root={tmp_path}", f"data.train={tmp_path / 'list.txt'}"]
    arguments += [f"data.val={tmp_path / 'list.txt'}", "norm=gn", "trainer.max_steps=2", "views=curve", "span=32"]
    vidgn("train", *arguments, folder=tmp_path)
    run = tmp_path / "runs/study/i3d_tiny_8f_4x2_gn_s0"
    named = [s for line in metrics(run) for s in line.get("substitutions", [])]
    result = json.loads((run / "result.json").read_text())
    assert named
    assert {Path(s["id"]).name for s in named} == {name}
    assert all(name not in s["replaced_by"] and s["reason"] for s in named)
    assert result["num_substituted"] == len(named)
    assert (result["num_videos"], result["num_unreadable"]) == (3, 1)
    told = vidgn("train", *arguments, "study=strict", "data.max_unreadable=1", folder=tmp_path, code=1)
    assert "more than data.max_unreadable=1" in told
    assert name in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainer.epoch=3"], "did you mean 'trainer.epochs'?"),
        (["data=folders", "data.root=/no/such/folder"], "/no/such/folder"),
        (["data=csv", "data.root={here}", "data.train={here}/empty.csv", "data.val={here}/empty.csv"], "empty"),
        (["data=csv", "data.root={here}", "data.train={here}/columns.csv", "data.val={here}/columns.csv"], "label"),
        (
            [
                "data=list",
                "data.root=/",
                "data.train={here}/l.txt",
                "data.val={here}/l.txt",
                "data.classes={here}/c.txt",
            ],
            "label '7' is not one of the 2 classes",
        ),
        (["norm=gn", "norm.groups=7"], "groups=7 does not divide"),
        (["frames=4"], "frames=7"),
        (["model=i3d_tiny", "trainer.clips_per_forward=3"], "clips_per_forward=3"),
        (["weights=nowhere.pt"], "nowhere.pt"),
        (["launch.nproc_per_node=3"], "3 processes can't carry"),
    ],
)
def test_bad_input_is_one_line(generated, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").write_text("path,label\n")
    (tmp_path / "columns.csv").write_text("file,class\na.mp4,1\n")
    (tmp_path / "a.mp4").touch()
    (tmp_path / "l.txt").write_text(f"{tmp_path / 'a.mp4'} 7\n")
    (tmp_path / "c.txt").write_text("one\ntwo\n")
    given = [a.format(here=tmp_path) for a in arguments]
    base = QUICK if given[0].startswith("data=") else [*SYNTHETIC, generated]
    assert main(["train", *base, *given]) == 1
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told
    assert not (tmp_path / "runs").exists()
