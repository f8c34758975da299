"""What shows that two arms differ in the norm alone, check by check; each can fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidgn.report.analyse.arms import run_of
from vidgn.report.analyse.comparison import audited, paired_rows
from vidgn.report.analyse.gap import Comparison
from vidgn.report.read.run_state import json_or_none
from vidgn.report.read.study import Cell


@dataclass(frozen=True)
class Check:
    """`detail`: what either arm has."""

    name: str
    holds: bool
    detail: str


def proof_of(gap: Comparison) -> list[Check]:
    """The checks over all pairs of runs that both arms have; one that fails anywhere fails."""
    ours, theirs = ({run_of(c): c for c in arm.done} for arm in (gap.arm, gap.baseline))
    found: dict[str, Check] = {}
    for run in sorted({*ours} & {*theirs}):
        for check in _checks(ours[run], theirs[run]):
            if check.name not in found or not check.holds:
                found[check.name] = check
    return list(found.values())


def _checks(arm: Cell, baseline: Cell) -> list[Check]:
    ours, theirs = arm.result or {}, baseline.result or {}
    pairs: list[tuple[str, Any, Any]] = [
        ("settings (pair fingerprint)", ours.get("pair_fingerprint"), theirs.get("pair_fingerprint")),
        ("training clips (plan digest)", ours.get("plan_digest"), theirs.get("plan_digest")),
        ("parameters by role (audit)", _roles(audited(arm)), _roles(audited(baseline))),
        ("steps", ours.get("steps"), theirs.get("steps")),
        ("precision", ours.get("precision"), theirs.get("precision")),
        ("input mean", _vector(ours.get("input_mean")), _vector(theirs.get("input_mean"))),
        ("views of the test", ours.get("views"), theirs.get("views")),
        ("skipped steps", ours.get("num_skipped") or 0, theirs.get("num_skipped") or 0),
    ]
    found = [Check(name, a == b and a is not None, f"{a} / {b}") for name, a, b in pairs]
    found.insert(3, _weights(arm, baseline))
    found.append(_tested(arm, baseline))
    faults = [c.run_name for c in (arm, baseline) if c.fault]
    found.append(Check("results are those of their scores", not faults, ", ".join(faults) or "both"))
    return found


def _tested(arm: Cell, baseline: Cell) -> Check:
    """Both on the same videos; of detectors, images."""
    if arm.data_format == "coco":
        matches = [cell.matches() for cell in (arm, baseline)]
        ids = [None if of_cell is None else of_cell["box"].ids for of_cell in matches]
        is_same = ids[0] is not None and ids[1] is not None and ids[0].tolist() == ids[1].tolist()
        return Check("tested images", is_same, " / ".join("none" if i is None else f"{len(i)}" for i in ids))
    videos = arm.videos(), baseline.videos()
    is_same = videos[0] is not None and videos[1] is not None and paired_rows(videos[0], videos[1]) is not None
    return Check("tested videos", is_same, " / ".join("none" if v is None else f"{len(v.ids)}" for v in videos))


def _weights(arm: Cell, baseline: Cell) -> Check:
    """Both from random values, or both from a file; the files are the arms' own."""
    told = []
    for cell in (arm, baseline):
        identity = json_or_none(cell.directory / "identity.json")
        digest = identity.get("weights sha256") if isinstance(identity, Mapping) else None
        source = (cell.config or {}).get("weights")
        told.append("random" if source is None else f"{source} (sha256 {str(digest)[:12]})")
    return Check("first values", (told[0] == "random") == (told[1] == "random"), " / ".join(told))


def _roles(audit: Mapping[str, Any] | None) -> str | None:
    """Roles, tensors, parameters and decay; not the first values, which weights may bring."""
    if audit is None:
        return None
    rows = audit.get("by_role") or ()
    return "; ".join(f"{r.get('role')} {r.get('tensors')} {r.get('parameters')} {r.get('weight_decay')}" for r in rows)


def _vector(values: Any) -> str:
    return ", ".join(f"{float(v):g}" for v in values) if values else "of the data"
