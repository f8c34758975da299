"""A run's directory: who may write it, what is in it, and what the person at the terminal sees of it."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from vidgn.config.fingerprint import differing_keys, fingerprint
from vidgn.engine import checkpoint
from vidgn.engine.files import read_json, write_json
from vidgn.engine.metrics import MetricsLog, read_metrics
from vidgn.engine.progress import Clock, Progress
from vidgn.errors import CheckpointError, ConfigError


class StopRequested(Exception):  # noqa: N818  # not an error: everything is saved
    """Raised once the state is saved after a signal: start the run again and it goes on."""


class StopFlag(Protocol):
    """Set by the launching process's signal handler; read by every rank each step."""

    def is_set(self) -> bool: ...


class RunDirectory:
    """The files of one run, as one rank sees them: only the first rank writes."""

    def __init__(self, path: Path, *, writes: bool, stop: StopFlag) -> None:
        self.path, self.writes, self.stop = path, writes, stop
        self.clock = Clock()
        self._metrics: MetricsLog | None = None
        self._board: Any = None

    # -- what is said ---------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """A line on the terminal and in log.txt."""
        if self.writes:
            Progress.print(text)
            with open(self.path / "log.txt", "a") as file:
                file.write(text + "\n")

    @contextmanager
    def progress(self, done: int, total: int, unit: str) -> Iterator[Progress]:
        """A bar on a terminal, now and then a line elsewhere; nothing from ranks that don't write."""
        with Progress(done, total, unit, say=self.say, shown=self.writes) as progress:
            yield progress

    # -- metrics --------------------------------------------------------------------------------------------------

    def open_metrics(self, *, offset: int, step: int) -> None:
        """Cut metrics.jsonl back to `offset` and go on from there."""
        if not self.writes:
            return
        self._metrics = MetricsLog(self.path / "metrics.jsonl", offset=offset)
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1, max_queue=100)

    def write_line(self, line: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl, and its numbers on the board."""
        if self._metrics is None:
            return
        self._metrics.write(dict(line))
        for key, value in line.items():
            if isinstance(value, float) and key != "epoch":
                self._board.add_scalar(f"{line['kind']}/{key}", value, line["step"])

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._board.close()
            self._metrics = None

    # -- checkpoints ----------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest good checkpoint; metrics.jsonl is cut back to where it was then."""
        state = checkpoint.load_latest(self.checkpoints, self.say)
        self.open_metrics(offset=state["metrics_offset"] if state else 0, step=state["step"] if state else 0)
        if state is not None:
            self.say(f"going on from step {state['step']}")
        return state

    def save_checkpoint(self, step: int, state: dict[str, Any], *, keep: int) -> None:
        """Save, then remove what `keep` and the best no longer hold."""
        assert self._metrics is not None
        full = {**state, "metrics_offset": self._metrics.offset(), "versions": _versions()}
        path = checkpoint.checkpoint_path(self.checkpoints, step)
        save_with_patience(path, full, say=self.say)
        self.prune_checkpoints(keep=keep)

    def prune_checkpoints(self, *, keep: int) -> None:
        """Keep the newest `keep` and the one of the best point on the validation curve."""
        if self.writes:
            best = best_curve_step(self.path / "metrics.jsonl")
            checkpoint.prune(self.checkpoints, keep=keep, also=[] if best is None else [best])

    def nonfinite_path(self, step: int) -> Path:
        return self.path / "nonfinite" / f"step_{step:09d}"

    def save_nonfinite(self, step: int, state: dict[str, Any], clips: list[Any]) -> None:
        """State before the bad step and the videos in it, for a look."""
        folder = self.nonfinite_path(step)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save_checkpoint(folder / "state.pt", state)
        write_json(folder / "clips.json", {"step": step, "clips": clips})


def _versions() -> dict[str, Any]:
    from vidgn.engine.setup import versions

    return versions()


def save_with_patience(
    path: Path, state: dict[str, Any], *, say: Any, attempts: int = 5, seconds_between: float | None = None
) -> None:
    """Save; on a full disk say so once, wait and try again; the checkpoints before stay as they are.

    Raises: CheckpointError if the disk stays full.
    """
    wait_seconds = float(os.environ.get("VIDGN_DISK_FULL_WAIT", "30")) if seconds_between is None else seconds_between
    for attempt in range(attempts):
        try:
            checkpoint.save_checkpoint(path, state)
            return
        except OSError as error:
            if not checkpoint.is_disk_full(error):
                raise
            if attempt == 0:
                say(f"no space for checkpoint {path.name}: the one before stays; trying again every {wait_seconds:g} s")
            if attempt < attempts - 1:
                time.sleep(wait_seconds)
    raise CheckpointError(
        f"no space for {path} after {attempts} attempts: free some (trainer.keep=1 needs less) and start again, "
        f"it goes on from the last checkpoint"
    )


def best_curve_step(metrics: Path) -> int | None:
    """Step of the lowest validation error so far, the first of equals; None before the first point."""
    points = [(line["top1_error_percent"], line["step"]) for line in read_metrics(metrics) if line["kind"] == "curve"]
    return min(points)[1] if points else None


def claim(path: Path, identity: Mapping[str, Any]) -> None:
    """Make the directory this experiment's, or check that it is.

    Raises: ConfigError where it belongs to another experiment, naming the keys that differ.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / "checkpoints").mkdir(exist_ok=True)
    file = path / "identity.json"
    if file.exists():
        there = read_json(file)
        if fingerprint(there) != fingerprint(identity):
            keys = differing_keys(identity, there)
            shown = "; ".join(keys[:4]) + (f"; and {len(keys) - 4} more" if len(keys) > 4 else "")
            raise ConfigError(
                f"{path} holds another experiment: {shown}. Write tag=NAME to give this one a directory of its own"
            )
    else:
        write_json(file, dict(identity))


def add_machine(path: Path, entry: dict[str, Any]) -> dict[str, Any] | None:
    """Append a start to machine.json.

    Returns: the entry of the start before, None for the first.
    """
    file = path / "machine.json"
    entries = read_json(file) if file.exists() else []
    write_json(file, [*entries, entry])
    return entries[-1] if entries else None


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write_error(path: Path, text: str) -> None:
    """What made the cell fail, for status and report."""
    if path.is_dir():
        (path / "error.txt").write_text(text + "\n")


def dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
