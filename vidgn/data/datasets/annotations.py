"""Data sets as the world writes them. One function a format, all in `_READERS`: annotation in, `Listing` out.

No file of the videos is opened or even asked for one by one: folders are listed once.
"""

import os
from collections.abc import Callable, Iterable, Iterator

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.kinetics import kinetics_labels, read_kinetics
from vidgn.data.datasets.listing import (
    IMAGE_EXTENSIONS,
    SPLIT_NAMES,
    VIDEO_EXTENSIONS,
    Listing,
    Split,
    annotation_path,
    csv_rows,
    folder_of,
    keep_existing,
    read_lines,
    root_folder,
)
from vidgn.errors import ManifestError


def read_listing(data: DataConfig, split: Split) -> Listing:
    """The rows of `split` whose files exist.

    Raises:
        ManifestError: where annotation or folders can't be used.
    """
    return _READERS[data.format][0](data, split)


def read_labels(data: DataConfig, split: Split) -> Iterable[str]:
    """All labels of `split` as written, present or not, in no order; from the annotation alone."""
    return _READERS[data.format][1](data, split)


# --- lists and csv files --------------------------------------------------------------------------------------------


def _list(data: DataConfig, split: Split) -> Listing:
    """`path label` a line (mmaction2, PySlowFast), split at the last `data.separator`."""
    path = annotation_path(data, split)
    listing = Listing(root_folder(data, default=folder_of(path)))
    for file, label in list_rows(path, data.separator):
        listing.add(file, file, label)
    return keep_existing(listing)


def _list_labels(data: DataConfig, split: Split) -> Iterable[str]:
    return (label for _, label in list_rows(annotation_path(data, split), data.separator))


def list_rows(path: str, separator: str) -> Iterator[tuple[str, str]]:
    """(path, label) of each line, parted at the last `separator`.

    Raises:
        ManifestError: the annotation or the folder can't be used.
    """
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
    for row in csv_rows(path, ("path", "label")):
        status = row.get("status") or "ok"
        if status != "ok" and split == "train":
            listing.unreadable.append(row["path"])
            continue
        listing.add(row["path"], row["path"], row["label"])
        listing.num_frames.append(_num_frames(row, path) if status == "ok" else 0)
    if not any(listing.num_frames):
        listing.num_frames = []
    return keep_existing(listing)


def _num_frames(row: dict[str, str], path: str) -> int:
    """0 where not given."""
    number = row.get("num_frames", "")
    if len(number) > 9:
        raise ManifestError(
            f"{path}: num_frames={number[:40]} of {row['path']} is no number of frames; index the videos anew "
            "(vidgn data index)"
        )
    return int(number) if number.isdecimal() else 0


def _csv_labels(data: DataConfig, split: Split) -> Iterable[str]:
    return (row["label"] for row in csv_rows(annotation_path(data, split), ("path", "label")))


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
    for name in SPLIT_NAMES[split]:
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


_Readers = tuple[Callable[[DataConfig, Split], Listing], Callable[[DataConfig, Split], Iterable[str]]]
_READERS: dict[str, _Readers] = {
    "kinetics": (read_kinetics, kinetics_labels),
    "list": (_list, _list_labels),
    "csv": (_csv, _csv_labels),
    "folders": (_folders, _folder_labels),
    "imagenet": (_folders, _folder_labels),
    "synthetic": (_synthetic, _synthetic_labels),
}
