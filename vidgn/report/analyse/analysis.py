"""What a study says: columns, arms, gaps, changes with the batch. Computed once; tables and pictures only show it."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vidgn.report.analyse.arms import Arm, Arms, Column, GroupSizes, arms_of, columns_of, groups_of, norms_of
from vidgn.report.analyse.comparison import align, differences_to_know, is_borrowed, why_no_change, why_no_gap
from vidgn.report.analyse.statistics import (
    OverSeeds,
    PairedDifference,
    SignFlip,
    over_seeds,
    paired_difference,
    sign_flip_test,
)
from vidgn.report.read.published import IMAGENET, KINETICS, Published, find
from vidgn.report.read.run_state import metrics_fault
from vidgn.report.read.study import Cell, Study


@dataclass(frozen=True)
class Comparison:
    """One arm against another on the same videos; `points` is top-1 of `arm` less `baseline`, over common seeds."""

    arm: Arm
    baseline: Arm
    seeds: tuple[int, ...]
    points: OverSeeds | None
    videos: PairedDifference | None  # None without per-video scores
    sign_flip: SignFlip | None
    refused: tuple[str, ...] = ()  # what differs, where it is no gap; `seed N: ...` where only some seeds are refused
    remarks: tuple[str, ...] = ()

    @property
    def is_gap(self) -> bool:
        return self.points is not None


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
    def is_imagenet(self) -> bool:
        return any(c.is_imagenet for c in self.study.cells)

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.model for c in self.columns))

    @property
    def unit(self) -> str:
        """What a batch is made of."""
        return "images" if self.is_imagenet else "clips"

    @property
    def unit_tested(self) -> str:
        """What a test is made of."""
        return "images" if self.is_imagenet else "videos"

    @property
    def num_classes(self) -> int | None:
        known = (c.result.get("classes") for c in self.study.cells if c.result)
        return next((int(k) for k in known if k is not None), None)

    @property
    def published(self) -> tuple[Published, ...]:
        return IMAGENET if self.is_imagenet else KINETICS

    @property
    def matches_published_data(self) -> bool:
        """Whether this study's numbers may stand beside the published ones: as many classes, as far as it is known."""
        return self.num_classes in (None, 1000 if self.is_imagenet else 400)

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
        )


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
        gaps=tuple(_gaps(columns, norms, arms)),
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


def _twin_of_other_tag(arms: Arms, column: Column, norm: str) -> Arm | None:
    """The baseline of another tag, for a tag that names a variant of the arm: the conditions of a gap decide."""
    key = (column.model, column.frames, column.clips_per_gpu, column.gpus)
    twins = [a for (c, n), a in arms.items() if n == norm and (c.model, c.frames, c.clips_per_gpu, c.gpus) == key]
    return twins[0] if len(twins) == 1 else None


def _gap(arm: Arm, baseline: Arm) -> Comparison:
    gap = _compare(arm, baseline, why_no_gap)
    remarks = dict.fromkeys(r for pair in _pairs(gap) for r in differences_to_know(*pair))
    for one, other in _pairs(gap):
        if is_borrowed(one, other):
            where = f"{one.clips_per_gpu}×{one.gpus}"
            remarks[f"{arm.norm} has no statistics group: its run at {where} serves this column, not run again"] = None
    return dataclasses.replace(gap, remarks=tuple(remarks))


def _compare(arm: Arm, baseline: Arm, why_not: Callable[[Cell, Cell], list[str]]) -> Comparison:
    """The difference over the seeds that both have, less those for which `why_not` names something that differs."""
    ours, theirs = ({c.seed: c for c in a.done} for a in (arm, baseline))
    common = sorted({*ours} & {*theirs})
    if not common:
        shown = [", ".join(map(str, sorted(seeds))) for seeds in (ours, theirs)]
        return Comparison(arm, baseline, (), None, None, None, (f"the seeds done so far ({shown[0]} / {shown[1]})",))
    refusals = {s: why_not(ours[s], theirs[s]) for s in common}
    refused = _by_seed({s: r for s, r in refusals.items() if r}, name_seeds=len(common) > 1)
    return _measure(arm, baseline, [(ours[s], theirs[s]) for s in common if not refusals[s]], refused)


def _pairs(comparison: Comparison) -> list[tuple[Cell, Cell]]:
    """The cells that are compared, one pair a seed."""
    ours, theirs = ({c.seed: c for c in a.done} for a in (comparison.arm, comparison.baseline))
    return [(ours[s], theirs[s]) for s in comparison.seeds]


def _by_seed(refusals: dict[int, list[str]], *, name_seeds: bool) -> tuple[str, ...]:
    found: dict[str, list[int]] = {}
    for seed, reasons in refusals.items():
        for reason in reasons:
            found.setdefault(reason, []).append(seed)
    return tuple(f"seed {', '.join(map(str, s))}: {r}" if name_seeds else r for r, s in found.items())


def _measure(arm: Arm, baseline: Arm, pairs: Sequence[tuple[Cell, Cell]], refused: tuple[str, ...]) -> Comparison:
    seeds = tuple(one.seed for one, _ in pairs)
    if not pairs:
        return Comparison(arm, baseline, seeds, None, None, None, refused)
    points = [one.result["top1"] - other.result["top1"] for one, other in pairs if one.result and other.result]
    outcomes = [_outcomes(one, other) for one, other in pairs]
    videos = None
    aligned = [o for o in outcomes if o is not None]
    if len(aligned) == len(pairs) and len({len(o[0]) for o in aligned}) == 1:
        videos = paired_difference(np.stack([o[0] for o in aligned]), np.stack([o[1] for o in aligned]))
    return Comparison(arm, baseline, seeds, over_seeds(points), videos, sign_flip_test(points), refused)


def _outcomes(one: Cell, other: Cell) -> tuple[np.ndarray, np.ndarray] | None:
    videos = one.videos(), other.videos()
    return align(videos[0], videos[1]) if videos[0] is not None and videos[1] is not None else None


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
        videos = cell.videos() if cell.result else None
        if videos is None or cell.result is None:
            continue
        reported, counted = cell.result["top1"], videos.top(1)
        if abs(reported - counted) > 0.006:  # result.json may be rounded to 0.01
            found.append(
                f"{cell.run_name}: result.json says top-1 {reported:.2f} %, its per-video scores {counted:.2f} %: "
                f"test it again with vidgn evaluate"
            )
    return found
