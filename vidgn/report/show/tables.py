"""A table of a report, from which each of its forms is made: markdown, HTML, csv, LaTeX, JSON."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vidgn.report.show.markdown import table as markdown_table

_FORMULA = ("=", "@", "+", "-", "\t", "\r")  # at the start of a cell that a spreadsheet would run
_NUMBER = re.compile(r"[+\-]?\d[\d.,]*( ?%)?")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "#": r"\#",
    "$": r"\$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": r"$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
}


@dataclass(frozen=True)
class Table:
    """`name`: of its files. `title`, `header` and cells: text as it is shown."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, name: str, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
        return cls(name, title, tuple(header), tuple(tuple(row) for row in rows))

    def markdown(self) -> str:
        return markdown_table(self.header, self.rows)

    def csv(self) -> str:
        """Cells that a spreadsheet would take for a formula begin with an apostrophe."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        for row in (self.header, *self.rows):
            writer.writerow([_plain(cell) for cell in row])
        return out.getvalue()

    def latex(self) -> str:
        """A booktabs table, the first column to the left, the others to the right."""
        lines = [" & ".join(map(_escaped, row)) + r" \\" for row in (self.header, *self.rows)]
        columns = "l" + "r" * (len(self.header) - 1)
        body = [lines[0], r"\midrule", *lines[1:]]
        text = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"]
        return f"% {' '.join(self.title.split())}\n" + "\n".join(text) + "\n"

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "title": self.title,
            "header": list(self.header),
            "rows": [list(r) for r in self.rows],
        }


def _plain(cell: str) -> str:
    is_formula = cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def _escaped(cell: str) -> str:
    visible = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in cell)
    return "".join(_LATEX.get(c, c) for c in visible)
