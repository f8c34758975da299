"""Pictures of a study. Figures are built without pyplot: no global state, no display, safe in any thread.

Colours are Okabe & Ito's, which colour-blind readers can tell apart; dashes and markers say the same again.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vidgn.report.analyse.analysis import Analysis
from vidgn.report.analyse.arms import Column
from vidgn.report.analyse.gap import Comparison
from vidgn.report.analyse.statistics import LEVEL, POWER
from vidgn.report.read.published import SOURCE
from vidgn.report.read.study import Cell
from vidgn.report.show.markdown import column_name, plural

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (2, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DROP: Any = (0, (1, 2))
_DPI = 150
GREY = "#666666"


def png(figure: Figure) -> bytes:
    """The picture as a png file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def pdf(figure: Figure) -> bytes:
    """The picture as a PDF file's bytes; the same each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """The picture as an svg element for a page; the same each time."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "vidgn", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def curves(analysis: Analysis) -> Figure | None:
    """Validation error by epoch: a panel a norm (rows: nets), a line a batch, dashes by length; None without points.

    Several seeds: their mean, and a band from the lowest to the highest. Source of the form: Wu & He 2018, fig. 7.
    """
    lines = _curve_lines(analysis.study.cells)
    if not lines:
        return None
    models = list(dict.fromkeys(model for model, *_ in lines))
    norms = [n for n in analysis.norms if any(norm == n for _, norm, *_ in lines)]
    batches = sorted({(clips, gpus) for _, _, _, clips, gpus, _ in lines}, reverse=True)
    lengths = sorted({frames for _, _, frames, *_ in lines})
    tags = list(dict.fromkeys(tag for *_, tag in lines))
    colours = {b: COLOURS[i % len(COLOURS)] for i, b in enumerate(batches)}
    dashes = {f: DASHES[i % len(DASHES)] for i, f in enumerate(lengths)}
    widths = dict(zip(batches, np.linspace(2.4, 1.3, len(batches)), strict=True))  # equal lines show as one in another
    markers = {t: None if i == 0 else _of(MARKERS, i) for i, t in enumerate(tags)}
    figure, axes = _panels(len(models), len(norms))
    for (model, norm, frames, clips, gpus, tag), seeds in lines.items():
        ax = axes[models.index(model), norms.index(norm)]
        style = {"color": colours[clips, gpus], "linestyle": dashes[frames], "linewidth": widths[clips, gpus]}
        epochs, errors_SE = _on_common_epochs(seeds)
        marker = markers[tag] or ("o" if len(epochs) == 1 else None)
        ax.plot(epochs, errors_SE.mean(axis=0), marker=marker, markersize=4, **style)
        if len(errors_SE) > 1:
            low, high = errors_SE.min(axis=0), errors_SE.max(axis=0)
            ax.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    drops = {m: {d for c in analysis.study.cells if c.model == m for d in c.rate_drops()} for m in models}
    last = max(point.epoch for cell in analysis.study.cells for point in cell.curve())
    for (row, column), ax in np.ndenumerate(axes):
        shown = sorted(d for d in drops[models[row]] if d <= last)
        if shown:
            ax.vlines(shown, 0, 1, transform=ax.get_xaxis_transform(), color=GREY, linewidth=0.8, linestyle=_DROP)
        ax.set_title(norms[column] if len(models) == 1 else f"{norms[column]}, {models[row]}")
        ax.set_xlabel("epoch")
        ax.grid(alpha=0.25)
        ax.label_outer()
    figure.supylabel(f"validation error, 1 {analysis.unit[:-1]} (%)")
    bottom, top = axes.flat[0].get_ylim()  # shared by all panels
    axes.flat[0].set_ylim(max(0.0, bottom), min(100.0, top))
    axes.flat[0].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    unit = analysis.unit
    several_gpus = len({gpus for _, gpus in batches}) > 1
    handles = [
        Line2D(
            [],
            [],
            color=colours[c, g],
            linewidth=widths[c, g],
            label=f"{c} {unit}/GPU" + (f" × {g}" if several_gpus else ""),
        )
        for c, g in batches
    ]
    if len(lengths) > 1:
        handles += [Line2D([], [], color=GREY, linestyle=dashes[f], label=f"{f} frames") for f in lengths]
    if len(tags) > 1:
        handles += [Line2D([], [], color=GREY, marker=markers[t], label=t or "no tag") for t in tags]
    if any(d <= last for found in drops.values() for d in found):
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=_DROP, label="rate lowered"))
    figure.legend(handles=handles, loc="outside right center", frameon=False, handlelength=3)
    return figure


