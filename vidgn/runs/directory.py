"""A run's directory: whose it is, what is in it, and what is logged."""

import errno
import json
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vidgn.atomic_files import read_json, write_atomic, write_json, write_text
from vidgn.config.fingerprint import differing_keys, kind_of
from vidgn.config.schema import Config
from vidgn.distributed.environment import CELL
from vidgn.errors import CheckpointError, ConfigError
from vidgn.report.read.run_state import lines_of
from vidgn.runs import checkpoint
from vidgn.runs.lock import Owner, check_held
from vidgn.runs.loggers import Logged, Loggers
from vidgn.runs.metrics import MetricsLog
from vidgn.runs.progress import Clock, Progress
from vidgn.terminal import visible

_ATTEMPTS = 5
_Result = TypeVar("_Result")


_BY_TENSORBOARD = Logged()


class OtherExperimentError(ConfigError):
    """The directory belongs to another experiment: nothing in it may be touched."""


class Stop(Protocol):
    """Whether the run is to stop: read by every rank in each step."""

    def is_set(self) -> bool: ...


class RunDirectory:
    """The files of one run, as one rank sees them: only the first rank writes.

    `identity`: of the run, as its checkpoints have it. `owner`: of its lock, without which nothing more is written.
    """

    def __init__(
        self,
        path: Path,
        *,
        writes: bool,
        stop: Stop,
        identity: Mapping[str, Any] | None = None,
        owner: Owner | None = None,
        logged: Logged = _BY_TENSORBOARD,
    ) -> None:
        self.path, self.writes, self.stop = path, writes, stop
        self._owner = owner
        self._identity = json.loads(json.dumps(identity or {}))
        self._saved_step = 0
        self.clock = Clock()
        self._metrics: MetricsLog | None = None
        self._best: tuple[float, int] | None = None  # (error, step) of the best point on the validation curve
        self._logged = logged
        self._loggers: Loggers | None = None

    # -- the log --------------------------------------------------------------------------------------------------

    def log(self, text: str) -> None:
        """A line on the terminal and in log.txt."""
        if self.writes:
            if CELL not in os.environ:
                Progress.print(text)
            # A full disk must not end the run here, nor the name of a file that is not UTF-8.
            with suppress(OSError), open(self.path / "log.txt", "a", errors="surrogateescape") as file:
                file.write(visible(text) + "\n")

    @contextmanager
    def progress(self, done: int, total: int, unit: str) -> Generator[Progress]:
        """A bar on a terminal, now and then a line elsewhere; nothing from ranks that don't write."""
        with Progress(done, total, unit, log=self.log, shown=self.writes) as progress:
            yield progress

    # -- metrics --------------------------------------------------------------------------------------------------

    def open_metrics(self, *, offset: int, step: int) -> None:
        """Cut metrics.jsonl back to `offset` and go on from there."""
        if not self.writes:
            return
        metrics = self._metrics = self.retry_on_full_disk(
            lambda: MetricsLog(self.path / "metrics.jsonl", offset=offset), "metrics.jsonl"
        )
        if metrics.missing_bytes:
            self.log(
                f"metrics.jsonl lacks {metrics.missing_bytes} bytes of the steps up to {step}: "
                f"lines are missing from it"
            )
        self._best = best_curve_point(self.path / "metrics.jsonl")
        self._loggers = Loggers(self._logged, self.path, step=step, log=self.log)

    def write_line(self, line: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl, and its numbers for the loggers."""
        metrics = self._metrics
        if metrics is None:
            return
        self._check_lock()
        self.retry_on_full_disk(lambda: metrics.write(dict(line)), "metrics.jsonl")
        if line["kind"] == "curve":
            point = (_error(line), line["step"])
            self._best = min(self._best or point, point)
        if self._loggers is not None:
            self._loggers.write(line)

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
            if self._loggers is not None:
                self._loggers.close()

    def retry_on_full_disk(self, write: Callable[[], Any], what: str) -> Any:
        """`retry_on_full_disk` for a file of this run."""
        return retry_on_full_disk(write, f"{what} of {self.path}", log=self.log)

    def _check_lock(self) -> None:
        if self._owner is not None:
            check_held(self.path, self._owner)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest good checkpoint; metrics.jsonl is cut back to where it was then. For the rank that writes."""
        checkpoint.remove_partial(self.checkpoints)
        state = checkpoint.load_latest(self.checkpoints, self.log)
        if state is not None:
            self._check_identity(state)
            self._saved_step = state["step"]
            self.log(f"going on from step {state['step']}")
        self.open_metrics(offset=state["metrics_offset"] if state else 0, step=self._saved_step)
        return state

    def load_step(self, step: int) -> dict[str, Any]:
        """The checkpoint that the writing rank has chosen.

        Raises:
            CheckpointError: where this rank does not see it.
        """
        path = checkpoint.checkpoint_path(self.checkpoints, step)
        if not path.exists():
            raise CheckpointError(
                f"{path} is not there for every rank: runs_dir must be one folder that all nodes share"
            )
        return checkpoint.load_checkpoint(path)

    def save_checkpoint(self, step: int, state: dict[str, Any], *, keep: int) -> None:
        """Save, then remove what `keep` and the best no longer hold; before it, what an earlier start has kept more.

        Raises:
            CheckpointError: if the disk stays full; what was saved before is still there.
        """
        assert self._metrics is not None
        self._check_lock()
        self.prune_checkpoints(keep=keep)
        full = {
            **state,
            "metrics_offset": self.retry_on_full_disk(self._metrics.offset, "metrics.jsonl"),
            "identity": self._identity,
            "versions": checkpoint.versions(),
        }
        path = checkpoint.checkpoint_path(self.checkpoints, step)
        self.retry_on_full_disk(lambda: checkpoint.save_checkpoint(path, full), f"checkpoint {path.name}")
        self._saved_step = step
        self.prune_checkpoints(keep=keep)

    def prune_checkpoints(self, *, keep: int) -> None:
        """Keep the newest `keep` and the one of the best point on the validation curve."""
        if self.writes:
            also = [] if self._best is None else [self._best[1]]
            checkpoint.prune(self.checkpoints, step=self._saved_step, keep=keep, also=also)

    def _check_identity(self, state: Mapping[str, Any]) -> None:
        if self._identity and (keys := differing_keys(self._identity, state["identity"])):
            raise CheckpointError(
                f"checkpoint {state['step']} in {self.checkpoints} is of another experiment: {_some(keys)}. "
                f"Remove it, or write tag=NAME to start in a directory of its own"
            )

    # -- other files ----------------------------------------------------------------------------------------------

    def write_whole(self, name: str, value: Any) -> None:
        """A JSON value, or text or bytes as they are: whole or not there, patient where the disk is full."""
        self._check_lock()
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)

        def write() -> None:
            if isinstance(value, bytes):
                write_atomic(path, lambda file: file.write(value))
            else:
                (write_text if isinstance(value, str) else write_json)(path, value)

        self.retry_on_full_disk(write, name)

    def nonfinite_path(self, step: int) -> Path:
        return self.path / "nonfinite" / f"step_{step:09d}"

    def save_nonfinite(self, step: int, state: dict[str, Any], clips: list[Any]) -> None:
        """State before the bad step and the plan of the clips in it, for a look."""
        self._check_lock()
        folder = self.nonfinite_path(step)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save_checkpoint(folder / "state.pt", {**state, "versions": checkpoint.versions()})
        write_json(folder / "clips.json", {"step": step, "clips": clips})


