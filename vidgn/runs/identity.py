"""Whose a run directory is: the experiment of a config on the videos and weights that there are."""

import hashlib
from pathlib import Path
from typing import Any

import yaml

from vidgn.atomic_files import read_json
from vidgn.config.fingerprint import WEIGHTS, identity
from vidgn.config.schema import Config
from vidgn.data.datasets.annotations import read_listing
from vidgn.data.datasets.manifest import Manifest
from vidgn.errors import CheckpointError, ConfigError
from vidgn.models.weights.containers import resolve_path
from vidgn.runs.checkpoint import list_checkpoints
from vidgn.runs.directory import other_experiment
from vidgn.runs.kept_rows import Read, rows_of


def why_refused(config: Config, read: Read = read_listing) -> str | None:
    """Why the directory of a cell is another experiment's, in one line; None where it is this one's, or nobody's."""
    if not (config.run_dir / "identity.json").exists():
        return None
    train, val = rows_of(config, "train", read=read), rows_of(config, "val", read=read)
    return other_experiment(config.run_dir, identity_of(config, train, val, is_test=False))


def identity_of(config: Config, train: Manifest, val: Manifest, *, is_test: bool) -> dict[str, Any]:
    """The experiment that a config asks for on the videos that there are, as flat `key: value`.

    Args:
        is_test: of a trained run, which needs its weights file no more.

    Raises:
        ConfigError: for a weights file that is not there, unless the run is known to have begun from it.
    """
    digest = hashlib.sha256(f"{train.digest()} {val.digest()}".encode()).hexdigest()[:32]
    weights = None
    if (path := weights_file(config, is_test=is_test)) is not None:
        with open(path, "rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
    elif config.weights is not None:
        weights = _recorded_weights(config)
    return identity(config, data_digest=digest, classes=train.classes, weights_digest=weights)


def _recorded_weights(config: Config) -> str | None:
    """The sha256 of weights that the run began from and that are not there any more.

    Raises:
        ConfigError: where it did not begin from a file of that name: what it did begin from can't be told.
    """
    began = yaml.safe_load((config.run_dir / "config.yaml").read_text())["weights"]
    if began != config.weights:
        raise ConfigError(
            f"weights={config.weights}: there is no such file, and {config.run_dir} began from weights="
            f"{'null' if began is None else began}: write that, or give the file where it is now"
        )
    return read_json(config.run_dir / "identity.json")[WEIGHTS]


def weights_file(config: Config, *, is_test: bool) -> Path | None:
    """The file to start from; None where there is none, in a test, and where it is gone and a checkpoint is there."""
    if config.weights is None or is_test:
        return None
    try:
        return resolve_path(config.weights)
    except CheckpointError:
        if list_checkpoints(config.run_dir / "checkpoints"):
            return None
        raise
