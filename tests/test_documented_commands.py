"""Every block of commands in README.md and docs/ runs as it stands there, in order, page by page.

What makes them short is around them: a copy of vidgn whose conf/ has narrow nets, small crops, one step; files of the
names that a page speaks of, made here; `wget`, which takes them from a folder, and `make`, which only says what it
would do.
"""

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.cli.test_predict import export
from tests.data.encoded_videos import KINDS, encode, picture
from tests.detection.small_detector import write_coco
from tests.models.foreign_files import caffe2_blobs, python2_pickle, torchvision_state
from tests.models.narrow_nets import IMAGE, plain
from vidgn.cli.main import main

REPO = Path(__file__).resolve().parent.parent
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
SMALL = {  # file of conf/ -> what a test can wait for
    "model/i3d_r50.yaml": {"width": 8, "norm_groups": 2},
    "data/kinetics400.yaml": {"crop": 24, "short_side": [24, 28], "workers": 0},
    "views/paper.yaml": {"clips": 1},
    "data/imagenet.yaml": {"short_side": [48, 48], "crop": 48},
    "data/coco.yaml": {"short_side": [96, 96], "long_side": 160},
    "model/mask_rcnn_r50_fpn.yaml": {"head_channels": 16, "head_features": 32},
    "sweep/coco.yaml": {"  max_steps": 1},
    "data/synthetic.yaml": {"workers": 0},
    "launch/local.yaml": {"threads": 1},
    "trainer/default.yaml": {"max_steps": 1, "eval_every": 0, "device": "cpu"},
    "config.yaml": {"bn_stats_steps": 1},
}
# sixty cells; a hundred predictions; detectors of 50 layers; a dozen starts
LONG = {"weights.md", "memory.md", "detection.md", "predict.md"}
LONG_FOLDERS = {"tutorials", "how-to", "explanation"}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of vidgn with a small conf/, and the commands `vidgn`, `wget` and `make`."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(REPO / "vidgn", folder / "site/vidgn", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPO / "conf", folder / "site/conf")
    for name, values in SMALL.items():
        file = folder / "site/conf" / name
        text = file.read_text()
        for key, value in values.items():
            line = f"{key}: {yaml.safe_dump(value, default_flow_style=True).strip().removesuffix('...').strip()}"
            text, found = re.subn(rf"^{key}: .*$", line, text, flags=re.MULTILINE)
            text += "" if found else f"{line}\n"
        file.write_text(text)
    (folder / "bin").mkdir()
    scripts = {
        "vidgn": f'PYTHONPATH="{folder}/site" exec "{sys.executable}" -m vidgn "$@"',
        "wget": f'cp "{folder}/net/$(basename "$1")" .',
        "make": f'exec "{shutil.which("make")}" --dry-run -C "{REPO}" "$@"',
    }
    for name, command in scripts.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{command}\n")
        (folder / "bin" / name).chmod(0o755)
    (folder / "net").mkdir()
    blobs = {"blobs": caffe2_blobs(plain(IMAGE, "gn"), statistics=False)}
    (folder / "net/R-50-GN.pkl").write_bytes(python2_pickle(blobs))
    torch.save(torchvision_state(plain(IMAGE, "bn")), folder / "net/resnet50-0676ba61.pth")
    return folder


