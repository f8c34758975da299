"""One HTML file for a study or a run: everything in it, nothing fetched when it is looked at."""

import base64
import math
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from vidgn.report.analyse.analysis import Analysis
from vidgn.report.analyse.gap import Comparison, pairs_of
from vidgn.report.analyse.origin import Flip, Origin, origin_of
from vidgn.report.analyse.proof import proof_of
from vidgn.report.read.study import Cell
from vidgn.report.show import gap_sections, sections
from vidgn.report.show.markdown import MINUS, column_name, signed
from vidgn.report.show.run_tables import cost_table, data_table
from vidgn.report.show.status import left_out_lines, open_lines, run_counts
from vidgn.report.show.tables import Table
from vidgn.terminal import visible

Wanted = tuple[Path, str]  # a run's directory, the id of a video that it was tested on


@dataclass(frozen=True)
class Pictures:
    """JPEGs of those that there are: of tested videos, and of a run's first training clips with their classes.

    `of_set`: lengths, rates and sizes of the videos that a run was tested on, in a sentence; empty where none is there.
    """

    of_tested: Callable[[Sequence[Wanted]], Mapping[Wanted, bytes]]
    of_training: Callable[[Path], Sequence[tuple[str, bytes]]]
    of_set: Callable[[Path], str] = lambda run_dir: ""


_MOST_CONFUSED = 20
_MOST_PICTURES = 96


def page_html(
    analysis: Analysis,
    origins: Sequence[tuple[Comparison, Origin]],
    *,
    figures: Mapping[str, str],
    downloads: Sequence[str],
    only: str | None = None,
    pictures: Pictures | None = None,
) -> str:
    """The page of a study.

    Args:
        origins: `origins_of` it.
        figures: SVG text by name: curves, gap, batch.
        downloads: names of the tables that lie in tables/.
        only: file with the names of the videos that count; the page then lies in a folder below the study's.
        pictures: frames of videos, where they can be had.
    """
    shown = [_origin(analysis, gap, origin, place) for place, (gap, origin) in enumerate(origins)]
    _add_pictures(shown, pictures)
    return _render(
        title=f"Study {analysis.study.name}",
        measure=analysis.measure,
        counts=run_counts(analysis).partition("\n")[0],
        verdicts=_verdicts(analysis),
        summary=sections.summary(analysis),
        accuracy=sections.accuracy_tables(analysis),
        accuracy_notes=sections.accuracy_notes(analysis),
        runs=[_run(c, "" if only is None else "../") for c in analysis.study.cells],
        proofs=[{"title": _name(analysis, g), "checks": proof_of(g)} for g in analysis.gaps if g.arm.done],
        refusals=gap_sections.refusals(analysis),
        gaps=gap_sections.gap_table(analysis),
        coverage=gap_sections.coverage(analysis),
        remarks=gap_sections.remarks(analysis),
        changes=gap_sections.change_table(analysis),
        change_note=gap_sections.CHANGE_NOTE,
        groups=sections.group_tables(analysis),
        groups_note=sections.GROUPS_NOTE,
        tests=sections.test_table(analysis),
        split=_split(analysis),
        origins=shown,
        origins_title="Where the gaps come from",
        has_files=True,
        confusion=None,
        cost=cost_table(analysis.study.cells),
        data=data_table(analysis.study.cells),
        data_note=_set(analysis.study.cells, pictures),
        clips=_clips(analysis.study.cells, pictures),
        unreadable=left_out_lines(analysis),
        open=open_lines(analysis),
        faults=analysis.faults,
        command=shlex.join(["vidgn", "report", str(analysis.study.directory), *(["--only", only] if only else [])]),
        downloads=downloads,
        figures=figures,
    )


def run_page_html(
    analysis: Analysis, cell: Cell, *, figures: Mapping[str, str], pictures: Pictures | None = None
) -> str:
    """The page of one run: `analysis` of a study that is this run alone."""
    shown = _own_classes(cell)
    _add_pictures(shown, pictures)
    return _render(
        title=cell.run_name,
        measure=analysis.measure,
        counts=run_counts(analysis).partition("\n")[0],
        verdicts=[],
        summary="",
        accuracy=sections.accuracy_tables(analysis),
        accuracy_notes=sections.accuracy_notes(analysis),
        runs=[_run(cell) | {"href": "."}],
        proofs=[],
        refusals=[],
        gaps=None,
        coverage=[],
        remarks=[],
        changes=None,
        change_note="",
        groups=[],
        groups_note="",
        tests=sections.test_table(analysis),
        split="",
        origins=shown,
        origins_title="Classes and videos",
        has_files=False,
        confusion=_confusion(cell),
        cost=cost_table([cell]),
        data=data_table([cell]),
        data_note=_set([cell], pictures),
        clips=_clips([cell], pictures),
        unreadable=left_out_lines(analysis),
        open=open_lines(analysis),
        faults=analysis.faults,
        command=f"vidgn report {shlex.quote(str(cell.directory))}",
        downloads=[],
        figures=figures,
    )


