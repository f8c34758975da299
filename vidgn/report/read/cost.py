"""What a run took, from the files that it wrote anyway."""

from dataclasses import dataclass
from pathlib import Path

from vidgn.report.read.history import policy_changes, read_starts
from vidgn.report.read.run_state import json_or_none, lines_of


@dataclass(frozen=True)
class Cost:
    """`hours`: of training steps, waiting included, tests left out. `wait`: share of them spent waiting for data.

    `clips_per_second`: over all steps and processes. `machines`: what its starts ran on, each once.
    """

    hours: float
    clips_per_second: float
    wait: float
    steps: int
    num_starts: int
    num_skipped: int
    num_changes: int
    machines: tuple[str, ...]
    versions: str


def read_cost(run_dir: Path) -> Cost | None:
    """From metrics.jsonl and machine.json; None before the first step."""
    seconds = waited = clips = 0.0
    steps = skipped = 0
    for line in lines_of(run_dir / "metrics.jsonl", "train"):
        clock = line.get("clock") or {}
        took = float(clock.get("step_seconds", 0.0))
        seconds += took
        waited += took * float(clock.get("data_wait_fraction", 0.0))
        clips += took * float(clock.get("clips_per_second", 0.0))
        skipped += bool(line.get("skipped"))
        steps += 1
    if not seconds:
        return None
    starts = read_starts(run_dir)
    written = json_or_none(run_dir / "machine.json")
    machines = dict.fromkeys(
        f"{start.get('world_size', '?')} × {start.get('gpu') or start.get('device', '?')}" for start in starts
    )
    versions = dict(starts[-1].get("versions") or {}) if starts else {}
    return Cost(
        hours=seconds / 3600,
        clips_per_second=clips / seconds,
        wait=waited / seconds,
        steps=steps,
        num_starts=len(written) if isinstance(written, list) else len(starts),
        num_skipped=skipped,
        num_changes=len(policy_changes(starts)),
        machines=tuple(machines),
        versions=", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    )
