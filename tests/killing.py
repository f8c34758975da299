"""Runs that are killed at chosen moments, and what must be the same afterwards."""

import json
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tests.warm import Started, Warm

STEPS, SAVE_EVERY, CURVE_EVERY = 24, 3, 8
NAME = "i3d_tiny_8f_2x{gpus}_bn_s0"
KINDS = ("start-up", "step", "checkpoint", "evaluation", "test")


@dataclass(frozen=True)
class Videos:
    """A set that the killed runs train on."""

    folder: Path
    train: Path
    val: Path

    @property
    def num_train(self) -> int:
        return len(self.train.read_text().splitlines()) - 1


def overrides(videos: Videos, *more: str) -> list[str]:
    """A run of 24 steps with checkpoints each 3, a point on the curve each 8, and a test: seconds of training."""
    return [
        "train",
        "model=i3d_tiny",
        "norm=bn",
        "data=csv",
        f"data.root={videos.folder}",
        f"data.train={videos.train}",
        f"data.val={videos.val}",
        "data.flip=false",
        "data.crop=32",
        "data.short_side=[36,40]",
        "data.workers=0",
        "frames=8",
        "span=16",
        "gpus=2",
        "clips_per_gpu=2",
        f"trainer.max_steps={STEPS}",
        f"trainer.checkpoint_steps={SAVE_EVERY}",
        f"trainer.eval_every={CURVE_EVERY * 4 / videos.num_train}",
        "bn_stats_steps=2",
        "views=curve",
        "launch.threads=1",
        "launch.nproc_per_node=2",
        "trainer.device=cpu",
        "study=s",
        *more,
    ]


def run_dir(folder: Path, gpus: int = 2) -> Path:
    return folder / "runs" / "s" / NAME.format(gpus=gpus)


def metrics(run: Path) -> list[dict]:
    """Lines without what a clock gives."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("clock", None)
    return lines


def assert_same_bytes(run: Path, other: Path) -> None:
    """What a run leaves is the same to the bit."""
    assert metrics(run) == metrics(other)
    for name in ("result.json", "model.safetensors", "tests/curve-precise.csv", "config.yaml"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    left = [p.name for p in run.rglob("*.partial")] + [p.name for p in run.glob(".lock*")] + list(run.glob("lock.json"))
    assert not left, left


class Killer:
    """Kills a started run at a moment of a kind, told by the files it writes."""

    def __init__(self, seed: int, run: Path, *, last_step: int = STEPS, curve_every: int = CURVE_EVERY) -> None:
        self.random = random.Random(seed)
        self.run, self.last_step, self.curve_every = run, last_step, curve_every
        self.hits: list[str] = []

    def kill(self, started: Started, kind: str, victim: str | None = None) -> str:
        """Wait for the moment, then SIGKILL all processes, the launching one or a rank.

        Returns: the kind of moment it was, by what was there a moment later; `done` if the run was faster.
        """
        before = self._steps()
        if (kind == "step" and before >= self.last_step - 1) or (
            kind == "checkpoint" and self._newest() >= self.last_step
        ):
            kind = "test"  # there is no other moment left
        if not self._wait_for(started, kind, before):
            return "done"
        victim = victim or self.random.choice(["all", "all", "launcher", "rank"])
        ranks = started.ranks()
        if victim == "rank" and ranks:
            os.kill(self.random.choice(ranks), signal.SIGKILL)
        elif victim == "launcher":
            os.kill(started.pid, signal.SIGKILL)
        else:
            started.kill_all()
        code = started.wait(60)
        assert code in (-signal.SIGKILL, 1), (code, started.log.read_text())
        started.assert_no_orphans()
        self.hits.append(self._moment(kind))
        return self.hits[-1]

    def _wait_for(self, started: Started, kind: str, before: int) -> bool:
        jitter = self.random.random()
        extra = self.random.randint(1, 3)

        def come() -> bool:
            match kind:
                case "step":
                    return self._steps() >= min(before + extra, self.last_step - 1) and self._started_again(started)
                case "checkpoint":
                    return any(self.run.glob("checkpoints/.step_*.partial"))
                case "evaluation":
                    step = self._newest()
                    return step > 0 and step % self.curve_every == 0 and self._started_again(started)
                case "test":
                    return self._last_kind() == ("curve", self.last_step) and self._started_again(started)
            return True

        while not come():
            if started.poll() is not None:
                assert started.code == 0, started.log.read_text()
                return False
            time.sleep(0.0005 if kind == "checkpoint" else 0.002)
        time.sleep(jitter * {"start-up": 1.5, "step": 0.08, "checkpoint": 0.004, "evaluation": 0.25, "test": 0.1}[kind])
        return started.poll() is None

    def _started_again(self, started: Started) -> bool:
        text = started.log.read_text()
        return "statistics group" in text

    def _steps(self) -> int:
        try:
            return (self.run / "metrics.jsonl").read_bytes().count(b'"kind": "train"')
        except OSError:
            return 0

    def _last_kind(self) -> tuple[str, int]:
        try:
            line = json.loads((self.run / "metrics.jsonl").read_text().splitlines()[-1])
        except (OSError, IndexError, ValueError):
            return "", 0
        return line["kind"], line["step"]

    def _newest(self) -> int:
        return max((int(p.stem[5:]) for p in self.run.glob("checkpoints/step_*.pt")), default=0)

    def _moment(self, kind: str) -> str:
        """What the killed run was at."""
        if any(self.run.glob("checkpoints/.step_*.partial")):
            return "checkpoint"
        if not (self.run / "metrics.jsonl").exists() or kind == "start-up":
            return "start-up"
        last, step = self._last_kind()
        if (last, step) == ("curve", self.last_step):
            return "test"
        if last == "train" and step % self.curve_every == 0 and self._newest() == step:
            return "evaluation"
        return "step"


def kill_and_restart(warm: Warm, arguments: list[str], folder: Path, killer: Killer, kinds: list[str]) -> None:
    """One kill for each of `kinds`, a start after each, then to the end."""
    for kind in kinds:
        started = warm.start(arguments, folder=folder)
        if killer.kill(started, kind) == "done":
            raise AssertionError(f"the run was done before {kind}; hits so far {killer.hits}")
    started = warm.start(arguments, folder=folder)
    assert started.wait(180) == 0, started.log.read_text()
    started.assert_no_orphans()
