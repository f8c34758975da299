"""What a clip costs in memory: memory.csv as a table and a picture, with the paper's columns marked."""

import csv
import dataclasses
import io
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidgn.atomic_files import write_atomic, write_text
from vidgn.errors import ManifestError
from vidgn.report.read.published import KINETICS, KINETICS_NOT_RUN
from vidgn.report.show.markdown import table

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
            return tuple(_row(values) for values in csv.DictReader(file))
        except (KeyError, TypeError, ValueError) as error:
            columns = ",".join(f.name for f in dataclasses.fields(MemoryRow))
            raise ManifestError(f"{path} is no memory table: needs the columns {columns} ({error})") from None


def write_memory(directory: Path | str, rows: Iterable[MemoryRow | Mapping[str, Any]]) -> tuple[Path, Path, Path]:
    """Write memory.csv, memory.md and memory.png of `rows`, in their order, and return the paths.

    Rows may be mappings with the columns of MemoryRow; what was not measured is None or empty.
    """
    directory = Path(directory)
    ready = tuple(r if isinstance(r, MemoryRow) else _row(r) for r in rows)
    from vidgn.report.show import memory_page, plots

    paths = directory / "memory.csv", directory / "memory.md", directory / "memory.png"
    write_text(paths[0], memory_csv(ready), alone=False)
    write_text(paths[1], memory_markdown(ready), alone=False)
    write_atomic(paths[2], lambda f: f.write(plots.png(memory_page.memory(ready))), alone=False)
    return paths


def memory_csv(rows: Sequence[MemoryRow]) -> str:
    """The rows as csv with a header; None is an empty field."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(f.name for f in dataclasses.fields(MemoryRow))
    for row in rows:
        writer.writerow("" if v is None else v for v in dataclasses.astuple(row))
    return buffer.getvalue()


def memory_markdown(rows: Sequence[MemoryRow]) -> str:
    """Bytes per clip and the peak by clip length; the paper's columns are marked, what it could not run is told."""
    parts = [
        "# Memory by clip length",
        memory_table(rows),
        "Peak is predicted: parameters, gradients, optimizer state and all-reduce buckets (fixed), activations kept "
        "for backward and what is alive beside them. Measured is the allocator's peak on a GPU.",
    ]
    odd = [r for r in rows if r.status not in ("", "ok")]
    if odd:
        parts.append("\n".join(f"- {r.norm}, {r.frames} frames × {r.clips_per_forward}: {r.status}" for r in odd))
    return "\n\n".join([*parts, *_paper_section(rows)]) + "\n"


def memory_table(rows: Sequence[MemoryRow]) -> str:
    """Every row, in one binary unit a column."""
    clip_unit, clip_bytes = binary_unit(r.saved_bytes_per_clip for r in rows)
    unit, num_bytes = binary_unit(r.peak_bytes for r in rows)
    header = ["net, norm", "frames", "clips", "precision", "kept", f"{clip_unit}/clip"]
    header += [f"fixed {unit}", f"peak {unit}", f"measured {unit}"]
    body = []
    for r in rows:
        geometry = (r.frames, r.clips_per_forward)
        is_paper = r.model == PAPER_MODEL and geometry in paper_geometries() and geometry != KINETICS_NOT_RUN
        sizes = [r.fixed_bytes, r.peak_bytes, r.measured_peak_bytes]
        row = [f"{r.model}, {r.norm}", str(r.frames), f"{r.clips_per_forward}{' (paper)' if is_paper else ''}"]
        row += [r.precision, r.activation_memory, _shown(r.saved_bytes_per_clip, clip_bytes)]
        body.append(row + ["" if s is None else _shown(s, num_bytes) for s in sizes])
    return table(header, body)


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


def _paper_section(rows: Sequence[MemoryRow]) -> list[str]:
    peaks = paper_peaks(rows)
    if not peaks:
        return []
    unit, num_bytes = binary_unit(p.predicted for _, of_kind in peaks for p in of_kind.values())
    geometries = paper_geometries()
    header = ["norm, precision, kept", *(f"{f} frames × {c}{_mark((f, c))}" for f, c in geometries)]
    body = []
    for r, of_kind in peaks:
        shown = [_shown(of_kind[g].predicted, num_bytes) if g in of_kind else "" for g in geometries]
        body.append([f"{r.norm}, {r.precision}, {r.activation_memory}", *shown])
    frames, clips = KINETICS_NOT_RUN
    return [
        f"## The paper's columns: {PAPER_MODEL}, predicted peak on one GPU ({unit})",
        table(header, body),
        f"\\* {frames} frames at {clips} clips/GPU was not run in the paper: it did not fit in memory. A geometry that "
        "was not asked for is scaled from the row of the same length.",
    ]


def _mark(geometry: tuple[int, int]) -> str:
    return "\\*" if geometry == KINETICS_NOT_RUN else ""


def _shown(size: int, num_bytes: int) -> str:
    return f"{size / num_bytes:.2f}" if num_bytes == 1 << 30 else f"{size / num_bytes:.1f}"


def _row(values: Mapping[str, Any]) -> MemoryRow:
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
