"""What a study says: columns, arms, gaps, changes with the batch. Computed once; tables and pictures only show it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vidgn.report.analyse.arms import Arm, Arms, Column, GroupSizes, arms_of, columns_of, groups_of, norms_of, run_of
from vidgn.report.analyse.average_precision import compare_aps
from vidgn.report.analyse.comparison import (
    align,
    differences_to_know,
    is_borrowed,
    shared_ids,
    why_no_change,
    why_no_gap,
)
from vidgn.report.analyse.measures import MEASURES, Measure
from vidgn.report.analyse.statistics import (
    LEVEL,
    GapInterval,
    OverSeeds,
    PairedDifference,
    gap_interval,
    holm,
    over_seeds,
    paired_difference,
)
from vidgn.report.read.published import Published, find
from vidgn.report.read.run_state import metrics_fault
from vidgn.report.read.study import Cell, Study

Outcomes = tuple[list[str], np.ndarray, np.ndarray]
State = Literal["apart", "apart here", "not seen", "not comparable", "unknown"]


@dataclass(frozen=True)
class Comparison:
    """One arm against another on the same videos; `points` is top-1 of `arm` less `baseline`, over common seeds."""

    arm: Arm
    baseline: Arm
    runs: tuple[tuple[int, int], ...]  # (fold, seed) of each pair of runs
    points: OverSeeds | None
    videos: PairedDifference | None  # of these networks; None without per-video scores
    interval: GapInterval | None  # over videos and runs; None with one pair of runs
    refused: tuple[str, ...] = ()  # what differs, where it is no gap; `seed N: ...` where only some seeds are refused
    remarks: tuple[str, ...] = ()
    p_adjusted: float | None = None  # of `interval`, for as many as the study has
    by_seed: tuple[float, ...] = ()  # points of each of `seeds`
    no_interval: str = ""  # why there is neither, over runs nor over videos

    @property
    def is_gap(self) -> bool:
        return self.points is not None

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({seed for _, seed in self.runs}))

    @property
    def folds(self) -> tuple[int, ...]:
        """Of data with folds; else one."""
        return tuple(sorted({fold for fold, _ in self.runs}))

    @property
    def state(self) -> State:
        """What may be said: they are apart; these networks are, others may not be; nothing is seen; no gap; unknown."""
        if not self.is_gap:
            return "not comparable"
        if self.videos is None:
            return "unknown"
        if self.videos.low <= 0 <= self.videos.high:
            return "not seen"
        is_apart = self.p_adjusted is not None and self.p_adjusted < 1 - LEVEL
        return "apart" if is_apart else "apart here"


@dataclass(frozen=True)
class Analysis:
    """A study and everything computed from it."""

    study: Study
    columns: tuple[Column, ...]
    norms: tuple[str, ...]
    baseline: str | None
    arms: Arms
    gaps: tuple[Comparison, ...]
    changes: tuple[Comparison, ...]  # the same arm: a smaller batch against the largest, and nothing else
    groups: tuple[GroupSizes, ...]
    faults: tuple[str, ...] = field(default=())  # files that contradict each other

    @property
    def measure(self) -> Measure:
        """What the study's results are judged by, and their words."""
        formats = {c.data_format for c in self.study.cells}
        return next((MEASURES[name] for name in MEASURES if name in formats), MEASURES["video"])

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.model for c in self.columns))

    @property
    def unit(self) -> str:
        """What a batch is made of."""
        return self.measure.unit

    @property
    def unit_tested(self) -> str:
        """What a test is made of."""
        return self.measure.unit_tested

    @property
    def num_classes(self) -> int | None:
        known = (c.result.get("classes") for c in self.study.cells if c.result)
        return next((int(k) for k in known if k is not None), None)

    @property
    def published(self) -> tuple[Published, ...]:
        return self.measure.published

    @property
    def matches_published_data(self) -> bool:
        """Whether this study's numbers may stand beside the published ones: as many classes, as far as it is known."""
        return self.num_classes in (None, self.measure.num_classes)

    def published_for(self, column: Column, norm: str) -> Published | None:
        """The published cell of a column, where net, geometry and data match."""
        if not self.matches_published_data:
            return None
        return find(
            self.published,
            model=column.model,
            norm=norm,
            frames=column.frames,
            clips=column.clips_per_gpu,
            gpus=column.gpus,
            config=self._config_of(column, norm),
        )

    def _config_of(self, column: Column, norm: str) -> Mapping[str, Any] | None:
        """Of the runs of an arm, which differ in their seed."""
        arm = self.arms.get((column, norm))
        return next((c.config for c in (*arm.done, *arm.open) if c.config), None) if arm else None


def analyse(study: Study) -> Analysis:
    """Columns, arms and comparisons of a study. Pure but for reading per-video scores."""
    columns, norms = columns_of(study.cells), norms_of(study.cells)
    arms = arms_of(study.cells, columns, norms)
    baseline = norms[0] if len(norms) > 1 else None
    return Analysis(
        study=study,
        columns=columns,
        norms=norms,
        baseline=baseline,
        arms=arms,
        gaps=_adjusted(_gaps(columns, norms, arms)),
        changes=tuple(_changes(columns, norms, arms)),
        groups=tuple(groups_of(columns, norms, arms)),
        faults=tuple(_faults(study.cells)),
    )


