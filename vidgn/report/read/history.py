"""What a run's starts have changed on the way: machine.json has an entry for each."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidgn.report.read.run_state import json_or_none


@dataclass(frozen=True)
class PolicyChange:
    """A policy key that has another value from `step` on (the first step with it is `step` + 1)."""

    step: int
    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"after step {self.step}: {self.key}={_shown(self.now)}, before {_shown(self.before)}"


def read_starts(run_dir: Path) -> list[Mapping[str, Any]]:
    """The entries of machine.json, one a start; none where it is not there or not whole.

    A start from whose first step the next one began has left nothing, and is passed over.
    """
    found = json_or_none(run_dir / "machine.json")
    starts = [s for s in found if isinstance(s, Mapping)] if isinstance(found, list) else []
    began = [start.get("from_step") for start in starts]
    went_on = [one is None or one != then for one, then in itertools.pairwise(began)]
    return [start for start, has_left in zip(starts, [*went_on, True], strict=False) if has_left]


def policy_changes(starts: Iterable[Mapping[str, Any]]) -> list[PolicyChange]:
    """Where a start has another policy than the one before; those of earlier versions did not write theirs down."""
    changes: list[PolicyChange] = []
    before: Mapping[str, Any] | None = None
    for start in starts:
        now = start.get("policy")
        if not isinstance(now, Mapping):
            continue
        for key in () if before is None else sorted({*before, *now}):
            if before is not None and before.get(key) != now.get(key):
                changes.append(PolicyChange(int(start.get("from_step", 0)), key, before.get(key), now.get(key)))
        before = now
    return changes


# What a start writes down and no bit of a result depends on.
_NOT_IN_BITS = {"from_step", "policy", "steps_total", "communication", "world_size", "activation_memory"}
_ORDER = {"sums", "clips_per_forward", "threads"}  # changes the order of summation and nothing else


def order_of_sums(start: Mapping[str, Any]) -> str:
    """In which order it adds gradients: `canonical`, the same on 1, 2, 4, ... processes, or one of its own."""
    return str(start.get("sums", f"of {start.get('world_size')} processes"))


def layout_changes(starts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where a start runs on another number of processes or in another way, and what that does to the bits."""
    return [text for pair in itertools.pairwise(starts) if (text := _layout_change(*pair))]


def _layout_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    before, now = ({**start, "sums": order_of_sums(start)} for start in (before, now))
    keys = sorted((before.keys() | now.keys()) - _NOT_IN_BITS)
    differing = [key for key in keys if before.get(key) != now.get(key)]
    same = "the same bytes"
    if now.get("device") == "cuda":  # shown on CPUs; a GPU's own kernels have to be deterministic too
        same = "the same order of sums"
    if differing:
        what = "the order of summation" if _ORDER.issuperset(differing) else "rounding"
        same = f"equal up to {what}, not to the bit"
    elif before.get("world_size") != now.get("world_size"):
        differing = ["world_size"]
    else:
        return None
    words = ", ".join(f"{key}={_shown(now.get(key))} ({_shown(before.get(key))} before)" for key in differing)
    return f"from step {int(now.get('from_step', 0)) + 1} on {words}: {same}"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
