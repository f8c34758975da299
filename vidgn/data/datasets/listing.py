"""What all formats share: rows as parallel lists, and how annotation files and folders are read."""

import codecs
import csv
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from vidgn.config.schema import DataConfig
from vidgn.data.decode.base import IMAGE_EXTENSIONS, LFS_POINTER
from vidgn.errors import ManifestError

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")
OFFICIAL = ("ucf101", "hmdb51", "ssv2", "jester", "diving48", "activitynet", "epic")
# formats whose labels stand in a file; else folders are the labels
ANNOTATED = ("kinetics", "list", "csv", "coco", *OFFICIAL)

_USUAL = frozenset({".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".3gp", ".flv", ".wmv"})
_BROADCAST = frozenset({".ts", ".mts", ".m2ts", ".vob", ".mxf", ".dv", ".wtv", ".pva", ".m1v", ".m2v"})
_RARE = frozenset(
    {".3g2", ".apng", ".asf", ".divx", ".f4v", ".gif", ".ivf", ".mjpeg", ".nut", ".ogv", ".qt", ".rm", ".y4m"}
)
VIDEO_EXTENSIONS = _USUAL | _BROADCAST | _RARE
SEGMENT_COLUMNS = ("start", "end", "start_frame", "end_frame")
INDEX_COLUMNS: tuple[str, ...] = (
    *(
        "path",
        "label",
        "num_frames",
        "width",
        "height",
        "fps",
        "duration_seconds",
        "codec",
        "flags",
        "status",
        "reason",
    ),
    *("bytes", "modified_ns"),
)
STATUSES = (
    "ok",
    "damaged",
    "unreadable",
    "error",
    "refused",
    "bug",
    "timeout",
    "memory",
    "crash",
)  # of a row of an index
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validate", "validation")}
FOLDER_NAMES = {"train": ("train", "training"), "val": (*SPLIT_NAMES["val"], "test", "testing")}


_PARALLEL = ("ids", "paths", "labels", "num_frames", "num_bytes", "segments", "others")


@dataclass
class Listing:
    """Rows of one split in the order of their annotation, as parallel lists.

    `paths` are relative to `base`, or absolute. `labels` are as written. `missing`: ids whose file is not there.
    `num_frames`, `num_bytes`: from an index, 0 where not known; empty where no row has any.
    `segments`: (start, end) in `segment_unit` of the part of the file that a row is; None: all. Empty where all are.
    `unreadable`: ids that an index marks as not decodable, left out of training (a test counts them as wrong).
    `transcoded_as`: each way in which some were, as their manifest says; empty where none was.
    `content`: digest of what the annotation says beside labels. `notes`: what is to be said of the annotation.
    `others`: a row's columns that are not read here, where asked for.
    """

    base: str
    ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    num_frames: list[int] = field(default_factory=list)
    num_bytes: list[int] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    segments: list[tuple[float, float] | None] = field(default_factory=list)
    segment_unit: str = "seconds"
    unreadable: list[str] = field(default_factory=list)
    transcoded_as: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    others: list[dict[str, str]] = field(default_factory=list)
    content: str = ""

    def add(self, id: str, path: str, label: str) -> None:
        self.ids.append(id)
        self.paths.append(path)
        self.labels.append(label)

    def kept(self, places: Sequence[int]) -> "Listing":
        """The rows at `places`; what was left out stays as it is."""
        lists = {name: getattr(self, name) for name in _PARALLEL}
        return replace(self, **{name: [all[i] for i in places] if all else [] for name, all in lists.items()})


def describe(data: DataConfig, split: str) -> str:
    """Where the rows of a split come from, for messages."""
    path = data.train if split == "train" else data.val
    return f"data.{split}={path}" if path is not None else f"data.root={data.root}, {split}"


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
    if path is None and data.fold is not None:
        path = data.train  # one file, or a folder of lists, of which a fold takes its part
    if path is None:
        raise ManifestError(f"data.{split} is not set, and data.format={data.format} needs it: give an annotation file")
    if not (os.path.isfile(path) or (data.fold is not None and os.path.isdir(path))):
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
    """Rows of a csv as dicts; fields are parted by commas, or by what parts the first line's: tabs or semicolons.

    Raises:
        ManifestError: without the `columns`, or for a line of more or fewer fields or that is no csv.
    """
    rows = _numbered_rows(path)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    absent = [name for name in columns if name not in header]
    if absent:
        raise ManifestError(_refuse_header(path, header, absent, columns))
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise ManifestError(f"{path}: two columns are called {twice}; rename one")
    for line, fields in rows:
        if len(fields) < len(header) or any(field.strip() for field in fields[len(header) :]):
            raise ManifestError(
                f"{path}, line {line}: {len(fields)} fields under {len(header)} columns; "
                "mend the line, and quote values that hold a comma"
            )
        yield dict(zip(header, fields, strict=False))


def csv_header(path: str) -> list[str]:
    """Names of a csv's columns."""
    return [name.strip() for name in next(_numbered_rows(path), (1, []))[1]]


def _refuse_header(path: str, header: list[str], absent: list[str], columns: tuple[str, ...]) -> str:
    shown, wanted = ",".join(header)[:120], ",".join(columns)
    if any(os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS for name in header):
        return f"{path}: its first line ({shown}) is a row; write a first line that names the columns: {wanted}"
    return (
        f"{path}: no column {', '.join(absent)} in its first line ({shown}); the header must have {wanted}: "
        "rename its columns"
    )


def _numbered_rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, fields) of each row that is not empty."""
    lines = read_lines(path)
    first = next(lines, "")
    delimiter = next((mark for mark in ",\t;" if mark in first), ",")
    # strict: else an open quote swallows the rows behind it
    reader, line = (
        csv.reader(itertools.chain((first,), lines), strict=True, delimiter=delimiter, skipinitialspace=True),
        1,
    )
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise ManifestError(f"{path}, line {line}: {error}; mend the line, and close every quote") from None


def read_lines(path: str) -> Iterator[str]:
    """Lines of a text file in UTF-8, or in UTF-16 with its mark; file names in it may hold other bytes.

    Raises:
        ManifestError: the file can't be read, or holds the pointer of Git LFS in place of its content.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise ManifestError(f"{path} is a pointer of Git LFS, not the file itself: fetch it with git lfs pull")
        encoding = "utf-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
        with open(path, encoding=encoding, errors=errors, newline=None) as file:
            return io.StringIO(file.read())  # a reader that stops half-way leaves no open file
    except (OSError, UnicodeError) as error:
        raise ManifestError(f"{path}: {error}; give a readable text file") from None


def walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """(place, its folders, its files) of `folder` and all below it, links to folders included, each place once.

    Hidden folders are left out, and `folders` may be put in order or cut down, as with os.walk.
    """
    seen = set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link to where it came from
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield place, folders, names


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
    return listing.kept(keep) if listing.missing else listing
