"""memory.csv as a page: its table, the paper's columns, and a picture."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from vidgn.atomic_files import write_atomic, write_text
from vidgn.report.read.memory_rows import (
    PAPER_MODEL,
    MemoryRow,
    Peaks,
    binary_unit,
    memory_csv,
    memory_row_of,
    paper_geometries,
    paper_peaks,
    peaks_of,
)
from vidgn.report.read.published import KINETICS_NOT_RUN
from vidgn.report.show.markdown import table
from vidgn.report.show.plots import COLOURS, DASHES, MARKERS, png


def write_memory(directory: Path | str, rows: Iterable[MemoryRow | Mapping[str, Any]]) -> tuple[Path, Path, Path]:
    """Write memory.csv, memory.md and memory.png of `rows`, in their order, and return the paths.

    Rows may be mappings with the columns of MemoryRow; what was not measured is None or empty.
    """
    directory = Path(directory)
    ready = tuple(r if isinstance(r, MemoryRow) else memory_row_of(r) for r in rows)
    paths = directory / "memory.csv", directory / "memory.md", directory / "memory.png"
    write_text(paths[0], memory_csv(ready), alone=False)
    write_text(paths[1], memory_markdown(ready), alone=False)
    write_atomic(paths[2], lambda f: f.write(png(memory_figure(ready))), alone=False)
    return paths


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


def memory_figure(rows: Sequence[MemoryRow]) -> Figure:
    """Left: activations a clip keeps, by clip length. Right: peaks of the paper's columns, or of all rows."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    labels = list(dict.fromkeys(_label(rows, r) for r in rows))
    _per_clip(left, rows, labels)
    peaks = paper_peaks(rows)
    title = "the paper's columns" if peaks else "peak"
    peaks = peaks or peaks_of(rows)
    geometries = paper_geometries() if title != "peak" else sorted({g for _, row in peaks for g in row})
    _peaks(right, peaks, geometries, [labels.index(_label(rows, r)) for r, _ in peaks])
    right.set_title(title)
    handles, names = left.get_legend_handles_labels()
    measured, word = right.get_legend_handles_labels()
    figure.legend([*handles, *measured[:1]], [*names, *word[:1]], loc="outside lower center", ncols=4, frameon=False)
    return figure


def _per_clip(ax: Axes, rows: Sequence[MemoryRow], labels: Sequence[str]) -> None:
    unit, num_bytes = binary_unit(r.saved_bytes_per_clip for r in rows)
    for i, label in enumerate(labels):
        points = {r.frames: r.saved_bytes_per_clip / num_bytes for r in rows if _label(rows, r) == label}
        style: dict[str, Any] = {
            "color": _of(COLOURS, i),
            "marker": _of(MARKERS, i),
            "linestyle": DASHES[i % len(DASHES)],
        }
        ax.plot(sorted(points), [points[f] for f in sorted(points)], label=label, **style)
    ax.xaxis.set_major_locator(FixedLocator(sorted({r.frames for r in rows})))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("frames of a clip")
    ax.set_ylabel(f"activations kept per clip ({unit})")
    ax.set_title("one clip")
    ax.grid(alpha=0.25)


def _peaks(ax: Axes, peaks: Peaks, geometries: Sequence[tuple[int, int]], colours: Sequence[int]) -> None:
    unit, num_bytes = binary_unit(p.predicted for _, of_row in peaks for p in of_row.values())
    width = 0.8 / len(peaks)
    for i, (_, of_row) in enumerate(peaks):
        for x, geometry in enumerate(geometries):
            if geometry not in of_row:
                continue
            predicted, at = of_row[geometry].predicted / num_bytes, x + (i - (len(peaks) - 1) / 2) * width
            bar = ax.bar(at, predicted, width * 0.92, color=_of(COLOURS, colours[i]))
            if geometry == KINETICS_NOT_RUN:
                bar[0].set(hatch="///", edgecolor="white")
            top = predicted
            if (measured := of_row[geometry].measured) is not None:
                top = max(top, measured / num_bytes)
                ax.plot(at, measured / num_bytes, "_", color="black", markersize=14, mew=2, label="measured")
            if len(peaks) * len(geometries) <= 12:
                text = f"{predicted:.1f}" if unit == "GiB" else f"{predicted:.0f}"
                ax.annotate(text, (at, top), (0, 4), textcoords="offset points", ha="center", size=8)
    names = [f"{f}f × {c}" + ("\nnot run there" if (f, c) == KINETICS_NOT_RUN else "") for f, c in geometries]
    ax.set_xticks(range(len(geometries)), names)
    ax.set_xlabel("frames × clips on one GPU")
    ax.set_ylabel(f"peak, predicted ({unit})")
    ax.margins(y=0.12)
    ax.grid(axis="y", alpha=0.25)
    ax.set_axisbelow(True)


def _label(rows: Sequence[MemoryRow], row: MemoryRow) -> str:
    """The norm, and of net, precision and mode what is not the same in all rows."""
    names = ("model", "precision", "activation_memory")
    return ", ".join([row.norm, *(getattr(row, n) for n in names if len({getattr(r, n) for r in rows}) > 1)])


def _of(values: Sequence[str], i: int) -> str:
    return values[i % len(values)]


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
