"""A plain writer of study directories: the formats of a run, from numbers a test chooses."""

import csv
import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from vidgn.config.build import to_plain
from vidgn.config.compose import load_config
from vidgn.config.fingerprint import fingerprint, identity, pair_fingerprint
from vidgn.config.schema import run_name
from vidgn.runs.lock import locked

ROLES = (
    {"role": "conv", "tensors": 14, "parameters": 400000, "weight_decay": 1e-4, "initial_value": "msra"},
    {"role": "norm_gamma", "tensors": 13, "parameters": 3000, "weight_decay": 0.0, "initial_value": 1.0},
)


@cache
def _base(model: str, norm: str, data: str):
    return load_config([f"model={model}", f"norm={norm}", f"data={data}", "data.root=/videos", *_files(data)])


def _files(data: str) -> list[str]:
    if data == "imagenet":
        return ["frames=1", "span=1"]
    return [] if data in ("synthetic", "folders") else ["data.train=train.csv", "data.val=val.csv"]


class Writer:
    """Writes runs below `directory`; `cells` collects what study.json will list."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.cells = []
        self.held = ExitStack()
        directory.mkdir(parents=True, exist_ok=True)

    def config(self, *, model="i3d_tiny", norm="bn", data="synthetic", **keys):
        return dataclasses.replace(_base(model, norm, data), study=self.directory.name, **keys)

    def ask(self, config) -> Path:
        """List a cell in study.json without starting it."""
        self.cells.append(
            {
                "run_name": run_name(config),
                "values": {
                    "model": config.model.name,
                    "norm": config.norm.kind,
                    "frames": config.frames,
                    "clips_per_gpu": config.clips_per_gpu,
                    "gpus": config.gpus,
                    "seed": config.seed,
                    "tag": config.tag,
                },
            }
        )
        (self.directory / "study.json").write_text(json.dumps({"cells": self.cells}))
        return self.directory / run_name(config)

    def start(self, config, *, metrics=(), machine=None, lock=None, error=None, starts=None) -> Path:
        """A run that has begun. `lock`: "held" while the test lasts, or what a dead process has left."""
        run = self.ask(config)
        run.mkdir()
        (run / "config.yaml").write_text(yaml.safe_dump(to_plain(config), sort_keys=False))
        (run / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
        starts = starts or [{"steps_total": 7}, machine or {"steps_total": 400}]
        (run / "machine.json").write_text(json.dumps(starts))
        if lock == "held":
            self.held.enter_context(locked(run, print))
        elif lock:
            (run / "lock.json").write_text(json.dumps(lock))
        if error:
            (run / "error.txt").write_text(error + "\n")
        return run

    def finish(
        self, config, ranks, *, classes=8, plan_digest="p0", audit=ROLES, rows="rows", curve=(), **result
    ) -> Path:
        """A run that has ended: `ranks` is the rank of the right label per video (-1: unreadable)."""
        lines = [
            {"kind": "curve", "step": s, "epoch": e, "top1_error_percent": p, "top5_error_percent": p / 2, "loss": 1.0}
            for s, e, p in curve
        ]
        run = self.start(config, metrics=[{"kind": "train", "step": 400, "epoch": 5.0, "clock": {}}, *lines])
        ranks = np.asarray(ranks)
        per_clip = config.norm.kind in ("gn", "ln", "in", "frozen_bn")
        keys = identity(config, data_digest=rows, classes=map(str, range(classes)), weights_digest=config.weights)
        told = {
            "top1": 100 * float(np.mean(ranks == 0)),
            "top5": 100 * float(np.mean((ranks >= 0) & (ranks < 5))),
            "num_videos": len(ranks),
            "num_unreadable": int(np.sum(ranks < 0)),
            "num_missing": 0,
            "views": config.views.name,
            "bn_stats": None if per_clip else config.bn_stats,
            "frames": config.frames,
            "clips_per_gpu": config.clips_per_gpu,
            "gpus": config.gpus,
            "norm": config.norm.kind,
            "model": config.model.name,
            "seed": config.seed,
            "precision": config.trainer.precision,
            "steps": 400,
            "classes": classes,
            "plan_digest": plan_digest,
            "fingerprint": fingerprint(keys),
            "pair_fingerprint": pair_fingerprint(keys),
            "versions": {},
        } | result
        (run / "result.json").write_text(json.dumps(told))
        (run / "audit.json").write_text(json.dumps({"kind": config.norm.kind, "by_role": audit, "total": 403000}))
        self.test(run, f"{told['views']}-{told['bn_stats'] or 'none'}", ranks, told)
        return run

    def test(self, run: Path, name: str, ranks, told) -> None:
        (run / "tests").mkdir(exist_ok=True)
        (run / "tests" / f"{name}.json").write_text(json.dumps(told))
        with (run / "tests" / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "label", "status", "rank", "label_score", "prediction", "prediction_score"])
            for i, rank in enumerate(ranks):
                status = "ok" if rank >= 0 else "unreadable"
                writer.writerow([f"video_{i:05d}", i % 8, status, rank, 0.5, 0, 0.5])


@pytest.fixture
def writer(tmp_path) -> Iterator[Writer]:
    writer = Writer(tmp_path / "runs" / "demo")
    with writer.held:
        yield writer


def ranks_with(num_videos: int, accuracy: float, *, seed: int) -> np.ndarray:
    """Ranks of `num_videos` of which a share `accuracy` is right."""
    random = np.random.default_rng(seed)
    return np.where(random.random(num_videos) < accuracy, 0, random.integers(1, 8, num_videos))


@pytest.fixture
def make_ranks():
    return ranks_with


def fill_demo(writer: Writer, *, seeds=(0,), num_videos: int = 160) -> None:
    """2 norms x 2 clip lengths x 2 batches, finished, with curves."""
    steps = np.arange(1, 11)
    accuracy = {("bn", 8): 0.82, ("bn", 2): 0.70, ("gn", 8): 0.80, ("gn", 2): 0.79}
    for seed in seeds:
        for frames in (8, 16):
            for clips in (8, 2):
                for norm in ("bn", "gn"):
                    share = accuracy[norm, clips] + (0.03 if frames == 16 else 0)
                    key = 1000 * seed + 10 * frames + clips + (5 if norm == "gn" else 0)
                    noise = np.random.default_rng(key).normal(0, 1.5, len(steps))
                    errors = 100 * (1 - share) + 65 * np.exp(-steps / 2.5) + noise
                    curve = [(int(40 * s), float(s), float(e)) for s, e in zip(steps, errors, strict=True)]
                    config = writer.config(norm=norm, frames=frames, clips_per_gpu=clips, gpus=2, seed=seed)
                    ranks = ranks_with(num_videos, share, seed=key)
                    writer.finish(config, ranks, curve=curve, plan_digest=f"{frames}-{clips}-{seed}")


@pytest.fixture
def demo(writer) -> SimpleNamespace:
    fill_demo(writer)
    return SimpleNamespace(writer=writer, directory=writer.directory)
