"""When the difference of two runs is a gap, and what differs where it is none: pure functions over two cells."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidgn.config.fingerprint import CLASSES, DATA_ROWS, WEIGHTS
from vidgn.config.norm_kinds import NORM_KINDS
from vidgn.report.read.study import Cell
from vidgn.report.read.video_scores import VideoScores

_DECODER = "data.decoder"
_GEOMETRY = ("clips_per_gpu", "gpus")
_OF_THE_ARM = ("norm.kind", "norm.groups", "norm.channels_per_group", "norm.momentum", "weights")  # may differ in a gap
_UNREADABLE = "settings (a config.yaml can't be read by this version, so its keys can't be named)"
_FIRST_VALUES = ("initial", "initial_value")  # of audit.json


def why_no_gap(arm: Cell, baseline: Cell) -> list[str]:
    """Every condition of a gap that two finished runs miss, in words; empty if their difference is one.

    The conditions: configs less kind, groups and weights, audits less kind, training plans and tested videos agree;
    both start from weights or neither does; statistics at test are of one kind where both have such; each result is
    that of its per-video scores. An arm without a statistics group may come from another division of the same step:
    `clips_per_gpu` and `gpus` may then differ, their product may not.
    """
    assert arm.result is not None
    assert baseline.result is not None
    same_start = _weights(arm) == _weights(baseline)
    reasons = _differing_configs(arm, baseline) + _differing_starts(arm, baseline)
    reasons += _differing_audits(audited(arm), audited(baseline), with_values=same_start)
    digests = arm.result.get("plan_digest"), baseline.result.get("plan_digest")
    if None in digests:
        reasons.append("plan_digest is missing in result.json, so the same training clips can't be shown")
    elif digests[0] != digests[1]:
        reasons.append(f"the clips trained on (plan_digest {_short(digests[0])} / {_short(digests[1])})")
    return reasons + _differing_statistics(arm, baseline) + _differing_tests(arm, baseline) + _faults(arm, baseline)


def audited(cell: Cell) -> Mapping[str, Any] | None:
    """The audit; of a detector with frozen BN, which has biases where others have norms, what is left without both."""
    if cell.audit is None or cell.data_format != "coco":
        return cell.audit
    rows = [row for row in cell.audit.get("by_role", []) if not row["role"].startswith("norm")]
    return {"by_role": [row for row in rows if row["role"] != "conv_bias"]}


def _differing_starts(arm: Cell, baseline: Cell) -> list[str]:
    """One arm pre-trained and the other not is a comparison of weights."""
    weights = [_weights(c) for c in (arm, baseline)]
    if (weights[0] is None) == (weights[1] is None):
        return []
    return [f"weights: {arm.norm} starts from {_named(weights[0])}, {baseline.norm} from {_named(weights[1])}"]


def _differing_statistics(arm: Cell, baseline: Cell) -> list[str]:
    """Of two arms with statistics: momentum in training, and how those of the test were taken."""
    if not all(NORM_KINDS[c.norm].has_running_statistics for c in (arm, baseline) if c.norm in NORM_KINDS):
        return []
    told = [(c.result or {}).get("bn_stats") for c in (arm, baseline)]
    configs = [c.config or {} for c in (arm, baseline)]
    momenta = [(config.get("norm") or {}).get("momentum") for config in configs]
    found = [f"settings: norm.momentum ({momenta[0]} / {momenta[1]})"] if momenta[0] != momenta[1] else []
    if told[0] != told[1]:
        return [*found, f"statistics at test ({told[0]} / {told[1]})"]
    steps = [config.get("bn_stats_steps") for config in configs]
    if told[0] == "precise" and steps[0] != steps[1]:
        found.append(f"the steps that statistics at test are taken over (bn_stats_steps {steps[0]} / {steps[1]})")
    return found


def _faults(*cells: Cell) -> list[str]:
    return [f"{c.run_name} contradicts itself: {c.fault}" for c in cells if c.fault]


def is_borrowed(arm: Cell, baseline: Cell) -> bool:
    """Whether `arm` stands in from another division of the same step."""
    same = (arm.clips_per_gpu, arm.gpus) == (baseline.clips_per_gpu, baseline.gpus)
    return not same and arm.group_free and arm.slots_per_step == baseline.slots_per_step


def differences_to_know(arm: Cell, baseline: Cell) -> list[str]:
    """What may differ in a gap and should be read with it."""
    assert arm.result is not None
    assert baseline.result is not None
    names = arm.norm, baseline.norm
    results = arm.result, baseline.result
    remarks = []

    def differ(what: str, values: Sequence[str]) -> None:
        if values[0] != values[1]:
            remarks.append(f"{what}: {names[0]} {values[0]}, {names[1]} {values[1]}")

    norms = [(c.audit or {}).get("num_norms") for c in (arm, baseline)]
    if arm.data_format == "coco" and norms[0] != norms[1]:
        differ("norms, and biases where there is none", [str(n) for n in norms])
    weights = [_named(_weights(c)) for c in (arm, baseline)]
    if weights[0] != weights[1]:
        remarks.append(f"weights: {names[0]} starts from {weights[0]}, {names[1]} from {weights[1]}")
    for name in ("mean", "std"):
        differ(f"input {name}", [_vector(_input_statistic(c, name)) for c in (arm, baseline)])
    for name, result in zip(names, results, strict=True):
        if result.get("bn_stats") == "batch":
            remarks.append(f"{name} was tested with the statistics of each test batch, which no single video has")
    unreadable = [_unreadable_alone(*pair) for pair in ((arm, baseline), (baseline, arm))]
    for name, number in zip(names, unreadable, strict=True):
        if number:
            items = "images" if arm.data_format == "coco" else "videos"
            remarks.append(f"{number} {items} that {name}'s test alone could not read are left out of both")
    counts = [int(r.get("num_unreadable") or 0) for r in results]
    is_scored = all(c.videos() is not None or c.matches() is not None for c in (arm, baseline))
    if counts[0] != counts[1] and not is_scored:
        remarks.append(
            f"{names[0]} could not read {counts[0]} of the tested videos, {names[1]} {counts[1]}: they count as wrong"
        )
    for what in ("torch", "torchvision", "av"):
        differ(f"version of {what}", [str((r.get("versions") or {}).get(what)) for r in results])
    if any(r.get("num_skipped") for r in results):
        remarks.append(
            "training steps skipped as not finite: "
            + ", ".join(
                f"{n} {r.get('num_skipped') or 0} of {r.get('steps')}" for n, r in zip(names, results, strict=True)
            )
        )
    layouts = [" and ".join(sorted(c.layouts)) for c in (arm, baseline)]
    if all(layouts) and layouts[0] != layouts[1]:
        differ("layout", layouts)
        remarks[-1] += (
            " (sums in another order: in float32 runs of one seed then differ; measured: less than two seeds do)"
        )
    changes = [", ".join(map(str, c.policy_changes())) for c in (arm, baseline)]
    remarks += [f"{n} was changed on its way, {told}" for n, told in zip(names, changes, strict=True) if told]
    return remarks


def align(arm: VideoScores, baseline: VideoScores) -> tuple[np.ndarray, np.ndarray] | None:
    """(V,) top-1 outcomes of both on the same videos in one order; None if they were not tested on the same.

    Of a video that one of them alone could not read nothing can be said: it is left out of both.
    """
    rows = paired_rows(arm, baseline)
    if rows is None:
        return None
    ranks = arm.rank[rows[0]], baseline.rank[rows[1]]
    both = (ranks[0] < 0) == (ranks[1] < 0)
    return (ranks[0] == 0)[both], (ranks[1] == 0)[both]


def shared_ids(arm: VideoScores, baseline: VideoScores) -> list[str]:
    """Ids of what `align` gives, in its order."""
    rows = paired_rows(arm, baseline)
    assert rows is not None
    both = (arm.rank[rows[0]] < 0) == (baseline.rank[rows[1]] < 0)
    return [arm.ids[row] for row in rows[0][both]]


def paired_rows(arm: VideoScores, baseline: VideoScores) -> tuple[np.ndarray, np.ndarray] | None:
    """(V,) rows of either that are the same video; None if they were not tested on the same."""
    if len(arm.ids) != len(baseline.ids):
        return None
    rows = (np.arange(len(arm.ids)),) * 2
    if arm.ids != baseline.ids:
        rows = tuple(np.argsort(np.asarray(s.ids), kind="stable") for s in (arm, baseline))
        sorted_ids = [np.asarray(s.ids)[o] for s, o in zip((arm, baseline), rows, strict=True)]
        if not np.array_equal(sorted_ids[0], sorted_ids[1]):
            return None
    return (rows[0], rows[1]) if np.array_equal(arm.labels[rows[0]], baseline.labels[rows[1]]) else None


def _unreadable_alone(cell: Cell, other: Cell) -> int:
    """Videos that the test of `cell` alone could not read; of detectors, images."""
    if cell.data_format == "coco":
        found = [matches["box"].readable for c in (cell, other) if (matches := c.matches()) is not None]
        is_paired = len(found) == 2 and len(found[0]) == len(found[1])
        return int((~found[0] & found[1]).sum()) if is_paired else 0
    ours, theirs = cell.videos(), other.videos()
    rows = None if ours is None or theirs is None else paired_rows(ours, theirs)
    if ours is None or theirs is None or rows is None:
        return 0
    return int(((ours.rank[rows[0]] < 0) & (theirs.rank[rows[1]] >= 0)).sum())


def why_no_change(cell: Cell, other: Cell, *, but: tuple[str, ...] = _GEOMETRY) -> list[str]:
    """What differs between two finished runs of one norm besides the batch, in words; empty if nothing does.

    Args:
        but: the keys that may differ: those of the batch, or others.
    """
    differing = _differing_keys(cell, other, but=but)
    if differing is None:
        return [_UNREADABLE]
    found = [_keys(differing)] if differing else []
    return [*found, *_differing_statistics(cell, other), *_differing_tests(cell, other), *_faults(cell, other)]


def why_not_one_arm(cell: Cell, other: Cell) -> list[str]:
    """What differs between two finished runs of one arm besides seed, fold and first weights; empty if nothing does."""
    differing = _differing_keys(cell, other, but=_GEOMETRY if is_borrowed(cell, other) else ())
    if differing is None:
        return [_UNREADABLE]
    for key in ("seed", WEIGHTS, *((DATA_ROWS,) if cell.fold != other.fold else ())):
        differing.pop(key, None)
    found = [_keys(differing)] if differing else []
    if cell.test_name != other.test_name:
        found.append(f"the test ({cell.test_name} / {other.test_name})")
    return [f"not as seed {other.seed} of the same arm: {reason}" for reason in found]


def _differing_keys(cell: Cell, other: Cell, *, but: tuple[str, ...]) -> dict[str, tuple[Any, Any]] | None:
    """Keys that can change a result and differ, but for those that begin so; None if a config can't be read."""
    ours, theirs = _settings(cell), _settings(other)
    if ours is None or theirs is None:
        return None
    unknown = {k for k in (DATA_ROWS, CLASSES, _DECODER) if k not in ours or k not in theirs}
    keys = {*ours, *theirs} - unknown
    differing = sorted(k for k in keys if ours.get(k) != theirs.get(k) and not k.startswith(but))
    return {k: (ours.get(k), theirs.get(k)) for k in differing}


