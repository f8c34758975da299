"""Write a report: report.html, report.md, report.json, tables, pictures; from files, each replaced in one move."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from vidgn.atomic_files import write_atomic, write_text
from vidgn.errors import ManifestError
from vidgn.report.analyse.analysis import Analysis, analyse
from vidgn.report.read.only import restricted
from vidgn.report.read.study import read_study
from vidgn.report.show import gap_sections, plots, sections
from vidgn.report.show.as_json import as_json
from vidgn.report.show.page import Pictures, origins_of, page_html, run_page_html, study_tables
from vidgn.report.show.status import open_section, run_counts, unreadable_section
from vidgn.report.show.tables import Table
from vidgn.terminal import visible


@dataclass(frozen=True)
class WrittenReport:
    """What was made: the text for a console (also its `str`), the machine's form, the files."""

    console: str
    json: str
    report: Path
    pictures: tuple[Path, ...]

    def __str__(self) -> str:
        return self.console


def write_report(
    place: Path | str,
    *,
    pictures: Pictures | None = None,
    only: Path | str | None = None,
) -> WrittenReport:
    """Make the report of a study from its files: report.html, report.md, report.json, pictures, tables/.

    Of a run's directory: its report.html alone.

    Args:
        pictures: see `page_html`.
        only: file with the names of the videos that count, one a line; the report then goes into a folder of its name.

    Raises:
        ManifestError: if `place` is neither a study nor a run.
    """
    if (Path(place) / "config.yaml").is_file() and only is None:
        return _write_run(Path(place), pictures)
    study = read_study(place)
    directory = study.directory
    if only is not None:
        study = restricted(study, _names(Path(only)))
        directory = directory / f"only_{Path(only).stem}"
        directory.mkdir(exist_ok=True)
    analysis = analyse(study)
    figures = _write_pictures(analysis, directory)
    drawn = [directory / f"{name}.png" for name in figures]
    origins = origins_of(analysis)
    tables = study_tables(analysis, origins)
    _write_tables(directory / "tables", tables)
    told = {**as_json(analysis), "tables": [table.as_json() for table in tables]}
    machine = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(directory / "report.json", machine + "\n", alone=False)
    markdown = report_markdown(analysis, pictures=[p.name for p in drawn])
    write_text(directory / "report.md", visible(markdown), alone=False)
    downloads = [table.name for table in tables]
    page = page_html(
        analysis,
        origins,
        figures=figures,
        downloads=downloads,
        only=None if only is None else str(only),
        pictures=pictures,
    )
    write_text(directory / "report.html", page, alone=False)
    paths = "\n".join(str(p) for p in (directory / "report.html", directory / "report.md", *drawn))
    console = "\n\n".join([*_sections(analysis), paths])
    return WrittenReport(console, machine, directory / "report.md", tuple(drawn))


def _names(path: Path) -> frozenset[str]:
    try:
        names = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise ManifestError(f"--only {path}: {error.strerror}; give a file with a name a line") from None
    return frozenset(name.strip() for name in names if name.strip())


def _write_run(directory: Path, pictures: Pictures | None) -> WrittenReport:
    whole = read_study(directory.absolute().parent)
    (cell,) = (c for c in whole.cells if c.run_name == directory.absolute().name)
    analysis = analyse(replace(whole, cells=(cell,), was_swept=True))
    figures = {name: figure for name, figure in _drawn(analysis).items() if name == "curves"}
    page = run_page_html(analysis, cell, figures={n: plots.svg(f) for n, f in figures.items()}, pictures=pictures)
    write_text(directory / "report.html", page, alone=False)
    machine = json.dumps(as_json(analysis), indent=1, ensure_ascii=False, allow_nan=False)
    console = "\n\n".join([*_sections(analysis), str(directory / "report.html")])
    return WrittenReport(console, machine, directory / "report.html", ())


def _write_tables(folder: Path, tables: Sequence[Table]) -> None:
    """As csv and LaTeX; those of an earlier state are removed."""
    folder.mkdir(exist_ok=True)
    written = set[str]()
    for table in tables:
        for ending, text in (("csv", table.csv()), ("tex", table.latex())):
            write_text(folder / f"{table.name}.{ending}", visible(text), alone=False)
            written.add(f"{table.name}.{ending}")
    for path in folder.iterdir():
        if path.suffix in (".csv", ".tex") and path.name not in written:
            path.unlink()


def report_markdown(analysis: Analysis, *, pictures: list[str]) -> str:
    """The whole report."""
    images = [f"![{Path(name).stem}]({name})" for name in pictures]
    parts = [f"# Study {analysis.study.name}", *_sections(analysis), *images, sections.reference_section(analysis)]
    return "\n\n".join(p for p in parts if p) + "\n"


def _sections(analysis: Analysis) -> list[str]:
    found = [
        run_counts(analysis),
        sections.summary(analysis),
        sections.accuracy_section(analysis),
        gap_sections.gap_section(analysis),
        gap_sections.change_section(analysis),
        sections.group_section(analysis),
        sections.test_section(analysis),
        open_section(analysis),
        unreadable_section(analysis),
    ]
    return [s for s in found if s]


def _drawn(analysis: Analysis) -> dict[str, Figure]:
    found = {"curves": plots.curves(analysis), "gap": plots.gaps(analysis), "batch": plots.batches(analysis)}
    return {name: figure for name, figure in found.items() if figure is not None}


def _write_pictures(analysis: Analysis, directory: Path) -> dict[str, str]:
    """PNG and PDF beside the report; SVG text by name for the page. A picture of an earlier state would lie."""
    figures = _drawn(analysis)
    for name in ("curves", "gap", "batch"):
        for ending, content_of in (("png", plots.png), ("pdf", plots.pdf)):
            path = directory / f"{name}.{ending}"
            if name not in figures:
                path.unlink(missing_ok=True)
            else:
                content = content_of(figures[name])
                write_atomic(path, lambda f, content=content: f.write(content), alone=False)
    return {name: plots.svg(figure) for name, figure in figures.items()}
