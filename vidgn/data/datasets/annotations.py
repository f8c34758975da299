"""Data sets as the world writes them. One function a format, all in `_READERS`: annotation in, `Listing` out.

No file of the videos is opened or even asked for one by one: folders are listed once.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.coco import coco_labels, coco_listing
from vidgn.data.datasets.folds import assign_folds, part_of
from vidgn.data.datasets.kinetics import kinetics_labels, read_kinetics
from vidgn.data.datasets.listing import (
    FOLDER_NAMES,
    IMAGE_EXTENSIONS,
    INDEX_COLUMNS,
    OFFICIAL,
    SEGMENT_COLUMNS,
    STATUSES,
    VIDEO_EXTENSIONS,
    Listing,
    Split,
    annotation_path,
    csv_header,
    csv_rows,
    folder_of,
    is_dangling,
    keep_existing,
    read_lines,
    root_folder,
)
from vidgn.data.datasets.official import check_no_flags, official_rows, segment_id, segment_of
from vidgn.errors import ManifestError


def read_listing(data: DataConfig, split: Split) -> Listing:
    """The rows of `split` whose files exist.

    Raises:
        ManifestError: where annotation or folders can't be used.
    """
    listing = _READERS[data.format][0](data, split)
    if data.folds is None or data.fold is None:
        return listing
    fold_of = assign_folds(_rows_of_folds(data), folds=data.folds, seed=data.fold_seed)
    return part_of(listing, fold_of, split, data.fold)


def _rows_of_folds(data: DataConfig) -> Iterator[tuple[str, str, str]]:
    """(id, label, group) of every row, whether its file is there or not; without data.group each is a group."""
    if data.format == "csv":
        path = annotation_path(data, "train")
        columns = ("path", "label") if data.group is None else ("path", "label", data.group)
        for row in csv_rows(path, columns):
            yield segment_id(row["path"], segment_of(row, path)), row["label"].strip(), _group(row, data.group, path)
    elif data.format == "list":
        for file, label, _ in _list_rows(data, "train"):
            yield file, label, file
    else:
        listing = _folders(data, "train")
        yield from zip(listing.ids, listing.labels, listing.ids, strict=True)
        yield from ((id, os.path.dirname(id), id) for id in listing.missing)


def _group(row: dict[str, str], column: str | None, path: str) -> str:
    group = row["path"] if column is None else row[column].strip()
    if not group:
        raise ManifestError(f"{path}: {row['path']} has no {column}, by which folds are made: write one for every row")
    return group


def read_labels(data: DataConfig, split: Split) -> Iterable[str]:
    """All labels of `split` as written, present or not, in no order; from the annotation alone."""
    return _READERS[data.format][1](data, split)


# --- lists and csv files --------------------------------------------------------------------------------------------


def _list(data: DataConfig, split: Split) -> Listing:
    """`path label` a line (mmaction2, PySlowFast), split at the last `data.separator`; or `path num_frames label`."""
    listing = Listing(root_folder(data, default=folder_of(annotation_path(data, split))))
    for file, label, num_frames in _list_rows(data, split):
        listing.add(file, file, label)
        listing.num_frames += [] if num_frames is None else [num_frames]
    return keep_existing(listing)


def _list_rows(data: DataConfig, split: Split) -> list[tuple[str, str, int | None]]:
    """(path, label, number of frames or None) of each line."""
    rows = list(list_rows(annotation_path(data, split), data.separator))
    parts = [file.rpartition(_written_out(data.separator)) for file, _ in rows]
    if not all(head and count.isdecimal() and len(count) < 10 for head, _, count in parts):
        return [(file, label, None) for file, label in rows]
    return [(head.strip(), label, int(n)) for (_, label), (head, _, n) in zip(rows, parts, strict=True)]


def _list_labels(data: DataConfig, split: Split) -> Iterable[str]:
    return (label for _, label in list_rows(annotation_path(data, split), data.separator))


def _written_out(separator: str) -> str:
    return separator.replace("\\t", "\t")  # a tab, as a shell takes it


def list_rows(path: str, separator: str) -> Iterator[tuple[str, str]]:
    """(path, label) of each line, parted at the last `separator`.

    Raises:
        ManifestError: the annotation or the folder can't be used.
    """
    check_no_flags(path)
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        file, found, label = line.strip().rpartition(_written_out(separator))
        if not found or not file.strip():
            raise ManifestError(
                f"{path}, line {number}: {line.strip()[:80]!r} is not a path and a label parted by {separator!r}; "
                "set data.separator (of vidgn data: --separator) to what parts them"
            )
        yield file.strip(), label.strip()


def _csv(data: DataConfig, split: Split) -> Listing:
    """A header with `path` and `label`; columns that `vidgn data index` writes are used where they are there."""
    path = annotation_path(data, split)
    listing = Listing(root_folder(data, default=folder_of(path)))
    header = csv_header(path)
    if {"start", "start_frame"} <= set(header):
        raise ManifestError(f"{path}: has columns start and start_frame; leave one pair of them out")
    listing.segment_unit = "frames" if "start_frame" in header else "seconds"
    transcoded: dict[str, None] = {}
    for row in csv_rows(path, ("path", "label")):
        status = row.get("status") or "ok"
        if status not in STATUSES:
            raise ManifestError(
                f"{path}: {row['path']} has the status {status[:40]!r}, and `vidgn data index` writes in that column "
                f"{', '.join(STATUSES)}; rename the column, or index the videos anew"
            )
        if status != "ok" and split == "train":
            listing.unreadable.append(segment_id(row["path"], segment_of(row, path)))
            continue
        segment = segment_of(row, path)
        listing.add(segment_id(row["path"], segment), row["path"], row["label"].strip())
        listing.segments.append(segment)
        listing.num_frames.append(_number(row, "num_frames", path, most_digits=9) if status == "ok" else 0)
        listing.num_bytes.append(_number(row, "bytes", path, most_digits=18))
        transcoded.setdefault(row.get("transcoded_as", ""))
    for name in ("num_frames", "num_bytes", "segments"):
        if not any(getattr(listing, name)):
            setattr(listing, name, [])
    listing.transcoded_as = [how or "as they were" for how in transcoded] if any(transcoded) else []
    listing.notes += unread_columns(path, data.group)
    return keep_existing(listing)


def unread_columns(path: str, group: str | None) -> list[str]:
    """A line that names the columns of a csv that mean nothing here, none where there are none."""
    known = (*INDEX_COLUMNS, group, *SEGMENT_COLUMNS, "transcoded_from", "transcoded_from_bytes", "transcoded_as")
    unread = [name for name in csv_header(path) if name not in known]
    return [f"{path}: columns that are not read: {', '.join(unread)}"] if unread else []


def _number(row: dict[str, str], name: str, path: str, *, most_digits: int) -> int:
    """0 where not given."""
    number = row.get(name, "")
    if len(number) > most_digits:
        raise ManifestError(
            f"{path}: {name}={number[:40]} of {row['path']} is no such number; index the videos anew (vidgn data index)"
        )
    return int(number) if number.isdecimal() else 0


def _csv_labels(data: DataConfig, split: Split) -> Iterable[str]:
    return (row["label"].strip() for row in csv_rows(annotation_path(data, split), ("path", "label")))


# --- class folders --------------------------------------------------------------------------------------------------


def _folders(data: DataConfig, split: Split) -> Listing:
    """root/split/class/*: the folder's name is the label. Sorted by class, then by name. Of `frames`: its folders."""
    extensions = IMAGE_EXTENSIONS if data.format == "imagenet" else VIDEO_EXTENSIONS
    listing = Listing(_split_folder(data, split))
    others = Counter[str]()
    for label in sorted(_folder_labels(data, split)):
        with os.scandir(os.path.join(listing.base, label)) as entries:
            found = []
            for entry in entries:
                ending = os.path.splitext(entry.name)[1].lower()
                if entry.name.startswith("."):
                    continue
                if entry.is_dir() if data.format == "frames" else ending in extensions:
                    found.append(entry)
                else:
                    others["folders" if entry.is_dir() else ending or "without ending"] += 1
            dangling = {e.name for e in found if is_dangling(e)}
        for name in sorted(e.name for e in found):
            if name in dangling:
                listing.missing.append(f"{label}/{name}")
            else:
                listing.add(f"{label}/{name}", f"{label}/{name}", label)
    if others:
        passed_over = ", ".join(f"{number} {kind}" for kind, number in others.most_common(5))
        listing.notes.append(f"{listing.base}: passed over in class folders: {passed_over}")
    return listing


def _folder_labels(data: DataConfig, split: Split) -> Iterable[str]:
    folder = _split_folder(data, split)
    with os.scandir(folder) as entries:
        labels = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if not labels:
        raise ManifestError(f"{folder} holds no class folders; put each class's files in {folder}/CLASS/")
    return labels


def _split_folder(data: DataConfig, split: Split) -> str:
    root = root_folder(data)
    if data.folds is not None:
        return root
    for name in FOLDER_NAMES[split]:
        if os.path.isdir(os.path.join(root, name)):
            return os.path.join(root, name)
    raise ManifestError(f"{os.path.join(root, split)}: no such folder; data.root must hold {split}/CLASS/ folders")


# --- synthetic ------------------------------------------------------------------------------------------------------


def _synthetic(data: DataConfig, split: Split) -> Listing:
    from vidgn.data.datasets.synthetic import ensure_synthetic

    return read_kinetics(ensure_synthetic(data), split)


def _synthetic_labels(data: DataConfig, split: Split) -> Iterable[str]:
    from vidgn.data.datasets.synthetic import ensure_synthetic

    return kinetics_labels(ensure_synthetic(data), split)


# --- lists as the data sets bring them ------------------------------------------------------------------------------


def _official(data: DataConfig, split: Split) -> Listing:
    """Rows of official.py; files by their path below the root, or by their name without an ending."""
    path = annotation_path(data, split)
    listing = Listing(root_folder(data))
    by_stem: dict[str, str] | None = None
    for file, label, segment in official_rows(path, data.format, split, data):
        listing.segments.append(segment)
        if os.path.splitext(file)[1]:
            listing.add(segment_id(file, segment), file, label)
            continue
        if by_stem is None:
            with os.scandir(listing.base) as entries:
                by_stem = _videos_by_stem(listing.base, entries)
        listing.add(segment_id(file, segment), by_stem.get(file) or by_stem.get(f"v_{file}", file), label)
    if not any(listing.segments):
        listing.segments = []
    return keep_existing(listing)


def _videos_by_stem(folder: str, entries: Iterable[os.DirEntry[str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        stem, ending = os.path.splitext(entry.name)
        if is_dangling(entry) or not (ending.lower() in VIDEO_EXTENSIONS or entry.is_dir()):
            continue
        if (other := found.setdefault(stem, entry.name)) != entry.name:
            two = " and ".join(sorted((other, entry.name)))
            raise ManifestError(f"{folder}: {two} are both {stem} of the list; take one of them away")
    return found


def _official_labels(data: DataConfig, split: Split) -> Iterable[str]:
    return (label for _, label, _ in official_rows(annotation_path(data, split), data.format, split, data))


_Readers = tuple[Callable[[DataConfig, Split], Listing], Callable[[DataConfig, Split], Iterable[str]]]
_READERS: dict[str, _Readers] = {
    "kinetics": (read_kinetics, kinetics_labels),
    "list": (_list, _list_labels),
    "csv": (_csv, _csv_labels),
    "folders": (_folders, _folder_labels),
    "imagenet": (_folders, _folder_labels),
    "frames": (_folders, _folder_labels),
    "synthetic": (_synthetic, _synthetic_labels),
    "coco": (coco_listing, coco_labels),
    **dict.fromkeys(OFFICIAL, (_official, _official_labels)),
}
