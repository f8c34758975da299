"""`vidgn predict`: names and scores out of one file; what can't be read costs its line and the exit code."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

from vidgn.cli.main import main
from vidgn.config.compose import load_config
from vidgn.data.decode import open_video
from vidgn.data.decode.write import write_video
from vidgn.models.i3d import build_model
from vidgn.models.weights import save_model, save_pytorchvideo
from vidgn.training.predictor import Predictor

NAMES = ["archery", "bowling", "capoeira", "drawing", "egg hunting", "faceplanting", "gargling"]


def export(path, *, names=NAMES, norm="gn", steps=0, save=save_model, overrides=()):
    config = load_config(
        ["model=i3d_tiny", f"norm={norm}", "frames=8", "span=16", "data.crop=56", "data.short_side=[64,64]", *overrides]
    )
    net = build_model(config.model, config.norm, num_classes=len(names), frames=8, crop=56, seed=3)
    head = dict(net.named_parameters())["blocks.6.proj.weight"]
    with torch.no_grad():
        head.mul_(30)  # scores worth comparing
    save(net, path, config=config, classes=names, input_mean=(90.0, 100.0, 110.0), trained_steps=steps)
    return net, config


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two whole videos of 20 frames of 72x64 (width x height), one torn, one of text, one absent."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for name in ("a.mp4", "b.mp4"):
        frames = rng.integers(0, 256, (20, 8, 9, 3), np.uint8).repeat(8, 1).repeat(8, 2)
        write_video(str(folder / name), frames)
    whole = (folder / "a.mp4").read_bytes()
    (folder / "torn.mp4").write_bytes(whole[: len(whole) // 3])
    (folder / "text.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    """A run's directory as far as prediction needs one: (folder, net, config)."""
    folder = tmp_path_factory.mktemp("run")
    return folder, *export(folder / "model.safetensors")


def predict(capsys, *argv):
    code = main(["predict", *map(str, argv)])
    return code, *capsys.readouterr()


def test_five_classes_with_names_and_scores(run_directory, videos, capsys):
    folder, _, _ = run_directory
    code, out, err = predict(capsys, folder, videos / "a.mp4", videos / "b.mp4", "--device", "cpu")
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "note: the weights are random: exported after 0 training steps"
    assert lines[1] == str(videos / "a.mp4")
    assert lines[7] == str(videos / "b.mp4")
    for guesses in (lines[2:7], lines[8:13]):
        shares = [float(line.split(" %  ")[0]) for line in guesses]
        assert shares == sorted(shares, reverse=True)
        assert {line.split(" %  ")[1] for line in guesses} <= set(NAMES)
    assert len(lines) == 13


