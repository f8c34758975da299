"""Data sets as the world writes them. One function a format, all in `_READERS`: annotation in, `Listing` out.

No file of the videos is opened or even asked for one by one: folders are listed once.
"""

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from vidgn.config.schema import DataConfig
from vidgn.errors import ManifestError

Split = Literal["train", "val"]

VIDEO_EXTENSIONS = frozenset({".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".3gp", ".flv", ".wmv"})
IMAGE_EXTENSIONS = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp"})
_SPLIT_NAMES = {"train": ("train",), "val": ("val", "validate", "validation")}
_MAX_DEPTH = 3  # folders below the root that are searched for Kinetics files


@dataclass
class Listing:
    """Rows of one split in the order of their annotation, as parallel lists.

    `paths` are relative to `base`, or absolute. `labels` are as written. `missing`: ids whose file is not there.
    `unreadable`: ids that an index marks as not decodable, left out of training (a test counts them as wrong).
    """

    base: str
    ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int, int]] = field(default_factory=list)  # num_frames, height, width; from an index
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add(self, id: str, path: str, label: str, size: tuple[int, int, int] | None = None) -> None:
        """Appends a row. All rows of a listing have a size (zeros: not known), or none has."""
        self.ids.append(id)
        self.paths.append(path)
        self.labels.append(label)
        if size is not None:
            self.sizes.append(size)


def read_listing(data: DataConfig, split: Split) -> Listing:
    """The rows of `split` whose files exist. Raises ManifestError where annotation or folders can't be used."""
    return _READERS[data.format][0](data, split)


def read_labels(data: DataConfig, split: Split) -> Iterable[str]:
    """All labels of `split` as written, present or not, in no order; from the annotation alone."""
    return _READERS[data.format][1](data, split)


def annotation_path(data: DataConfig, split: Split) -> str:
    """The annotation file of `split`. Raises ManifestError where none is set or it is no file."""
    path = data.train if split == "train" else data.val
    if path is None:
        raise ManifestError(f"data.{split} is not set, and data.format={data.format} needs it: give an annotation file")
    if not os.path.isfile(path):
        raise ManifestError(f"data.{split}={path}: no such file; give the path of the annotation")
    return path


def root_folder(data: DataConfig, *, default: str | None = None) -> str:
    """The folder of the videos. Raises ManifestError where it is not set (and has no default) or does not exist."""
    root = data.root if data.root is not None else default
    if root is None:
        raise ManifestError(f"data.root is not set, and data.format={data.format} needs it: give the folder of videos")
    if not os.path.isdir(root):
        raise ManifestError(f"data.root={root}: no such folder; give the folder that holds the videos")
    return root


# --- Kinetics -------------------------------------------------------------------------------------------------------

_KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def _kinetics(data: DataConfig, split: Split) -> Listing:
    """The official csv and any of: root/split/class name/, class_name/, or all in one folder (CVDF's archives)."""
    path = annotation_path(data, split)
    listing = Listing(root_folder(data))
    files = _kinetics_files(listing.base, split)
    for row in _kinetics_rows(path, split):
        video = row["youtube_id"]
        id = _clip_name(video, row, path)
        file = files.get(id) or files.get(video)
        if file is None:
            listing.missing.append(id)
        else:
            listing.add(id, file, row["label"])
    return listing


def _kinetics_labels(data: DataConfig, split: Split) -> Iterable[str]:
    return (row["label"] for row in _kinetics_rows(annotation_path(data, split), split))


def _kinetics_rows(path: str, split: Split) -> list[dict[str, str]]:
    """Rows of the csv; those of `split` alone where the file holds several splits."""
    rows = list(_csv_rows(path, _KINETICS_COLUMNS))
    if len({row.get("split") for row in rows}) > 1:
        return [row for row in rows if row.get("split") in _SPLIT_NAMES[split]]
    return rows


def _clip_name(video: str, row: dict[str, str], path: str) -> str:
    try:
        start, end = int(float(row["time_start"])), int(float(row["time_end"]))
    except ValueError:
        times = f"time_start={row['time_start']!r}, time_end={row['time_end']!r}"
        raise ManifestError(f"{path}: {times} of {video} are not seconds; write whole seconds") from None
    return f"{video}_{start:06d}_{end:06d}"