def gaps(analysis: Analysis) -> Figure | None:
    """Every gap by column with its interval over videos; seeds as dots, published gaps hollow. None without gaps."""
    found = [g for g in analysis.gaps if g.is_gap]
    if not found:
        return None
    columns = [c for c in analysis.columns if any(g.arm.column == c for g in found)]
    norms = list(dict.fromkeys(g.arm.norm for g in found))
    figure = Figure(figsize=(min(14.0, max(5.2, 2.6 + 1.35 * len(columns))), 4.2), layout="constrained")
    ax = figure.add_subplot()
    ax.axhline(0, color=GREY, linewidth=1)
    offsets = np.linspace(-0.5, 0.5, len(norms) + 2)[1:-1] * 0.6
    for norm, offset, colour, marker in zip(
        norms, offsets, cycled(COLOURS, len(norms)), cycled(MARKERS, len(norms)), strict=True
    ):
        for gap in (g for g in found if g.arm.norm == norm):
            _draw_gap(ax, analysis, gap, columns.index(gap.arm.column) + offset, colour, marker)
        ax.plot([], [], color=colour, marker=marker, linestyle="", label=norm)
    if any(len(g.seeds) > 1 for g in found):
        ax.plot([], [], color=GREY, marker=".", linestyle="", alpha=0.6, label="one seed")
    if any(_published_gap(analysis, g) is not None for g in found):
        ax.plot([], [], color=GREY, marker="o", fillstyle="none", linestyle="", label=SOURCE)
    unit = analysis.unit
    several = len({c.model for c in columns}) > 1
    names = [column_name(c, unit=unit, short=True) for c in columns]
    names = [f"{n}\n{c.model}" for n, c in zip(names, columns, strict=True)] if several else names
    ax.set_xticks(
        range(len(columns)),
        names,
        rotation=0 if len(columns) <= 8 else 30,
        ha="center" if len(columns) <= 8 else "right",
    )
    ax.set_xlim(-0.6, len(columns) - 0.4)
    ax.set_xlabel(("images" if analysis.unit == "images" else "frames, clips") + "/GPU × GPUs")
    ax.set_ylabel(f"gap to {analysis.baseline}, {analysis.measure.name} (points)")
    level, tested = f"{100 * LEVEL:.0f} %", analysis.unit_tested
    ax.plot([], [], color=GREY, linewidth=4, alpha=0.45, label=f"{level}, these networks\n(choice of {tested})")
    if any(g.interval is not None for g in found):
        ax.plot([], [], color=GREY, linewidth=1, marker="_", label=f"{level}, {tested} and seeds")
        ax.fill_between(
            [],
            [],
            [],
            color=GREY,
            alpha=0.15,
            linewidth=0,
            label=f"seen in less than\n{100 * POWER:.0f} % of such studies",
        )
    ax.grid(axis="y", alpha=0.25)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def batches(analysis: Analysis) -> Figure | None:
    """Error by clips per GPU, the published line dotted; None below three batch sizes.

    A panel a net and clip length with GPUs fixed (the step falls too; Wu & He 2018, fig. 1), and one a step of fixed
    size (the statistics group alone).
    """
    panels = _batch_panels(analysis)
    if not panels:
        return None
    figure, axes = _panels(1, len(panels))
    sizes = sorted({c.clips_per_gpu for columns in panels.values() for c in columns})  # panels share their ticks
    for ax, (title, columns) in zip(axes.flat, panels.items(), strict=True):
        for i, norm in enumerate(analysis.norms):
            ours = {c.clips_per_gpu: a for c in columns if (a := analysis.arms.get((c, norm))) and a.done}
            published = {c.clips_per_gpu: p for c in columns if (p := analysis.published_for(c, norm))}
            style = {"color": _of(COLOURS, i), "marker": _of(MARKERS, i)}
            spread = [a.first.deviation or 0.0 for a in ours.values()]
            bars = spread if any(spread) else None  # none where all have one seed
            ax.errorbar(list(ours), [100 - a.first.mean for a in ours.values()], bars, label=norm, capsize=2, **style)
            if published:
                errors = [100 - p.top1 for p in published.values()]
                ax.plot(list(published), errors, linestyle=":", fillstyle="none", label=f"{norm}, {SOURCE}", **style)
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, map(str, sizes))
        ax.set_xlabel(f"{analysis.unit} per GPU")
        ax.set_title(title, fontsize="medium")
        ax.grid(alpha=0.25)
    axes.flat[0].invert_xaxis()  # shared by all panels: large to small, as in the paper
    figure.supylabel("validation error (%)")
    labelled = {name: h for ax in axes.flat for h, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled.keys(), loc="outside right center", frameon=False)
    return figure


