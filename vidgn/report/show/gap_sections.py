"""What arms differ by, as markdown: gaps to the baseline, and what a smaller batch changes."""

from vidgn.report.analyse.analysis import Analysis
from vidgn.report.analyse.gap import Comparison
from vidgn.report.analyse.statistics import LEVEL, POWER
from vidgn.report.show.markdown import MINUS, column_name, interval, plural, probability, signed
from vidgn.report.show.tables import Table


def gap_table(analysis: Analysis) -> Table | None:
    """Every arm against the baseline, a row a column."""
    gaps = [g for g in analysis.gaps if g.is_gap]
    title = f"Gap to {analysis.baseline}: {analysis.measure.name}, points"
    return Table.of("gaps", title, _gap_header(), [_gap_row(analysis, g) for g in gaps]) if gaps else None


def verdicts(analysis: Analysis) -> list[str]:
    """A sentence for each gap: what was measured, whichever way it falls."""
    return [_verdict(analysis, g) for g in analysis.gaps if g.is_gap]


def refusals(analysis: Analysis) -> list[tuple[str, str, str]]:
    """(where, `no gap` or what was left out, why) of everything that differs in more than the norm."""
    found = []
    for g in analysis.gaps:
        if g.refused:
            where = column_name(g.arm.column, unit=analysis.unit, with_model=True)
            verdict = "no gap" if not g.is_gap else "seeds left out of the gap"
            found.append((f"{where}, {g.arm.norm} and {g.baseline.norm}", verdict, "; ".join(g.refused)))
    return found


def remarks(analysis: Analysis) -> list[str]:
    """What is to be read with the gaps, and with which."""
    found: dict[str, list[str]] = {}
    for g in analysis.gaps:
        for remark in g.remarks if g.is_gap else ():
            found.setdefault(remark, []).append(column_name(g.arm.column, unit=analysis.unit, short=True))
    return [f"{remark} ({', '.join(columns)})" for remark, columns in found.items()]


def gap_section(analysis: Analysis) -> str:
    """The gaps, what the numbers cover and what was refused, as markdown."""
    if not analysis.gaps:
        return ""
    parts = []
    if found := gap_table(analysis):
        lines = [f"- {line}" for line in (*verdicts(analysis), *coverage(analysis))]
        parts += [f"## {found.title}", found.markdown(), "\n".join(lines)]
    else:
        parts.append(f"## Gap to {analysis.baseline}")
    refused = [
        f"- {where}: **{verdict}**. More than the norm differs: {why}." for where, verdict, why in refusals(analysis)
    ]
    parts += ["\n".join(refused)] if refused else []
    told = [f"- {remark}." for remark in remarks(analysis)]
    parts += ["To be read with it:\n\n" + "\n".join(told)] if told else []
    return "\n\n".join(parts)


CHANGE_NOTE = "Step and statistics group fall together here, as in the paper; the learning rate follows the step."


def change_table(analysis: Analysis) -> Table | None:
    """What a smaller batch costs each arm."""
    with_model = len(analysis.models) > 1
    rows = []
    for c in analysis.changes:
        if c.is_gap:
            at = column_name(c.arm.column, unit=analysis.unit)
            net = [c.arm.column.model] if with_model else []
            points, these, deviation = _difference(analysis, c)
            against = f"{c.baseline.column.clips_per_gpu}/GPU"
            rows.append([c.arm.norm, *net, at, against, points, _interval(analysis, c), these, deviation])
    net = ["net"] if with_model else []
    header = ["norm", *net, "at", "against", "change", "95 % interval", "these networks", "over seeds"]
    title = f"What the smaller batch changes: {analysis.measure.name}, points"
    return Table.of("changes", title, header, rows) if rows else None


def change_section(analysis: Analysis) -> str:
    """`change_table` and what was not compared, as markdown."""
    found, lines = change_table(analysis), []
    for c in analysis.changes:
        if c.refused:
            at = column_name(c.arm.column, unit=analysis.unit, with_model=True)
            verdict = "seeds left out" if c.is_gap else "not compared"
            against = f"{c.baseline.column.clips_per_gpu}/GPU"
            lines.append(
                f"- {c.arm.norm}, {at} against {against}: **{verdict}**. More than the batch differs: "
                f"{'; '.join(c.refused)}."
            )
    if found is None and not lines:
        return ""
    table = [f"## {found.title}", CHANGE_NOTE, found.markdown()] if found else ["## What the smaller batch changes"]
    return "\n\n".join([*table, *(["\n".join(lines)] if lines else [])])


def _gap_header() -> list[str]:
    return [
        "gap",
        "points",
        "95 % interval",
        "these networks",
        "p",
        "over seeds",
        "decided otherwise",
        "could have seen",
    ]