def _kinetics_files(root: str, split: Split) -> dict[str, str]:
    """Clip name (or bare YouTube id) -> path relative to root, of every video file below the split's folder."""
    folders = [
        name for s in _SPLIT_NAMES[split] for name in (s, f"videos_{s}") if os.path.isdir(os.path.join(root, name))
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
            else:
                yield relative


# --- lists and csv files --------------------------------------------------------------------------------------------


def _list(data: DataConfig, split: Split) -> Listing:
    """`path label` a line (mmaction2, PySlowFast), split at the last `data.separator`."""
    path = annotation_path(data, split)
    listing = Listing(root_folder(data, default=os.path.dirname(path)))
    for file, label in _list_rows(path, data.separator):
        listing.add(file, file, label)
    return _existing(listing)


def _list_labels(data: DataConfig, split: Split) -> Iterable[str]:
    return (label for _, label in _list_rows(annotation_path(data, split), data.separator))


def _list_rows(path: str, separator: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        file, found, label = line.strip().rpartition(separator)
        if not found or not file.strip():
            raise ManifestError(
                f"{path}, line {number}: {line.strip()[:80]!r} is not a path and a label parted by {separator!r}; "
                "set data.separator to what parts them"
            )
        yield file.strip(), label.strip()


def _csv(data: DataConfig, split: Split) -> Listing:
    """A header with `path` and `label`; columns that `vidgn data index` writes are used where they are there."""
    path = annotation_path(data, split)
    listing = Listing(root_folder(data, default=os.path.dirname(path)))
    for row in _csv_rows(path, ("path", "label")):
        status = row.get("status") or "ok"
        if status != "ok" and split == "train":
            listing.unreadable.append(row["path"])
            continue
        listing.add(row["path"], row["path"], row["label"], _indexed_size(row) if status == "ok" else (0, 0, 0))
    if not any(any(size) for size in listing.sizes):
        listing.sizes = []
    return _existing(listing)


def _indexed_size(row: dict[str, str]) -> tuple[int, int, int]:
    """(num_frames, height, width), 0 where not given."""
    numbers = [row.get(name, "") for name in ("num_frames", "height", "width")]
    num_frames, height, width = (int(number) if number.isdecimal() else 0 for number in numbers)
    return num_frames, height, width


def _csv_labels(data: DataConfig, split: Split) -> Iterable[str]:
    return (row["label"] for row in _csv_rows(annotation_path(data, split), ("path", "label")))


def _csv_rows(path: str, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    reader = csv.reader(_lines(path))
    header = [name.strip() for name in next(reader, [])]
    absent = [name for name in columns if name not in header]
    if absent:
        raise ManifestError(
            f"{path}: no column {', '.join(absent)} in its first line ({','.join(header)[:120]}); "
            f"the header must have {','.join(columns)}"
        )
    for cells in reader:
        if not cells:
            continue
        if len(cells) < len(header):
            raise ManifestError(
                f"{path}, line {reader.line_num}: {len(cells)} cells under {len(header)} columns; "
                "mend the line, and quote values that hold a comma"
            )
        yield dict(zip(header, cells, strict=False))


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig", newline=None) as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: {error}; give a readable text file in UTF-8") from None


def _existing(listing: Listing) -> Listing:
    """The rows whose file is there; each folder named by a path is listed once."""
    present: dict[str, frozenset[str]] = {}
    keep = []
    for index, path in enumerate(listing.paths):
        folder, name = os.path.split(os.path.join(listing.base, path))
        if folder not in present:
            try:
                present[folder] = frozenset(os.listdir(folder))
            except OSError:
                present[folder] = frozenset()
        if name in present[folder]:
            keep.append(index)
        else:
            listing.missing.append(listing.ids[index])
    if listing.missing:
        for name in ("ids", "paths", "labels", "sizes"):
            values = getattr(listing, name)
            setattr(listing, name, [values[i] for i in keep] if values else [])
    return listing


# --- class folders --------------------------------------------------------------------------------------------------


def _folders(data: DataConfig, split: Split) -> Listing:
    """root/split/class/*: the folder's name is the label. Sorted by class, then by name."""
    extensions = IMAGE_EXTENSIONS if data.format == "imagenet" else VIDEO_EXTENSIONS
    listing = Listing(_split_folder(data, split))
    for label in sorted(_folder_labels(data, split)):
        with os.scandir(os.path.join(listing.base, label)) as entries:
            names = sorted(e.name for e in entries if os.path.splitext(e.name)[1].lower() in extensions)
        for name in names:
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
    for name in _SPLIT_NAMES[split]:
        if os.path.isdir(os.path.join(root, name)):
            return os.path.join(root, name)
    raise ManifestError(f"{os.path.join(root, split)}: no such folder; data.root must hold {split}/CLASS/ folders")


# --- synthetic ------------------------------------------------------------------------------------------------------


def _synthetic(data: DataConfig, split: Split) -> Listing:
    from vidgn.data.synthetic import ensure_synthetic

    return _kinetics(ensure_synthetic(data), split)


def _synthetic_labels(data: DataConfig, split: Split) -> Iterable[str]:
    from vidgn.data.synthetic import ensure_synthetic

    return _kinetics_labels(ensure_synthetic(data), split)


_Readers = tuple[Callable[[DataConfig, Split], Listing], Callable[[DataConfig, Split], Iterable[str]]]
_READERS: dict[str, _Readers] = {
    "kinetics": (_kinetics, _kinetics_labels),
    "list": (_list, _list_labels),
    "csv": (_csv, _csv_labels),
    "folders": (_folders, _folder_labels),
    "imagenet": (_folders, _folder_labels),
    "synthetic": (_synthetic, _synthetic_labels),
}
