"""Kinetics: the official csv (DeepMind, CVDF), and any layout of its folders."""

import os
from collections.abc import Iterable, Iterator

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.listing import (
    SPLIT_NAMES,
    VIDEO_EXTENSIONS,
    Listing,
    Split,
    annotation_path,
    csv_rows,
    is_dangling,
    root_folder,
)
from vidgn.errors import ManifestError

_MAX_DEPTH = 3  # folders below the root that are searched
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def read_kinetics(data: DataConfig, split: Split) -> Listing:
    """The official csv and any of: root/split/class name/, class_name/, or all in one folder (CVDF's archives)."""
    return kinetics_listing(annotation_path(data, split), root_folder(data), split)


def kinetics_listing(path: str, root: str, split: Split) -> Listing:
    """The rows of the csv at `path` whose videos are below `root`.

    Raises:
        ManifestError: the annotation or the folder can't be used.
    """
    listing = Listing(root)
    files = _files(listing.base, split)
    for row in _rows(path, split):
        video = row["youtube_id"]
        id = _clip_name(video, row, path)
        file = files.get(id) or files.get(video)
        if file is None:
            listing.missing.append(id)
        else:
            listing.add(id, file, row["label"].strip())
    return listing


def kinetics_ids(path: str) -> Iterator[tuple[str, str]]:
    """(clip name, label) of every row of a Kinetics csv, whatever its split."""
    for row in csv_rows(path, _COLUMNS):
        yield _clip_name(row["youtube_id"], row, path), row["label"].strip()


def kinetics_labels(data: DataConfig, split: Split) -> Iterable[str]:
    """All labels of `split`, present or not."""
    return (row["label"].strip() for row in _rows(annotation_path(data, split), split))


def _rows(path: str, split: Split) -> list[dict[str, str]]:
    """Rows of the csv; those of `split` alone where the file holds several splits."""
    rows = list(csv_rows(path, _COLUMNS))
    if len({row.get("split") for row in rows}) > 1:
        return [row for row in rows if row.get("split") in SPLIT_NAMES[split]]
    return rows


def _clip_name(video: str, row: dict[str, str], path: str) -> str:
    try:
        start, end = int(float(row["time_start"])), int(float(row["time_end"]))
    except (ValueError, OverflowError):
        times = f"time_start={row['time_start']!r}, time_end={row['time_end']!r}"
        raise ManifestError(f"{path}: {times} of {video} are not seconds; write whole seconds") from None
    return f"{video}_{start:06d}_{end:06d}"


def _files(root: str, split: Split) -> dict[str, str]:
    """Clip name (or bare YouTube id) -> path relative to root, of every video file below the split's folder."""
    folders = [
        name for s in SPLIT_NAMES[split] for name in (s, f"videos_{s}") if os.path.isdir(os.path.join(root, name))
    ]
    files: dict[str, str] = {}
    for folder in folders or [""]:
        for relative in sorted(_walk(root, folder, _MAX_DEPTH)):
            stem, extension = os.path.splitext(os.path.basename(relative))
            if extension.lower() in VIDEO_EXTENSIONS:
                files.setdefault(_normal_stem(stem), relative)
    return files


def _normal_stem(stem: str) -> str:
    """`id_start_end` with six digits each. Ids may hold underscores, so times are taken from the right."""
    parts = stem.rsplit("_", 2)
    if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal() and len(stem) > 11:
        return f"{parts[0]}_{int(parts[1]):06d}_{int(parts[2]):06d}"
    return stem


def _walk(root: str, folder: str, depth: int) -> Iterator[str]:
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            relative = os.path.join(folder, entry.name)
            if depth > 0 and entry.is_dir():
                yield from _walk(root, relative, depth - 1)
            elif not is_dangling(entry):
                yield relative