def _settings(cell: Cell) -> dict[str, Any] | None:
    """The experiment's keys, and the decoder: a policy of a run that may not differ between those compared."""
    flat, decoders = cell.experiment(), cell.decoders()
    return flat if flat is None or not decoders else {**flat, _DECODER: " and ".join(sorted(decoders))}


def _differing_configs(arm: Cell, baseline: Cell) -> list[str]:
    assert arm.result is not None
    assert baseline.result is not None
    fingerprints = arm.result.get("pair_fingerprint"), baseline.result.get("pair_fingerprint")
    if None in fingerprints:
        return ["pair_fingerprint is missing in result.json, so equal settings can't be shown"]
    eps = [((c.config or {}).get("norm") or {}).get("eps") for c in (arm, baseline)]
    if fingerprints[0] == fingerprints[1] and arm.decoders() == baseline.decoders() and eps[0] == eps[1]:
        return []
    borrowed = is_borrowed(arm, baseline)
    differing = _differing_keys(arm, baseline, but=(*_OF_THE_ARM, *(_GEOMETRY if borrowed else ())))
    if differing is None:
        return [_UNREADABLE]
    if arm.only is not None:  # the plan digests show what was trained on, and the test is that of the videos named
        differing.pop(DATA_ROWS, None)
    if not differing and (borrowed or arm.only is not None):
        return []
    if not differing:
        return [
            "settings outside config.yaml: pair_fingerprint differs and no key does, so the usable videos or their "
            "labels were not the same"
        ]
    return [_keys(differing)]


