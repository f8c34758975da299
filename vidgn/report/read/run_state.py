"""Where a run stands, told from its files: pending, running, done, failed or stopped."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from vidgn.atomic_files import is_held
from vidgn.config.build import build
from vidgn.config.schema import Config, run_name
from vidgn.errors import ConfigError

State = Literal["pending", "running", "done", "failed", "stopped", "refused"]
STATES: tuple[State, ...] = ("done", "running", "stopped", "failed", "refused", "pending")
_TAIL_BYTES = 1 << 16
_TRAIN_LINE = re.compile(
    rb'\{"kind": "train", "step": (\d+), [^\0]*\}\n'
)  # whole as far as can be told without parsing
_REMEDY = (
    "two runs may have written at once: weights and result come from checkpoints, not from this file; "
    "train again with tag=NAME for a whole one"
)


@dataclass(frozen=True)
class RunStatus:
    """State of one run, as far as its files tell."""

    state: State
    step: int = 0
    steps_total: int | None = None
    epoch: float | None = None
    clips_per_second: float | None = None
    seconds_left: float | None = None
    data_wait_fraction: float | None = None
    error: str | None = None  # the reason of a failed run, one line
    remark: str | None = None  # what the state was judged by, where that is not certain


def own_name(run_dir: Path) -> str | None:
    """The name that a run's directory has by its config.yaml; None where this version can't tell."""
    try:
        return run_name(build(Config, yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))))
    except (OSError, yaml.YAMLError, ConfigError):
        return None


def read_run_status(run_dir: Path) -> RunStatus:
    """The state of `run_dir`; a directory that does not exist, or holds no config yet, is pending.

    A lock decides whether a run lives: whoever writes holds it.
    """
    if not run_dir.is_dir():
        return RunStatus("pending")
    last = next(lines_backward(run_dir / "metrics.jsonl", "train"), {})
    clock = last.get("clock") or {}
    alive, remark = _lives(run_dir)
    state: State
    error = None
    if (run_dir / "result.json").is_file():
        state = "done"
    elif alive:
        state = "running"
    elif error := read_error(run_dir):
        state = "failed"
    elif (run_dir / "config.yaml").is_file() or last:
        state = "stopped"
    else:
        state = "pending"
    return RunStatus(
        state=state,
        step=int(last.get("step", 0)),
        steps_total=_steps_total(run_dir),
        epoch=last.get("epoch"),
        clips_per_second=clock.get("clips_per_second"),
        seconds_left=clock.get("seconds_left"),
        data_wait_fraction=clock.get("data_wait_fraction"),
        error=error,
        remark=remark if state in ("running", "stopped") else None,
    )


def read_error(run_dir: Path) -> str | None:
    """The first line of error.txt, or None."""
    try:
        lines = (run_dir / "error.txt").read_text(errors="replace").strip().splitlines()
    except OSError:
        return None
    return lines[0].strip() if lines else "error.txt is empty"


def json_or_none(path: Path) -> Any:
    """The content of a json file; None if it is not there or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def lines_of(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Objects of `kind` in a metrics file, in order. Torn lines are passed over, other kinds are not even parsed."""
    needle = json.dumps(kind).encode()
    try:
        with path.open("rb") as file:
            for line in file:
                if needle in line and (found := _parse(line)) and found.get("kind") == kind:
                    yield found
    except OSError:
        return


def metrics_fault(path: Path) -> str | None:
    """The first damage of a metrics file, with what to do; None where every line is whole and each step comes once.

    The last line may lack its end: it is being written, or will be again.
    """
    last = None
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                quick = _TRAIN_LINE.fullmatch(line) if line.count(b'"kind"') == 1 else None
                if not line.endswith(b"\n"):
                    return None
                found = None if quick else _parse(line)
                if not quick and found is None:
                    return f"{path}, line {number}: is damaged; {_REMEDY}"
                if quick or (found and found.get("kind") == "train"):
                    step = int(quick[1] if quick else (found or {})["step"])
                    if last is not None and step != last + 1:
                        return f"{path}, line {number}: step {step} follows step {last}; {_REMEDY}"
                    last = step
    except OSError:
        return None
    return None


def lines_backward(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Objects of `kind` from the end of a metrics file backward: the last one without reading the whole."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            rest = b""
            while end > 0:
                start = max(0, end - _TAIL_BYTES)
                file.seek(start)
                rest, *lines = (file.read(end - start) + rest).split(b"\n")
                end = start
                for line in reversed(lines if start else [rest, *lines]):
                    if (found := _parse(line)) and found.get("kind") == kind:
                        yield found
    except OSError:
        return


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:  # torn by a kill, or not yet written to its end
        return None
    return found if isinstance(found, dict) else None


def _steps_total(run_dir: Path) -> int | None:
    starts = json_or_none(run_dir / "machine.json")
    last = starts[-1] if isinstance(starts, list) and starts else starts
    return last.get("steps_total") if isinstance(last, Mapping) else None


def _lives(run_dir: Path) -> tuple[bool, str | None]:
    path = run_dir / "lock.json"
    try:
        lives = is_held(path)
    except OSError:
        return False, None
    owner = json_or_none(path)
    if lives or not isinstance(owner, Mapping):
        return lives, None
    return False, f"process {owner.get('pid')} on {owner.get('host')} that held it is gone"


def duration(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3 h 05 min`, `2 d 4 h`; `?` where it is not known."""
    if seconds is None or seconds != seconds or seconds == float("inf"):
        return "?"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{max(0, int(seconds))} s"
