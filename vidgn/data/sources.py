"""Which files are meant: a folder, one video, or any annotation file, for the verbs that look at files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast, get_args

from vidgn.config.schema import DataConfig
from vidgn.data.formats import read_listing
from vidgn.data.listing import VIDEO_EXTENSIONS, Listing, Split, csv_rows, read_lines
from vidgn.errors import ManifestError


@dataclass(frozen=True)
class Source:
    """One file: `path` as it is written to a manifest, `full_path` to open it, `label` as the data set has it."""

    path: str
    full_path: str
    label: str


@dataclass(frozen=True)
class Sources:
    """`root`: what paths are relative to. `missing`: files that an annotation names and that are not there."""

    root: str
    files: tuple[Source, ...]
    missing: tuple[str, ...] = ()


def find_sources(
    place: str, *, root: str | None = None, format: str | None = None, split: str = "val", separator: str = " "
) -> Sources:
    """The videos of `place`: a folder (all below it, labelled by the folder they lie in), a video, an annotation file.

    `format`: kinetics, list or csv; told from the first line where not given. `root`: folder of the videos.
    Raises: ManifestError.
    """
    if os.path.isdir(place):
        return _folder(place)
    if not os.path.isfile(place):
        raise ManifestError(f"{place}: no such file or folder; give a folder, a video or an annotation file")
    if os.path.splitext(place)[1].lower() in VIDEO_EXTENSIONS:
        return Sources(os.path.dirname(place), (Source(os.path.basename(place), place, ""),))
    format = format or _told_format(place)
    if format not in ("kinetics", "list", "csv"):
        raise ManifestError(f"--format {format} is no format of annotation files; use kinetics, list or csv")
    if split not in get_args(Split):
        raise ManifestError(f"--split {split} is unknown; use train or val")
    return _annotation(place, root=root, format=format, split=cast(Split, split), separator=separator)


def _folder(folder: str) -> Sources:
    files = []
    for path in sorted(_walk(folder)):
        relative = os.path.relpath(path, folder)
        files.append(Source(relative, path, os.path.basename(os.path.dirname(path)) if os.sep in relative else ""))
    if not files:
        raise ManifestError(f"{folder}: no videos in it ({', '.join(sorted(VIDEO_EXTENSIONS))}); give another folder")
    return Sources(folder, tuple(files))


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS and not name.startswith("."):
                yield os.path.join(parent, name)


def _told_format(path: str) -> str:
    header = next(read_lines(path), "").lower()
    names = {name.strip() for name in header.split(",")}
    if "youtube_id" in names:
        return "kinetics"
    return "csv" if "path" in names else "list"


def _annotation(path: str, *, root: str | None, format: str, split: Split, separator: str) -> Sources:
    is_csv = format == "csv"
    listing = _csv(path, root) if is_csv else read_listing(_data_config(path, root, format, separator), split)
    rows = zip(listing.paths, listing.labels, strict=True)
    files = tuple(Source(name, os.path.join(listing.base, name), label) for name, label in rows)
    if not files and not listing.missing:
        raise ManifestError(f"{path}: no rows; give an annotation with videos")
    return Sources(listing.base, files, tuple(listing.missing))


def _csv(path: str, root: str | None) -> Listing:
    """Rows of any status: an index says again how its files are."""
    listing = Listing(root if root is not None else os.path.dirname(path))
    for row in csv_rows(path, ("path",)):
        exists = os.path.isfile(os.path.join(listing.base, row["path"]))
        if exists:
            listing.add(row["path"], row["path"], row.get("label", ""))
        else:
            listing.missing.append(row["path"])
    return listing


def _data_config(path: str, root: str | None, format: str, separator: str) -> DataConfig:
    """Enough of a configuration to read an annotation file."""
    return DataConfig(
        name=format,
        format=format,  # type: ignore[arg-type]  # checked by the caller
        root=root,
        train=path,
        val=path,
        classes=None,
        separator=separator,
        decoder="auto",
        workers=0,
        missing="skip",
        max_unreadable=0,
        timeout_seconds=60.0,
        flip=False,
        short_side=(256, 256),
        crop=224,
        augment="video",
        clips_per_video=1,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        synthetic=None,
    )