def _keys(differing: Mapping[str, tuple[Any, Any]]) -> str:
    words = {DATA_ROWS: "the usable videos and labels"}
    return "settings: " + ", ".join(f"{words.get(k, k)} ({a} / {b})" for k, (a, b) in differing.items())


def _differing_audits(
    arm: Mapping[str, Any] | None, baseline: Mapping[str, Any] | None, *, with_values: bool
) -> list[str]:
    """What differs between two audits, in words.

    Args:
        with_values: compare first values too. Weights that differ by intent bring their own.
    """
    if arm is None or baseline is None:
        return ["audit.json is missing, so equal treatment of the parameters can't be shown"]
    one, other = ({k: v for k, v in audit.items() if k != "kind"} for audit in (arm, baseline))
    if one == other:
        return []
    ignored = () if with_values else _FIRST_VALUES
    by_role = [
        {r["role"]: {k: v for k, v in r.items() if k not in ignored} for r in audit.get("by_role", [])}
        for audit in (one, other)
    ]
    found = []
    for role in sorted({*by_role[0], *by_role[1]}):
        rows = [roles.get(role) for roles in by_role]
        if rows[0] is None or rows[1] is None:
            found.append(f"{role} is in one only")
            continue
        keys = [k for k in sorted({*rows[0], *rows[1]}) if rows[0].get(k) != rows[1].get(k)]
        found += [f"{role} {k} ({rows[0].get(k)} / {rows[1].get(k)})" for k in keys]
    for key in sorted({*one, *other} - {"by_role"}):
        if one.get(key) != other.get(key):
            found.append(f"{key} ({one.get(key)} / {other.get(key)})")
    return ["audits: " + ", ".join(found)] if found else []


