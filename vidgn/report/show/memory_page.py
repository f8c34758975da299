"""The picture of memory.csv."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from vidgn.report.read.memory_rows import MemoryRow, Peaks, binary_unit, paper_geometries, paper_peaks, peaks_of
from vidgn.report.read.published import KINETICS_NOT_RUN
from vidgn.report.show.plots import COLOURS, DASHES, MARKERS


def memory(rows: Sequence[MemoryRow]) -> Figure:
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
        style = {"color": _of(COLOURS, i), "marker": _of(MARKERS, i), "linestyle": DASHES[i % len(DASHES)]}
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
