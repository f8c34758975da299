"""Differences in words and tables: gaps between arms, and what a smaller batch changes within one."""

from vidgn.report.analysis import Analysis, Comparison
from vidgn.report.markdown import MINUS, column_name, interval, probability, signed, table
from vidgn.report.statistics import POWER, best_sign_flip_p, seeds_for


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
    return ["gap", "points", "95 % interval", "over seeds", "decided otherwise", "could have seen", "sign flips"]


def _gap_row(analysis: Analysis, gap: Comparison) -> list[str]:
    where = column_name(gap.arm.column, unit=analysis.unit, with_model=len(analysis.models) > 1)
    row = [f"{gap.arm.norm} {MINUS} {gap.baseline.norm}, {where}", *_difference(analysis, gap)]
    if gap.videos is None:
        row += ["?", "?"]
    else:
        row += [f"{100 * gap.videos.discordant:.1f} %", _detectable(gap.videos.detectable)]
    flips = gap.sign_flip
    row.append("" if flips is None else f"p = {probability(flips.p)} (at best {probability(flips.best)})")
    return row


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
    lines.append(
        f"- The interval is a paired bootstrap over {tested}; *could have seen* is the true difference that a test "
        f"over this many {tested} finds with {100 * POWER:.0f} % power, given those decided otherwise. Both speak of "
        f"the choice of {tested} alone."
    )
    counts = sorted({len(g.seeds) for g in gaps})
    if counts[0] == 1:
        lines.append(
            "- With one seed, seed noise is not covered: another seed may move a gap by more than its interval says. "
            f"A sign-flip test over seeds can reach p < 0.05 from {seeds_for(0.05)} paired seeds on."
        )
    for count in counts:
        if 1 < count < seeds_for(0.05):
            lines.append(
                f"- With {count} seeds a paired sign-flip test can't go below p = "
                f"{probability(best_sign_flip_p(count))}, whatever the gap; {seeds_for(0.05)} seeds can reach "
                f"{probability(best_sign_flip_p(seeds_for(0.05)))}."
            )
    return lines


def _verdict(analysis: Analysis, gap: Comparison) -> str:
    assert gap.points is not None
    where = column_name(gap.arm.column, unit=analysis.unit, with_model=len(analysis.models) > 1)
    better = (gap.points.mean > 0) ^ analysis.is_imagenet  # images: in error, where less is better
    side = "above" if better else "below"
    arm, baseline = gap.arm.norm, gap.baseline.norm
    measured = f"{arm} is {abs(gap.points.mean):.1f} points {side} {baseline}"
    if analysis.is_imagenet:
        measured = f"the error of {measured}'s"
    if gap.videos is None:
        return f"{where}: {measured}; without per-video scores no interval."
    if gap.videos.low <= 0 <= gap.videos.high:
        seen = gap.videos.detectable
        could = "nothing was decided otherwise" if seen is None else f"it could have seen one of {seen:.1f} points"
        return f"{where}: no difference between {arm} and {baseline} is seen; {could}."
    return f"{where}: {measured}, more than the choice of {analysis.unit_tested} explains{_of_one_sign(gap)}."


def _of_one_sign(gap: Comparison) -> str:
    """In how many seeds the arm's side is that of the mean; nothing for one seed."""
    ours, theirs = ({c.seed: c.result["top1"] for c in a.done if c.result} for a in (gap.arm, gap.baseline))
    assert gap.points is not None
    same = sum((ours[s] - theirs[s]) * gap.points.mean > 0 for s in gap.seeds)
    return "" if len(gap.seeds) == 1 else f"; so it fell in {same} of {len(gap.seeds)} seeds"
