"""The tables of a report as markdown. Each function makes one section; an empty string says there is nothing to say."""

from collections.abc import Sequence

from vidgn.report.analyse.analysis import Analysis
from vidgn.report.analyse.arms import Arm, Column
from vidgn.report.analyse.gap import Comparison
from vidgn.report.analyse.statistics import over_seeds, wilson_interval
from vidgn.report.read import published
from vidgn.report.read.matches import KINDS
from vidgn.report.show.markdown import column_name, listed, percent, plural, signed, table
from vidgn.report.show.tables import Table


def summary(analysis: Analysis) -> str:
    """One sentence: what smaller batches and longer clips change for each arm, and in how many runs that was seen."""
    what = {f"fewer {analysis.unit}/GPU": analysis.changes, "longer clips": analysis.longer}
    told = [f"with {words} {ranges}" for words, found in what.items() if (ranges := _ranges(analysis, found))]
    if len(analysis.norms) < 2 or not told:
        return ""
    seeds = len({c.seed for c in analysis.study.cells if c.result})
    runs = sum(c.result is not None for c in analysis.study.cells)
    where = f"{plural(runs, 'run')} ({plural(seeds, 'seed')})"
    return f"Seen in {where}, {analysis.measure.name} in points: {'; '.join(told)}."


def _ranges(analysis: Analysis, comparisons: Sequence[Comparison]) -> str:
    """`bn −12.8 to −6.5, gn +0.2 to +2.0`; empty where none of them holds."""
    by_norm: dict[str, list[float]] = {}
    for found in comparisons:
        if found.points is not None:
            by_norm.setdefault(found.arm.norm, []).append(analysis.measure.sign * found.points.mean)
    ranges = {norm: sorted(points) for norm, points in by_norm.items()}
    return ", ".join(
        f"{norm} {' to '.join(dict.fromkeys(signed(p) for p in (points[0], points[-1])))}"
        for norm, points in ranges.items()
    )


def accuracy_tables(analysis: Analysis) -> list[Table]:
    """Table 8: arms by columns, the published cells beside those of the same net, geometry and data; AP in parts."""
    found = []
    for model in analysis.models:
        columns = [c for c in analysis.columns if c.model == model]
        rows = []
        for norm in analysis.norms:
            if any((c, norm) in analysis.arms for c in columns):
                rows.append([norm, *(_accuracy(analysis, analysis.arms.get((c, norm))) for c in columns)])
            beside = [analysis.published_for(c, norm) for c in columns]
            if any(beside):
                rows.append([f"{norm}, {published.SOURCE}", *(_published(analysis, p) for p in beside)])
        header = [model, *(column_name(c, unit=analysis.unit) for c in columns)]
        found.append(Table.of(f"accuracy_{model}", _accuracy_title(analysis, model), header, rows))
    return [*found, *_ap_tables(analysis)]


