"""What `import vidgn` offers: its names, its examples, and that it costs nothing before it is used."""

import copy
import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import vidgn
from tests.cli.test_predict import NAMES, export
from tests.data.encoded_videos import KINDS
from vidgn import api
from vidgn.cli.main import main
from vidgn.data.decode.write import write_video
from vidgn.detection.networks import build_detector
from vidgn.errors import VidgnError
from vidgn.models.i3d import parameter_roles
from vidgn.models.norms import drop_in
from vidgn.models.norms.layers import Norm, norm_layers
from vidgn.models.weights import save_model

PUBLIC = {
    *("ClassScore", "ClipPlan", "Clips", "Config", "ImportReport", "Prediction", "Study", "VideoClassifier"),
    *("VideoPredictor", "Window", "evaluate", "study", "train"),
    *("VidgnError", "__version__", "create_model", "list_models", "list_norms", "list_weights", "load"),
    *("load_config", "load_detector", "load_weights", "nn", "open_video", "plan", "predict_memory", "replace_norms"),
}
SMALL = {"num_classes": 3, "frames": 8, "crop": 32}


def test_the_public_names_are_these():
    assert set(vidgn.__all__) == PUBLIC == set(dir(vidgn))
    for name in PUBLIC:
        assert getattr(vidgn, name) is not None
    assert set(api.__all__) == PUBLIC - {"nn", "__version__"}
    with pytest.raises(AttributeError, match="no public name 'creat_model'"):
        vidgn.creat_model  # noqa: B018


def test_importing_costs_no_torch():
    code = "import sys, vidgn; print(vidgn.__version__, 'torch' in sys.modules, 'vidgn.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [vidgn.__version__, "False", "False"]