def best_curve_point(metrics: Path) -> tuple[float, int] | None:
    """(error, step) of the lowest validation error so far, the first of equals; None before the first point."""
    return min(((_error(line), line["step"]) for line in lines_of(metrics, "curve")), default=None)


def _error(line: Mapping[str, Any]) -> float:
    """What is lowest at the best point of a curve: of a detector, what is left to an AP of 100."""
    return line["top1_error_percent"] if "top1_error_percent" in line else 100 - line["box_ap"]


def claim(path: Path, identity: Mapping[str, Any]) -> None:
    """Make the directory this experiment's, or check that it is.

    Raises:
        ConfigError: where it belongs to another experiment, naming the keys that differ.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / "checkpoints").mkdir(exist_ok=True)
    if (refused := other_experiment(path, identity)) is not None:
        raise OtherExperimentError(refused)
    file = path / "identity.json"
    if file.exists() and differing_keys(identity, read_json(file)):  # it trained nothing
        for of_the_other in (path / "audit.json", path / "machine.json", file):
            of_the_other.unlink(missing_ok=True)
    if not file.exists():
        write_json(file, dict(identity))


def other_experiment(path: Path, identity: Mapping[str, Any]) -> str | None:
    """Why a directory is not this experiment's, with the remedy; None where it is, or is nobody's.

    One in which no step has been trained is nobody's: what was refused at the start may be started with other keys.
    """
    file = path / "identity.json"
    if not file.exists() or not has_trained(path):
        return None
    if not (keys := differing_keys(identity, read_json(file))):
        return None
    return f"{path} holds another experiment: {_some(keys)}. Write tag=NAME to give this one a directory of its own"


def remedy(config: Config, overrides: str) -> str:
    """`overrides` as a message may name them: of another experiment than the one a directory holds, with a tag."""
    is_other = any(kind_of(override.partition("=")[0]) == "experiment" for override in overrides.split())
    if is_other and has_trained(config.run_dir):
        return f"{overrides} tag=NAME (which begins a new run)"
    return overrides


def has_trained(path: Path) -> bool:
    """Whether a step was taken in a directory."""
    if checkpoint.list_checkpoints(path / "checkpoints"):
        return True
    return any((path / name).exists() and (path / name).stat().st_size for name in ("metrics.jsonl", "result.json"))


def _some(keys: list[str]) -> str:
    return "; ".join(keys[:4]) + (f"; and {len(keys) - 4} more" if len(keys) > 4 else "")


def add_start(path: Path, entry: dict[str, Any]) -> dict[str, Any] | None:
    """Append a start to machine.json, the run's history.

    Returns:
        The entry of the start before, None for the first.
    """
    file = path / "machine.json"
    entries = read_json(file) if file.exists() else []
    write_json(file, [*entries, entry])
    return entries[-1] if entries else None


def write_error(path: Path, text: str) -> None:
    """Leave the error that made the cell fail, for status and report."""
    if path.is_dir():
        with suppress(OSError):
            write_text(path / "error.txt", visible(text) + "\n")


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for want of space: the disk's, or the user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def retry_on_full_disk(write: Callable[[], _Result], what: str, *, log: Callable[[str], None]) -> _Result:
    """Call `write`, which writes a file whole or not at all; on a full disk log it once, wait and try again.

    Waits VIDGN_DISK_FULL_WAIT seconds (30) between attempts, five in all.

    Returns:
        What `write` does.

    Raises:
        CheckpointError: if the disk stays full; any other OSError at once.
    """
    wait_seconds = float(os.environ.get("VIDGN_DISK_FULL_WAIT", "30"))
    for attempt in range(_ATTEMPTS):
        try:
            return write()
        except OSError as error:
            if not is_disk_full(error):
                raise
            if attempt == 0:
                log(f"no space for {what}: what was saved before stays; trying again every {wait_seconds:g} s")
            if attempt < _ATTEMPTS - 1:
                time.sleep(wait_seconds)
    raise CheckpointError(
        f"no space for {what} after {_ATTEMPTS} attempts: free some (with trainer.keep=1 it needs less) "
        f"and start again, it goes on from the last checkpoint"
    )