def _gap_row(analysis: Analysis, gap: Comparison) -> list[str]:
    where = column_name(gap.arm.column, unit=analysis.unit, with_model=len(analysis.models) > 1)
    points, these, deviation = _difference(analysis, gap)
    row = [f"{gap.arm.norm} {MINUS} {gap.baseline.norm}, {where}", points, _interval(analysis, gap), these]
    row += ["" if gap.p_adjusted is None else probability(gap.p_adjusted), deviation]
    row.append("?" if gap.videos is None else f"{100 * gap.videos.discordant:.1f} %")
    seen = gap.interval.detectable if gap.interval else gap.videos.detectable if gap.videos else None
    return [*row, _detectable(seen)]


def _interval(analysis: Analysis, gap: Comparison) -> str:
    """Over videos and runs."""
    if gap.interval is None:
        return "1 seed: none" if gap.videos is not None else "?"
    sign = analysis.measure.sign
    low, high = sorted((sign * gap.interval.low, sign * gap.interval.high))
    return interval(low, high)


def _difference(analysis: Analysis, comparison: Comparison) -> list[str]:
    """Points, interval over videos, mean and deviation over seeds."""
    assert comparison.points is not None
    sign = analysis.measure.sign
    points, videos = comparison.points, comparison.videos
    low, high = sorted((sign * videos.low, sign * videos.high)) if videos else (0.0, 0.0)
    deviation = "1 seed" if points.deviation is None else f"± {points.deviation:.1f} ({points.num_seeds} seeds)"
    return [signed(sign * points.mean), interval(low, high) if videos else "none", deviation]


def _detectable(points: float | None) -> str:
    return "?" if points is None else f"{points:.1f}"


def coverage(analysis: Analysis) -> list[str]:
    """Sentences on what the numbers of the gaps cover."""
    tested, lines = analysis.unit_tested, list[str]()
    gaps = [g for g in analysis.gaps if g.is_gap]
    several = [g for g in gaps if g.p_adjusted is not None]
    if several:
        lines.append(
            f"The 95 % interval covers the choice of {tested} and how training happened to go (the seeds' runs), as "
            "crossed random effects; *these networks* covers the choice of "
            f"{tested} alone (a paired bootstrap). *Could have seen*: the true difference that such a study finds with "
            f"{100 * POWER:.0f} % power." + _for_several(several)
        )
    if any(g.interval is None and g.videos is not None for g in gaps):
        lines.append(
            f"With one seed there is no interval for a gap: *these networks* covers the choice of {tested} alone, "
            "and another seed may move the difference by more. `vidgn report plan` says how many seeds would do."
        )
    if gaps and analysis.measure.caveat:
        lines.append(analysis.measure.caveat)
    for number in sorted({len(g.folds) for g in gaps if len(g.folds) > 1 and not g.no_interval}):
        lines.append(f"{number} folds are pooled: each of their {tested} is tested once a seed.")
    return lines


def _for_several(gaps: list[Comparison]) -> str:
    return f" p is adjusted for {len(gaps)} gaps (Holm)." if len(gaps) > 1 else ""


def _verdict(analysis: Analysis, gap: Comparison) -> str:
    assert gap.points is not None
    where = column_name(gap.arm.column, unit=analysis.unit, with_model=len(analysis.models) > 1)
    better = (gap.points.mean > 0) ^ analysis.measure.is_error  # where less is better
    arm, baseline = gap.arm.norm, gap.baseline.norm
    measured = f"{arm} is {abs(gap.points.mean):.1f} points {'above' if better else 'below'} {baseline}"
    if analysis.measure.is_error:
        measured = f"the error of {measured}'s"
    match gap.state:
        case "apart":
            return f"{where}: {measured}, more than the choice of {analysis.unit_tested} and of seeds explains."
        case "apart here":
            why = "one seed can't tell" if gap.interval is None else _not_excluded(gap)
            return (
                f"{where}: {measured} on these networks; that other seeds would say otherwise is not excluded ({why})."
            )
        case "not seen":
            seen = gap.interval.detectable if gap.interval else gap.videos.detectable if gap.videos else None
            alone = "" if gap.interval else f", by the choice of {analysis.unit_tested} alone"
            could = "nothing was decided otherwise" if not seen else f"one of {seen:.1f} points could have been{alone}"
            return f"{where}: no difference between {arm} and {baseline} is seen; {could}."
        case _:
            return f"{where}: {measured}; no interval, for {gap.no_interval}."


def _not_excluded(gap: Comparison) -> str:
    assert gap.interval is not None
    if gap.p_adjusted is not None and gap.interval.p < 1 - LEVEL <= gap.p_adjusted:
        return f"p = {probability(gap.interval.p)}, {probability(gap.p_adjusted)} for as many gaps as there are"
    noise = gap.interval.run_deviation
    runs = plural(gap.interval.num_runs, "pair") + " of runs"
    return runs if noise != noise else f"{runs}, ± {noise:.1f} points from run to run"
