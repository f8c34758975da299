"""File names are bytes: those that are not UTF-8 are indexed, checked, hashed, trained on and predicted."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.datasets.synthetic import ensure_synthetic
from vidgn.data.loading.batches import train_batches

NAME = os.fsdecode(b"caf\xe9.mp4")


@pytest.fixture
def folder(tiny_data: DataConfig, tmp_path: Path) -> Path:
    """train/walk/caf\xe9.mp4, and a file of that name that is no video in `bad`."""
    root = ensure_synthetic(tiny_data).root
    assert root is not None
    (tmp_path / "train" / "walk").mkdir(parents=True)
    (tmp_path / "bad").mkdir()
    (tmp_path / "train" / "walk" / NAME).symlink_to(next(Path(root).rglob("*.mp4")))
    (tmp_path / "bad" / NAME).write_bytes(b"no video")
    return tmp_path


def vidgn(*words: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as where the locale is en_US.UTF-8
    command = [sys.executable, "-m", "vidgn", "data", *map(str, words), "--workers", "1"]
    return subprocess.run(command, capture_output=True, env=environment, check=False)


def train_once(data: DataConfig) -> tuple[str, str]:
    """(id, the manifest's digest) after a batch was read and hashed."""
    manifest = read_manifest(data, "train")
    with train_batches(manifest, data, seed=0, frames=4, stride=1, positions=[(0,)]) as stream:
        (batch,) = stream
    assert batch.substitutions == ()
    return batch.ids[0], manifest.digest()


def test_folders_and_their_index_train_alike(folder: Path, tiny_data: DataConfig) -> None:
    data = replace(tiny_data, format="folders", root=str(folder), synthetic=None)
    id, digest = train_once(data)
    assert id == f"walk/{NAME}"
    assert len(digest) == 64
    done = vidgn("index", folder / "train", "--out", folder / "index.csv")
    assert done.returncode == 0, done.stderr
    indexed = replace(data, format="csv", root=str(folder / "train"), train=str(folder / "index.csv"))
    assert train_once(indexed) == (id, digest)


def test_the_name_is_told_as_it_is(folder: Path) -> None:
    done = vidgn("check", folder / "bad")
    assert done.returncode == 1
    assert b"caf\xe9.mp4  unreadable  is no video that can be read" in done.stdout
    assert b"Traceback" not in done.stderr