def _batch_panels(analysis: Analysis) -> dict[str, list[Column]]:
    """Title -> columns, large batches first, of every series of three batch sizes or more with a result in it."""
    series: dict[str, list[Column]] = {}
    for c in analysis.columns:
        clip = "" if analysis.unit == "images" else f", {c.frames} frames"
        name = c.model + clip + (f" [{c.tag}]" if c.tag else "")
        series.setdefault(f"{name}\n{plural(c.gpus, 'GPU')}", []).append(c)
        series.setdefault(f"{name}\nstep of {c.slots_per_step} {analysis.unit}", []).append(c)
    measured = {c for (c, _), arm in analysis.arms.items() if arm.done}
    return {title: columns for title, columns in series.items() if len(columns) > 2 and measured.intersection(columns)}


def _curve_lines(
    cells: Sequence[Cell],
) -> dict[tuple[str, str, int, int, int, str | None], list[tuple[np.ndarray, np.ndarray]]]:
    """(model, norm, frames, clips, gpus, tag) -> (epochs, errors) of each seed."""
    lines: dict[tuple[str, str, int, int, int, str | None], list[tuple[np.ndarray, np.ndarray]]] = {}
    for cell in cells:
        points = cell.curve()
        if points:
            key = (cell.model, cell.norm, cell.frames, cell.clips_per_gpu, cell.gpus, cell.tag)
            pair = np.array([p.epoch for p in points]), np.array([p.top1_error_percent for p in points])
            lines.setdefault(key, []).append(pair)
    return lines


def _on_common_epochs(seeds: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Epochs every seed has reached, and (S, E) errors there."""
    common = seeds[0][0]
    for epochs, _ in seeds[1:]:
        common = np.intersect1d(common, epochs)
    if not len(common):  # seeds evaluated at unlike moments: the longest alone
        longest = max(seeds, key=lambda s: len(s[0]))
        return longest[0], longest[1][None]
    return common, np.stack([errors[np.searchsorted(epochs, common)] for epochs, errors in seeds])


def _panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(min(16.0, 2.0 + 3.0 * columns), 0.8 + 3.0 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)


def cycled(values: Sequence[str], count: int) -> list[str]:
    """`count` values, from the start again where there are too few."""
    return [_of(values, i) for i in range(count)]


def _of(values: Sequence[str], i: int) -> str:
    return values[i % len(values)]


def _draw_gap(ax: Axes, analysis: Analysis, gap: Comparison, x: float, colour: str, marker: str) -> None:
    assert gap.points is not None
    sign = analysis.measure.sign
    if gap.interval is not None:
        seen = gap.interval.detectable
        ax.fill_between([x - 0.14, x + 0.14], -seen, seen, color=GREY, alpha=0.15, linewidth=0)
        ends = [sign * gap.interval.low, sign * gap.interval.high]
        ax.plot([x, x], ends, color=colour, linewidth=1, marker="_", markersize=8)
    if gap.videos is not None:
        ends = [sign * gap.videos.low, sign * gap.videos.high]
        ax.plot([x, x], ends, color=colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
    ax.plot([x], [sign * gap.points.mean], color=colour, marker=marker, markersize=7, linestyle="")
    if len(gap.by_seed) > 1:
        each = [sign * points for points in gap.by_seed]
        ax.plot([x + 0.07] * len(each), each, color=colour, marker=".", linestyle="", alpha=0.6)
    if (published := _published_gap(analysis, gap)) is not None:
        ax.plot([x - 0.07], [sign * published], color=colour, marker=marker, fillstyle="none", linestyle="")


def _published_gap(analysis: Analysis, gap: Comparison) -> float | None:
    ours, theirs = (analysis.published_for(gap.arm.column, a.norm) for a in (gap.arm, gap.baseline))
    return None if ours is None or theirs is None else ours.top1 - theirs.top1
