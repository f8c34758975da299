"""Small pieces of text: aligned markdown tables and numbers as people read them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which import scipy, and every run imports this
    from vidgn.report.analyse.arms import Column
    from vidgn.report.analyse.statistics import OverSeeds

MINUS = "−"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table whose source is aligned too: the first column to the left, the others to the right."""
    texts = [list(header), *map(list, rows)]
    widths = [max(3, *(len(row[i]) for row in texts)) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    lines = [_line(texts[0], widths), "| " + " | ".join(rule) + " |", *(_line(row, widths) for row in texts[1:])]
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
    return "| " + " | ".join(padded) + " |"


def signed(value: float, digits: int = 1) -> str:
    """`+1.2`, `−0.3`, `0.0` (no sign on what rounds to nothing)."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def interval(low: float, high: float, digits: int = 1) -> str:
    """`[−0.4, +2.8]`."""
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def percent(value: "OverSeeds") -> str:
    """`73.3`, with several seeds `73.3 ± 0.2`."""
    return f"{value.mean:.1f}" + ("" if value.deviation is None else f" ± {value.deviation:.1f}")


def probability(p: float) -> str:
    """`0.25`, `0.031`."""
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"


def column_name(column: "Column", *, unit: str = "clips", with_model: bool = False, short: bool = False) -> str:
    """`32 frames, 8 clips/GPU x 8`; short: `32f 8x8`; the tag last, where there is one."""
    size = f"{column.clips_per_gpu}×{column.gpus}"
    if short:
        text = size if unit == "images" else f"{column.frames}f {size}"
    else:
        text = f"{column.clips_per_gpu} {unit}/GPU × {column.gpus}"
        text = text if unit == "images" else f"{column.frames} frames, {text}"
    return (f"{column.model} " if with_model else "") + text + (f" [{column.tag}]" if column.tag else "")


def plural(count: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
