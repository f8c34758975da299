"""What a study says: columns, arms, gaps, changes with the batch. Computed once; tables and pictures only show it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidgn.errors import ManifestError
from vidgn.report.analyse.arms import Arm, Arms, Column, GroupSizes, arms_of, columns_of, groups_of, norms_of, run_of
from vidgn.report.analyse.comparison import (
    differences_to_know,
    is_borrowed,
    why_no_change,
    why_no_gap,
    why_not_one_arm,
)
from vidgn.report.analyse.gap import Comparison, measured, pairs_of
from vidgn.report.analyse.measures import MEASURES, Measure
from vidgn.report.analyse.statistics import (
    holm,
)
from vidgn.report.read.published import Published, find
from vidgn.report.read.run_state import metrics_fault
from vidgn.report.read.study import Cell, Study


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
    longer: tuple[Comparison, ...]  # the same arm: longer clips against the shortest, and nothing else
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
        """Of all runs; None where they differ or do not say."""
        known = self._known_classes()
        return min(known) if len(known) == 1 else None

    def _known_classes(self) -> set[int]:
        return {int(k) for c in self.study.cells if c.result and (k := c.result.get("classes")) is not None}

    @property
    def published(self) -> tuple[Published, ...]:
        return self.measure.published

    @property
    def matches_published_data(self) -> bool:
        """Whether this study's numbers may stand beside the published ones: as many classes, as far as it is known."""
        return self._known_classes() <= {self.measure.num_classes}

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
    """Columns, arms and comparisons of a study. Pure but for reading per-video scores.

    Raises:
        ManifestError: it has runs of data that are judged in different ways.
    """
    formats = {c.data_format for c in study.cells if c.data_format}
    kinds = sorted({name if name in MEASURES else "video" for name in formats})
    if len(kinds) > 1:
        raise ManifestError(
            f"{study.directory} has runs of several kinds of data ({', '.join(kinds)}), which no one table can hold: "
            "move those of one kind to a directory of their own"
        )
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
        changes=_adjusted(_changes(columns, norms, arms)),
        longer=tuple(_longer(columns, norms, arms)),
        groups=tuple(groups_of(columns, norms, arms)),
        faults=(*study.passed_over, *_faults(study.cells), *_mixed(arms)),
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
    return dataclasses.replace(gap, remarks=(*gap.remarks, *remarks))


def _compare(arm: Arm, baseline: Arm, why_not: Callable[[Cell, Cell], list[str]]) -> Comparison:
    """The difference over the runs that both have, less those for which `why_not` names something that differs."""
    ours, theirs = ({run_of(c): c for c in a.done} for a in (arm, baseline))
    common = sorted({*ours} & {*theirs})
    if not common:
        shown = [", ".join(map(_run_name, sorted(runs))) for runs in (ours, theirs)]
        refused = (f"the seeds done so far ({shown[0]} / {shown[1]})",)
        return Comparison(arm, baseline, (), None, None, None, refused)
    refusals = {run: why_not(ours[run], theirs[run]) for run in common}
    for cells in (ours, theirs):
        first = next((cells[run] for run in common if not refusals[run]), cells[common[0]])
        for run in common:
            refusals[run] = refusals[run] or why_not_one_arm(cells[run], first)
    folds = {fold for fold, _ in common}
    for run in common:
        if lacking := sorted(folds - {fold for fold, seed in common if seed == run[1] and not refusals[fold, seed]}):
            others = ", ".join(map(str, lacking))
            refusals[run] = refusals[run] or [f"its fold {others} is not done by both, or refused"]
    named = _by_run({run: r for run, r in refusals.items() if r}, name_runs=len(common) > 1)
    return measured(arm, baseline, [(ours[run], theirs[run]) for run in common if not refusals[run]], named)


def _by_run(refusals: dict[tuple[int, int], list[str]], *, name_runs: bool) -> tuple[str, ...]:
    found: dict[str, list[tuple[int, int]]] = {}
    for run, reasons in refusals.items():
        for reason in reasons:
            found.setdefault(reason, []).append(run)
    return tuple(f"seed {', '.join(map(_run_name, runs))}: {r}" if name_runs else r for r, runs in found.items())


def _run_name(run: tuple[int, int]) -> str:
    fold, seed = run
    return f"{seed} of fold {fold}" if fold else str(seed)


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


def _longer(columns: Sequence[Column], norms: Sequence[str], arms: Arms) -> list[Comparison]:
    """Each arm with longer clips against its shortest, the batch the same."""
    why_not = functools.partial(why_no_change, but=("frames",))
    found = []
    for norm in norms:
        for column in columns:
            shorter = [c for c in columns if dataclasses.replace(c, frames=column.frames) == column]
            arm, reference = arms.get((column, norm)), arms.get((min(shorter, key=lambda c: c.frames), norm))
            if arm and reference and arm is not reference and arm.done and reference.done:
                found.append(_compare(arm, reference, why_not))
    return found


def _mixed(arms: Arms) -> list[str]:
    """Runs whose number is in a mean with another experiment's."""
    pairs = [(cell, arm.done[0]) for arm in arms.values() for cell in arm.done[1:]]
    return [f"{cell.run_name}: {why}" for cell, first in pairs for why in why_not_one_arm(cell, first)]


def _faults(cells: Sequence[Cell]) -> list[str]:
    found = []
    for cell in cells:
        if (fault := metrics_fault(cell.directory / "metrics.jsonl")) is not None:
            found.append(fault)
        if cell.fault is not None:
            found.append(f"{cell.run_name}: {cell.fault}: test it again with vidgn evaluate")
    return found