def _gaps(columns: Sequence[Column], norms: Sequence[str], arms: Arms) -> list[Comparison]:
    found = []
    for column in columns:
        for norm in norms[1:]:
            arm = arms.get((column, norm))
            baseline = arms.get((column, norms[0])) or _twin_of_other_tag(arms, column, norms[0])
            if arm and baseline and arm.done and baseline.done:
                found.append(_gap(arm, baseline))
    return found


def _adjusted(gaps: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Each p for as many gaps as there are."""
    known = [(index, gap.interval.p) for index, gap in enumerate(gaps) if gap.interval is not None]
    adjusted = dict(zip([index for index, _ in known], holm([p for _, p in known]), strict=True))
    return tuple(dataclasses.replace(gap, p_adjusted=adjusted.get(index)) for index, gap in enumerate(gaps))


def _twin_of_other_tag(arms: Arms, column: Column, norm: str) -> Arm | None:
    """The baseline of another tag, for a tag that names a variant of the arm: the conditions of a gap decide."""
    key = (column.model, column.frames, column.clips_per_gpu, column.gpus)
    twins = [a for (c, n), a in arms.items() if n == norm and (c.model, c.frames, c.clips_per_gpu, c.gpus) == key]
    return twins[0] if len(twins) == 1 else None


def _gap(arm: Arm, baseline: Arm) -> Comparison:
    gap = _compare(arm, baseline, why_no_gap)
    remarks = dict.fromkeys(r for pair in pairs_of(gap) for r in differences_to_know(*pair))
    for one, other in pairs_of(gap):
        if is_borrowed(one, other):
            where = f"{one.clips_per_gpu}×{one.gpus}"
            remarks[f"{arm.norm} has no statistics group: its run at {where} serves this column, not run again"] = None
    return dataclasses.replace(gap, remarks=tuple(remarks))


def _compare(arm: Arm, baseline: Arm, why_not: Callable[[Cell, Cell], list[str]]) -> Comparison:
    """The difference over the runs that both have, less those for which `why_not` names something that differs."""
    ours, theirs = ({run_of(c): c for c in a.done} for a in (arm, baseline))
    common = sorted({*ours} & {*theirs})
    if not common:
        shown = [", ".join(map(_run_name, sorted(runs))) for runs in (ours, theirs)]
        refused = (f"the seeds done so far ({shown[0]} / {shown[1]})",)
        return Comparison(arm, baseline, (), None, None, None, refused)
    refusals = {run: why_not(ours[run], theirs[run]) for run in common}
    named = _by_run({run: r for run, r in refusals.items() if r}, name_runs=len(common) > 1)
    return _measure(arm, baseline, [(ours[run], theirs[run]) for run in common if not refusals[run]], named)


def pairs_of(comparison: Comparison) -> list[tuple[Cell, Cell]]:
    """The cells that a comparison is of, one pair a run."""
    ours, theirs = ({run_of(c): c for c in a.done} for a in (comparison.arm, comparison.baseline))
    return [(ours[run], theirs[run]) for run in comparison.runs]


def _by_run(refusals: dict[tuple[int, int], list[str]], *, name_runs: bool) -> tuple[str, ...]:
    found: dict[str, list[tuple[int, int]]] = {}
    for run, reasons in refusals.items():
        for reason in reasons:
            found.setdefault(reason, []).append(run)
    return tuple(f"seed {', '.join(map(_run_name, runs))}: {r}" if name_runs else r for r, runs in found.items())


def _run_name(run: tuple[int, int]) -> str:
    fold, seed = run
    return f"{seed} of fold {fold}" if fold else str(seed)


def _measure(arm: Arm, baseline: Arm, pairs: Sequence[tuple[Cell, Cell]], refused: tuple[str, ...]) -> Comparison:
    runs = tuple(run_of(one) for one, _ in pairs)
    if not pairs:
        return Comparison(arm, baseline, runs, None, None, None, refused)
    if arm.done[0].data_format == "coco":
        return _measure_aps(arm, baseline, pairs, refused)
    outcomes = [_outcomes(one, other) for one, other in pairs]
    known = [o for o in outcomes if o is not None]
    if len(known) < len(pairs):
        told = [(int((one.result or {})["num_videos"]), one.first - other.first) for one, other in pairs]
        by_seed = _by_seed(told, runs)
        why = "the scores of each video are not there, or none could be read by both"
        return Comparison(arm, baseline, runs, over_seeds(by_seed), None, None, refused, (), None, by_seed, why)
    told = [(len(ids), 100 * (float(ours_V.mean()) - float(theirs_V.mean()))) for ids, ours_V, theirs_V in known]
    by_seed = _by_seed(told, runs)
    points = over_seeds(by_seed)
    numbers = sorted({fold for fold, _ in runs})
    folds = [_crossed([o for o, run in zip(known, runs, strict=True) if run[0] == number]) for number in numbers]
    if len({id for ids, _, _ in folds for id in ids}) < sum(len(ids) for ids, _, _ in folds):
        why = "a video is in the tests of several folds"
        return Comparison(arm, baseline, runs, points, None, None, refused, (), None, by_seed, why)
    if not all(len(ids) for ids, _, _ in folds):
        why = "no video could be read in the tests of all runs"
        return Comparison(arm, baseline, runs, points, None, None, refused, (), None, by_seed, why)
    mean_V = [
        np.concatenate([fold.mean(axis=0) for fold in of_arm]) for of_arm in zip(*(f[1:] for f in folds), strict=True)
    ]
    discordant = float(np.average([np.mean(o != t) for _, o, t in folds], weights=[len(ids) for ids, _, _ in folds]))
    videos = paired_difference(mean_V[0], mean_V[1], discordant=discordant)
    interval = gap_interval([o.astype(np.int8) - t.astype(np.int8) for _, o, t in folds])
    return Comparison(arm, baseline, runs, points, videos, interval, refused, by_seed=by_seed)


def _measure_aps(arm: Arm, baseline: Arm, pairs: Sequence[tuple[Cell, Cell]], refused: tuple[str, ...]) -> Comparison:
    """Of detectors: box AP, with its intervals over images."""
    runs = tuple(run_of(one) for one, _ in pairs)
    found = [(one.matches(), other.matches()) for one, other in pairs]
    known = tuple((one["box"], other["box"]) for one, other in found if one is not None and other is not None)
    of_same = len(known) == len(pairs) and all(np.array_equal(one.ids, other.ids) for one, other in known)
    compared = compare_aps(known) if of_same else None
    if compared is None:
        by_seed = _by_seed([(1, one.first - other.first) for one, other in pairs], runs)
        why = "the matches of each image are not there, or of other images, or of images without objects"
        return Comparison(arm, baseline, runs, over_seeds(by_seed), None, None, refused, (), None, by_seed, why)
    by_seed = _by_seed([(1, points) for points in compared.by_pair], runs)
    return Comparison(
        arm, baseline, runs, over_seeds(by_seed), compared.images, compared.interval, refused, by_seed=by_seed
    )


def crossed_differences(gap: Comparison) -> list[np.ndarray]:
    """Of each fold, the (S, V) differences that `gap` was measured on; none without per-video scores."""
    known = [(run_of(one)[0], _outcomes(one, other)) for one, other in pairs_of(gap)]
    folds = [[o for f, o in known if f == fold and o is not None] for fold in gap.folds]
    crossed = [_crossed(outcomes) for outcomes in folds if outcomes]
    return [o.astype(np.int8) - t.astype(np.int8) for _, o, t in crossed]


def _by_seed(told: Sequence[tuple[int, float]], runs: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """One difference a seed, by rising seed, of (videos, points) of each run: its folds' by their videos."""
    found: dict[int, list[tuple[int, float]]] = {}
    for part, (_, seed) in zip(told, runs, strict=True):
        found.setdefault(seed, []).append(part)
    return tuple(sum(n * points for n, points in found[s]) / sum(n for n, _ in found[s]) for s in sorted(found))


def _crossed(outcomes: Sequence[Outcomes]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(ids, (S, V), (S, V)) of one fold's runs on the videos that all of them have."""
    common = set.intersection(*(set(ids) for ids, _, _ in outcomes))
    ids = [id for id in outcomes[0][0] if id in common]
    rows = []
    for own, ours_V, theirs_V in outcomes:
        place = {id: row for row, id in enumerate(own)}
        order = [place[id] for id in ids]
        rows.append((ours_V[order], theirs_V[order]))
    return ids, np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])