def _differing_tests(arm: Cell, baseline: Cell) -> list[str]:
    assert arm.result is not None
    assert baseline.result is not None
    differing = []
    for key in ("views", "num_videos"):
        one, other = arm.result.get(key), baseline.result.get(key)
        if one != other:
            differing.append(f"the test's {key} ({one} / {other})")
    if differing:
        return differing
    ours, theirs = arm.videos(), baseline.videos()
    if ours is not None and theirs is not None and align(ours, theirs) is None:
        return ["the videos tested or their labels"]
    return []


def _input_statistic(cell: Cell, name: str) -> list[float] | None:
    """Of the weights' own normalisation where a run says it has one, else of its data."""
    values = (cell.result or {}).get(f"input_{name}") or ((cell.config or {}).get("data") or {}).get(name)
    return None if values is None else [float(v) for v in values]


def _weights(cell: Cell) -> str | None:
    return (cell.config or {}).get("weights")


def _named(weights: str | None) -> str:
    return "random" if weights is None else str(weights)


def _vector(values: list[float] | None) -> str:
    return "unknown" if values is None else "[" + ", ".join(f"{v:g}" for v in values) + "]"


def _short(digest: Any) -> str:
    text = str(digest)
    return text if len(text) <= 10 else text[:8] + "…"
