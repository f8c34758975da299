"""Whether two revisions of vidgn do the same, to the byte: run after a change that is to change nothing.

    python bench/revisions.py OLD [NEW]      revisions of git, or folders; NEW: this one. About 5 minutes on two cores.

Both run the same commands on the same generated videos and images. What they leave is compared: every tensor of
model.safetensors, metrics.jsonl less its clock, result.json, audit.json, config.yaml, tests/*.csv, what is printed.
Then NEW reads OLD's run directories, and ends a run that OLD was stopped in. Exit 1 if anything differs.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

REPO = Path(__file__).resolve().parent.parent
SMALL = [
    *("gpus=2", "clips_per_gpu=2", "study=s", "bn_stats_steps=2", "launch.threads=1"),
    *("trainer.device=cpu", "trainer.checkpoint_steps=3", "data.workers=0"),
]
VIDEO = ["model=i3d_tiny", "frames=8", "span=16", "views=curve", "trainer.max_steps=12", "trainer.eval_every=1", *SMALL]
IMAGE = ["model=resnet_tiny", "data=imagenet", "views=image", "frames=1", "span=1", "data.crop=48", *SMALL]
RUNS = {
    "bn, 1 rank": [*VIDEO, "norm=bn"],
    "bn, 2 ranks": [*VIDEO, "norm=bn", "launch.nproc_per_node=2"],
    "gn, 1 rank": [*VIDEO, "norm=gn"],
    "gn, 2 ranks": [*VIDEO, "norm=gn", "launch.nproc_per_node=2"],
    "bn, 2 readers": [*VIDEO, "norm=bn", "data.workers=2"],
    "bn, lean memory": [*VIDEO, "norm=bn", "trainer.activation_memory=lean"],
    "bn, images": [*IMAGE, "norm=bn", "trainer.epochs=2"],
    "gn, images": [*IMAGE, "norm=gn", "trainer.epochs=2", "launch.nproc_per_node=2"],
}
STOPPED = [*VIDEO, "norm=bn", "launch.nproc_per_node=2"]  # ends as "bn, 2 ranks" does
TESTS = [["views=center"], ["bn_stats=ema"], ["bn_stats=batch"], ["views=paper", "launch.nproc_per_node=2"]]
MEMORY = [
    "memory",
    "-m",
    *VIDEO,
    "norm=bn,gn",
    "trainer.activation_memory=keep,lean",
    "--no-measure",
    "--out",
    "memory",
]
REFUSED = [
    [*VIDEO, "norm=groupnorm"],
    [*VIDEO, "frames=0"],
    [*VIDEO, "norm=gn", "norm.groups=7"],
    [*VIDEO, "views=many"],
    [*VIDEO, "trainer.epoch=3"],
    [*VIDEO, "launch.nproc_per_node=3"],
    [*VIDEO, "weights=nowhere.pth"],
    [*IMAGE, "frames=8"],
]


@dataclass
class Revision:
    name: str
    code: Path  # what PYTHONPATH names
    work: Path

    def vidgn(self, *arguments: str, folder: Path, expect: int = 0) -> str:
        """Standard output of a command; standard error where it is to fail."""
        done = subprocess.run(
            self._command(*arguments), cwd=folder, env=self._environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != expect:
            sys.exit(f"{self.name}: vidgn {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stderr if expect else done.stdout

    def stop(self, *arguments: str, folder: Path, after: int) -> None:
        """Start a command and have it stop after about `after` steps."""
        with (folder / "stopped.txt").open("w") as out:
            started = subprocess.Popen(
                self._command(*arguments), cwd=folder, env=self._environment(), stdout=out, stderr=out
            )
            while started.poll() is None and sum(map(_num_lines, folder.glob("runs/s/*/metrics.jsonl"))) < after:
                time.sleep(0.01)
            started.send_signal(signal.SIGTERM)
            code = started.wait()
        if code != 75:
            sys.exit(f"{self.name}: exit {code} where a run was to stop\n{(folder / 'stopped.txt').read_text()}")

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "vidgn", *arguments]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.code), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@dataclass
class Differences:
    """Comparisons so far, a line each."""

    found: list[str] = field(default_factory=list)
    compared: int = 0

    def compare(self, what: str, old: object, new: object) -> None:
        same = old == new
        self.compared += 1
        print(f"{'same     ' if same else 'DIFFERENT'}  {what}", flush=True)
        if not same:
            self.found.append(what)
            print(f"    old: {str(old)[:400]}\n    new: {str(new)[:400]}", flush=True)

    def compare_runs(self, what: str, old: Path, new: Path) -> None:
        """All files of a run but what says when and on what it ran."""
        tensors = _tensors(old / "model.safetensors")
        self.compare(f"{what}: model.safetensors, {len(tensors)} tensors", tensors, _tensors(new / "model.safetensors"))
        lines = _lines(old / "metrics.jsonl")
        self.compare(f"{what}: metrics.jsonl, {len(lines)} lines less clock", lines, _lines(new / "metrics.jsonl"))
        names = sorted(str(p.relative_to(old)) for p in (old / "tests").iterdir())
        self.compare(
            f"{what}: names of tests", names, sorted(str(p.relative_to(new)) for p in (new / "tests").iterdir())
        )
        for name in ("result.json", "audit.json", "config.yaml", *(n for n in names if n.endswith(".csv"))):
            self.compare(f"{what}: {name}", (old / name).read_bytes(), (new / name).read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD")
    parser.add_argument("new", metavar="NEW", nargs="?", default=str(REPO))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = root / "data"
        write_images(data / "images")
        old, new = (
            Revision(name, _code(name, root / f"code-{which}"), root / which)
            for which, name in (("old", arguments.old), ("new", arguments.new))
        )
        print(f"old: {_describe(old)}\nnew: {_describe(new)}\ntorch {torch.__version__}, CPU", flush=True)
        found = Differences()
        compare_results(old, new, data, found)
        compare_refusals(old, new, data, found)
        hand_over(old, new, data, root / "handed-over", found)
    print(f"{found.compared} comparisons, {len(found.found)} differences")
    sys.exit(1 if found.found else 0)


def compare_results(old: Revision, new: Revision, data: Path, found: Differences) -> None:
    """Runs and what is made of them, each revision its own."""
    for name, overrides in RUNS.items():
        for revision in (old, new):
            folder = _folder(revision, name)
            revision.vidgn("train", *overrides, *_data(overrides, data), folder=folder)
        found.compare_runs(name, _run(_folder(old, name)), _run(_folder(new, name)))
    for test in TESTS:
        for revision in (old, new):
            folder = _folder(revision, "bn, 1 rank")
            revision.vidgn("evaluate", str(_run(folder)), *test, "trainer.device=cpu", folder=folder)
    name = "bn, 1 rank"
    found.compare_runs(f"{name}, tested {len(TESTS)} times more", _run(_folder(old, name)), _run(_folder(new, name)))
    for what, command in {
        "predict": ("predict", "--json", "--device", "cpu", "RUN", *map(str, sorted(data.rglob("val/**/*.mp4"))[:3])),
        "report": ("report", "runs/s"),
        "status": ("status", "runs/s"),
    }.items():
        printed = [
            r.vidgn(*_with_run(command, _folder(r, name)), folder=_folder(r, name)).replace(str(r.work), "")
            for r in (old, new)
        ]
        found.compare(f"vidgn {what}: what it prints", *map(_without_time, printed))
    for revision in (old, new):
        folder = _folder(revision, name)
        revision.vidgn(*_with_run(("convert", "RUN", "out.safetensors"), folder), folder=folder)
        revision.vidgn(*MEMORY, *_data(VIDEO, data), folder=folder)
    folders = [_folder(r, name) for r in (old, new)]
    found.compare("vidgn convert: tensors", *(_tensors(f / "out.safetensors") for f in folders))
    found.compare("vidgn memory: memory.csv", *((f / "memory/memory.csv").read_bytes() for f in folders))


def compare_refusals(old: Revision, new: Revision, data: Path, found: Differences) -> None:
    """One line each, to the letter."""
    for overrides in REFUSED:
        printed = [
            r.vidgn("train", *overrides, *_data(overrides, data), folder=_folder(r, "refused"), expect=1)
            for r in (old, new)
        ]
        found.compare(f"vidgn train {overrides[-1]}: what it is refused with", *printed)


def hand_over(old: Revision, new: Revision, data: Path, work: Path, found: Differences) -> None:
    """What OLD has written, and NEW goes on with."""
    name = "bn, 1 rank"
    theirs = _folder(old, name)
    ours = work / "done"
    shutil.copytree(theirs, ours)
    for what, command in {
        "report": ("report", "runs/s"),
        "status": ("status", "runs/s"),
        "predict": ("predict", "--json", "--device", "cpu", "RUN", *map(str, sorted(data.rglob("val/**/*.mp4"))[:3])),
    }.items():
        printed = [
            r.vidgn(*_with_run(command, f), folder=f).replace(str(f), "") for r, f in ((old, theirs), (new, ours))
        ]
        found.compare(f"OLD's run in NEW's vidgn {what}: what it prints", *printed)
    files = [(f / "runs/s/report.json").read_bytes() for f in (theirs, ours)]
    found.compare("OLD's run in NEW's vidgn report: report.json", *files)
    for test in TESTS:
        shutil.rmtree(_run(ours) / "tests")
        new.vidgn("evaluate", str(_run(ours)), *test, "trainer.device=cpu", folder=ours)
        for csv in sorted((_run(ours) / "tests").glob("*.csv")):
            scores = (_run(theirs) / "tests" / csv.name).read_bytes()
            found.compare(f"OLD's run in NEW's vidgn evaluate {test[0]}: {csv.name}", scores, csv.read_bytes())

    command = ("train", *STOPPED, *_data(STOPPED, data))
    whole = _run(_folder(old, "bn, 2 ranks"))
    for revision in (old, new):
        stopped = _folder(revision, "stopped")
        revision.stop(*command, folder=stopped, after=5)
    shutil.copytree(_folder(old, "stopped"), work / "stopped")
    for what, revision, folder in (
        ("stopped and resumed by OLD", old, _folder(old, "stopped")),
        ("stopped and resumed by NEW", new, _folder(new, "stopped")),
        ("stopped by OLD and resumed by NEW", new, work / "stopped"),
    ):
        printed = revision.vidgn(*command, folder=folder)
        if "going on from step" not in printed:
            sys.exit(f"{what}: did not resume\n{printed}")
        found.compare_runs(f"{what}, to OLD's run from start to end", whole, _run(folder))


def write_images(root: Path, *, num_train: int = 6, num_val: int = 3, num_classes: int = 4) -> None:
    """Class folders of noise with a hue of its own."""
    draw = np.random.default_rng(0)
    for split, count in (("train", num_train), ("val", num_val)):
        for label in range(num_classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = draw.integers(50, 80, size=2)
                pixels_HWC = draw.normal(127, 40, (height, width, 3)) + np.eye(4)[label, :3] * 60
                Image.fromarray(pixels_HWC.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.JPEG")


def _code(name: str, folder: Path) -> Path:
    """Where the revision's files are: `name` itself, or a copy of what git has under that name."""
    if Path(name).is_dir():
        return Path(name).resolve()
    folder.mkdir()
    archive = subprocess.run(["git", "archive", name], cwd=REPO, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], input=archive, cwd=folder, check=True)
    return folder


