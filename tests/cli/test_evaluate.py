"""`vidgn evaluate`: other views, other data and a machine without the weights, of a run that was trained on images."""

import json
import shutil
from pathlib import Path

import pytest

from tests.training.test_images import IMAGE, TINY, write_images
from vidgn.cli.main import main
from vidgn.runs.checkpoint import list_checkpoints

RUN = Path("runs/study/resnet_tiny_1f_4x1_bn_w_s0")
MEAN = [100.0, 110.0, 120.0]  # of the run that the weights are from


def cell(folder: Path, *more: str) -> list[str]:
    """Two steps on class folders, each with its checkpoint; all of the training images make the BN statistics."""
    steps = ["trainer.max_steps=2", "trainer.checkpoint_steps=1", "trainer.eval_every=0", "clips_per_gpu=4", "norm=bn"]
    quick = [o for o in TINY if not o.startswith("bn_stats_steps")]
    return ["train", *IMAGE, *quick, *steps, f"data.root={folder / 'set'}", "data.max_unreadable=99", *more]


WEIGHTS = ("tag=w", "weights=start.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Where `set`, `start.safetensors` and RUN are. One training image is torn."""
    folder = tmp_path_factory.mktemp("trained")
    write_images(folder / "set", num_train=4, num_val=3)
    torn = folder / "set/train/n00000000/0_0.JPEG"
    torn.write_bytes(torn.read_bytes()[:300])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(cell(folder, "tag=first", f"data.mean={MEAN}")) == 0
        shutil.copy("runs/study/resnet_tiny_1f_4x1_bn_first_s0/model.safetensors", "start.safetensors")
        assert main(cell(folder, *WEIGHTS)) == 0
    return folder


@pytest.fixture
def moved(trained, tmp_path, monkeypatch):
    """The run in another folder, the current one, where its weights are not."""
    shutil.copytree(trained / RUN, tmp_path / RUN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / RUN / name).read_text())


def test_the_checkpoint_is_enough_for_a_test(trained, moved):
    result = read(trained, "result.json")
    assert result["input_mean"] == MEAN
    (RUN / "tests/image-precise.json").unlink()
    assert main(["evaluate", str(RUN)]) == 0
    assert read(moved, "tests/image-precise.json") == {**result, "unreadable": []}


def test_the_checkpoint_is_enough_to_go_on(trained, moved):
    (RUN / "result.json").unlink()
    (RUN / "checkpoints/step_000000002.pt").unlink()
    assert main(cell(trained, *WEIGHTS)) == 0
    assert (RUN / "result.json").read_bytes() == (trained / RUN / "result.json").read_bytes()


@pytest.mark.parametrize("left", ["torn", "nothing"])
def test_without_a_checkpoint_it_takes_the_weights(trained, moved, capsys, left):
    (RUN / "result.json").unlink()
    for path in list_checkpoints(RUN / "checkpoints"):
        path.unlink() if left == "nothing" else path.write_bytes(path.read_bytes()[:999])
    assert main(cell(trained, *WEIGHTS)) == 1
    assert "start.safetensors: no such weights file" in capsys.readouterr().err


def test_other_weights_are_another_experiment(trained, moved, capsys):
    (RUN / "result.json").unlink()
    shutil.copy(trained / RUN / "model.safetensors", "start.safetensors")
    assert main(cell(trained, *WEIGHTS)) == 1
    assert "holds another experiment: weights sha256" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_weights_that_are_nowhere_are_not_taken_for_those_it_began_from(trained, moved, capsys, state):
    if state == "stopped":
        (RUN / "result.json").unlink()
    assert main(cell(trained, "tag=w", "weights=missing.safetensors")) == 1
    told = capsys.readouterr().err
    assert "weights=missing.safetensors: there is no such file, and " in told
    assert "began from weights=start.safetensors: write that, " in told


def test_statistics_of_other_steps_go_to_files_of_their_own(moved):
    before = {path.name: path.read_bytes() for path in (RUN / "tests").iterdir()}
    assert main(["evaluate", str(RUN), "bn_stats_steps=1"]) == 0
    after = {path.name: path.read_bytes() for path in (RUN / "tests").iterdir()}
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {"image-precise-1steps.csv", "image-precise-1steps.json"}


def test_replaced_clips_of_bn_statistics_are_said(trained):
    """Four steps of 4 clips are an epoch of the 16 images, so the torn one is among them."""
    said = (trained / RUN / "log.txt").read_text()
    assert "BN statistics: 1 clips that could not be read were replaced, of n00000000/0_0" in said


@pytest.mark.parametrize("views", ["image", "center", "paper"])
def test_every_view_of_images(moved, views):
    assert main(["evaluate", str(RUN), f"views={views}"]) == 0
    assert read(moved, f"tests/{views}-precise.json")["num_videos"] == 12


def test_other_videos_go_to_files_of_their_own(trained, moved):
    before = (RUN / "tests/image-precise.csv").read_bytes()
    shutil.copytree(trained / "set", "fewer")
    Path("fewer/val/n00000001/1_0.JPEG").unlink()
    assert main(["evaluate", str(RUN), "data.root=fewer"]) == 0
    assert (RUN / "tests/image-precise.csv").read_bytes() == before
    (other,) = (RUN / "tests").glob("image-precise-*.json")
    assert json.loads(other.read_text())["num_videos"] == 11


