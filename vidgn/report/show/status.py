"""Where the cells of a study stand, as text: for `vidgn status` and for the report's list of what is not done."""

from collections.abc import Mapping
from typing import Any

from vidgn.report.analyse.analysis import Analysis
from vidgn.report.read.run_state import STATES, duration, metrics_fault
from vidgn.report.read.study import Cell, Study
from vidgn.report.show.markdown import plural


def status_text(study: Study) -> str:
    """A line a cell and a line of totals."""
    width = max(len(c.run_name) for c in study.cells)
    lines = []
    for c in study.cells:
        lines.append(f"{c.run_name.ljust(width)}  {c.state.ljust(7)}  {describe(c)}".rstrip())
        lines += [f"{' ' * width}  {change}" for change in (*c.policy_changes(), *c.layout_changes())]
    totals = ", ".join(f"{study.count(s)} {s}" for s in STATES if study.count(s))
    faults = [*study.passed_over]
    faults += [fault for c in study.cells if (fault := metrics_fault(c.directory / "metrics.jsonl")) is not None]
    return "\n".join([*lines, *faults, f"{plural(len(study.cells), 'cell')}: {totals}"])


def status_json(study: Study) -> dict[str, object]:
    """The same for machines."""
    cells = []
    for c in study.cells:
        p = c.progress
        cells.append(
            {
                "run_name": c.run_name,
                "state": p.state,
                "step": p.step,
                "steps_total": p.steps_total,
                "clips_per_second": p.clips_per_second,
                "seconds_left": p.seconds_left,
                "data_wait_fraction": p.data_wait_fraction,
                c.headlines[0]: c.first if c.result else None,
                "error": p.error,
                "remark": p.remark,
                "num_skipped": c.result.get("num_skipped") if c.result else None,
                "policy_changes": [vars(change) for change in c.policy_changes()],
                "layout_changes": c.layout_changes(),
            }
        )
    return {"study": study.name, "cells": cells, "counts": {s: study.count(s) for s in STATES}}


def describe(cell: Cell) -> str:
    """A cell in words, besides its state."""
    p = cell.progress
    match p.state:
        case "done":
            return result_text(cell.result) if cell.result else "result.json is not whole"
        case "refused":
            return str(p.error)
        case "failed":
            return f"{_step(cell)}: {p.error}" if p.step else str(p.error)
        case "running":
            parts = [_step(cell)]
            if p.clips_per_second is not None:
                parts.append(f"{p.clips_per_second:.1f} clips/s")
            if p.seconds_left is not None:
                parts.append(f"{duration(p.seconds_left)} left")
            if p.data_wait_fraction is not None and p.data_wait_fraction > 0.1:
                parts.append(f"{p.data_wait_fraction:.0%} of the time waiting for data")
            return ", ".join(parts) + (f" ({p.remark})" if p.remark else "")
        case "stopped":
            remark = f" ({p.remark})" if p.remark else ""
            return f"at {_step(cell)}, not running{remark}: start it again to go on"
        case "pending":
            return ""


def result_text(result: Mapping[str, Any]) -> str:
    """The result of a run in a few words, what was left out of its training among them; empty where it has none."""
    skipped = int(result.get("num_skipped") or 0)
    if "box_ap" in result:
        told = f"box AP {result['box_ap']:.1f}, mask AP {result['mask_ap']:.1f}"
    elif "top1" in result:
        told = f"top-1 {result['top1']:.1f} %"
    else:
        return ""
    return told + (f", {plural(skipped, 'step')} skipped as not finite" if skipped else "")


def run_counts(analysis: Analysis) -> str:
    """How many runs there are and what became of them."""
    study = analysis.study
    seeds = sorted({c.seed for c in study.cells})
    counts = [f"{study.count(s)} {'missing' if s == 'pending' else s}" for s in STATES if study.count(s)]
    text = f"{plural(len(study.cells), 'run')}: {', '.join(counts)}. "
    text += f"Seeds: {', '.join(map(str, seeds))}." if len(seeds) > 1 else f"One seed ({seeds[0]})."
    if not study.was_swept:
        text += " No study.json: runs that were never started can't be named."
    return "\n".join([text, *(f"\n**Files disagree.** {fault}." for fault in analysis.faults)])


def open_lines(analysis: Analysis) -> list[str]:
    """Cells without a result, with the reason; those another cell serves are not missed."""
    open_cells = [c for c in analysis.study.cells if not c.result]
    needed = {c.run_name for arm in analysis.arms.values() for c in arm.open}
    lines = []
    for cell in open_cells:
        word = "missing" if cell.state == "pending" else cell.state
        text = describe(cell)
        served = "" if cell.run_name in needed else "; not needed, another division of the same step serves it"
        lines.append(f"{cell.run_name}: {word}" + (f", {text}" if text else "") + served)
    return lines


def open_section(analysis: Analysis) -> str:
    """`open_lines` as markdown."""
    lines = [f"- {line}" for line in open_lines(analysis)]
    return "## Not done\n\n" + "\n".join(lines) if lines else ""


def left_out_lines(analysis: Analysis) -> list[str]:
    """Videos that could not be read, in the test or in training, those that were not there, and steps not taken."""
    lines = []
    for cell in analysis.study.cells:
        if cell.result:
            unreadable, missing = (int(cell.result.get(f"num_{k}") or 0) for k in ("unreadable", "missing"))
            if unreadable:
                share = 100 * unreadable / int(cell.result["num_videos"])
                lines.append(f"{cell.run_name}: {unreadable} unreadable, counted as wrong ({share:.2g} % of the test)")
            if missing:
                lines.append(f"{cell.run_name}: {missing} listed but not there, left out")
            if replaced := int(cell.result.get("num_substituted") or 0):
                lines.append(f"{cell.run_name}: {plural(replaced, 'training clip')} unreadable and replaced by others")
            if skipped := int(cell.result.get("num_skipped") or 0):
                lines.append(f"{cell.run_name}: {plural(skipped, 'step')} skipped, loss or gradient not finite")
        lines += [f"{cell.run_name}: {change}" for change in cell.policy_changes()]
    return lines


def unreadable_section(analysis: Analysis) -> str:
    """`left_out_lines` as markdown."""
    lines = [f"- {line}" for line in left_out_lines(analysis)]
    return "## Left out, unreadable, skipped or changed on the way\n\n" + "\n".join(lines) if lines else ""


def _step(cell: Cell) -> str:
    p = cell.progress
    return f"step {p.step} of {p.steps_total}" if p.steps_total else f"step {p.step}"
