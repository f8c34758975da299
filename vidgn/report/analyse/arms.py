"""Cells as the paper's table 8 lays them out: columns, and the arms in them."""

from collections.abc import Callable, Mapping, Sequence
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
    """One norm in one column: its finished cells, one a seed and fold, and the others."""

    column: Column
    norm: str
    done: tuple[Cell, ...]
    borrowed: tuple[Cell, ...]  # those of `done` that ran with another division of the same step
    open: tuple[Cell, ...]  # asked for here and neither done nor served by a borrowed one

    @property
    def folds(self) -> tuple[int, ...]:
        """Those that it was asked for, none where its data have none."""
        return tuple(sorted({c.fold for c in (*self.done, *self.open) if c.fold is not None}))

    @property
    def first(self) -> OverSeeds:
        """Top-1, of detectors box AP."""
        return over_seeds(self.values(lambda cell: cell.first))

    @property
    def second(self) -> OverSeeds:
        """Top-5, of detectors mask AP."""
        return over_seeds(self.values(lambda cell: cell.second))

    def values(self, of: Callable[[Cell], float]) -> list[float]:
        """One a seed; with folds their mean by videos, of seeds that have all folds (of what is there, if none has)."""
        seeds: dict[int, list[Cell]] = {}
        for cell in self.done:
            seeds.setdefault(cell.seed, []).append(cell)
        whole = [cells for cells in seeds.values() if len(cells) >= len(self.folds)]
        found = []
        for cells in whole or list(seeds.values()):
            videos = [int(c.result["num_videos"]) for c in cells if c.result]
            told = [of(c) for c in cells if c.result]
            found.append(sum(n * value for n, value in zip(videos, told, strict=True)) / sum(videos))
        return found


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
    done = {run_of(c): c for c in own if c.result}
    borrowed = {}
    for cell in of_norm:
        lends = cell.group_free and cell.result and cell.slots_per_step == column.slots_per_step
        if lends and run_of(cell) not in done and run_of(cell) not in borrowed:
            borrowed[run_of(cell)] = cell
    served = {**done, **borrowed}
    return Arm(
        column=column,
        norm=norm,
        done=tuple(served[s] for s in sorted(served)),
        borrowed=tuple(borrowed[s] for s in sorted(borrowed)),
        open=tuple(c for c in own if run_of(c) not in served),
    )


def run_of(cell: Cell) -> tuple[int, int]:
    """(fold, seed): what tells the runs of an arm apart; a fold of 0 where there are none."""
    return (cell.fold or 0, cell.seed)


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
