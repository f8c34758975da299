"""Write a study's report: report.md, report.json, pictures, all from files and all replaced in one move."""

import json
from dataclasses import dataclass
from pathlib import Path

from vidgn.atomic_files import write_atomic, write_text
from vidgn.report.analyse.analysis import Analysis, analyse
from vidgn.report.read.study import read_study
from vidgn.report.show import gap_sections, sections
from vidgn.report.show.as_json import as_json
from vidgn.report.show.status import open_section, run_counts, unreadable_section
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


def write_report(study_dir: Path | str) -> WrittenReport:
    """Make report.md, report.json and the pictures of a study from its files.

    Raises:
        ManifestError: if `study_dir` is no study.
    """
    analysis = analyse(read_study(study_dir))
    directory = analysis.study.directory
    pictures = _write_pictures(analysis)
    machine = json.dumps(as_json(analysis), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(directory / "report.json", machine + "\n", alone=False)
    markdown = report_markdown(analysis, pictures=[p.name for p in pictures])
    write_text(directory / "report.md", visible(markdown), alone=False)
    paths = "\n".join(str(p) for p in (directory / "report.md", *pictures))
    console = "\n\n".join([*_sections(analysis), paths])
    return WrittenReport(console, machine, directory / "report.md", tuple(pictures))


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


def _write_pictures(analysis: Analysis) -> list[Path]:
    from vidgn.report.show import plots  # matplotlib takes a second to import: only where a picture is drawn

    written = []
    drawings = {"curves.png": plots.curves, "gap.png": plots.gaps, "batch.png": plots.batches}
    for name, draw in drawings.items():
        figure = draw(analysis)
        path = analysis.study.directory / name
        if figure is None:
            path.unlink(missing_ok=True)  # a picture of an earlier state would lie
        else:
            content = plots.png(figure)
            write_atomic(path, lambda f, content=content: f.write(content), alone=False)
            written.append(path)
    return written