def test_a_run_tested_by_the_statistics_of_batches_says_what_is_used_here(videos, tmp_path, capsys):
    export(tmp_path / "w", norm="bn", steps=1, overrides=["bn_stats=batch"])
    assert main(["predict", str(tmp_path / "w"), str(videos / "a.mp4")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "note: bn_stats=batch tests by what is tested together; here the running statistics are used"


@pytest.mark.parametrize("views", ["center", "paper"])
def test_scores_are_softmax_averaged_over_map_and_views(views, run_directory, videos, capsys):
    folder, net, _ = run_directory
    code, out, _ = predict(capsys, folder, videos / "a.mp4", "--json", "--views", views, "--device", "cpu")
    assert code == 0
    told = json.loads(out)
    assert told["random_weights"] is True
    assert told["trained_steps"] == 0
    assert told["views"] == views

    # By hand: 10 clips of 8 frames from floor(j * 20 / 10) on, 2 apart; the short side of 64 is scaled to 64 at test.
    from vidgn.data.decode.base import Box, ResolvedClip

    boxes, size = {  # a frame of 64 x 72; crops of 56 in the centre, or of 64 at left, centre, right
        "center": ([Box(4, 8, 56, 56)], 56),
        "paper": ([Box(0, 0, 64, 64), Box(0, 4, 64, 64), Box(0, 8, 64, 64)], 64),
    }[views]
    clips = [
        ResolvedClip(tuple((2 * j + 2 * t) % 20 for t in range(8)), box, size, size, False)
        for j in range(10)
        for box in boxes
    ]
    with open_video(videos / "a.mp4") as reader:
        frames_VTHWC = np.stack(reader.read(clips)).astype(np.float64)
    x = torch.from_numpy((frames_VTHWC - np.array([90.0, 100.0, 110.0])) / 57.375).permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        scores = net.double().eval()(x).softmax(1).flatten(2).mean(2).mean(0)
    net.float()
    best = scores.topk(5)
    top = told["videos"][0]["top"]
    assert [g["label"] for g in top] == best.indices.tolist()
    assert [g["class"] for g in top] == [NAMES[i] for i in best.indices]
    assert [g["score"] for g in top] == pytest.approx(best.values.tolist(), rel=1e-4)
    assert best.values.max() - scores.min() > 0.01


@pytest.mark.parametrize("as_json", [False, True])
def test_a_video_that_cannot_be_read_costs_its_line(as_json, run_directory, videos, capsys):
    folder, _, _ = run_directory
    names = ["torn.mp4", "a.mp4", "text.mp4", "absent.mp4"]
    flags = ["--json"] if as_json else []
    code, out, err = predict(capsys, folder, *(videos / n for n in names), *flags)
    assert code == 1
    if as_json:
        told = json.loads(out)["videos"]
        assert ["error" in v for v in told] == [True, False, True, True]
        assert err == ""
        return
    assert err.count("\n") == 3
    for name in ("torn.mp4", "text.mp4", "absent.mp4"):
        assert name in err
        assert name not in out
    assert str(videos / "a.mp4") in out


def test_a_trained_file_says_nothing_of_random_weights(videos, tmp_path, capsys):
    export(tmp_path / "m", steps=5)
    _, out, _ = predict(capsys, tmp_path / "m", videos / "a.mp4")
    assert "random" not in out


def test_a_pytorchvideo_export_predicts_as_ours_does(run_directory, videos, tmp_path):
    export(tmp_path / "out.pyth", save=save_pytorchvideo)
    views = load_config(["views=center"]).views
    ours = Predictor(run_directory[0], device="cpu").scores(videos / "a.mp4", views)
    theirs = Predictor(tmp_path / "out.pyth", device="cpu").scores(videos / "a.mp4", views)
    assert torch.equal(ours, theirs)


def test_an_image_network_looks_at_one_frame_and_at_pictures(tmp_path, videos, capsys):
    from PIL import Image

    config = load_config(["model=resnet50", "model.width=8", "model.norm_groups=4", "norm=gn", "frames=1", "span=1",
                          "views=image", "data.crop=56", "data.short_side=[64,64]"])  # fmt: skip
    net = build_model(config.model, config.norm, num_classes=7, frames=1, crop=56)
    save_model(net, tmp_path / "m", config=config, classes=NAMES, input_mean=config.data.mean, trained_steps=1)
    names = [f"black.{extension}" for extension in ("png", "bmp", "webp", "JPEG")]
    for name in names:
        Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save(tmp_path / name)
    code, out, _ = predict(capsys, tmp_path / "m", *(tmp_path / name for name in names), videos / "a.mp4", "--json")
    assert code == 0
    assert json.loads(out)["views"] == "image"
    tops = [v["top"] for v in json.loads(out)["videos"]]
    assert [len(top) for top in tops] == [5] * 5
    assert tops[0] == tops[1] == tops[2] == tops[3]


def test_the_decoder_is_the_one_of_training_or_the_one_asked_for(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "decord", None)  # not installed
    export(tmp_path / "m", overrides=["data.decoder=decord"])
    assert "data.decoder=decord can't be loaded" in predict(capsys, tmp_path / "m", videos / "a.mp4")[2]
    assert predict(capsys, tmp_path / "m", videos / "a.mp4", "--decoder", "pyav")[0] == 0


def fails(capsys, *argv):
    code, out, err = predict(capsys, *argv)
    assert code == 1
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_refusals_are_one_line(run_directory, videos, tmp_path, capsys):
    video = videos / "a.mp4"
    assert "no such weights file" in fails(capsys, tmp_path, video)
    state = safetensors.torch.load_file(run_directory[0] / "model.safetensors")
    safetensors.torch.save_file(state, tmp_path / "bare")
    assert "make it say so: vidgn convert" in fails(capsys, tmp_path / "bare", video)
    export(tmp_path / "m", norm="bn")
    whole = (tmp_path / "m").read_bytes()
    (tmp_path / "torn").write_bytes(whole[:-100])
    assert "a torn safetensors file" in fails(capsys, tmp_path / "torn", video)
    (tmp_path / "old").write_bytes(whole.replace(b'\\"frames\\"', b'\\"Frames\\"'))
    assert "written by another version of vidgn" in fails(capsys, tmp_path / "old", video)
    (tmp_path / "names").write_bytes(whole.replace(b'\\"archery\\", ', b" " * 13))
    assert "6 class names are not those of its classifier" in fails(capsys, tmp_path / "names", video)


@pytest.mark.no_gpu
def test_a_gpu_that_is_not_there_is_told(run_directory, videos, capsys):
    assert "no GPU that torch can use" in fails(capsys, run_directory[0], videos / "a.mp4", "--device", "cuda")


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu(run_directory, videos):
    views = load_config(["views=center"]).views
    scores = [Predictor(run_directory[0], device=d).scores(videos / "a.mp4", views) for d in ("cpu", "cuda")]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-5)


@pytest.mark.shared
def test_a_real_kinetics_clip_gets_kinetics_names(shared_data, tmp_path, capsys):
    names = (shared_data / "kinetics" / "k400_labels.txt").read_text().splitlines()
    export(tmp_path / "m", names=names)
    code, out, err = predict(capsys, tmp_path / "m", shared_data / "clips" / "good" / "R6llTwEh07w.mp4")
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert "the weights are random" in lines[0]
    assert len({line.split(" %  ")[1] for line in lines[2:7]} & set(names)) == 5


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from vidgn.cli import convert, predict\n"
        "for verb in (convert, predict):\n"
        "    try: verb.run(['--help'])\n"
        "    except SystemExit as stopped: assert stopped.code == 0\n"
        "assert not {'torch', 'numpy', 'hydra', 'av'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