def study_tables(analysis: Analysis, origins: Sequence[tuple[Comparison, Origin]]) -> list[Table]:
    """Every table of a study that stands in a file of its own."""
    found = [
        *sections.accuracy_tables(analysis),
        gap_sections.gap_table(analysis),
        gap_sections.change_table(analysis),
        *sections.group_tables(analysis),
        sections.test_table(analysis),
        *(_class_table(analysis, gap, origin, place) for place, (gap, origin) in enumerate(origins)),
        cost_table(analysis.study.cells),
        data_table(analysis.study.cells),
    ]
    return [t for t in found if t is not None]


def _render(**context: Any) -> str:
    environment = Environment(
        loader=PackageLoader("vidgn.report.show"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["plain"] = lambda text: str(text).replace("*", "").replace("`", "")  # marks of markdown
    environment.finalize = lambda value: visible(value) if isinstance(value, str) else value
    return environment.get_template("page.html").render(**context)


def _verdicts(analysis: Analysis) -> list[dict[str, str]]:
    shown = [g for g in analysis.gaps if g.is_gap]
    found = [
        {"kind": "apart" if g.state == "apart" else "", "text": text}
        for g, text in zip(shown, gap_sections.verdicts(analysis), strict=True)
    ]
    for where, verdict, why in gap_sections.refusals(analysis):
        found.append({"kind": "refused", "text": f"{where}: {verdict}. More than the norm differs: {why}."})
    return found


def _run(cell: Cell, folder: str = "") -> dict[str, str]:
    result = cell.result or {}
    shown = {
        name: f"{result[key]:.2f}" if key in result else ""
        for name, key in zip(("first", "second"), cell.headlines, strict=True)
    }
    return {"name": cell.run_name, "href": f"{folder}{quote(cell.run_name)}/", "state": cell.state, **shown}


def _name(analysis: Analysis, gap: Comparison) -> str:
    where = column_name(gap.arm.column, unit=analysis.unit, with_model=len(analysis.models) > 1)
    return f"{gap.arm.norm} {MINUS} {gap.baseline.norm}, {where}"


def origins_of(analysis: Analysis) -> list[tuple[Comparison, Origin]]:
    """What each gap is made of, of those that have per-video scores."""
    found = [(gap, origin_of(gap)) for gap in analysis.gaps if gap.is_gap]
    return [(gap, origin) for gap, origin in found if origin is not None]


def _class_table(analysis: Analysis, gap: Comparison, origin: Origin, place: int) -> Table:
    sign = analysis.measure.sign
    shown = [
        [
            row.name,
            str(row.num_videos),
            f"{analysis.measure.shown(row.arm):.1f}",
            f"{analysis.measure.shown(row.baseline):.1f}",
            signed(sign * row.points),
            "" if math.isnan(row.low) else f"± {(row.high - row.low) / 2:.1f}",
            f"{row.won:.1f}",
            f"{row.lost:.1f}",
        ]
        for row in origin.rows
    ]
    header = ["class", analysis.unit_tested, gap.arm.norm, gap.baseline.norm, "points", "95 %", "won", "lost"]
    return Table.of(f"classes_{place}", f"Per class: {_name(analysis, gap)}", header, shown)


def _origin(analysis: Analysis, gap: Comparison, origin: Origin, place: int) -> dict[str, Any]:
    arm, baseline = gap.arm.norm, gap.baseline.norm
    means = [analysis.measure.shown(value) for value in origin.mean_class]
    text = f"Mean over classes: {arm} {means[0]:.1f}, {baseline} {means[1]:.1f} %."
    if origin.absent:
        text += f" Classes without one of the tested {analysis.unit_tested}: {', '.join(origin.absent)}."
    rows = [[f"{label} taken for {said}", f"{a:.1f}", f"{b:.1f}"] for label, said, a, b in origin.confusions]
    first = pairs_of(gap)[0][0]
    return {
        "title": _name(analysis, gap),
        "text": text,
        "table": _class_table(analysis, gap, origin, place),
        "confusions": Table.of("confusions", "Confusions that changed most, a run", ["class", arm, baseline], rows),
        "flips_title": f"{origin.num_flips} {analysis.unit_tested} decided otherwise (seed {first.seed}), surest first",
        "flips": [_flip(flip, (arm, baseline), first) for flip in origin.flips],
    }


def _flip(flip: Flip, norms: tuple[str, str], cell: Cell) -> dict[str, Any]:
    said = ((norms[0], flip.arm, flip.arm_score), (norms[1], flip.baseline, flip.baseline_score))
    lines = [f"{norm}: {name} ({score:.2f})" for norm, name, score in said]
    return {"id": flip.id, "label": flip.label, "lines": lines, "wanted": (cell.directory, flip.id)}


def _add_pictures(origins: Sequence[dict[str, Any]], pictures: Pictures | None) -> None:
    """To every video shown its frames, as an address that holds them."""
    flips: list[dict[str, Any]] = [flip for origin in origins for flip in origin["flips"]]
    each = max(1, _MOST_PICTURES // max(1, len(origins)))  # so that the page stays small
    shown: list[dict[str, Any]] = [flip for origin in origins for flip in origin["flips"][:each]]
    found = pictures.of_tested([flip["wanted"] for flip in shown]) if pictures is not None and shown else {}
    for flip in flips:
        data = found.get(flip["wanted"])
        flip["picture"] = None if data is None else _uri(data)


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _clips(cells: Sequence[Cell], pictures: Pictures | None) -> list[dict[str, str]]:
    """The first training clips of the first run that is done: those of every arm with its seed."""
    done = [c.directory for c in cells if c.result and pictures is not None][:1]
    return [{"text": name, "picture": _uri(jpeg)} for d in done for name, jpeg in pictures.of_training(d)]  # type: ignore[union-attr]


def _set(cells: Sequence[Cell], pictures: Pictures | None) -> str:
    done = [c.directory for c in cells if c.result and pictures is not None][:1]
    return "".join(pictures.of_set(directory) for directory in done)  # type: ignore[union-attr]


def _split(analysis: Analysis) -> str:
    """What BN loses in training and what in its statistics at test, where the tests tell."""
    found = []
    for cell in analysis.study.cells:
        if not cell.result or not cell.result.get("bn_stats"):
            continue
        names = {kind: f"{cell.result['views']}-{kind}" for kind in ("precise", "ema", "batch")}
        tests = cell.tests()  # of the run's own data and steps: others have more in their names
        if {names["precise"], names["batch"]} <= tests.keys():
            told = [f"{kind} {tests[name][cell.headlines[0]]:.1f}" for kind, name in names.items() if name in tests]
            found.append(f"{cell.run_name}: {', '.join(told)}")
    if not found:
        return ""
    return (
        "Precise statistics are taken anew over training clips; ema are the running ones of training; batch those of "
        "each test batch, as in training. What batch has over precise is lost between training and test, the rest in "
        "training. Top-1 (%) of " + "; ".join(found) + "."
    )


def _own_classes(cell: Cell) -> list[dict[str, Any]]:
    """Accuracy by class of one run, and the videos that it is surest of and wrong."""
    videos = cell.videos() if cell.result else None
    if videos is None:
        return []
    names = cell.class_names()

    def name(label: int) -> str:
        return "?" if label < 0 else names[label] if label < len(names) else str(label)

    counts = Counter(videos.labels.tolist())
    right = Counter(videos.labels[videos.correct].tolist())
    rows = [[name(k), str(counts[k]), f"{100 * right[k] / counts[k]:.1f}"] for k in sorted(counts)]
    table = Table.of("classes", "Per class", ["class", "videos", "right (%)"], rows)
    nothing = Table.of("none", "", ["", ""], [])

    def surest(*, right: bool) -> list[dict[str, Any]]:
        found = [i for i, rank in enumerate(videos.rank.tolist()) if (rank == 0) == right and videos.prediction[i] >= 0]
        found = [i for i in found if not math.isnan(videos.score[i])]
        return [
            {
                "id": videos.ids[i],
                "label": name(int(videos.labels[i])),
                "lines": [f"said: {name(int(videos.prediction[i]))} ({videos.score[i]:.2f})"],
                "wanted": (cell.directory, videos.ids[i]),
            }
            for i in sorted(found, key=lambda i: (-float(videos.score[i]), i))[:12]
        ]

    return [
        {
            "title": "Per class, and the surest of the wrong",
            "text": f"Mean over classes: {sum(100 * right[k] / counts[k] for k in counts) / len(counts):.1f} %.",
            "table": table,
            "confusions": nothing,
            "flips_title": "Wrong, and sure of it",
            "flips": surest(right=False),
        },
        {
            "title": "The surest of the right",
            "text": "What the network has learned best.",
            "table": nothing,
            "confusions": nothing,
            "flips_title": "Right, and sure of it",
            "flips": surest(right=True),
        },
    ]


def _confusion(cell: Cell) -> Table | None:
    videos = cell.videos() if cell.result else None
    if videos is None:
        return None
    names, wrong = cell.class_names(), (videos.rank > 0) & (videos.prediction >= 0)
    counts = Counter(zip(videos.labels[wrong].tolist(), videos.prediction[wrong].tolist(), strict=True))
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_CONFUSED]
    rows = [[*(names[k] if k < len(names) else str(k) for k in pair), str(number)] for pair, number in shown]
    return (
        Table.of("confusion", "Classes taken for others most", ["class", "taken for", "videos"], rows) if rows else None
    )