def _describe(revision: Revision) -> str:
    where, name = (revision.code, "HEAD") if Path(revision.name).is_dir() else (REPO, revision.name)
    return subprocess.run(
        ["git", "log", "-1", "--format=%h %s", name], cwd=where, capture_output=True, text=True, check=True
    ).stdout.strip()


def _folder(revision: Revision, name: str) -> Path:
    folder = revision.work / name.replace(", ", "-").replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _data(overrides: list[str], data: Path) -> list[str]:
    if "data=imagenet" in overrides:
        return [f"data.root={data / 'images'}"]
    made = ["data=synthetic", "data.synthetic.num_train=32", "data.synthetic.num_val=16"]
    return [*made, f"data.root={data / 'videos'}"]


def _run(folder: Path) -> Path:
    (config,) = folder.glob("runs/s/*/config.yaml")
    return config.parent


def _with_run(command: tuple[str, ...], folder: Path) -> list[str]:
    return [str(_run(folder)) if word == "RUN" else word for word in command]


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _lines(path: Path) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("clock", None)
    return lines


def _tensors(path: Path) -> dict[str, tuple]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {
        n: (t.dtype, tuple(t.shape), t.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for n, t in tensors.items()
    }


def _without_time(printed: str) -> str:
    """Lines that say nothing of speed: two runs never take the same time."""
    words = ("clips/s", "seconds", " s ", "min", "ago", "hour")
    return "\n".join(line for line in printed.splitlines() if not any(word in line for word in words))


if __name__ == "__main__":
    main()
