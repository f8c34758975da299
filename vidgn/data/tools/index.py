"""One csv row for every video of a data set, by decoding each one: what training on 240,000 files can rely on."""

import csv
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vidgn.data.datasets.listing import INDEX_COLUMNS
from vidgn.data.datasets.sources import Source, other_columns
from vidgn.data.decode import openings
from vidgn.data.decode.base import OPENINGS_ENDING
from vidgn.data.loading.pool import Limits
from vidgn.data.tools.probe import OK, Probe, probe_all
from vidgn.errors import ManifestError

_FLAG_SEPARATOR = ";"


@dataclass(frozen=True)
class IndexSummary:
    """`num_reused`: rows taken over from an earlier run. `no_openings`: why openings are not kept, if they are not."""

    num_files: int
    num_ok: int
    num_reused: int
    num_frames: int
    duration_seconds: float
    no_openings: str | None = None


def write_index(
    sources: Iterable[Source],
    out: str,
    *,
    workers: int,
    limits: Limits,
    retry: bool = False,
    decoders: Sequence[str] = (),
    on_done: Callable[[Source, str], object] = lambda source, status: None,
) -> IndexSummary:
    """Write the index of `sources` to the csv `out`: a row for each, in their order, with its label and other columns.

    Rows are kept in `out` + `.part` as they come, so that a run that was stopped goes on where it was; `out` itself is
    replaced in one step at the end. A file whose size or time of change is another is looked at again, and with `retry`
    every file whose status was not ok. `on_done(source, status)`: after each file, those reused included.

    What opening each file tells is kept in `out` + `.openings`, with the verdicts on `decoders`: see openings.py.

    Raises:
        ManifestError: where `out` can't be written.
    """
    sources = tuple(sources)
    part, table = out + ".part", out + OPENINGS_ENDING
    done = _reusable(sources, {**_read_rows(out), **_read_rows(part)}, retry=retry)
    for source in sources:
        if source.path in done:
            on_done(source, done[source.path]["status"])
    todo, no_openings = [source for source in sources if source.path not in done], None
    try:
        columns = (*INDEX_COLUMNS, *other_columns(sources))
        _write_rows(part, done.values(), INDEX_COLUMNS)
        with open(part, "a", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, INDEX_COLUMNS)
            for source, found in probe_all(todo, workers=workers, limits=limits, decoders=decoders):
                if found.opening is not None and no_openings is None:
                    try:
                        openings.write(table, [found.opening])
                    except (OSError, sqlite3.Error) as error:  # a file system without locks: training can do without
                        no_openings = str(error)
                done[source.path] = _row(source, found)
                writer.writerow(done[source.path])
                file.flush()
                on_done(source, found.status)
        rows = [{**done[source.path], "label": source.label, **source.others} for source in sources]
        _write_rows(part, rows, columns)
        os.replace(part, out)
    except OSError as error:
        raise ManifestError(f"{out} can't be written ({error.strerror}); give another --out") from None
    good = [row for row in rows if row["status"] == OK]
    return IndexSummary(
        len(rows),
        len(good),
        len(sources) - len(todo),
        sum(int(row["num_frames"]) for row in good),
        sum(float(row["duration_seconds"]) for row in good),
        no_openings,
    )


def num_kept(out: str) -> int:
    """Rows that a stopped `write_index` has left for the next one."""
    return len(_read_rows(out + ".part") or _read_rows(out))


def _row(source: Source, found: Probe) -> dict[str, str]:
    numbers = {
        "num_frames": found.num_frames,
        "width": found.width,
        "height": found.height,
        "fps": f"{found.fps:g}",
        "duration_seconds": f"{found.duration_seconds:g}",
    }
    row = {name: str(value) for name, value in numbers.items()}
    flags = _FLAG_SEPARATOR.join(found.flags)
    texts = {"codec": found.codec, "flags": flags, "status": found.status, "reason": found.reason}
    return {"path": source.path, "label": source.label, **row, **texts, **_state_of(source.full_path)}


def _state_of(path: str) -> dict[str, str]:
    """Size and time of change of a file: with another it may be another."""
    try:
        found = os.stat(path)
    except OSError:
        return {"bytes": "0", "modified_ns": "0"}
    return {"bytes": str(found.st_size), "modified_ns": str(found.st_mtime_ns)}


def _reusable(
    sources: Iterable[Source], rows: Mapping[str, dict[str, str]], *, retry: bool
) -> dict[str, dict[str, str]]:
    """Rows of files that have not changed, by path; their labels may be old."""
    kept = {}
    for source in sources:
        row = rows.get(source.path)
        if row is None or not row.items() >= _state_of(source.full_path).items() or (retry and row["status"] != OK):
            continue
        kept[source.path] = row
    return kept


def _read_rows(path: str) -> dict[str, dict[str, str]]:
    """Rows of an index by path; what is not whole (a run was killed while it wrote) is left out."""
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            lines = list(csv.reader(file))
    except (OSError, csv.Error):
        return {}
    if not lines or tuple(lines[0][: len(INDEX_COLUMNS)]) != INDEX_COLUMNS:
        return {}
    whole = (dict(zip(INDEX_COLUMNS, row, strict=False)) for row in lines[1:] if len(row) == len(lines[0]))
    return {row["path"]: row for row in whole if row["bytes"].isdecimal()}


def _write_rows(path: str, rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> None:
    with open(path + ".new", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)