def test_other_files_of_the_same_names_go_to_files_of_their_own(trained, moved, capsys):
    before = (RUN / "tests/image-precise.csv").read_bytes()
    shutil.copytree(trained / "set", "copy")
    assert main(["evaluate", str(RUN), "data.root=copy"]) == 0
    assert not list((RUN / "tests").glob("image-precise-*"))
    shutil.copy("copy/train/n00000001/1_0.JPEG", "copy/val/n00000001/1_0.JPEG")
    (RUN / "tests/image-precise.csv").write_bytes(before)
    assert main(["evaluate", str(RUN), "data.root=copy"]) == 0
    assert (RUN / "tests/image-precise.csv").read_bytes() == before
    assert len(list((RUN / "tests").glob("image-precise-*.csv"))) == 1


def test_a_test_on_what_was_trained_on_is_said(trained, moved, capsys):
    shutil.copytree(trained / "set", "leaky")
    image = Path("leaky/val/n00000001/1_0.JPEG")
    image.unlink()
    image.symlink_to(trained / "set/train/n00000001/1_0.JPEG")
    assert main(["evaluate", str(RUN), f"data.val={trained}", "data.root=leaky"]) == 0
    assert "images are in training and in validation" not in capsys.readouterr().out  # training's are copies there
    shutil.rmtree("leaky/train")
    Path("leaky/train").symlink_to(trained / "set/train")
    assert main(["evaluate", str(RUN), "data.root=leaky"]) == 0
    assert "1 images are in training and in validation: " in capsys.readouterr().out


def test_a_run_that_is_done_is_not_tested_by_training(trained, moved, capsys):
    before = (RUN / "result.json").read_bytes()
    assert main(cell(trained, *WEIGHTS, "bn_stats=ema")) == 1
    said = f"{RUN} is done, and was tested with views=image bn_stats=precise: vidgn evaluate {RUN} views=image bn_stats"
    assert said in capsys.readouterr().err
    assert main(["evaluate", str(RUN), "views=image", "bn_stats=ema"]) == 0  # the remedy
    assert (RUN / "result.json").read_bytes() == before


def test_what_is_gone_or_torn_of_a_run_that_is_done_is_said(trained, moved, capsys):
    (RUN / "result.json").write_text('{"top1": ')
    assert main(cell(trained, *WEIGHTS)) == 1
    error = capsys.readouterr().err
    assert f"{RUN}/result.json is damaged (" in error
    assert "Traceback" not in error
    (RUN / "result.json").unlink()  # the remedy
    assert main(cell(trained, *WEIGHTS)) == 0
    shutil.rmtree(RUN / "checkpoints")
    shutil.copy(trained / "start.safetensors", "start.safetensors")
    assert main(["evaluate", str(RUN)]) == 1
    assert "its checkpoints are gone: put them back to test it, or train anew with tag=NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["bn_stats=[x"], "bn_stats=[x: can't be read"),
        (["bn_stats=x"], "bn_stats must be one of precise, ema, batch"),
        (["launch.a.b=1"], "unknown key 'launch.a.b': known there are nproc_per_node"),
        (["launch.nproc_per_node.x=1"], "unknown key 'launch.nproc_per_node.x'"),
        (["views=middle"], "views=middle: no such option"),
        (["data.classes=names.txt"], "was trained on 4 classes, and this data has 5: write data.classes=FILE"),
    ],
)
def test_each_mistake_is_one_line(moved, capsys, overrides, message):
    Path("names.txt").write_text("".join(f"n{i:08d}\n" for i in range(5)))
    assert main(["evaluate", str(RUN), *overrides]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_damaged_config_is_one_line(moved, capsys):
    (RUN / "config.yaml").write_text("model: [i3d\nframes: 8\n")
    assert main(["evaluate", str(RUN)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{RUN}/config.yaml is damaged" in line


def test_tasks_of_srun_are_ranks_or_refused(moved, capsys, monkeypatch):
    for name, value in {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["evaluate", str(RUN), "launch.nproc_per_node=2"]) == 1
    assert "srun has started 4 tasks" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert main(["evaluate", str(RUN), "launch.nproc_per_node=2"]) == 1
    assert capsys.readouterr().err == ""


def test_every_run_of_a_study_with_every_kind_of_statistics(trained, moved, capsys):
    """What was tested before is left alone, a second start has nothing to do, and the report shows the split."""
    before = (RUN / "tests/image-precise.json").read_bytes()
    words = ["evaluate", "runs/study", "bn_stats=precise,ema,batch"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"1/1 {RUN.name}: image-ema" in said
    assert "image-precise" not in [line.rpartition(": ")[2] for line in said.splitlines() if line.startswith("1/1")]
    assert {path.stem for path in (RUN / "tests").glob("*.json")} == {f"image-{n}" for n in ("precise", "ema", "batch")}
    assert (RUN / "tests/image-precise.json").read_bytes() == before
    page = Path("runs/study/report.html").read_text()
    assert "Precise statistics are taken anew" in page
    assert "The first training clips, as the network saw them" in page
    assert page.count("data:image/jpeg") >= 4
    assert main(words) == 0
    assert "1/1" not in capsys.readouterr().out


def test_a_study_without_a_result_is_one_line(moved, capsys):
    (RUN / "result.json").unlink()
    assert main(["evaluate", "runs/study", "bn_stats=ema"]) == 1
    assert "runs/study: no run of it is done, so none can be tested; " in capsys.readouterr().err