def run(script: str, place: Path, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        # AVX2: on CPUs with AVX-512 this torch's bf16 convolutions are wrong, which vidgn refuses.
        env={
            "PATH": f"{place}/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def videos(folder: Path) -> None:
    """`videos/`, `train.csv` and `val.csv` of two classes, and two videos beside them."""
    names = [
        KINDS[kind](folder_of(folder / "videos")).name for kind in ("h264_closed", "vp9", "mpeg4_avi", "hevc_closed")
    ]
    rows = "".join(f"{name},{i % 2}\n" for i, name in enumerate(names))
    for split in ("train", "val"):
        (folder / f"{split}.csv").write_text(f"path,label\n{rows}")
    for name in ("some.mp4", "clip.mp4", "other.mp4"):
        encode(folder / name, "libx264", options={"preset": "veryfast"})


def kinetics(folder: Path, name: str = "kinetics", prefix: str = "k400_") -> None:
    """A folder and csv files of the official form, with one video that is not there."""
    header = "label,youtube_id,time_start,time_end,split,is_cc\n"
    for split in ("train", "val"):
        rows = "".join(f"motion {i % 2},video{i:06d},{i},{i + 10},{split},0\n" for i in range(5))
        (folder / f"{prefix}{split}.csv").write_text(header + rows)
    for i in range(4):
        encode(folder_of(folder / name) / f"video{i:06d}_{i:06d}_{i + 10:06d}.mp4", "mpeg4")


def images(folder: Path) -> None:
    """`imagenet/` and `pictures/` of two classes."""
    for name in ("imagenet", "pictures"):
        for split in ("train", "val"):
            for i in range(4):
                path = folder_of(folder / name / split / f"class{i % 2}") / f"{i}.JPEG"
                Image.fromarray(np.ascontiguousarray(picture(i))).save(path)


def coco(folder: Path, place: Path) -> None:
    """`coco/` in the form of the official download, small."""
    write_coco(folder / "coco")
    (folder / "coco/annotations").mkdir()
    for split in ("train", "val"):
        (folder / f"coco/{split}.json").rename(folder / f"coco/annotations/instances_{split}2017.json")
        for path in (folder / "coco/images").glob(f"{split}_*"):
            path.rename(folder_of(folder / f"coco/{split}2017") / path.name)
    shutil.copy(folder / "coco/val2017/val_1005.png", folder / "coco/val2017/000000000139.jpg")


def folder_of(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def for_readme(folder: Path, place: Path) -> None:
    videos(folder)
    kinetics(folder)
    (folder / "net").mkdir()
    for norm, file in {"gn": "R-50-GN.pkl", "bn": "resnet50-0676ba61.pth"}.items():
        run(f"vidgn convert '{place}/net/{file}' r50_{norm}.safetensors --norm {norm}", place, folder)


def for_weights(folder: Path, place: Path) -> None:
    kinetics(folder, "videos", "")
    images(folder)
    for name in ("clip.mp4", "other.mp4"):
        encode(folder / name, "libx264", options={"preset": "veryfast"})


def for_predict(folder: Path, place: Path) -> None:
    """An export, two seconds of video, twenty in Matroska and in MPEG-TS, a folder of videos, a list and frames."""
    videos(folder)
    export(folder / "model.safetensors", steps=1)
    for name in ("long.mkv", "recording.ts"):
        encode(folder / name, "libx264", options={"preset": "veryfast"}, num_frames=500)
    (folder / "list.txt").write_text("clip.mp4\nvideos/vp9.webm\n")
    for i in range(20):
        Image.fromarray(np.ascontiguousarray(picture(i))).save(folder_of(folder / "frames") / f"img_{i:03}.jpg")


def for_pages(folder: Path, place: Path) -> None:
    """What tutorials and how-tos speak of: as the README, the files before they are converted, and a list."""
    for_readme(folder, place)
    for file in ("R-50-GN.pkl", "resnet50-0676ba61.pth"):
        shutil.copy(place / "net" / file, folder / file)
    shutil.copy(folder / "resnet50-0676ba61.pth", folder / "theirs.pyth")
    (folder / "list.txt").write_text((folder / "train.csv").read_text().partition("\n")[2].replace(",", " "))


@contextlib.contextmanager
def changed(place: Path, diffs: list[str]) -> Iterator[None]:
    """The copy of vidgn with what a page adds to it, while its commands run."""
    command = ["patch", "--strip=1", "--fuzz=0", "--remove-empty-files", f"--directory={place}/site"]
    for diff in diffs:
        subprocess.run(command, input=diff, text=True, check=True)
    yield
    for diff in reversed(diffs):
        subprocess.run([*command, "--reverse"], input=diff, text=True, check=True)


NEEDS: dict[str, Callable[[Path, Path], None]] = {
    "README.md": for_readme,
    "reliability.md": lambda folder, place: kinetics(folder, "videos", ""),
    "weights.md": for_weights,
    "detection.md": coco,
    "predict.md": for_predict,
}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=page.name,
            marks=[pytest.mark.long] if page.name in LONG or page.parent.name in LONG_FOLDERS else [],
        )
        for page in PAGES
    ],
)
def test_commands_run_as_they_stand(page: Path, place: Path, tmp_path: Path) -> None:
    found = blocks(page)
    assert {language for language, _ in found} <= {"sh", "python", "text", "diff"}
    of_folder = for_pages if page.parent.name in LONG_FOLDERS else None
    NEEDS.get(page.name, of_folder or (lambda folder, place: None))(tmp_path, place)
    with changed(place, [text for language, text in found if language == "diff"]):
        for language, script in found:
            if language == "sh":
                run(script, place, tmp_path)
            if language == "python":
                run(f"PYTHONPATH='{place}/site' '{sys.executable}' - <<'END'\n{script}END\n", place, tmp_path)


def test_the_demo_runs_and_shows_its_table(place: Path, tmp_path: Path) -> None:
    run("vidgn train sweep=demo data.synthetic.num_train=16 data.synthetic.num_val=16", place, tmp_path)
    assert "8 done" in (tmp_path / "runs/demo/report.md").read_text()
    assert "data:image/jpeg" in (tmp_path / "runs/demo/report.html").read_text()  # of videos that flipped


def test_every_option_that_pages_name_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Those in the text between blocks as well."""
    of_data = "index|check|transcode|synth|bench|get|compare"
    verbs = f"train|evaluate|status|memory|report|predict|convert|doctor|data (?:{of_data})"
    said: dict[str, str] = {}
    named = 0
    for page in [*PAGES, REPO / "launch/README.md", REPO / "CONTRIBUTING.md"]:
        for verb, rest in re.findall(rf"\bvidgn ({verbs})\b([^`\n]*)", page.read_text()):
            if verb not in said:
                with contextlib.suppress(SystemExit):
                    main([*verb.split(), "--help"])
                said[verb] = capsys.readouterr().out
            for option in re.findall(r" (--[a-z-]+)", rest.partition("#")[0]):
                assert option in said[verb], f"{page.name}: vidgn {verb}{rest}"
                named += 1
    assert named > 5
