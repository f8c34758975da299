"""What arms differ by, as markdown: gaps to the baseline, and what a smaller batch changes."""

from vidgn.report.analyse.analysis import Analysis, Comparison
from vidgn.report.analyse.statistics import LEVEL, POWER
from vidgn.report.show.markdown import MINUS, column_name, interval, plural, probability, signed, table


def gap_section(analysis: Analysis) -> str:
    """Every arm against the baseline, a row a column, then what the numbers cover and what was refused."""
    gaps = [g for g in analysis.gaps if g.is_gap]
    refused = [g for g in analysis.gaps if g.refused]
    if not analysis.gaps:
        return ""
    title = f"## Gap to {analysis.baseline}: top-1 {'error' if analysis.is_imagenet else 'accuracy'}, points"
    parts = [title]
    if gaps:
        parts += [table(_gap_header(), [_gap_row(analysis, g) for g in gaps]), "\n".join(_gap_reading(analysis, gaps))]
    if refused:
        lines = []
        for g in refused:
            where = (
                f"{column_name(g.arm.column, unit=analysis.unit, with_model=True)}, {g.arm.norm} and {g.baseline.norm}"
            )
            verdict = "no gap" if not g.is_gap else "seeds left out of the gap"
            lines.append(f"- {where}: **{verdict}**. More than the norm differs: {'; '.join(g.refused)}.")
        parts.append("\n".join(lines))
    remarks = {}
    for g in gaps:
        for remark in g.remarks:
            remarks.setdefault(remark, []).append(column_name(g.arm.column, unit=analysis.unit, short=True))
    if remarks:
        parts.append("To be read with it:\n\n" + "\n".join(f"- {r} ({', '.join(c)})." for r, c in remarks.items()))
    return "\n\n".join(parts)


def change_section(analysis: Analysis) -> str:
    """What a smaller batch costs each arm."""
    if not analysis.changes:
        return ""
    with_model = len(analysis.models) > 1
    rows = []
    for c in analysis.changes:
        if c.is_gap:
            at = column_name(c.arm.column, unit=analysis.unit)
            net = [c.arm.column.model] if with_model else []
            rows.append([c.arm.norm, *net, at, f"{c.baseline.column.clips_per_gpu}/GPU", *_difference(analysis, c)])
    header = ["norm", *(["net"] if with_model else []), "at", "against", "change", "95 % interval", "over seeds"]
    what = "error" if analysis.is_imagenet else "accuracy"
    parts = [
        f"## What the smaller batch changes: top-1 {what}, points",
        "Step and statistics group fall together here, as in the paper; the learning rate follows the step.",
    ]
    parts += [table(header, rows)] if rows else []
    lines = []
    for c in analysis.changes:
        if c.refused:
            at = column_name(c.arm.column, unit=analysis.unit, with_model=True)
            verdict = "seeds left out" if c.is_gap else "not compared"
            against = f"{c.baseline.column.clips_per_gpu}/GPU"
            lines.append(
                f"- {c.arm.norm}, {at} against {against}: **{verdict}**. More than the batch differs: "
                f"{'; '.join(c.refused)}."
            )
    return "\n\n".join([*parts, *(["\n".join(lines)] if lines else [])])


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
    sign = -1 if analysis.is_imagenet else 1
    low, high = sorted((sign * gap.interval.low, sign * gap.interval.high))
    return interval(low, high)


def _difference(analysis: Analysis, comparison: Comparison) -> list[str]:
    """Points, interval over videos, mean and deviation over seeds."""
    assert comparison.points is not None
    sign = -1 if analysis.is_imagenet else 1
    points, videos = comparison.points, comparison.videos
    low, high = sorted((sign * videos.low, sign * videos.high)) if videos else (0.0, 0.0)
    deviation = "1 seed" if points.deviation is None else f"± {points.deviation:.1f} ({points.num_seeds} seeds)"
    return [signed(sign * points.mean), interval(low, high) if videos else "no per-video scores", deviation]


def _detectable(points: float | None) -> str:
    return "?" if points is None else f"{points:.1f}"


def _gap_reading(analysis: Analysis, gaps: list[Comparison]) -> list[str]:
    """What was measured, in words, whichever way it falls; then what the numbers cover."""
    tested = analysis.unit_tested
    lines = [f"- {_verdict(analysis, g)}" for g in gaps]
    several = [g for g in gaps if g.p_adjusted is not None]
    if several:
        lines.append(
            f"- The 95 % interval covers the choice of {tested} and how training happened to go (the seeds' runs), as "
            "crossed random effects; *these networks* covers the choice of "
            f"{tested} alone (a paired bootstrap). *Could have seen*: the true difference that such a study finds with "
            f"{100 * POWER:.0f} % power." + _for_several(several)
        )
    if len(several) < len(gaps):
        lines.append(
            f"- With one seed there is no interval for a gap: *these networks* covers the choice of {tested} alone, "
            "and another seed may move the difference by more. `vidgn report plan` says how many seeds would do."
        )
    if any(len(g.folds) > 1 for g in gaps):
        lines.append(f"- Folds are pooled: each of the {tested} is tested once a seed.")
    return lines


def _for_several(gaps: list[Comparison]) -> str:
    return f" p is adjusted for {len(gaps)} gaps (Holm)." if len(gaps) > 1 else ""


def _verdict(analysis: Analysis, gap: Comparison) -> str:
    assert gap.points is not None
    where = column_name(gap.arm.column, unit=analysis.unit, with_model=len(analysis.models) > 1)
    better = (gap.points.mean > 0) ^ analysis.is_imagenet  # images: in error, where less is better
    arm, baseline = gap.arm.norm, gap.baseline.norm
    measured = f"{arm} is {abs(gap.points.mean):.1f} points {'above' if better else 'below'} {baseline}"
    if analysis.is_imagenet:
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
            return f"{where}: {measured}; without per-video scores no interval."


def _not_excluded(gap: Comparison) -> str:
    assert gap.interval is not None
    if gap.p_adjusted is not None and gap.interval.p < 1 - LEVEL <= gap.p_adjusted:
        return f"p = {probability(gap.interval.p)}, {probability(gap.p_adjusted)} for as many gaps as there are"
    noise = gap.interval.run_deviation
    runs = plural(gap.interval.num_runs, "pair") + " of runs"
    return runs if noise != noise else f"{runs}, ± {noise:.1f} points from run to run"
