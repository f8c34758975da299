"""Which videos two lists share: copies of one data set differ in what is still there, and in how files are called."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from vidgn.data.datasets.annotations import list_rows
from vidgn.data.datasets.kinetics import kinetics_ids
from vidgn.data.datasets.listing import csv_header, csv_rows
from vidgn.errors import ManifestError
from vidgn.video_names import stem_of


@dataclass(frozen=True)
class Overlap:
    """Names without folders and endings. `relabelled`: (name, label in the first, label in the second)."""

    common: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    relabelled: tuple[tuple[str, str, str], ...]


def overlap_of(first: str, second: str, *, separator: str = " ") -> Overlap:
    """What two annotations (Kinetics csv, csv with a column path, list) have in common, whether files are there or not.

    Raises:
        ManifestError: one can't be read, or names two of its videos alike.
    """
    ours, theirs = (_labels(path, separator) for path in (first, second))
    common = [name for name in ours if name in theirs]
    return Overlap(
        tuple(common),
        tuple(name for name in ours if name not in theirs),
        tuple(name for name in theirs if name not in ours),
        tuple((name, ours[name], theirs[name]) for name in common if ours[name] != theirs[name]),
    )


def _labels(path: str, separator: str) -> Mapping[str, str]:
    if not os.path.isfile(path):
        raise ManifestError(f"{path}: no such file; give an annotation")
    header = csv_header(path)
    if "youtube_id" in header:
        rows = list(kinetics_ids(path))
    elif "path" in header:
        rows = [(stem_of(row["path"]), row.get("label", "").strip()) for row in csv_rows(path, ("path",))]
    else:
        rows = [(stem_of(file), label) for file, label in list_rows(path, separator)]
    twice = [name for name, count in Counter(name for name, _ in rows).items() if count > 1]
    if twice:
        raise ManifestError(f"{path}: several videos are called {twice[0]}; give them names of their own")
    return dict(rows)
