"""What an import took, what it dropped and why, what it left as it was."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vidgn.models.weights.formats import Triple


@dataclass(frozen=True)
class Taken:
    """One tensor of the file and where it went. `how`: empty if as it was."""

    source: str
    target: str
    how: str


@dataclass(frozen=True)
class ImportReport:
    """The account of one import: every tensor of the file and every tensor of the model is in it."""

    path: Path
    format: str
    taken: tuple[Taken, ...]
    dropped: tuple[tuple[str, str], ...]  # name in the file, reason
    kept: tuple[tuple[str, str], ...]  # name in the model left at its initial value, reason
    warnings: tuple[str, ...]
    classifier: Literal["taken", "new"]
    input_mean: Triple  # 0-255 RGB: what the network expects to be subtracted
    input_std: Triple  # 0-255 RGB: what the network now expects to be divided by
    metadata: dict[str, str]  # of a vidgn export; empty otherwise

    def lines(self, *, every: bool = False) -> list[str]:
        """The report as text: a line for each kind of fate, or with `every` for each tensor."""
        told = [f"{self.path}: {self.format}"]
        told += [f"  taken {len(names)}: {how} ({_some(names)})" for how, names in _grouped_taken(self.taken)]
        told += [f"  dropped {len(names)}: {reason} ({_some(names)})" for reason, names in _grouped(self.dropped)]
        told += [f"  not in the file {len(names)}: {reason} ({_some(names)})" for reason, names in _grouped(self.kept)]
        told.append(f"  input mean {_numbers(self.input_mean)}, std {_numbers(self.input_std)} (0-255 RGB)")
        told += [f"  note: {warning}" for warning in self.warnings]
        if every:
            told += [f"    {t.source} -> {t.target}{', ' + t.how if t.how else ''}" for t in self.taken]
            told += [f"    {name} dropped: {reason}" for name, reason in self.dropped]
            told += [f"    {name} at its initial value: {reason}" for name, reason in self.kept]
        return told

    def summary(self) -> str:
        """`lines()` as one text; what str() gives."""
        return "\n".join(self.lines())

    def __str__(self) -> str:
        return self.summary()


def _grouped_taken(taken: tuple[Taken, ...]) -> list[tuple[str, list[str]]]:
    return _grouped(tuple((t.source, t.how or "as they are") for t in taken))


def _grouped(pairs: tuple[tuple[str, str], ...]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name, reason in pairs:
        groups[reason].append(name)
    return list(groups.items())


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:2])
    return shown if len(names) <= 2 else f"{shown}, ..."


def _numbers(values: Triple) -> str:
    return "[" + ", ".join(f"{v:g}" for v in values) + "]"
