"""Data sets as the world writes them. One function a format, all in `_READERS`: annotation in, `Listing` out.

No file of the videos is opened or even asked for one by one: folders are listed once.
"""

import os
from collections.abc import Callable, Iterable, Iterator

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.coco import coco_labels, coco_listing
from vidgn.data.datasets.folds import assign_folds, part_of
from vidgn.data.datasets.listing import (
    FOLDER_NAMES,
    IMAGE_EXTENSIONS,
    INDEX_COLUMNS,
    OFFICIAL,
    SEGMENT_COLUMNS,
    SPLIT_NAMES,
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

_MAX_DEPTH = 3  # folders below Kinetics' root that are searched
_KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


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
            yield segment_id(row["path"], segment_of(row, path)), row["label"].strip(), row[data.group or "path"]
    elif data.format == "list":
        for file, label, _ in _list_rows(data, "train"):
            yield file, label, file
    else:
        listing = _folders(data, "train")
        yield from zip(listing.ids, listing.labels, listing.ids, strict=True)
        yield from ((id, os.path.dirname(id), id) for id in listing.missing)


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
    parts = [file.rpartition(data.separator) for file, _ in rows]
    if not all(head and count.isdecimal() and len(count) < 10 for head, _, count in parts):
        return [(file, label, None) for file, label in rows]
    return [(head.strip(), label, int(n)) for (_, label), (head, _, n) in zip(rows, parts, strict=True)]


def _list_labels(data: DataConfig, split: Split) -> Iterable[str]:
    return (label for _, label in list_rows(annotation_path(data, split), data.separator))


def list_rows(path: str, separator: str) -> Iterator[tuple[str, str]]:
    """(path, label) of each line, parted at the last `separator`.

    Raises:
        ManifestError: the annotation or the folder can't be used.
    """
    check_no_flags(path)
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        file, found, label = line.strip().rpartition(separator)
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
    for label in sorted(_folder_labels(data, split)):
        with os.scandir(os.path.join(listing.base, label)) as entries:
            if data.format == "frames":
                found = [e for e in entries if e.is_dir() and not e.name.startswith(".")]
            else:
                found = [e for e in entries if os.path.splitext(e.name)[1].lower() in extensions]
            dangling = {e.name for e in found if is_dangling(e)}
        for name in sorted(e.name for e in found):
            if name in dangling:
                listing.missing.append(f"{label}/{name}")
            else:
                listing.add(f"{label}/{name}", f"{label}/{name}", label)
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


# --- Kinetics: the official csv (DeepMind, CVDF), and any layout of its folders --------------------------------------


def _kinetics(data: DataConfig, split: Split) -> Listing:
    """The official csv and any of: root/split/class name/, class_name/, or all in one folder (CVDF's archives)."""
    return kinetics_listing(annotation_path(data, split), root_folder(data), split)


def kinetics_listing(path: str, root: str, split: Split) -> Listing:
    """The rows of the csv at `path` whose videos are below `root`.

    Raises:
        ManifestError: the annotation or the folder can't be used.
    """
    listing = Listing(root)
    files = _kinetics_files(listing.base, split)
    for row in _kinetics_rows(path, split):
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
    for row in csv_rows(path, _KINETICS_COLUMNS):
        yield _clip_name(row["youtube_id"], row, path), row["label"].strip()


def _kinetics_labels(data: DataConfig, split: Split) -> Iterable[str]:
    """All labels of `split`, present or not."""
    return (row["label"].strip() for row in _kinetics_rows(annotation_path(data, split), split))


def _kinetics_rows(path: str, split: Split) -> list[dict[str, str]]:
    """Rows of the csv; those of `split` alone where the file holds several splits."""
    rows = list(csv_rows(path, _KINETICS_COLUMNS))
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


def _kinetics_files(root: str, split: Split) -> dict[str, str]:
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


# --- synthetic ------------------------------------------------------------------------------------------------------


def _synthetic(data: DataConfig, split: Split) -> Listing:
    from vidgn.data.datasets.synthetic import ensure_synthetic

    return _kinetics(ensure_synthetic(data), split)


def _synthetic_labels(data: DataConfig, split: Split) -> Iterable[str]:
    from vidgn.data.datasets.synthetic import ensure_synthetic

    return _kinetics_labels(ensure_synthetic(data), split)


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
                by_stem = {os.path.splitext(e.name)[0]: e.name for e in entries if not is_dangling(e)}
        listing.add(segment_id(file, segment), by_stem.get(file) or by_stem.get(f"v_{file}", file), label)
    if not any(listing.segments):
        listing.segments = []
    return keep_existing(listing)


def _official_labels(data: DataConfig, split: Split) -> Iterable[str]:
    return (label for _, label, _ in official_rows(annotation_path(data, split), data.format, split, data))


_Readers = tuple[Callable[[DataConfig, Split], Listing], Callable[[DataConfig, Split], Iterable[str]]]
_READERS: dict[str, _Readers] = {
    "kinetics": (_kinetics, _kinetics_labels),
    "list": (_list, _list_labels),
    "csv": (_csv, _csv_labels),
    "folders": (_folders, _folder_labels),
    "imagenet": (_folders, _folder_labels),
    "frames": (_folders, _folder_labels),
    "synthetic": (_synthetic, _synthetic_labels),
    "coco": (coco_listing, coco_labels),
    **dict.fromkeys(OFFICIAL, (_official, _official_labels)),
}
