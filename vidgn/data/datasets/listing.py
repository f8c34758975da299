"""What all formats share: rows as parallel lists, and how annotation files and folders are read."""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from vidgn.config.schema import DataConfig
from vidgn.errors import ManifestError

Split = Literal["train", "val"]

_USUAL = frozenset({".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".3gp", ".flv", ".wmv"})
_BROADCAST = frozenset({".ts", ".mts", ".m2ts", ".vob", ".mxf", ".dv", ".wtv", ".pva", ".m1v", ".m2v"})
_RARE = frozenset(
    {".3g2", ".apng", ".asf", ".divx", ".f4v", ".gif", ".ivf", ".mjpeg", ".nut", ".ogv", ".qt", ".rm", ".y4m"}
)
VIDEO_EXTENSIONS = _USUAL | _BROADCAST | _RARE
IMAGE_EXTENSIONS = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp"})
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validate", "validation")}


@dataclass
class Listing:
    """Rows of one split in the order of their annotation, as parallel lists.

    `paths` are relative to `base`, or absolute. `labels` are as written. `missing`: ids whose file is not there.
    `num_frames`: from an index, 0 where not known; empty where no row has any.
    `unreadable`: ids that an index marks as not decodable, left out of training (a test counts them as wrong).
    """

    base: str
    ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    num_frames: list[int] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add(self, id: str, path: str, label: str) -> None:
        self.ids.append(id)
        self.paths.append(path)
        self.labels.append(label)


def is_image(path: str) -> bool:
    """Whether the name says that it is a still image."""
    return os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS


def folder_of(path: str) -> str:
    """The folder that a file lies in."""
    return os.path.dirname(path) or os.curdir


def annotation_path(data: DataConfig, split: Split) -> str:
    """The annotation file of `split`.

    Raises:
        ManifestError: where none is set or it is no file.
    """
    path = data.train if split == "train" else data.val
    if path is None:
        raise ManifestError(f"data.{split} is not set, and data.format={data.format} needs it: give an annotation file")
    if not os.path.isfile(path):
        raise ManifestError(f"data.{split}={path}: no such file; give the path of the annotation")
    return path


def root_folder(data: DataConfig, *, default: str | None = None) -> str:
    """The folder of the videos.

    Raises:
        ManifestError: where it is not set (and has no default) or does not exist.
    """
    root = data.root if data.root is not None else default
    if root is None:
        raise ManifestError(f"data.root is not set, and data.format={data.format} needs it: give the folder of videos")
    if not os.path.isdir(root):
        raise ManifestError(f"data.root={root}: no such folder; give the folder that holds the videos")
    return root


def csv_rows(path: str, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Rows of a csv as dicts.

    Raises:
        ManifestError: without the `columns`, or for a line that is too short or no csv.
    """
    rows = _numbered_rows(path)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    absent = [name for name in columns if name not in header]
    if absent:
        raise ManifestError(
            f"{path}: no column {', '.join(absent)} in its first line ({','.join(header)[:120]}); "
            f"the header must have {','.join(columns)}"
        )
    for line, fields in rows:
        if len(fields) < len(header):
            raise ManifestError(
                f"{path}, line {line}: {len(fields)} fields under {len(header)} columns; "
                "mend the line, and quote values that hold a comma"
            )
        yield dict(zip(header, fields, strict=False))


def _numbered_rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, fields) of each row that is not empty."""
    reader, line = csv.reader(read_lines(path), strict=True), 1  # else an open quote swallows the rows behind it
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise ManifestError(f"{path}, line {line}: {error}; mend the line, and close every quote") from None


def read_lines(path: str) -> Iterator[str]:
    """Lines of a text file in UTF-8; file names in it may hold other bytes.

    Raises:
        ManifestError: the annotation or the folder can't be used.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline=None) as file:
            return io.StringIO(file.read())  # a reader that stops half-way leaves no open file
    except OSError as error:
        raise ManifestError(f"{path}: {error}; give a readable text file") from None


def is_dangling(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to something that is not there; only links are looked at."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def keep_existing(listing: Listing) -> Listing:
    """The rows whose file is there; each folder named by a path is listed once."""
    present: dict[str, frozenset[str]] = {}
    keep = []
    for index, path in enumerate(listing.paths):
        folder, name = os.path.split(os.path.join(listing.base, path))
        if folder not in present:
            try:
                with os.scandir(folder) as entries:
                    present[folder] = frozenset(entry.name for entry in entries if not is_dangling(entry))
            except OSError:
                present[folder] = frozenset()
        if name in present[folder]:
            keep.append(index)
        else:
            listing.missing.append(listing.ids[index])
    if listing.missing:
        for name in ("ids", "paths", "labels", "num_frames"):
            values = getattr(listing, name)
            setattr(listing, name, [values[i] for i in keep] if values else [])
    return listing
