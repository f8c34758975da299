"""The labelled videos of one split, compact enough that every rank can hold 240,000 of them."""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.annotations import read_listing
from vidgn.data.datasets.classes import label_numbers, read_classes
from vidgn.data.datasets.listing import ANNOTATED, Listing, Split, annotation_path, describe, root_folder
from vidgn.data.datasets.synthetic import check_synthetic
from vidgn.errors import ConfigError, ManifestError

_NUM_NAMED = 3  # files that an error names
FOLDERS = ("folders", "imagenet", "frames")  # formats in which folders are the annotation


@dataclass(frozen=True)
class Row:
    """One video. `path` can be opened as it is; numbers are of its index or of the run's start, None where unknown."""

    id: str
    path: str
    label: int
    num_frames: int | None
    num_bytes: int | None = None
    segment: tuple[float, float] | None = None  # of the file from the first frame on, the end left out
    segment_unit: str = "seconds"  # or frames


class Manifest:
    """Usable rows of a split, in the order of their annotation, and what was left out.

    `missing`: ids whose file is not there. `unreadable`: ids that an index marks as not decodable, left out of
    training; a test keeps them and counts them as wrong.
    """

    classes: tuple[str, ...]
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]

    def __init__(self, listing: Listing, labels: np.ndarray, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.missing = tuple(listing.missing)
        self.unreadable = tuple(listing.unreadable)
        self.transcoded_as = tuple(listing.transcoded_as)
        self.content = listing.content
        self._segment_unit = listing.segment_unit
        self._base = listing.base
        self._ids = _Strings(listing.ids)
        self._paths = self._ids if listing.paths == listing.ids else _Strings(listing.paths)
        self._labels = labels
        self._num_frames = np.array(listing.num_frames, dtype=np.int32) if listing.num_frames else None
        none = (math.nan, math.nan)
        self._segments = np.array([s or none for s in listing.segments]) if listing.segments else None
        self._num_bytes = np.array(listing.num_bytes, dtype=np.int64) if listing.num_bytes else None

    @property
    def num_missing(self) -> int:
        return len(self.missing)

    @property
    def labels(self) -> list[int]:
        """The label of each row."""
        return self._labels.tolist()

    def listing(self) -> Listing:
        """The rows as parallel lists again, their labels as names."""
        return Listing(
            base=self._base,
            ids=[self._ids[i] for i in range(len(self))],
            paths=[self._paths[i] for i in range(len(self))],
            labels=[self.classes[label] for label in self.labels],
            num_frames=[] if self._num_frames is None else self._num_frames.tolist(),
            num_bytes=[] if self._num_bytes is None else self._num_bytes.tolist(),
            segments=[] if self._segments is None else [self._segment(i) for i in range(len(self))],
            missing=list(self.missing),
            segment_unit=self._segment_unit,
            unreadable=list(self.unreadable),
            transcoded_as=list(self.transcoded_as),
            content=self.content,
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Row:
        num_frames = None if self._num_frames is None else int(self._num_frames[index]) or None
        num_bytes = None if self._num_bytes is None else int(self._num_bytes[index]) or None
        path = os.path.join(self._base, self._paths[index])
        label, segment = int(self._labels[index]), self._segment(index)
        return Row(self._ids[index], path, label, num_frames, num_bytes, segment, self._segment_unit)

    def _segment(self, index: int) -> tuple[float, float] | None:
        if self._segments is None or math.isnan(self._segments[index][0]):
            return None
        start, end = self._segments[index].tolist()
        return start, end

    def digest(self) -> str:
        """sha256 (hex) of the usable rows' ids and labels, in order; where the files lie does not enter."""
        hasher = hashlib.sha256(self.content.encode())
        for index in range(len(self)):
            hasher.update(f"{self._ids[index]}\0{self._labels[index]}\n".encode("utf-8", "surrogateescape"))
        return hasher.hexdigest()


class _Strings:
    """A tuple of strings in one block of bytes: no object a row."""

    def __init__(self, strings: Sequence[str]) -> None:
        encoded = [s.encode("utf-8", "surrogateescape") for s in strings]
        self._ends = np.cumsum([len(e) for e in encoded], dtype=np.int64)
        self._bytes = b"".join(encoded)

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return self._bytes[start : self._ends[index]].decode("utf-8", "surrogateescape")


def check_data(data: DataConfig) -> None:
    """Check settings and files before anything is read or started.

    Raises:
        ConfigError: if settings do not go together.
        ManifestError: if a file or folder is not there.
    """
    if data.format == "synthetic":
        check_synthetic(data)
        return
    _check_folds(data)
    if data.format == "list" and not data.separator:
        raise ConfigError("data.separator is empty: write what parts path and label, for example data.separator=','")
    if data.classes is not None and not os.path.isfile(data.classes):
        raise ManifestError(f"data.classes={data.classes}: no such file; give one with a class name a line, or null")
    for split in ("train", "val") if data.format in ANNOTATED else ():
        annotation_path(data, split)
    if data.root is not None or data.format not in ("list", "csv"):
        root_folder(data)


def _check_folds(data: DataConfig) -> None:
    if data.folds is None:
        if data.group is not None or (data.fold is not None and data.format not in ("ucf101", "hmdb51")):
            raise ConfigError(
                f"data.fold={data.fold} data.group={data.group} part a list into folds: write data.folds=5 with them"
            )
        return
    if data.format not in ("csv", "list", "folders", "frames", "imagenet"):
        raise ConfigError(f"data.folds={data.folds} is for csv, list and folders, not {data.format}: leave it out")
    if data.folds < 2 or data.fold is None or not 0 <= data.fold < data.folds:
        raise ConfigError(
            f"data.folds={data.folds} data.fold={data.fold}: at least 2 folds, and one of 0 to folds - 1 to test: "
            "write data.folds=5 data.fold=0"
        )
    if data.val is not None:
        raise ConfigError(
            f"data.val={data.val}: data.folds={data.folds} tests a part of data.train: write data.val=null"
        )
    if data.group is not None and data.format != "csv":
        raise ConfigError(f"data.group={data.group} is a column of a csv, not of {data.format}: leave it out")


def read_manifest(data: DataConfig, split: Split) -> Manifest:
    """The manifest of `split`. Class names are `data.classes`, else those of the training annotation, alphabetical.

    Raises:
        ManifestError: for an annotation or folder that can't be used, a label outside the class list, files that
            are missing (unless data.missing=skip), or nothing left.
    """
    listing = read_listing(data, split)
    check_complete(listing, data, split)
    return label_rows(listing, data, split, read_classes(data))


def check_complete(listing: Listing, data: DataConfig, split: Split) -> None:
    """Check that the files of a split are there, or as many as `data.missing` asks for.

    Raises:
        ManifestError: if some are missing (unless data.missing=skip), or nothing is left.
    """
    where = describe(data, split)
    if listing.missing and data.missing == "error":
        raise ManifestError(
            f"{len(listing.missing)} of {len(listing.missing) + len(listing.ids)} videos of {where} are not below "
            f"{listing.base} (first: {', '.join(listing.missing[:_NUM_NAMED])}); check data.root, "
            "or set data.missing=skip to go on without them"
        )
    if not listing.ids:
        left_out = f" ({len(listing.missing)} missing, {len(listing.unreadable)} unreadable)"
        raise ManifestError(
            f"{where}: no usable video{left_out if listing.missing or listing.unreadable else ''}; "
            "check that the annotation and data.root belong together"
        )


def label_rows(listing: Listing, data: DataConfig, split: Split, classes: tuple[str, ...]) -> Manifest:
    """The rows of a listing with their labels as numbers.

    Raises:
        ManifestError: for a label outside `classes`.
    """
    return Manifest(listing, label_numbers(listing, data, split, classes), classes)
