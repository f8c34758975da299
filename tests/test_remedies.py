"""Every remedy that a message names as a KEY=VALUE works, on the run that printed it; and those to files, of a run.

`CASES` is the table: what is wrong, the message, the remedies in it. Each remedy is run to the letter: the command that
failed, with what the message says to write. A message that is in the source and not in the table fails the last test.
"""

import ast
import errno
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import vidgn
from tests.small_run import BASE, RUN, begin, not_finite, patched, train, write_data
from vidgn.data.clips.plan import row_at
from vidgn.runs import checkpoint
from vidgn.training.step import TrainStep


@dataclass(frozen=True)
class Case:
    """A wrong start. `before` readies the run and the files; `broken` lasts as long as what is wrong.

    `remedies`: as the message names them, and behind `->` what they come to. `given`: what placeholders stand for.
    """

    message: str
    remedies: tuple[str, ...]
    overrides: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None
    broken: Callable[[], AbstractContextManager[object]] = nullcontext
    stays_broken: bool = False
    given: Mapping[str, str] = field(default_factory=dict)
    multirun: bool = False
    mend: Callable[[], object] = lambda: None  # what is to be done to files: the words -> nothing to write


def begin_in_bf16() -> None:
    with patched("vidgn.run.check_bf16", lambda config, device: None):
        begin(trainer__precision="bf16")


def vanished() -> None:
    """A video of the third step is gone once the run has begun."""
    begin()
    Path(f"videos/{row_at(0, 4, 6)}.mp4").unlink()


def damaged_rows() -> None:
    begin()
    shutil.copy(RUN / "videos/train.json.gz", "copy")
    (RUN / "videos/train.json.gz").write_text("x")


def put_back() -> None:
    shutil.copy("copy", RUN / "videos/train.json.gz")


def remove_checkpoints() -> None:
    for path in (RUN / "checkpoints").glob("*.pt"):
        path.unlink()


def checkpoint_is_a_folder() -> None:
    begin()
    (RUN / "checkpoints/step_000000003.pt").mkdir()


def remove_folder() -> None:
    (RUN / "checkpoints/step_000000003.pt").rmdir()


def full_disk() -> AbstractContextManager[None]:
    def save(path: Path, state: dict) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    return patched("vidgn.runs.checkpoint.save_checkpoint", save)


def torn_line() -> None:
    shutil.copy("train.csv", "whole.csv")
    rows = Path("train.csv").read_text().splitlines()
    Path("train.csv").write_text("\n".join([*rows[:2], rows[2].partition(",")[0], *rows[3:]]) + "\n")


def mend_line() -> None:
    shutil.copy("whole.csv", "train.csv")


