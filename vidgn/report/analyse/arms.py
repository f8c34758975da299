"""Cells as the paper's table 8 lays them out: columns, and the arms in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vidgn.config.norm_kinds import NORM_KINDS
from vidgn.report.analyse.statistics import OverSeeds, over_seeds
from vidgn.report.read.study import Cell


@dataclass(frozen=True)
class Column:
    """One net, clip length and division of a step: a column of the paper's table 8."""

    model: str
    frames: int
    clips_per_gpu: int
    gpus: int
    tag: str | None = None

    @property
    def slots_per_step(self) -> int:
        return self.clips_per_gpu * self.gpus


@dataclass(frozen=True)
class Arm:
    """One norm in one column: its finished cells, one a seed, and the others."""

    column: Column
    norm: str
    done: tuple[Cell, ...]
    borrowed: tuple[Cell, ...]  # those of `done` that ran with another division of the same step
    open: tuple[Cell, ...]  # asked for here and neither done nor served by a borrowed one

    @property
    def top1(self) -> OverSeeds:
        return over_seeds([c.result["top1"] for c in self.done if c.result])

    @property
    def top5(self) -> OverSeeds:
        return over_seeds([c.result["top5"] for c in self.done if c.result])


@dataclass(frozen=True)
class GroupSizes:
    """One net and clip length with a step of fixed size cut into statistics groups of several sizes."""

    model: str
    frames: int
    tag: str | None
    slots_per_step: int
    sizes: tuple[int, ...]  # descending
    arms: dict[str, dict[int, Arm]]  # norm -> size -> arm


Arms = Mapping[tuple[Column, str], Arm]


def columns_of(cells: Sequence[Cell]) -> tuple[Column, ...]:
    """Nets in the order of the cells, then by tag, clip length and falling batch."""
    models = list(dict.fromkeys(c.model for c in cells))
    found = {Column(c.model, c.frames, c.clips_per_gpu, c.gpus, c.tag) for c in cells}
    return tuple(
        sorted(found, key=lambda c: (models.index(c.model), c.tag or "", c.frames, -c.clips_per_gpu, -c.gpus)),
    )


def norms_of(cells: Sequence[Cell]) -> tuple[str, ...]:
    """The norms there are, the usual ones first."""
    present = {c.norm for c in cells}
    return tuple(n for n in NORM_KINDS if n in present) + tuple(sorted(present - {*NORM_KINDS}))


def arms_of(cells: Sequence[Cell], columns: Sequence[Column], norms: Sequence[str]) -> Arms:
    """Every arm that has a cell."""
    found = {(column, norm): _arm(cells, column, norm) for column in columns for norm in norms}
    return {key: arm for key, arm in found.items() if arm.done or arm.open}


def _arm(cells: Sequence[Cell], column: Column, norm: str) -> Arm:
    of_norm = [
        c for c in cells if (c.model, c.frames, c.tag, c.norm) == (column.model, column.frames, column.tag, norm)
    ]
    own = [c for c in of_norm if (c.clips_per_gpu, c.gpus) == (column.clips_per_gpu, column.gpus)]
    done = {c.seed: c for c in own if c.result}
    borrowed = {}
    for cell in of_norm:
        lends = cell.group_free and cell.result and cell.slots_per_step == column.slots_per_step
        if lends and cell.seed not in done and cell.seed not in borrowed:
            borrowed[cell.seed] = cell
    served = {**done, **borrowed}
    return Arm(
        column=column,
        norm=norm,
        done=tuple(served[s] for s in sorted(served)),
        borrowed=tuple(borrowed[s] for s in sorted(borrowed)),
        open=tuple(c for c in own if c.seed not in served),
    )


def groups_of(columns: Sequence[Column], norms: Sequence[str], arms: Arms) -> list[GroupSizes]:
    """Sweeps of the statistics group at a step of one size."""
    found = []
    for key in dict.fromkeys((c.model, c.frames, c.tag, c.slots_per_step) for c in columns):
        peers = [c for c in columns if (c.model, c.frames, c.tag, c.slots_per_step) == key]
        sizes = tuple(sorted({c.clips_per_gpu for c in peers}, reverse=True))
        if len(sizes) > 1:
            of_norm = {n: {c.clips_per_gpu: arms[c, n] for c in peers if (c, n) in arms} for n in norms}
            found.append(GroupSizes(*key, sizes, {n: a for n, a in of_norm.items() if a}))
    return found
