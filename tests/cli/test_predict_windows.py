"""`vidgn predict` as a tool: windows as `vidgn evaluate` scores them, sources of every kind, what it writes."""

import _thread
import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import vidgn
from tests.cli.test_predict import NAMES, export
from tests.data.encoded_videos import FPS, KINDS, encode, number_shown, picture
from tests.small_run import BASE, RUN, train, write_data
from vidgn.cli.main import main
from vidgn.errors import VidgnError
from vidgn.training.explain import grad_cam

CHEAP = ("--windows", "1", "--clips", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`model`, and three seconds of video that begin at a second of their own: `clip.mp4`, `stream.ts`."""
    folder = tmp_path_factory.mktemp("place")
    export(folder / "model", steps=1)
    encode(folder / "clip.mp4", "libx264", options={"preset": "veryfast"}, num_frames=60)
    encode(folder / "stream.ts", "libx264", options={"preset": "veryfast"}, num_frames=75, pts_of=lambda n: n + 100)
    return folder


def predict(capsys, *argv):
    code = main(["predict", *map(str, argv)])
    return code, *capsys.readouterr()


def rows(out):
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize(("norm", "views"), [("gn", "paper"), ("bn", "center")])
def test_scores_are_those_of_evaluate_on_the_same_segments(norm, views, tmp_path, monkeypatch, capsys):
    """To the last digit."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    assert train(BASE | {"norm": norm, "trainer.max_steps": "1"}) == 0
    run = Path(str(RUN).replace("_gn_", f"_{norm}_"))
    encode(Path("videos/long.mp4"), "libx264", num_frames=60)
    limits = [(round(0.3 * k, 6), round(0.3 * k + 0.7, 6)) for k in range(7)]
    segments = "".join(f"long.mp4,run,{start},{end}\n" for start, end in limits)
    Path("segments.csv").write_text("path,label,start,end\n" + segments + "0.mp4,run,,\n")
    capsys.readouterr()
    assert main(["evaluate", str(run), f"views={views}", "data.val=segments.csv"]) == 0
    (table,) = (path for path in run.glob("tests/*.csv") if "long" in path.read_text())
    told = list(csv.DictReader(io.StringIO(table.read_text())))
    capsys.readouterr()

    flags = ["--views", views, "--format", "jsonl", "--device", "cpu"]
    code, out, _ = predict(capsys, run, "videos/long.mp4", "--windows", "0.7", "--stride", "0.3", *flags)
    _, whole, _ = predict(capsys, run, "videos/0.mp4", *flags)
    found = rows(out) + rows(whole)
    assert code == 0
    assert len(found) == len(told) == 8
    for window, row in zip(found, told, strict=True):
        scores = {c["class"]: c["score"] for c in window["top"]}
        best = window["top"][0]
        assert (best["label"], repr(best["score"])) == (int(row["prediction"]), row["prediction_score"])
        assert repr(scores[("run", "walk")[int(row["label"])]]) == row["label_score"]
    assert [(w["start"], w["end"]) for w in rows(out)[:-1]] == limits[:-1]


# -- formats ----------------------------------------------------------------------------------------------------------


def test_lines_csv_subtitles_and_text_say_the_same(place, tmp_path, capsys):
    """60 frames at 25 a second: windows at 0, 0.5, 1 and 1.5 s, the last of 0.9 s."""
    flags = (place / "model", place / "clip.mp4", *CHEAP, "--stride", "0.5", "--top", "2")
    told = rows(predict(capsys, *flags, "--format", "jsonl")[1])
    assert [(w["start"], w["end"], w["frames"]) for w in told] == [
        *((0, 1, 25), (0.5, 1.5, 25), (1, 2, 25)),
        (1.5, 2.4, 22),
    ]
    code, out, err = predict(capsys, *flags, "--format", "csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert (code, err, len(table)) == (0, "", 8)
    for row, (window, rank) in zip(table, [(w, rank) for w in told for rank in (1, 2)], strict=True):
        best = window["top"][rank - 1]
        assert (float(row["start"]), float(row["end"]), int(row["rank"])) == (window["start"], window["end"], rank)
        assert (row["class"], float(row["score"])) == (best["class"], best["score"])

    (tmp_path / "clip.srt").write_text(predict(capsys, *flags, "--format", "srt")[1])
    with av.open(str(tmp_path / "clip.srt")) as parsed:  # FFmpeg's parser; a subtitle lasts until the next begins
        stream = parsed.streams.subtitles[0]
        found = [
            (float(p.pts * stream.time_base), float(p.duration * stream.time_base), bytes(p).decode())
            for p in parsed.demux(stream)
            if p.size
        ]
    assert [(start, round(seconds, 3)) for start, seconds, _ in found] == [(0, 0.5), (0.5, 0.5), (1, 0.5), (1.5, 0.5)]
    for window, (_, _, text) in zip(told, found, strict=True):
        assert text.splitlines() == [f"{c['class']} {100 * c['score']:.1f} %" for c in window["top"]]

    lines = predict(capsys, *flags)[1].splitlines()
    assert lines[0] == str(place / "clip.mp4")
    assert [line[:29] for line in lines[1:3]] == ["  00:00:00.000 - 00:00:01.000", "  00:00:00.500 - 00:00:01.500"]
    for line, window in zip(lines[1:], told, strict=True):
        assert line.endswith(", ".join(f"{100 * c['score']:.2f} % {c['class']}" for c in window["top"]))


def test_a_name_of_two_lines_is_one_subtitle(place, tmp_path, capsys):
    export(tmp_path / "model", names=["a\n\n2", *NAMES[1:]], steps=1)
    out = predict(capsys, tmp_path / "model", place / "clip.mp4", *CHEAP, "--top", "7", "--format", "srt")[1]
    assert len(out.split("\n\n")) == 3 + 1
    assert "a 2 " in out


def test_from_python(place, capsys):
    predictor = vidgn.load(place / "model", device="cpu")
    found = list(predictor.windows(place / "clip.mp4", 1, stride=0.5))
    told = rows(predict(capsys, place / "model", place / "clip.mp4", "--windows", "1", "--stride", "0.5", "--format",
                        "jsonl", "--device", "cpu", "--top", "7")[1])  # fmt: skip
    assert [(w.start_seconds, w.end_seconds, w.num_frames) for w in found] == [
        (w["start"], w["end"], w["frames"]) for w in told
    ]
    for window, line in zip(found, told, strict=True):
        assert [(c.name, c.score) for c in window.classes] == [(c["class"], c["score"]) for c in line["top"]]
        assert window.features_VC.shape == (10, predictor.model.head.num_features)
        with torch.no_grad():
            scores_K = predictor.model.head.proj(window.features_VC).softmax(1).mean(0)
        assert [float(scores_K[c.label]) for c in window.classes] == pytest.approx([c.score for c in window.classes])
    (whole,) = predictor.windows(place / "clip.mp4", 60)
    assert whole.classes == predictor(place / "clip.mp4")
    with pytest.raises(VidgnError, match="--stride 0"):
        predictor.windows(place / "clip.mp4", 1, stride=0)


# -- sources without an end -------------------------------------------------------------------------------------------


def of_file(place, capsys):
    code, out, _ = predict(capsys, place / "model", place / "stream.ts", *CHEAP, "--format", "jsonl")
    assert code == 0
    return [(w["start"], w["end"], w["top"]) for w in rows(out)]


def writer(path, data, *, mode="wb", seconds=0.0, parts=1):
    """Writes `data` in parts, with pauses, then keeps the file open for `seconds`."""

    def write():
        with open(path, mode, buffering=0) as file:
            size = -(-len(data) // parts)
            for first in range(0, len(data), size):
                file.write(data[first : first + size])
                time.sleep(0.05 if parts > 1 else 0)
            time.sleep(seconds)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_a_pipe_gives_what_the_file_gives_and_ends_when_it_is_closed(place, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    expected, data = of_file(place, capsys), (place / "stream.ts").read_bytes()
    thread = writer(tmp_path / "pipe", data, parts=5)
    code, out, err = predict(capsys, place / "model", tmp_path / "pipe", *CHEAP, "--format", "jsonl")
    thread.join()
    assert (code, err) == (0, "")
    assert [(w["start"], w["end"], w["top"]) for w in rows(out)] == expected


def test_a_growing_file_is_read_as_it_grows(place, tmp_path, capsys):
    expected, data = of_file(place, capsys), (place / "stream.ts").read_bytes()
    (tmp_path / "growing.ts").write_bytes(data[:1000])
    thread = writer(tmp_path / "growing.ts", data[1000:], mode="ab", parts=8)
    flags = ("--live", "--patience", "0.5", "--format", "jsonl")
    code, out, err = predict(capsys, place / "model", tmp_path / "growing.ts", *CHEAP, *flags)
    thread.join()
    assert code == 0
    assert err == f"note: {tmp_path}/growing.ts: has not grown for 0.5 s, which is taken for its end\n"
    assert [(w["start"], w["end"], w["top"]) for w in rows(out)] == expected


def test_a_pipe_that_stalls_is_said_after_its_windows(place, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    thread = writer(tmp_path / "pipe", (place / "stream.ts").read_bytes(), seconds=1.5)
    code, out, err = predict(capsys, place / "model", tmp_path / "pipe", *CHEAP, "--patience", "0.4")
    thread.join()
    assert code == 1
    assert len(out.splitlines()) == 1 + 2  # the third may not be whole
    assert err == (
        f"vidgn predict: {tmp_path}/pipe: gave nothing for 0.4 s; look at what sends it, or raise --patience\n"
    )


def test_a_pipe_that_nobody_writes_to_is_said(place, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    code, out, err = predict(capsys, place / "model", tmp_path / "pipe", *CHEAP, "--patience", "0.2")
    assert (code, out) == (1, "")
    assert "gave nothing for 0.2 s" in err


def test_ctrl_c_ends_a_source_without_an_end_and_features_are_kept(place, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    thread = writer(tmp_path / "pipe", (place / "stream.ts").read_bytes(), seconds=1)
    out = io.StringIO()

    def interrupt():
        while out.getvalue().count("\n") < 3:
            time.sleep(0.01)
        time.sleep(0.2)  # it waits in a read by now
        _thread.interrupt_main()

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with contextlib.redirect_stdout(out):
        code, _, err = predict(capsys, place / "model", tmp_path / "pipe", *CHEAP, "--features", tmp_path / "f.npz")
    assert (code, err) == (130, "vidgn predict: interrupted\n")
    assert np.load(tmp_path / "f.npz")["start"].tolist() == [0, 1]
    watcher.join()
    thread.join()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/dev/video0", "pipe it: ffmpeg -f v4l2 -i /dev/video0 -f mpegts - | vidgn predict RUN /dev/stdin"),
        (
            "rtsp://127.0.0.1:1/none",
            "can't be read as it comes (Connection refused); look at its address and at what sends it",
        ),
        ("half.mp4", "send or record it as MPEG-TS or Matroska"),
        ("text.ts", "can't be read as it comes"),
        ("absent.ts", "can't be opened (No such file or directory)"),
    ],
)
def test_live_sources_that_cannot_be_read_are_one_line(name, said, place, capsys):
    (place / "text.ts").write_text("no video " * 100)
    (place / "half.mp4").write_bytes((place / "clip.mp4").read_bytes()[:9000])
    source = name if name.startswith(("/", "rtsp")) else place / name
    code, out, err = predict(capsys, place / "model", source, *CHEAP, "--live", "--patience", "0.2")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert said in err


def test_time_stamps_that_go_back_are_said(place, tmp_path, capsys):
    """A recording that begins anew in the same file."""
    (tmp_path / "twice.ts").write_bytes(2 * (place / "stream.ts").read_bytes())
    flags = ("--live", "--patience", "0.2")
    code, out, err = predict(capsys, place / "model", tmp_path / "twice.ts", *CHEAP, *flags)
    assert code == 1
    assert re.search(r"time stamps go back from [\d.]+ to [\d.]+ s; start again", err)
    assert len(out.splitlines()) == 1 + 2


# -- what is written --------------------------------------------------------------------------------------------------


def penultimate(predictor, clips_VTHWC):
    """What comes out of the last residual block, pooled as the head pools: by the blocks, one after another."""
    x = (clips_VTHWC.float() - torch.tensor([90.0, 100.0, 110.0])) / 57.375
    with torch.no_grad():
        x = x.permute(0, 4, 1, 2, 3)
        for block in predictor.model.blocks[:-1]:
            x = block(x)
        return predictor.model.head.pool(x).mean((2, 3, 4))


def test_features_are_the_penultimate_layer_s(place, tmp_path, capsys):
    predictor = vidgn.load(place / "model", device="cpu")
    clips_VTHWC = predictor.clips(place / "clip.mp4", predictor.views())
    expected = penultimate(predictor, clips_VTHWC).numpy()
    names = [str(place / "clip.mp4"), str(place / "stream.ts")]
    assert predict(capsys, place / "model", *names, "--features", tmp_path / "f.npz", "--device", "cpu")[0] == 0
    kept = np.load(tmp_path / "f.npz")
    assert kept["video"].tolist() == names
    np.testing.assert_allclose(kept["features"][0], expected.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(kept["features"][0], predictor.features(names[0]).numpy())
    flags = ("--features", tmp_path / "f.npz", "--per-clip", "--device", "cpu")
    assert predict(capsys, place / "model", names[0], *flags)[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "f.npz")["features"][0], expected, rtol=1e-5, atol=1e-6)
    assert predict(capsys, place / "model", names[0], *flags, "--windows", "1")[0] == 0
    kept = np.load(tmp_path / "f.npz")
    assert kept["features"].shape == (3, 10, expected.shape[1])
    assert (kept["start"].tolist(), kept["end"].tolist()) == ([0, 1, 2], [1, 2, 2.4])


def test_the_painted_video_has_the_label_of_each_window_and_the_frames_of_the_source(place, tmp_path, capsys):
    out = tmp_path / "painted.mp4"
    flags = ("--windows", "0.8", "--stride", "1.2", "--clips", "1", "--device", "cpu", "--out", out)
    assert predict(capsys, place / "model", place / "clip.mp4", *flags)[0] == 0
    with vidgn.open_video(out) as painted, vidgn.open_video(place / "clip.mp4") as source:
        assert painted.shown_seconds() == pytest.approx([n / FPS for n in range(60)])
        frames = [reader.read_frames(range(60)).astype(int) for reader in (painted, source)]
    changed = np.abs(frames[0] - frames[1]).mean(axis=(2, 3))[:, :12].mean(1) > 40  # of the rows of text
    assert changed.tolist() == [0 <= n % 30 < 20 for n in range(60)]  # between windows there is no label
    for number in range(20, 30):
        assert number_shown(frames[0][number]) == number
    assert np.abs(frames[0] - frames[1])[:, 40:].mean() < 8


def test_a_whole_video_and_one_that_is_turned_are_painted_upright(place, tmp_path, capsys):
    turned = KINDS["h264_rotated"](tmp_path)
    (tmp_path / "out").mkdir()
    assert predict(capsys, place / "model", turned, place / "clip.mp4", "--out", tmp_path / "out")[0] == 0
    with vidgn.open_video(tmp_path / "out/rotated.mp4") as painted, vidgn.open_video(turned) as source:
        assert (painted.height, painted.width) == (source.height, source.width) == (96, 64)
        ours, theirs = (reader.read_frames([30])[0].astype(int) for reader in (painted, source))
    assert np.abs(ours - theirs)[40:].mean() < 8
    assert np.abs(ours - theirs)[:10].mean() > 40
    assert (tmp_path / "out/clip.mp4").is_file()


def test_characters_without_a_picture_are_said(place, tmp_path, capsys):
    export(tmp_path / "model", names=["跑步", "бег", "ñandú", *NAMES[3:]], steps=1)
    _, out, _ = predict(capsys, tmp_path / "model", place / "clip.mp4", "--out", tmp_path / "out.mp4", "--clips", "1")
    assert out.splitlines()[0] == "note: no font for 跑步: such characters are boxes in what is painted"


def test_grad_cam_is_that_of_the_whole_network(place, tmp_path, capsys):
    predictor = vidgn.load(place / "model", device="cpu")
    clip_THWC = predictor.clips(place / "clip.mp4", predictor.views())[5]
    maps = []
    hook = predictor.model.units()[-1][-1].register_forward_hook(lambda *found: maps.append(found[2]))
    logits_NKTHW = predictor.model(predictor.to_model(clip_THWC[None]))
    hook.remove()
    for label in (0, 5):
        (gradient,) = torch.autograd.grad(logits_NKTHW[0, label].mean(), maps[0], retain_graph=True)
        cam = (gradient.mean((2, 3, 4), keepdim=True) * maps[0]).sum(1, keepdim=True).relu().detach()
        cam = torch.nn.functional.interpolate(cam, (8, 56, 56), mode="trilinear")[0, 0]
        torch.testing.assert_close(grad_cam(predictor, clip_THWC, label), cam / cam.max(), rtol=1e-4, atol=1e-5)
    assert predict(capsys, place / "model", place / "clip.mp4", "--explain", tmp_path / "seen.png")[0] == 0
    sheet = np.asarray(Image.open(tmp_path / "seen.png"))
    assert sheet.shape == (24 + 2 * 56, 8 * 56, 3)
    assert (sheet[24:80] == np.concatenate(list(clip_THWC.numpy()), axis=1)).all()
    assert (sheet[:24] > 200).any()


# -- sources ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(place, tmp_path, monkeypatch):
    """Folders `a` (two videos), `a/b` (another and one that is torn), `frames` (images), and lists of them."""
    for name in ("a/2.mp4", "a/10.mkv", "a/b/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((place / "clip.mp4").read_bytes())
    (tmp_path / "a/b/torn.mp4").write_bytes((place / "clip.mp4").read_bytes()[:3000])
    (tmp_path / "a/notes.txt.bak").write_text("none")
    (tmp_path / "frames").mkdir()
    (tmp_path / "empty").mkdir()
    for i in range(12):
        Image.fromarray(picture(i)).save(tmp_path / f"frames/img_{i:03}.png")
    (tmp_path / "a/list.txt").write_text("2.mp4\n\nb/c.mp4\n")
    (tmp_path / "list.csv").write_text("label,path\n0,a/10.mkv\n1,a/2.mp4\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_lists_and_stdin(many, place, monkeypatch, capsys):
    def told(*words):
        code, out, err = predict(
            capsys, place / "model", *words, "--clips", "1", "--format", "jsonl", "--device", "cpu"
        )
        return code, [line["video"] for line in rows(out)], err

    assert told("a/2.mp4", "frames")[:2] == (0, ["a/2.mp4", "frames"])
    assert told("a/list.txt")[:2] == (0, ["a/2.mp4", "a/b/c.mp4"])
    assert told("list.csv")[:2] == (0, ["a/10.mkv", "a/2.mp4"])
    code, videos, err = told("a")
    assert (code, videos) == (1, ["a/10.mkv", "a/2.mp4", "a/b/c.mp4", "a/b/torn.mp4"])
    assert err.count("\n") == 1
    assert "a/b/torn.mp4" in err
    monkeypatch.setattr(sys, "stdin", io.StringIO("a/2.mp4\nabsent.mp4\n\na/b/c.mp4"))
    assert told("-")[:2] == (1, ["a/2.mp4", "absent.mp4", "a/b/c.mp4"])


def test_a_folder_of_frames_is_what_its_video_is(many, place, capsys):
    """The images are what the video's frames are decoded to."""
    with vidgn.open_video(place / "clip.mp4") as reader:
        for number, frame_HWC in enumerate(reader.read_frames(range(60))):
            Image.fromarray(frame_HWC).save(many / f"frames/img_{number:03}.png")
    told = rows(predict(capsys, place / "model", "frames", "a/2.mp4", "--format", "jsonl", "--device", "cpu")[1])
    assert told[0]["top"] == told[1]["top"]


def test_processes_that_read_ahead_change_nothing(many, place, capsys):
    words = (place / "model", *["a/2.mp4", "a/b/torn.mp4", "frames"] * 2, "--format", "jsonl", "--device", "cpu")
    inline, ahead = (predict(capsys, *words, "--workers", n) for n in (0, 2))
    assert inline == ahead
    assert inline[0] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("a/2.mp4 --stride 1", "--stride goes with windows: give --windows SECONDS"),
        ("a/2.mp4 --stride 0", "--stride goes with windows"),
        ("a/2.mp4 --live", "--live goes with windows"),
        ("rtsp://camera/1", "has no known end: give --windows SECONDS"),
        ("rtsp://camera/1 a/2.mp4 --windows 1", "give it alone"),
        ("a/2.mp4 --windows 0", "--windows 0: give seconds, 0.001 or more"),
        ("a/2.mp4 --windows 1 --stride -1", "--stride -1: give seconds"),
        ("a/2.mp4 --windows 1 --patience 0", "--patience 0: give seconds, above 0"),
        ("a/2.mp4 --windows 1 --decoder decord", "--decoder decord: windows are read in one pass, by pyav"),
        ("a/2.mp4 --windows 1 --explain x.png", "leave out one of the two"),
        ("a/2.mp4 --windows 1 --json", "give --format jsonl"),
        ("a/2.mp4 --format srt", "--format srt has times: give --windows SECONDS"),
        ("a --windows 1 --format srt", "--format srt is of one video, not 4"),
        ("a/2.mp4 --top 0", "--top 0: give 1 or more"),
        ("a/2.mp4 --clips 0", "--clips 0: give 1 or more"),
        ("a/2.mp4 --workers -1", "--workers -1: give 0 or more"),
        ("a/2.mp4 --per-clip", "give --features FILE.npz, or leave it out"),
        ("a/2.mp4 --features f.npy", "give a name that ends with .npz"),
        ("a/2.mp4 --features none/f.npz", "--features none/f.npz: no folder none"),
        ("a/2.mp4 --features /proc/1/f.npz", "nothing may be written to /proc/1; give another place"),
        ("a/2.mp4 --out x.avi", "--out x.avi: must end in .mp4"),
        ("a/2.mp4 --out none/x.mp4", "--out none/x.mp4: no folder none; make it first"),
        ("a/2.mp4 --explain x.jpg", "--explain x.jpg: must end in .png"),
        ("a/2.mp4 --out a/2.mp4", "a/2.mp4 is a video itself"),
        ("a/2.mp4 --out a", "a/2.mp4 is a video itself"),
        ("a/2.mp4 frames --out x.mp4", "2 videos need a folder that is there"),
        ("a/2.mp4 a/b/../2.mp4 --out empty", "another video would both be empty/2.mp4"),
        ("a/2.mp4 --windows 1 --live --out x.mp4", "is not a whole file; record it first"),
        ("empty", "empty: a folder without videos and images"),
        ("nothing.txt", "nothing.txt: "),
        ("segments.csv", "column start says which parts of files"),
        ("bare.csv", "no column path"),
        ("blank.txt", "blank.txt: names no file; give one path a line"),
        ("a/2.mp4 --score 0.5", "--score 0.5 is of a detector"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(words, said, many, place, capsys):
    (many / "segments.csv").write_text("path,start,end\na/2.mp4,0,1\n")
    (many / "bare.csv").write_text("video\na/2.mp4\n")
    (many / "blank.txt").write_text("\n")
    before = {path: path.read_bytes() for path in many.rglob("*") if path.is_file()}
    code, out, err = predict(capsys, place / "model", *words.split())
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert said in err
    assert {path: path.read_bytes() for path in many.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("frames", "is images, which have no times to cut windows by"),
        ("a/b/torn.mp4", "a/b/torn.mp4: "),
        ("absent.mp4", "can't be opened"),
    ],
)
def test_windows_of_what_has_none_cost_its_line(source, said, many, place, capsys):
    code, out, err = predict(capsys, place / "model", source, "a/2.mp4", *CHEAP, "--format", "jsonl")
    assert (code, err.count("\n")) == (1, 1)
    assert said in err
    assert [line["video"] for line in rows(out)] == [source, "a/2.mp4", "a/2.mp4", "a/2.mp4"]
    assert "error" in rows(out)[0]


# -- two hours --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_two_hours_take_the_memory_of_twelve_minutes_and_a_list_of_frames(place, tmp_path):
    """Which costs some 330 bytes a frame; its pixels would cost 9408."""
    peaks = []
    code = (
        "import resource, sys; from vidgn.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    for minutes in (12, 120):
        video = encode(tmp_path / f"{minutes}.mkv", "mpeg4", num_frames=minutes * 60 * FPS, size=(32, 32))
        flags = ["--windows", "4", "--stride", "2", "--clips", "1", "--format", "jsonl", "--device", "cpu"]
        command = [sys.executable, "-c", code, "predict", str(place / "model"), str(video), *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(1024 * int(done.stderr.split()[-1]))
        last = rows(done.stdout)[-1]
        assert len(rows(done.stdout)) == minutes * 60 / 2 - 1
        assert last["end"] == timedelta(minutes=minutes).total_seconds()
    assert peaks[1] - peaks[0] < 500 * 108 * 60 * FPS