def test_importing_is_quick():
    code = "import time; began = time.perf_counter(); import vidgn; print(time.perf_counter() - began)"
    command = [sys.executable, "-c", code]
    seconds = [float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(5)]
    assert min(seconds) <= 0.1  # the others met what else the machine does


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A folder with what the examples speak of, and the names in them: overrides, a run, its study, a detector."""
    folder = tmp_path_factory.mktemp("examples")
    overrides = words(folder)
    config = vidgn.load_config(*overrides)
    vidgn.train(config)
    write_video(str(folder / "clip.mp4"), np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8))
    Image.new("RGB", (120, 90), (90, 140, 60)).save(folder / "street.png")
    small = [
        "model=mask_rcnn_tiny_fpn",
        "model.freeze_at=0",
        "data=coco",
        "views=coco",
        "norm=gn",
        "frames=1",
        "span=1",
    ]
    detecting = vidgn.load_config(*small, "data.short_side=[96,96]", "data.long_side=160")
    about = {"classes": ["car", "tree"], "input_mean": detecting.data.mean, "trained_steps": 1}
    save_model(build_detector(detecting, num_classes=2), folder / "detector", config=detecting, **about)
    names = {"overrides": overrides, "run": config.run_dir, "folder": config.run_dir.parent}
    return folder, {**names, "trained": folder / "detector"}


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_each_name_has_an_example_that_is_true(name, examples, monkeypatch):
    folder, given = examples
    monkeypatch.chdir(folder)
    (found,) = doctest.DocTestFinder(recurse=False).find(getattr(vidgn, name), name, globs=dict(given))
    done = doctest.DocTestRunner().run(found)
    assert done.attempted >= 2, "no example"
    assert done.failed == 0


def test_examples_of_norms_are_true():
    failed, tried = doctest.testmod(drop_in)
    assert (failed, tried >= 3) == (0, True)


# -- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["bn", "gn", "ln", "in"])
def test_a_network_trains_in_anybody_s_loop(norm):
    torch.manual_seed(0)
    net = vidgn.create_model("i3d_tiny", norm=norm, **{**SMALL, "crop": 48})
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    clips, labels = torch.randn(4, 3, 8, 48, 48), torch.tensor([0, 1, 2, 0])
    losses = []
    for _ in range(24):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(clips), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-4:]) / 4 < 0.9 * losses[0], losses
    net.eval()
    assert net(clips).shape == (4, 3)
    assert torch.equal(net(clips), net(clips))  # no dropout now
    larger = net(torch.randn(1, 3, 8, 96, 96))
    assert larger.shape == (1, 3)


def test_dropout_is_drawn_by_torch_in_training_alone():
    net = vidgn.create_model("i3d_tiny", **SMALL)
    clips = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        torch.manual_seed(0)
        one = net(clips)
        other = net(clips)
        torch.manual_seed(0)
        again = net(clips)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["i3d_r50", "i3d_tiny", "resnet50"])
def test_every_norm_begins_with_the_same_weights(name):
    nets = [vidgn.create_model(name, norm=n, num_classes=5, frames=1 if "res" in name else 8) for n in ("gn", "bn")]
    states = [dict(net.named_parameters()) for net in nets]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_weights_come_with_their_account(tmp_path):
    first = vidgn.create_model("i3d_tiny", norm="bn", seed=3, **SMALL)
    file = tmp_path / "w.pt"
    torch.save(first.state_dict(), file)
    second = vidgn.create_model("i3d_tiny", norm="bn", weights=file, **SMALL)
    assert second.weights_report is not None
    assert len(second.weights_report.taken) == len(second.state_dict())
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())
    file.write_bytes(b"no weights")
    with pytest.raises(VidgnError, match=str(file)):
        vidgn.load_weights(first, file)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "i3d_r5"}, "i3d_r50"),
        ({"norm": "gm"}, "gn"),
        ({"frames": 3}, "frames="),
        ({"name": "resnet_tiny", "frames": 1, "norm": "in"}, "one value to normalise by itself"),
        ({"weights": "nowhere.pt"}, "nowhere.pt"),
        ({"norm": "frozen_bn"}, "weights=FILE"),
        ({"norm": "sync_bn"}, "needs vidgn's own trainer"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, said):
    with pytest.raises(VidgnError, match=re.escape(said)) as raised:
        vidgn.create_model(**{"name": "i3d_tiny", **SMALL, **arguments})
    assert "\n" not in str(raised.value)


# -- norms in other people's networks -------------------------------------------------------------------------------

NETS = {
    "r3d_18": (lambda: torchvision.models.video.r3d_18(), (2, 3, 4, 32, 32)),
    "r2plus1d_18": (lambda: torchvision.models.video.r2plus1d_18(), (2, 3, 4, 32, 32)),
    "resnet18": (lambda: torchvision.models.resnet18(), (2, 3, 64, 64)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(), (2, 3, 64, 64)),
    "densenet121": (lambda: torchvision.models.densenet121(), (2, 3, 64, 64)),
}


@pytest.fixture(params=NETS)
def foreign(request):
    """A network with statistics of its own, and an input."""
    torch.manual_seed(0)
    make, shape = NETS[request.param]
    net = make().train()
    x = torch.randn(shape)
    with torch.no_grad():
        net(x)
    return net, x


def plain_norms(net):
    return [n for n, m in net.named_modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]


def test_bn_for_bn_is_the_same_network(foreign):
    net, x = foreign
    names, state = plain_norms(net), {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        expected = net.eval()(x)
    made = vidgn.replace_norms(net, "bn")
    assert list(made) == names
    assert not plain_norms(net)
    kept = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert net.state_dict().keys() == kept.keys()
    assert all(torch.equal(net.state_dict()[k], v) for k, v in kept.items())
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
    net.load_state_dict(state)  # a file of the plain network, counters and all


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_roles_are_those_that_the_layers_had(foreign, norm):
    net, _ = foreign
    of_class = {torch.nn.Linear: ("fc", "fc_bias"), torch.nn.modules.batchnorm._BatchNorm: ("norm_gamma", "norm_beta")}
    expected = {}
    for of, module in net.named_modules():
        pair = next((roles for kind, roles in of_class.items() if isinstance(module, kind)), ("conv", "conv_bias"))
        names = [name for name, _ in module.named_parameters(recurse=False)]
        expected |= {f"{of}.{name}": pair[name == "bias"] for name in names}
    vidgn.replace_norms(net, norm)
    assert parameter_roles(net) == expected
    assert set(expected.values()) >= {"conv", "norm_gamma", "norm_beta", "fc", "fc_bias"}


def test_bn_trains_as_torch_s_does(foreign):
    net, x = foreign
    other = copy.deepcopy(net)
    vidgn.replace_norms(other, "bn")
    for one in (net, other):
        one.double().train()
        one(x.double())
    theirs, ours = net.state_dict(), other.state_dict()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("norm", ["gn", "ln", "in", "frozen_bn"])
def test_other_norms_keep_gamma_and_beta_and_train(foreign, norm):
    net, x = foreign
    before = {k: v.clone() for k, v in net.named_parameters()}
    made = vidgn.replace_norms(net, norm)
    after = dict(net.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert len(norm_layers(net)) == len(made)
    if norm == "frozen_bn":
        assert not any(p.requires_grad for _, layer in norm_layers(net) for p in layer.parameters())
    net.train()(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_group_norm_is_torch_s(tmp_path):
    for shape in ((2, 12), (2, 12, 7), (2, 12, 5, 6), (2, 12, 3, 5, 6)):
        x = torch.randn(shape, dtype=torch.float64)
        ours, theirs = vidgn.nn.GroupNorm3d(4, 12).double(), torch.nn.GroupNorm(4, 12).double()
        with torch.no_grad():
            for layer in (ours, theirs):
                layer.weight.copy_(torch.linspace(-1, 2, 12))
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-12)


def test_batch_norm_over_groups_is_one_for_each():
    x = torch.randn(6, 5, 2, 4, 4, dtype=torch.float64)
    ghost = vidgn.nn.BatchNorm3d(5, group_clips=2).double()
    plain_ones = [torch.nn.BatchNorm3d(5).double() for _ in range(3)]
    expected = torch.cat([layer(part) for layer, part in zip(plain_ones, x.split(2), strict=True)])
    torch.testing.assert_close(ghost(x), expected, rtol=1e-10, atol=1e-12)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ghost, name), torch.stack([getattr(p, name) for p in plain_ones]).mean(0))


def test_some_can_be_kept_and_layer_norms_stay():
    net = torchvision.models.video.r3d_18()
    made = vidgn.replace_norms(net, "gn", groups=16, keep=lambda name, layer: name.startswith("stem"))
    assert not any(name.startswith("stem") for name in made)
    assert isinstance(net.stem[1], torch.nn.BatchNorm3d)
    assert all("groups=16" in what for what in made.values())
    transformer = torch.nn.TransformerEncoderLayer(8, 2)
    assert vidgn.replace_norms(transformer, "gn") == {}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: vidgn.nn.GroupNorm3d(5, 12), "5 groups do not divide 12 channels"),
        (lambda: vidgn.replace_norms(torch.nn.BatchNorm2d(3)), "not a norm by itself"),
        (lambda: replaced(torch.nn.BatchNorm2d(3, momentum=None), "bn"), "0 averages over all batches"),
        (lambda: replaced(torch.nn.BatchNorm2d(3, track_running_stats=False), "bn"), "0 tests with the statistics"),
        (lambda: replaced(torch.nn.GroupNorm(1, 3), "frozen_bn"), "0 has no statistics to freeze"),
        (lambda: replaced(torch.nn.BatchNorm2d(3), "gn", group_clips=2), "group_clips=2 is for norm=bn"),
        (lambda: vidgn.nn.BatchNorm3d(3)(torch.zeros(1, 3, 1, 1, 1)), "one value a channel"),
        (lambda: vidgn.replace_norms(torchvision.models.resnet18(), "sync_bn"), "needs vidgn's own trainer"),
        (lambda: vidgn.nn.GroupNorm3d(1, 2)(torch.zeros(1, 2, 3, 4, 5, 6)), "up to three axes"),
    ],
)
def test_wrong_norms_are_one_line(make, said):
    with pytest.raises(VidgnError, match=re.escape(said)):
        make()


def replaced(layer, *arguments, **keywords):
    net = torch.nn.Sequential(layer, torch.nn.Identity())
    vidgn.replace_norms(net, *arguments, **keywords)
    return net


def test_a_norm_in_two_places_is_one_in_both():
    shared = torch.nn.BatchNorm2d(4, momentum=0.0)
    net = torch.nn.ModuleDict({"a": shared, "b": shared})
    assert set(vidgn.replace_norms(net, "bn")) == {"a", "b"}
    assert isinstance(net["a"], vidgn.nn.BatchNorm3d)
    assert net["a"] is net["b"]
    assert net["a"].momentum == 0.0


def test_norms_of_vidgn_are_norms():
    assert issubclass(vidgn.nn.BatchNorm3d, Norm)


# -- trained networks -----------------------------------------------------------------------------------------------


@pytest.fixture
def predictor(tmp_path):
    export(tmp_path / "net.safetensors", steps=7)
    frames = np.random.default_rng(0).integers(0, 256, (20, 8, 9, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    write_video(str(tmp_path / "clip.mp4"), frames)
    return vidgn.load(tmp_path / "net.safetensors", device="cpu")


def test_a_video_gives_its_classes_best_first(predictor, tmp_path, capsys):
    scores = predictor(tmp_path / "clip.mp4")
    assert [s.name for s in sorted(scores, key=lambda s: s.label)] == list(predictor.classes) == NAMES
    assert [s.score for s in scores] == sorted((s.score for s in scores), reverse=True)
    assert sum(s.score for s in scores) == pytest.approx(1)
    assert capsys.readouterr().out == ""
    assert main(["predict", str(tmp_path / "net.safetensors"), str(tmp_path / "clip.mp4"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["videos"][0]["top"]
    assert [(g["class"], g["score"]) for g in told] == [(s.name, s.score) for s in scores[:5]]
    with pytest.raises(VidgnError, match=r"nowhere\.mp4"):
        predictor("nowhere.mp4")


def test_features_are_what_the_classifier_is_given(predictor, tmp_path):
    """Of a grey video all views are the same, and the classifier makes its scores of them."""
    write_video(str(tmp_path / "grey.mp4"), np.full((20, 64, 72, 3), 90, np.uint8))
    features = predictor.features(tmp_path / "grey.mp4")
    assert features.shape == (predictor.model.head.num_features,)
    with torch.no_grad():
        scores = predictor.model.head.proj(features).softmax(0)
    expected = {s.label: s.score for s in predictor(tmp_path / "grey.mp4")}
    torch.testing.assert_close(scores, torch.tensor([expected[i] for i in range(len(NAMES))]))
    assert not predictor.model.head.proj._forward_pre_hooks


@pytest.mark.parametrize("kind", ["h264_open", "h264_rotated", "vp9"])
def test_frames_by_number_and_by_seconds(kind, tmp_path):
    """Each frame of these videos carries its number."""
    path = KINDS[kind](tmp_path)
    with vidgn.open_video(path) as reader:
        every = np.empty((reader.num_frames, reader.height, reader.width, 3), np.uint8)
        reader.read_all(every)
    with vidgn.open_video(path) as reader:
        got = reader.read_frames([7, 0, 7, 3])
        assert got.shape == (4, reader.height, reader.width, 3)
        assert (got == every[[7, 0, 7, 3]]).all()
        shown = [s - reader.shown_seconds()[0] for s in reader.shown_seconds()]
        assert [reader.number_at(s) for s in shown] == list(range(reader.num_frames))
        assert reader.number_at((shown[4] + shown[5]) / 2) == 4
        assert reader.number_at(1e9) == reader.num_frames - 1
        for wrong in (lambda: reader.read_frames([reader.num_frames]), lambda: reader.number_at(-1)):
            with pytest.raises(VidgnError, match=re.escape(str(path))):
                wrong()


CHECKERS = {
    "pyright": ["-m", "pyright", "--pythonpath", sys.executable],
    # Of an installed package mypy says nothing, of one in a checkout what it thinks of other people's types.
    "mypy": ["-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir=cache"],
}


@pytest.mark.parametrize("checker", ["pyright", pytest.param("mypy", marks=pytest.mark.long)])
def test_a_small_program_passes_type_checkers(checker, tmp_path):
    """In strict mode they see what the names are."""
    program = tmp_path / "program.py"
    program.write_text(
        "import vidgn\n"
        "net = vidgn.create_model('i3d_tiny', norm='gn', num_classes=5, frames=8, crop=32)\n"
        "report = vidgn.load_weights(net, 'file.pt')\n"
        "names: list[str] = vidgn.list_models()\n"
        "norm = vidgn.nn.GroupNorm3d(4, 8)\n"
        "replaced: dict[str, str] = vidgn.replace_norms(net, 'bn', group_clips=4)\n"
        "best: str = vidgn.load('run')('clip.mp4')[0].name\n"
        "size: int = vidgn.predict_memory(vidgn.load_config('frames=64')).peak_bytes\n"
    )
    command = [sys.executable, *CHECKERS[checker], program.name]
    how = {"cwd": tmp_path, "env": {**os.environ, "MYPYPATH": str(Path(vidgn.__file__).parent.parent)}}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, done.stdout
    program.write_text("import vidgn\nnumber: int = vidgn.list_models()\n")
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    assert done.returncode == 1, done.stdout


# -- training, tests and studies ---------------------------------------------------------------------------------------


def words(folder, *more):
    """Of a configuration that trains in a second, on videos in `folder`."""
    if not (folder / "list.csv").exists():
        names = [KINDS[kind](folder).name for kind in ("h264_closed", "vp9", "mpeg4_avi", "hevc_closed")]
        (folder / "list.csv").write_text("path,label\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(names)))
    data = ["data=csv", f"data.train={folder}/list.csv", f"data.val={folder}/list.csv", "data.workers=0"]
    size = ["data.crop=28", "data.short_side=[28,32]", "frames=8", "span=8", "gpus=1", "clips_per_gpu=2"]
    net = ["model=i3d_tiny", "model.width=8", "model.norm_groups=2", "trainer.max_steps=4", "trainer.eval_every=1"]
    rest = ["trainer.device=cpu", "launch.threads=1", "views=curve", "study=s", "bn_stats_steps=1", "loggers=[]"]
    return [*data, *size, *net, *rest, f"runs_dir={folder}/runs", *more]


def quick(folder, *more):
    return vidgn.load_config(*words(folder, *more))


def test_training_prints_nothing_tells_each_step_and_leaves_the_files_of_the_verb(tmp_path, capfd):
    lines = []
    config = quick(tmp_path)
    result = vidgn.train(config, progress=lines.append)
    assert capfd.readouterr() == ("", "")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4]
    assert [line for line in lines if line["kind"] == "curve"]
    assert result == json.loads((config.run_dir / "result.json").read_text())
    again = []
    assert vidgn.train(config, progress=again.append) == result
    assert again == []
    assert main(["train", *words(tmp_path, f"runs_dir={tmp_path}/verb")]) == 0
    (of_verb,) = (tmp_path / "verb").glob("s/*/model.safetensors")
    assert of_verb.read_bytes() == (config.run_dir / "model.safetensors").read_bytes()
    with pytest.raises(VidgnError, match="another experiment"):
        vidgn.train(quick(tmp_path, "optim.lr_per_clip=0.5"))


def test_progress_goes_on_where_a_killed_run_does_and_an_error_in_it_is_raised(tmp_path):
    config = quick(tmp_path, "trainer.checkpoint_steps=2", "trainer.eval_every=0")
    lines = []

    def unwell(line):
        lines.append(line["step"])
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        vidgn.train(config, progress=unwell)
    assert lines == [1]
    (config.run_dir / "result.json").unlink()
    for path in (config.run_dir / "checkpoints").glob("step_*[34].pt"):
        path.unlink()  # as if killed in step 3 or 4: lines behind step 2 are cut off
    vidgn.train(config, progress=lambda line: lines.append(line["step"]))
    assert lines == [1, 3, 4]


def test_a_study_is_tables(tmp_path, capfd):
    for norm in ("bn", "gn"):
        for seed in (0, 1):
            vidgn.train(quick(tmp_path, f"norm={norm}", f"seed={seed}", "trainer.max_steps=2"))
    run = tmp_path / "runs/s/i3d_tiny_8f_2x1_bn_s0"
    test = vidgn.evaluate(run, "bn_stats=ema")
    assert (test["bn_stats"], test["num_videos"]) == ("ema", 4)
    with pytest.raises(VidgnError, match="can't be changed for a test"):
        vidgn.evaluate(run, "optim.lr_per_clip=1")
    study = vidgn.study(tmp_path / "runs/s")
    assert len(study.runs()) == 4
    (gap,) = study.gaps()
    assert (gap["arm"], gap["baseline"], gap["seeds"], gap["state"]) == ("gn", "bn", 2, "not seen")
    top1 = {(row["norm"], row["seed"]): row["top1"] for row in study.runs()}
    assert gap["points"] == pytest.approx(sum(top1["gn", s] - top1["bn", s] for s in (0, 1)) / 2)
    assert gap["low"] <= gap["points"] <= gap["high"]
    assert {row["run_name"] for row in study.curves()} == {row["run_name"] for row in study.runs()}
    assert sum(row["num_videos"] for row in study.classes()) == 4
    assert all(not isinstance(value, (dict, list)) for row in study.gaps() + study.classes() for value in row.values())
    assert capfd.readouterr() == ("", "")


def test_clips_are_those_that_training_reads(tmp_path):
    config = quick(tmp_path)
    clips = vidgn.Clips(config)
    assert (len(clips), clips.classes) == (4, ("0", "1"))
    with clips.loader(2, batches=3) as batches:
        read = list(batches)
    assert [batch.positions for batch in read] == [(0, 1), (2, 3), (4, 5)]
    for batch in read:
        for place, position in enumerate(batch.positions):
            clip_THWC, label = clips[position]
            assert torch.equal(clip_THWC, batch.clip_NTHWC[place])
            assert label == batch.label_N[place]
    assert [label for _, label in clips] == [clips[position][1] for position in range(4)]
    with pytest.raises(VidgnError, match="those of one video each"):
        vidgn.Clips(quick(tmp_path, "data.clips_per_video=2", "gpus=2"))
    x_NCTHW = clips.to_model(read[0].clip_NTHWC)
    assert x_NCTHW.shape == (2, 3, 8, 28, 28)
    expected = (read[0].clip_NTHWC.permute(0, 4, 1, 2, 3).float() - 114.75) / 57.375
    torch.testing.assert_close(x_NCTHW, expected)


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 1])
def test_clips_in_another_loader_are_the_same(tmp_path, workers):
    clips = vidgn.Clips(quick(tmp_path))
    context = "spawn" if workers else None
    loader = torch.utils.data.DataLoader(clips, batch_size=2, num_workers=workers, multiprocessing_context=context)
    found = torch.cat([clip for clip, _ in loader])
    assert torch.equal(found, torch.stack([clips[position][0] for position in range(len(clips))]))
