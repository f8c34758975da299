"""What a clip costs in memory: the rows of memory.csv, and the peaks of the paper's columns."""

import csv
import dataclasses
import io
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidgn.errors import ManifestError
from vidgn.report.read.published import KINETICS, KINETICS_NOT_RUN

PAPER_MODEL = KINETICS[0].model


@dataclass(frozen=True)
class MemoryRow:
    """One forward and backward of `clips_per_forward` clips on one device: predicted bytes, measured where it ran."""

    model: str
    norm: str
    frames: int
    clips_per_forward: int
    precision: str
    activation_memory: str
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    saved_bytes: int  # activations kept for backward
    saved_bytes_per_clip: int
    temporary_bytes: int
    ddp_bytes: int
    training_bytes: int  # the peak of training
    test_bytes: int  # the peak of the run's own tests, whose clips are their own
    peak_bytes: int  # the larger of the two, predicted
    measured_peak_bytes: int | None
    measured_reserved_bytes: int | None
    status: str

    @property
    def fixed_bytes(self) -> int:
        """What doesn't grow with clips."""
        return self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes + self.ddp_bytes

    @property
    def kind(self) -> tuple[str, str, str, str]:
        """What makes rows of different geometry comparable."""
        return self.model, self.norm, self.precision, self.activation_memory

    def peak_at(self, clips: int) -> int:
        """Predicted peak with forwards of `clips`: of training all but the fixed bytes grows with them."""
        growing = (self.training_bytes - self.fixed_bytes) * clips // self.clips_per_forward
        return max(self.test_bytes, self.fixed_bytes + growing)

    def clips_in(self, num_bytes: int) -> int:
        """The most clips of a forward whose predicted peak is within `num_bytes`; 0: not one, or not the test."""
        if max(self.test_bytes, self.fixed_bytes) > num_bytes:
            return 0
        return (num_bytes - self.fixed_bytes) * self.clips_per_forward // (self.training_bytes - self.fixed_bytes)


@dataclass(frozen=True)
class Peak:
    """Bytes; `measured` where that geometry ran."""

    predicted: int
    measured: int | None


Peaks = list[tuple[MemoryRow, dict[tuple[int, int], Peak]]]  # a row of each kind -> (frames, clips) -> peak


def read_memory(directory: Path | str) -> tuple[MemoryRow, ...]:
    """The rows of `directory`/memory.csv, or of the file itself.

    Raises:
        ManifestError: if it is not there or lacks a column.
    """
    path = Path(directory)
    path = path / "memory.csv" if path.is_dir() else path
    if not path.is_file():
        raise ManifestError(f"no memory table: looked for {path} (vidgn memory writes it)")
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return tuple(memory_row_of(values) for values in csv.DictReader(file))
        except (KeyError, TypeError, ValueError) as error:
            columns = ",".join(f.name for f in dataclasses.fields(MemoryRow))
            raise ManifestError(f"{path} is no memory table: needs the columns {columns} ({error})") from None


def memory_csv(rows: Sequence[MemoryRow]) -> str:
    """The rows as csv with a header; None is an empty field."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(f.name for f in dataclasses.fields(MemoryRow))
    for row in rows:
        writer.writerow("" if v is None else v for v in dataclasses.astuple(row))
    return buffer.getvalue()


def paper_geometries() -> list[tuple[int, int]]:
    """(frames, clips on one GPU) of table 8's columns, then the one that was not run."""
    return [*dict.fromkeys((p.frames, p.clips_per_gpu) for p in KINETICS), KINETICS_NOT_RUN]


def peaks_of(rows: Sequence[MemoryRow]) -> Peaks:
    """Peaks of every row, by kind."""
    found: dict[tuple[str, ...], tuple[MemoryRow, dict[tuple[int, int], Peak]]] = {}
    for r in rows:
        _, peaks = found.setdefault(r.kind, (r, {}))
        peaks[r.frames, r.clips_per_forward] = Peak(r.peak_bytes, r.measured_peak_bytes)
    return list(found.values())


def paper_peaks(rows: Sequence[MemoryRow]) -> Peaks:
    """Peaks of the paper's net in the paper's geometries, by kind; empty without that net or its clip lengths.

    A geometry without a row of its own is scaled from the row of the same length with the most clips.
    """
    found: Peaks = []
    for first, own in peaks_of([r for r in rows if r.model == PAPER_MODEL]):
        peaks = {}
        for frames, clips in paper_geometries():
            of_length = [r for r in rows if r.kind == first.kind and r.frames == frames]
            if (frames, clips) in own:
                peaks[frames, clips] = own[frames, clips]
            elif of_length:
                largest = max(of_length, key=lambda r: r.clips_per_forward)
                peaks[frames, clips] = Peak(largest.peak_at(clips), None)
        if peaks:
            found.append((first, peaks))
    return found


def binary_unit(sizes: Iterable[int]) -> tuple[str, int]:
    """The unit the largest of `sizes` (bytes) is read in, and its bytes: MiB or GiB."""
    return ("GiB", 1 << 30) if max(sizes, default=0) >= 1 << 30 else ("MiB", 1 << 20)


def memory_row_of(values: Mapping[str, Any]) -> MemoryRow:
    hints = typing.get_type_hints(MemoryRow)
    fields: dict[str, Any] = {name: _field(hint, values[name]) for name, hint in hints.items()}
    return MemoryRow(**fields)


def _field(hint: object, value: object) -> object:
    if hint is str:
        return "" if value is None else str(value)
    if value in (None, ""):
        if hint is int:
            raise ValueError("an empty field where a number is needed")
        return None
    return round(float(str(value)))