def _outcomes(one: Cell, other: Cell) -> Outcomes | None:
    """(ids, (V,), (V,)): which videos both could be told of, and whether each was right."""
    videos = one.videos(), other.videos()
    if videos[0] is None or videos[1] is None:
        return None
    aligned = align(videos[0], videos[1])
    return None if aligned is None or not len(aligned[0]) else (shared_ids(videos[0], videos[1]), *aligned)


def _changes(columns: Sequence[Column], norms: Sequence[str], arms: Arms) -> list[Comparison]:
    """Each arm at a smaller batch against its largest, the number of GPUs the same."""
    found = []
    for norm in norms:
        for column in columns:
            peers = [
                c
                for c in columns
                if (c.model, c.frames, c.tag, c.gpus) == (column.model, column.frames, column.tag, column.gpus)
            ]
            largest = max(peers, key=lambda c: c.clips_per_gpu)
            arm, reference = arms.get((column, norm)), arms.get((largest, norm))
            if column != largest and arm and reference and arm.done and reference.done:
                found.append(_compare(arm, reference, why_no_change))
    return found


def _faults(cells: Sequence[Cell]) -> list[str]:
    found = []
    for cell in cells:
        if (fault := metrics_fault(cell.directory / "metrics.jsonl")) is not None:
            found.append(fault)
        if cell.fault is not None:
            found.append(f"{cell.run_name}: {cell.fault}: test it again with vidgn evaluate")
    return found