def torn_weights() -> None:
    trained_weights()()
    data = Path("w.safetensors").read_bytes()
    Path("w.safetensors").write_bytes(data[: len(data) // 2])
    shutil.rmtree("runs/other")


@contextmanager
def lock_goes() -> Iterator[None]:
    ordinary = TrainStep.forward_backward

    def forward_backward(self, batch, *, step, index):
        (RUN / "lock.json").unlink(missing_ok=True)
        return ordinary(self, batch, step=step, index=index)

    with patched("vidgn.training.step.TrainStep.forward_backward", forward_backward):
        yield


def another_class() -> None:
    Path("val.csv").write_text("path,label\n6.mp4,jump\n")
    Path("three.txt").write_text("run\nwalk\njump\n")


def scenes() -> None:
    rows = Path("train.csv").read_text().splitlines()
    with_scenes = ["path,label,scene", *(f"{row},{number % 3}" for number, row in enumerate(rows[1:]))]
    Path("train.csv").write_text("\n".join(with_scenes) + "\n")


def split_files() -> None:
    """HMDB51's layout: a folder a class, and beside it a split file for each."""
    for label, numbers in (("run", (0, 2, 6)), ("walk", (1, 3, 7))):
        Path("videos", label).mkdir()
        Path("splits").mkdir(exist_ok=True)
        for number in numbers:
            shutil.copy(f"videos/{number}.mp4", f"videos/{label}")
        lines = [f"{number}.mp4 {1 if number < 6 else 2} \n" for number in numbers]
        Path(f"splits/{label}_test_split1.txt").write_text("".join(lines))


def labels_from_one() -> None:
    Path("three.txt").write_text("run\nwalk\njump\n")
    for name in ("train.csv", "val.csv"):
        path = Path(name)
        path.write_text(path.read_text().replace("run", "1").replace("walk", "2"))


@contextmanager
def gpu_for(clips: int) -> Iterator[None]:
    """A GPU that holds forwards of so many clips, by a prediction that is 1000 bytes a clip, and half of it in bf16."""

    def predicted(config, *, clips_per_forward, **_):
        peak = 1000 * clips_per_forward // (2 if config.trainer.precision == "bf16" else 1)
        return SimpleNamespace(peak_bytes=peak, training_bytes=peak, test_bytes=0, clips_per_forward=clips_per_forward)

    with (
        patched("vidgn.memory.fit.predict", predicted),
        patched("vidgn.memory.fit.usable_bytes", lambda gpu_bytes: gpu_bytes),
        patched("vidgn.preflight.local_gpu_bytes", lambda config: 1000 * clips + 500),
        patched("vidgn.run.check_bf16", lambda config, device: None),
    ):
        yield


def moved() -> None:
    begin()
    shutil.move("videos", "elsewhere")
    Path("videos").mkdir()


def held() -> AbstractContextManager[object]:
    from vidgn.runs.lock import locked

    RUN.mkdir(parents=True, exist_ok=True)
    return locked(RUN, print)


def swept() -> AbstractContextManager[object]:
    """Another process sweeps the cell."""
    Path("runs/s").mkdir(parents=True)
    code = (
        "import time; from pathlib import Path; from vidgn.distributed.signals import stop_token\n"
        f"with stop_token(Path('runs/s'), cells=['{RUN.name}'], outlives=False):\n"
        "    print('held', flush=True); time.sleep(60)"
    )

    @contextmanager
    def held() -> Iterator[None]:
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            yield
            other.kill()

    return held()


def other_checkpoint() -> None:
    begin()
    begin(seed="1")
    for path in (RUN / "checkpoints").glob("*.pt"):
        shutil.copy(RUN.with_name(RUN.name.replace("s0", "s1")) / "checkpoints" / path.name, path)


def trained_weights(**overrides: str) -> Callable[[], None]:
    """w.safetensors: the model of a run of another study."""

    def before() -> None:
        given = BASE | {"study": "other", **overrides}
        assert train(given) == 0
        (made,) = Path("runs/other").glob("*/model.safetensors")
        shutil.copy(made, "w.safetensors")

    return before


def images(folder: str = "images") -> None:
    from PIL import Image

    for split in ("train", "val"):
        for i in range(4):
            path = Path(folder, split, f"class{i % 2}", f"{i}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 40, 3), 40 * i, np.uint8)).save(path)


def began_from_weights() -> None:
    trained_weights()()
    begin(weights="w.safetensors")
    Path("w.safetensors").unlink()


def not_there() -> object:
    raise ImportError("libtorchcodec does not load")


def disk_for_two_checkpoints() -> AbstractContextManager[None]:
    ordinary = checkpoint.save_checkpoint

    def save(path: Path, state: dict) -> None:
        if len(checkpoint.list_checkpoints(path.parent)) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        ordinary(path, state)

    return patched("vidgn.runs.checkpoint.save_checkpoint", save)


def lists() -> None:
    for split in ("train", "val"):
        rows = Path(f"{split}.csv").read_text().splitlines(keepends=True)[1:]
        Path(f"{split}.csv").write_text("".join(rows))


NO_LISTS = {"data.train": "null", "data.val": "null"}
FEW = {f"data.synthetic.{key}": "8" for key in ("num_train", "num_val")} | {"data.synthetic.size": "32"}
IMAGES = {"data": "imagenet", "data.root": "images", "model": "resnet_tiny", **NO_LISTS}
CASES = {
    "another checkpoint, removed": Case(
        "is of another experiment", ("Remove it -> ",), before=other_checkpoint, mend=remove_checkpoints
    ),
    "a checkpoint that can't be read": Case(
        "can't be read: Is a directory", ("or move it away -> ",), before=checkpoint_is_a_folder, mend=remove_folder
    ),
    "rows, put back": Case(
        "train.json.gz is damaged", ("put it back from a copy -> ",), before=damaged_rows, mend=put_back
    ),
    "disk, freed": Case("no space for checkpoint", ("free some -> ",), broken=full_disk),
    "no such classes": Case(
        "data.classes=nowhere.txt: no such file", ("or null -> data.classes=null",), {"data.classes": "nowhere.txt"}
    ),
    "a line of an annotation": Case("train.csv, line 3: ", ("mend the line -> ",), before=torn_line, mend=mend_line),
    "torn weights": Case(
        "w.safetensors", ("fetch it again -> ",), {"weights": "w.safetensors"}, torn_weights, mend=trained_weights()
    ),
    "no such videos": Case(
        "data.root=nowhere: no such folder", ("give the folder -> data.root=videos",), {"data.root": "nowhere"}
    ),
    "a lock that is gone": Case("lock.json is gone", ("start the same command again -> ",), broken=lock_goes),
    "nesterov": Case(
        "optim.nesterov=true needs optim.momentum above 0",
        ("optim.nesterov=false",),
        {"optim.momentum": "0", "optim.nesterov": "true"},
    ),
    "frames": Case(
        "frames=12 does not divide span=32", ("frames=8", "frames=16", "span=36"), {"frames": "12", "span": "32"}
    ),
    "short side": Case("the smaller comes first", ("data.short_side=[28,32]",), {"data.short_side": "[32,28]"}),
    "crop": Case(
        "data.crop=30 is larger than the smallest", ("data.crop=28", "data.short_side=[30,32]"), {"data.crop": "30"}
    ),
    "views": Case("views=image tests one frame, but frames=8", ("views=center",), {"views": "image"}),
    "views of one frame": Case(
        "views=image tests one frame",
        ("frames=1 span=1",),
        {"views": "image", **IMAGES},
        images,
    ),
    "frozen": Case(
        "norm=frozen_bn keeps the statistics of imported weights",
        ("weights=FILE",),
        {"norm": "frozen_bn"},
        trained_weights(norm="bn"),
        given={"FILE": "w.safetensors"},
    ),
    "synthetic": Case("write data=synthetic", ("data=synthetic",), {"data.format": "synthetic", "data.root": "made"}),
    "synthetic without a root": Case(
        "data.format=synthetic needs a place for its videos",
        ("data.root=FOLDER",),
        {"data": "synthetic", "data.root": "null", **NO_LISTS, **FEW},
        given={"FOLDER": "made"},
    ),
    "images": Case("is images, but frames=8", ("frames=1 span=1",), IMAGES, images),
    "groups of another kind": Case(
        "norm.groups is for norm=gn alone", ("norm=gn",), {"norm": "bn", "norm.groups": "2"}
    ),
    "groups added to another kind": Case(
        "norm.groups=2 is for norm=gn, not norm=bn", ("norm=gn",), {"norm": "bn", "+norm.groups": "2"}
    ),
    "groups": Case("norm.groups=3 does not divide", ("give 2 or 4 -> norm.groups=4",), {"norm.groups": "3"}),
    "disk": Case(
        "no space for checkpoint step_000000004.pt",
        ("trainer.keep=1",),
        {"trainer.keep": "3"},
        begin,
        disk_for_two_checkpoints,
        stays_broken=True,
    ),
    "forward": Case(
        "trainer.clips_per_forward=3: ",
        ("or auto -> trainer.clips_per_forward=auto",),
        {"trainer.clips_per_forward": "3"},
    ),
    "twins": Case(
        "two cells of the sweep would share the directory",
        ("tag='lr${optim.lr_per_clip}'",),
        {"optim.lr_per_clip": "0.001,0.002"},
        multirun=True,
    ),
    "separator": Case(
        "data.separator is empty",
        ("data.separator=','",),
        {"data.format": "list", "data.separator": "''"},
        lists,
    ),
    "missing": Case(
        "of data.train=train.csv are not below videos",
        ("data.missing=skip",),
        before=lambda: Path("videos/0.mp4").unlink(),
    ),
    "max_unreadable": Case(
        "1 training clips could not be read, more than data.max_unreadable=0",
        ("data.max_unreadable=2",),
        {"data.max_unreadable": "0"},
        vanished,
    ),
    "all gone": Case(
        "give data.root=FOLDER where they are", ("data.root=FOLDER",), before=moved, given={"FOLDER": "elsewhere"}
    ),
    "rows": Case(
        "train.json.gz is damaged",
        ("tag=NAME",),
        before=damaged_rows,
    ),
    "decoder": Case(
        "data.decoder=torchcodec can't be loaded",
        ("data.decoder=pyav",),
        {"data.decoder": "torchcodec"},
        begin,
        lambda: patched("vidgn.data.decode.guided.import_torchcodec", not_there),
        stays_broken=True,
    ),
    "device": Case("trainer.device=cuda with 1 processes", ("trainer.device=cpu",), {"trainer.device": "cuda"}, begin),
    "swept": Case(
        "of these cells are swept by process", ("study=NAME",), broken=swept, stays_broken=True, multirun=True
    ),
    "one value": Case(
        "norm=in has one value to normalise by itself", ("data.crop=37",), {"norm": "in", "data.short_side": "[40,44]"}
    ),
    "no statistics": Case(
        "without running statistics, which this model's BN needs",
        ("norm=gn",),
        {"norm": "frozen_bn", "weights": "w.safetensors"},
        trained_weights(),
    ),
    "another checkpoint": Case("is of another experiment", ("tag=NAME",), before=other_checkpoint),
    "another experiment": Case(
        "holds another experiment: optim.lr_per_clip", ("tag=NAME",), {"optim.lr_per_clip": "0.5"}, begin
    ),
    "weights": Case(
        "began from weights=w.safetensors: write that",
        ("weights=w.safetensors",),
        {"weights": "v.safetensors"},
        began_from_weights,
    ),
    "lock": Case("is being written by another run", ("tag=NAME",), broken=held, stays_broken=True),
    "not finite": Case(
        "the loss or a gradient of step 3 is not finite",
        ("trainer.on_nonfinite=skip",),
        broken=lambda: not_finite(3),
        stays_broken=True,
    ),
    "not finite, another rate": Case(
        "the loss or a gradient of step 3 is not finite",
        ("optim.lr_per_clip=7.8125e-05 tag=NAME",),
        broken=lambda: not_finite(3),
    ),
    "too many skipped": Case(
        "is not finite, as were 1 before it, and trainer.max_skipped is 1",
        ("trainer.max_skipped=4",),
        {"trainer.on_nonfinite": "skip", "trainer.max_skipped": "1"},
        broken=lambda: not_finite(2, 3),
        stays_broken=True,
    ),
    "bf16": Case(
        "gradients of a bf16 conv3d are wrong here",
        ("trainer.precision=fp32",),
        {"trainer.precision": "bf16"},
        broken=lambda: patched("vidgn.training.setup._BF16_ERROR", -1.0),
        stays_broken=True,
    ),
    "bf16, on another machine": Case(
        "gradients of a bf16 conv3d are wrong here",
        ("trainer.precision=fp32 tag=NAME",),
        {"trainer.precision": "bf16"},
        begin_in_bf16,
        lambda: patched("vidgn.training.setup._BF16_ERROR", -1.0),
        stays_broken=True,
    ),
    "memory": Case(
        "for it: write trainer.clips_per_forward=auto (8 clips a forward",
        ("trainer.clips_per_forward=auto",),
        {"trainer.clips_per_forward": "16", "clips_per_gpu": "16"},
        broken=lambda: gpu_for(clips=15),
        stays_broken=True,
    ),
    "memory, on another machine": Case(
        "for it: write trainer.precision=bf16 tag=NAME (which begins a new run) (1 clips a forward",
        ("trainer.precision=bf16 tag=NAME",),
        {"clips_per_gpu": "16"},
        lambda: begin(clips_per_gpu="16"),
        lambda: gpu_for(clips=0),
        stays_broken=True,
    ),
    "another class": Case("no training video has it", ("data.untrained_classes=allow",), before=another_class),
    "a class that is not trained": Case(
        "1 classes are tested that no training video has: jump",
        ("data.untrained_classes=allow",),
        {"data.classes": "three.txt"},
        another_class,
    ),
    "labels from 1 on": Case(
        "labels are whole numbers from 1 on, and classes are counted from 0",
        ("data.first_label=1", "data.classes -> data.classes=three.txt"),
        before=labels_from_one,
    ),
    "a group without folds": Case(
        "part a list into folds",
        ("data.folds=5 -> data.folds=2 data.fold=0 data.val=null",),
        {"data.group": "scene"},
        scenes,
    ),
    "a fold that is none": Case(
        "at least 2 folds",
        ("data.folds=5 data.fold=0 -> data.folds=2 data.fold=0",),
        {"data.folds": "2", "data.fold": "2", "data.val": "null"},
    ),
    "folds and a list to test": Case(
        "tests a part of data.train", ("data.val=null",), {"data.folds": "2", "data.fold": "0"}
    ),
    "a split's flags": Case(
        "flags of a split",
        ("data=hmdb51 data.train=FOLDER data.fold=1 -> data=hmdb51 data.train=splits data.fold=1 data.val=null",),
        {"data": "list", "data.train": "splits/run_test_split1.txt"},
        split_files,
        given={"FOLDER": "splits"},
    ),
    "labels one beyond the classes": Case(
        "is not one of the 2 classes", ("data.first_label=1",), {"data.classes": "names.txt"}, labels_from_one
    ),
}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.mark.parametrize(("name", "remedy"), [(n, r) for n, case in CASES.items() for r in case.remedies])
def test_the_remedy_works(data, tmp_path, monkeypatch, capsys, name, remedy):
    case = CASES[name]
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDGN_DISK_FULL_WAIT", "0.01")
    case.before()
    capsys.readouterr()
    overrides = BASE | case.overrides
    with case.broken():
        assert train(overrides, multirun=case.multirun) == 1
        said = capsys.readouterr().err
        assert case.message in said
        assert remedy.partition(" -> ")[0] in said
        if case.stays_broken:
            follow(overrides, remedy, case)
    if not case.stays_broken:
        follow(overrides, remedy, case)


def follow(overrides: Mapping[str, str], remedy: str, case: Case) -> None:
    case.mend()
    given = {"NAME": "other", **case.given}
    written = re.sub("|".join(given), lambda found: given[found[0]], remedy.rpartition(" -> ")[2])
    changed = dict(part.split("=", 1) for part in re.findall(r"[\w.]+=(?:'[^']*'|\[[^]]*\]|\S+)", written))
    assert train({**overrides, **changed}, multirun=case.multirun) == 0


# -- the table is whole ----------------------------------------------------------------------------------------------

_KEY = r"(?:(?:trainer|data|optim|launch|norm|model)\.(?:\w+\.)*\w+|tag|frames|span|weights|views|study|norm|data)"
_NAMED = re.compile(
    rf"(?:\b(?i:write|use|set|give|with|or|as in|needs|from|example)\b[^:;]*?(?<![\w.]){_KEY}=|(?:write|with) \{{\}})"
)
# Parts of the messages of CASES, as they stand in the source.
SHOWN = (
    "is for norm={}, not norm={}: leave it out, or write norm={}",
    "{} is for {} alone: leave it out, or write {} (a sweep over other norms too is two commands with one study)",
    "needs optim.momentum above 0",
    "does not divide span={}",
    "the smaller comes first",
    "is larger than the smallest short side",
    "views=image tests one frame",
    "keeps the statistics of imported weights",
    "needs the keys under data.synthetic",
    "needs a place for its videos",
    "is images, but frames={}",
    "trainer.clips_per_forward={}: {}; write {} or auto",
    "(with trainer.keep=1 it needs less)",
    "would share the directory",
    "data.separator is empty",
    "set data.missing=skip to go on",
    "or let other videos stand in",
    "give data.root=FOLDER where they are",
    "train anew with tag=NAME",
    "can't be loaded ({})",
    "GPUs to be seen: write {}",
    "of these cells are swept by process",
    "has one value to normalise by itself",
    "without running statistics, which this model's BN needs",
    "is of another experiment",
    "holds another experiment",
    "began from weights={}",
    "is being written by another run",
    "leave such steps out with {}",
    "gradients of a bf16 conv3d are wrong here",
    "{}: write {} ({})",
    "if classes are counted from there",
    "if that is the first class",
    "no training video has it",
    "number or name classes alike",
    "part a list into folds",
    "one of 0 to folds - 1 to test",
    "tests a part of data.train",
    "flags of a split",
)
# Messages whose remedies are run elsewhere, or need what is not here.
ELSEWHERE = {
    "is done, and was tested with {}": "of a run that is done: tests/cli/test_evaluate.py",
    "takes images, but frames={}: write frames=1 span=1": "of detectors: tests/detection/test_detection_runs.py",
    "would leave stages as they are drawn": "of detectors: tests/detection/test_detection_runs.py",
    "takes a detector's statistics over all {} virtual GPUs": "of detectors: tests/detection/test_detection_runs.py",
    "res5 sees boxes and masks in turn": "of detectors: tests/detection/test_detection_runs.py",
    "images of a virtual GPU share the detector's losses": "of detectors: tests/detection/test_detection_runs.py",
    "has changed since the run began": "of detectors: tests/detection/test_coco_images.py",
    "a detector's shapes change from image to image": "of detectors: tests/detection/test_detection_runs.py",
    "a detector's memory depends on the objects": "of detectors: tests/detection/test_detection_runs.py",
    "trainer.norm_kernels=triton can't be had here": "on a GPU: tests/models/norms/test_triton.py",
    "set data.workers={}": "no error: vidgn data bench, tests/training/test_throughput.py",
    "use it with {}": "no error: vidgn data index says what to do next, tests/data/tools/test_index.py",
    "for example data.synthetic.num_train=1000": "no error: help of vidgn data synth",
    "use data.decoder=pyav": "no error: vidgn doctor, tests/cli/test_doctor.py",
    "an array of shape": "no remedy",
    "is no list of objects with {}": "names no key",
    "with {} {}": "no error: the report",
    "paired bootstrap": "no error: the report",
    "{}: write {}": "fewer GPUs than ranks: needs GPUs",
    "give it with {}=VALUE": "a damaged config.yaml",
    "is not set, and data.format={} needs it": "tests/data/datasets/test_manifest.py",
    "srun has started {} tasks": "tests/launch/test_wrong.py; its remedy needs a Slurm of several nodes",
    "scontrol can't say which nodes": "needs a Slurm that does not answer",
    "needs launch.rendezvous=HOST:PORT": "tests/launch/test_ranks.py starts two nodes with it",
    "as in launch.rendezvous=node1:29500": "tests/launch/test_ranks.py starts two nodes with it",
    "was trained on {} classes": "of a test: tests/cli/test_evaluate.py",
}


def told() -> Iterator[tuple[str, str]]:
    """(place, text) of every text of the package that names a KEY=VALUE to write; {} for what is put in."""
    package = Path(vidgn.__file__).parent
    for file in sorted(package.rglob("*.py")):
        tree = ast.parse(file.read_text())
        left_out = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        left_out |= {id(node.value) for node in ast.walk(tree) if isinstance(node, (ast.Expr, ast.Assign))}  # prose
        for node in ast.walk(tree):
            if id(node) not in left_out and _NAMED.search(text := written(node)):
                yield f"{file.relative_to(package)}:{getattr(node, 'lineno', 0)}", text


def written(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""


def test_every_message_that_names_what_to_write_is_in_the_table():
    known, texts = [*ELSEWHERE, *SHOWN], list(told())
    missing = [f"{place}: {text}" for place, text in texts if not any(part in text for part in known)]
    assert not missing, "\n".join(missing)
    stale = [part for part in known if not any(part in text for _, text in texts)]
    assert not stale, stale