def _ap_tables(analysis: Analysis) -> list[Table]:
    """Of detectors all twelve numbers of each run, as COCOeval has them."""
    names = [f"{kind}_{of}" for kind in KINDS for of in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")]
    results = {c.run_name: c.result for c in analysis.study.cells if c.result and c.data_format == "coco"}
    rows = [[run, *(f"{told[n]:.1f}" if n in told else "" for n in names)] for run, told in results.items()]
    header = ["run", *(name.replace("_ap", " AP").replace("_", " ") for name in names)]
    return [Table.of("aps", "AP by IoU and by the size of objects", header, rows)] if rows else []


def accuracy_section(analysis: Analysis) -> str:
    """`accuracy_tables` and what is to be known of them."""
    parts = [f"## {t.title}\n\n{t.markdown()}" for t in accuracy_tables(analysis)]
    return "\n\n".join([*parts, *accuracy_notes(analysis)])


def group_tables(analysis: Analysis) -> list[Table]:
    """Sweeps with a step of fixed size: only the statistics group changes."""
    found = []
    for place, g in enumerate(analysis.groups):
        rows = [[norm, *(_accuracy(analysis, by_size.get(s)) for s in g.sizes)] for norm, by_size in g.arms.items()]
        tag = f" [{g.tag}]" if g.tag else ""
        items = analysis.unit
        clip = "" if analysis.unit == "images" else f", {g.frames} frames"
        header = [f"{g.model}{clip}{tag}", *(f"{s} {items}/GPU × {g.slots_per_step // s}" for s in g.sizes)]
        found.append(Table.of(f"groups_{place}", f"Step of {g.slots_per_step} {items}", header, rows))
    return found


GROUPS_NOTE = (
    "The step is the same in every column; what changes is how many share BN's statistics. sync_bn's group is the "
    "whole step. Arms marked † have no statistics group: one run serves every column."
)


def group_section(analysis: Analysis) -> str:
    """`group_tables` as markdown."""
    parts = [f"{t.title}:\n\n{t.markdown()}" for t in group_tables(analysis)]
    return "## Statistics group apart from the step\n\n" + "\n\n".join([*parts, GROUPS_NOTE]) if parts else ""


def test_table(analysis: Analysis) -> Table | None:
    """Every test a run has had, where there is more than the configured one: what BN loses at test shows here."""
    cells = [c for c in analysis.study.cells if c.result]
    tests = {c.run_name: c.tests() for c in cells}
    names = list(dict.fromkeys(name for of_run in tests.values() for name in of_run))
    configured = {c.test_name for c in cells}
    if len(names) <= len(configured) and all(len(of_run) <= 1 for of_run in tests.values()):
        return None
    first = analysis.measure.keys[0]
    rows = [
        [c.run_name, *(f"{analysis.measure.shown(t[n][first]):.1f}" if n in t else "" for n in names)]
        for c in cells
        if (t := tests[c.run_name])
    ]
    title = f"Other tests: {analysis.measure.name} (%), by views and statistics at test"
    return Table.of("tests", title, ["run", *names], rows)


def test_section(analysis: Analysis) -> str:
    """`test_table` as markdown."""
    found = test_table(analysis)
    return f"## {found.title}\n\n{found.markdown()}" if found else ""


def reference_section(analysis: Analysis) -> str:
    """The published table, where it could not stand beside this study's cells."""
    if any(analysis.published_for(c, n) for c in analysis.columns for n in analysis.norms):
        return ""
    parts = []
    for model in dict.fromkeys(p.model for p in analysis.published):
        cells = [p for p in analysis.published if p.model == model]
        columns = list(dict.fromkeys(Column(p.model, p.frames, p.clips_per_gpu, p.gpus, p.tag) for p in cells))
        found = {(Column(p.model, p.frames, p.clips_per_gpu, p.gpus, p.tag), p.norm): p for p in cells}
        norms = list(dict.fromkeys(p.norm for p in cells))
        header = [model, *(column_name(c, unit=analysis.unit) for c in columns)]
        parts.append(table(header, [[n, *(_published(analysis, found.get((c, n))) for c in columns)] for n in norms]))
    title = analysis.measure.published_title
    why = "For reference: another net, geometry or data set than this study's, so not beside its cells."
    return f"## {title}\n\n{why}\n\n" + "\n\n".join(parts)


def _accuracy_title(analysis: Analysis, model: str) -> str:
    results = [(c.fold, c.result) for c in analysis.study.cells if c.result and c.model == model]
    statistics = {str(r["bn_stats"]) for _, r in results if r.get("bn_stats")}
    tests = {(int(r["num_videos"]), "", str(r["views"])) for fold, r in results if fold is None}
    for views in {str(r["views"]) for fold, r in results if fold is not None}:
        sizes = {fold: int(r["num_videos"]) for fold, r in results if fold is not None and r["views"] == views}
        tests.add((sum(sizes.values()), f" in {plural(len(sizes), 'fold')}", views))
    told = [f"{plural(n, analysis.unit_tested[:-1])}{folds}, views {views}" for n, folds, views in sorted(tests)]
    said = [" or ".join(told), *([f"BN statistics {' or '.join(sorted(statistics))}"] if statistics else [])]
    return f"{analysis.measure.title}: {model}" + (f" ({', '.join(said)})" if told else "")


def _accuracy(analysis: Analysis, arm: Arm | None) -> str:
    if arm is None:
        return ""
    parts = []
    if arm.done:
        mark = "†" if arm.borrowed else ""
        parts.append(_shown(analysis, arm) + mark)
    states = dict.fromkeys(c.state for c in arm.open)
    for state in states:
        cells = [c for c in arm.open if c.state == state]
        word = "missing" if state == "pending" else state
        parts.append(word if not arm.done and len(states) == 1 else f"{len(cells)} {word}")
    return ", ".join(parts)


def _shown(analysis: Analysis, arm: Arm) -> str:
    if not analysis.measure.is_error:
        return f"{percent(arm.first)} / {percent(arm.second)}"
    return percent(over_seeds([100 - first for first in arm.values(lambda cell: cell.first)]))


def _published(analysis: Analysis, cell: published.Published | None) -> str:
    if cell is None:
        return ""
    if analysis.measure.is_error:
        return f"{100 - cell.top1:.1f}"
    return f"{cell.top1:.1f} / {cell.top5:.1f}"


def accuracy_notes(analysis: Analysis) -> list[str]:
    """Sentences: who serves whom, how videos were stored, what chance is."""
    notes = []
    served = [a for a in analysis.arms.values() if a.borrowed]
    if served:
        norms = listed(list(dict.fromkeys(a.norm for a in served)))
        runs = dict.fromkeys(f"{c.norm} {c.frames}f {c.clips_per_gpu}×{c.gpus}" for a in served for c in a.borrowed)
        notes.append(
            f"† {norms}: no statistics group, so not run again: served by another division of the same step "
            f"({', '.join(runs)})."
        )
    judged = {(len(c.only), int(c.result["num_videos"])) for c in analysis.study.cells if c.only and c.result}
    for named, found in sorted(judged):
        notes.append(f"Judged by the videos named in a list alone: of its {named} names, {found} were tested.")
    if ways := {str(way) for c in analysis.study.cells if c.result for way in c.result.get("transcoded_as") or ()}:
        notes.append(f"Videos were transcoded: {'; '.join(sorted(ways))}.")
    if analysis.num_classes and analysis.measure.has_chance:
        chance = 100 / analysis.num_classes
        notes.append(
            f"Chance is {analysis.measure.shown(chance):.1f} % ({analysis.num_classes} classes).{_at_chance(analysis)}"
        )
    return notes


def _at_chance(analysis: Analysis) -> str:
    """Names finished runs whose accuracy can't be told from guessing."""
    assert analysis.num_classes
    counts: dict[str, tuple[int, int]] = {}  # the folds of a run together
    for cell in analysis.study.cells:
        if cell.result:
            name = cell.run_name if cell.fold is None else cell.run_name.replace(f"_fold{cell.fold}_", "_folds_")
            right, tested = counts.get(name, (0, 0))
            num_videos = int(cell.result["num_videos"])
            counts[name] = (right + round(cell.first * num_videos / 100), tested + num_videos)
    names = [
        n for n, (right, tested) in counts.items() if wilson_interval(right, tested)[0] <= 1 / analysis.num_classes
    ]
    if len(names) > 1 and len(names) == len(counts):
        return " No run is above it by a 95 % interval."
    return f" Not above chance by a 95 % interval: {', '.join(names)}." if names else ""
