"""Why each bad video is bad, and which decoders can't be trusted with which good one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vidgn.data.decode.probe import OK
from vidgn.data.index import probe_all
from vidgn.data.isolate import Limits
from vidgn.data.sources import Source, Sources

_NUM_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """A bad file: its path as in the data set, its status and why."""

    path: str
    status: str
    reason: str


@dataclass(frozen=True)
class Report:
    """`distrusted`: (decoder, why) -> good files that PyAV reads in its place."""

    num_files: int
    bad: tuple[Finding, ...]
    distrusted: dict[tuple[str, str], tuple[str, ...]]

    @property
    def num_ok(self) -> int:
        return self.num_files - len(self.bad)


def check_files(
    sources: Sources,
    *,
    workers: int,
    limits: Limits,
    on_done: Callable[[Source, str], object] = lambda source, status: None,
) -> Report:
    """Decode every file. Files that are missing count as bad."""
    bad = [
        Finding(path, "missing", "is not there; fetch it, or take it out of the annotation") for path in sources.missing
    ]
    distrusted: dict[tuple[str, str], list[str]] = {}
    for source, found in probe_all(sources.files, workers=workers, limits=limits):
        if found.status != OK:
            bad.append(Finding(source.path, found.status, found.reason))
        for doubt in found.distrusted if found.status == OK else ():
            distrusted.setdefault(doubt, []).append(source.path)
        on_done(source, found.status)
    return Report(
        len(sources.files) + len(sources.missing),
        tuple(sorted(bad, key=lambda finding: (finding.status, finding.path))),
        {doubt: tuple(sorted(paths)) for doubt, paths in sorted(distrusted.items())},
    )


def report_text(report: Report, *, verbose: bool = False) -> str:
    """The table of bad files, then one line a reason for which PyAV takes over from another decoder."""
    lines = []
    if report.bad:
        lines += _table([("file", "status", "why"), *((f.path, f.status, f.reason) for f in report.bad)])
        lines.append("")
    for (decoder, why), paths in report.distrusted.items():
        named = ", ".join(paths if verbose else paths[:_NUM_NAMED])
        more = "" if verbose or len(paths) <= _NUM_NAMED else f" and {len(paths) - _NUM_NAMED} more (all: --verbose)"
        lines.append(
            f"data.decoder={decoder}: PyAV reads {len(paths)} of the good files instead: {why} ({named}{more})"
        )
    lines.append(f"{report.num_files} files: {report.num_ok} ok, {len(report.bad)} bad")
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{path:{widths[0]}}  {status:{widths[1]}}  {why}" for path, status, why in rows]
