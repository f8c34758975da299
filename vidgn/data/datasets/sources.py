"""Which files are meant: a folder, one file, or any annotation file, for the verbs that look at files."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast, get_args

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.annotations import list_rows, read_listing
from vidgn.data.datasets.coco import coco_files, is_coco
from vidgn.data.datasets.kinetics import kinetics_listing
from vidgn.data.datasets.listing import (
    ANNOTATED,
    IMAGE_EXTENSIONS,
    INDEX_COLUMNS,
    VIDEO_EXTENSIONS,
    Listing,
    Split,
    csv_rows,
    folder_of,
    keep_existing,
    read_lines,
    walk,
)
from vidgn.errors import ManifestError

_NUM_NAMED = 5
_FEWEST_FRAMES = 8


@dataclass(frozen=True)
class Source:
    """One file: `path` as it is written to a manifest, `full_path` to open it, `label` as the data set has it.

    `others`: columns of its annotation that are not read here.
    """

    path: str
    full_path: str
    label: str
    others: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)


@dataclass(frozen=True)
class Sources:
    """`root`: what paths are relative to. `missing`: files that an annotation names and that are not there.

    `passed_over`: endings of other files in a folder, with their number. `num_numbered`: folders whose images are
    numbered like the frames of a video, and are taken one by one.
    """

    root: str
    files: tuple[Source, ...]
    missing: tuple[str, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict[str, int])
    num_numbered: int = 0

    def notes(self) -> list[str]:
        """Lines of what is in the folder and was not looked at, and of what it may be."""
        numbered = f"images of {self.num_numbered} folders are numbered like frames, and are taken one by one"
        found = [f"{numbered}: if a folder is a video, give --format frames"] if self.num_numbered else []
        return found + ([line] if (line := self._passed_over_line()) else [])

    def _passed_over_line(self) -> str:
        named = sorted(self.passed_over.items(), key=lambda item: (-item[1], item[0]))
        endings = ", ".join(f"{number} {ending or 'without ending'}" for ending, number in named[:_NUM_NAMED])
        more = f" and {len(named) - _NUM_NAMED} other endings" if len(named) > _NUM_NAMED else ""
        return f"passed over by their endings: {endings}{more}" if named else ""


def find_sources(
    place: str,
    *,
    root: str | None = None,
    format: str | None = None,
    split: str = "val",
    separator: str = " ",
    official: DataConfig | None = None,
) -> Sources:
    """The videos of `place`: a folder (all below it, labelled by the folder they lie in), a video, an annotation file.

    A folder without videos gives its images; an image and an annotation of images are taken too.

    Args:
        format: kinetics, list or csv, told by the first line where it is not given; or frames: each folder of images
            below the folder `place` is a video.
        root: folder of the videos.
        official: settings of a data set whose own list (of UCF101 and HMDB51 also: folder of lists) `place` is.

    Raises:
        ManifestError: the annotation or the folder can't be used.
    """
    if os.path.isdir(place) and official is None:
        return _folder(place, as_frames=format == "frames")
    if not os.path.exists(place):
        raise ManifestError(f"{place}: no such file or folder; give a folder, a video or an annotation file")
    if os.path.splitext(place)[1].lower() in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS:
        return Sources(folder_of(place), (Source(os.path.basename(place), place, ""),))
    if split not in get_args(Split):
        raise ManifestError(f"--split {split} is unknown; use train or val")
    if root is not None and not os.path.isdir(root):
        raise ManifestError(f"--root {root}: no such folder; give the folder that holds the videos")
    if official is not None:
        listing = _official(place, replace(official, root=root, train=place, val=place), cast(Split, split))
    else:
        listing = _listing(place, root=root, format=format, split=cast(Split, split), separator=separator)
    rows = zip(listing.paths, listing.labels, listing.others or [{}] * len(listing.paths), strict=True)
    files = tuple(Source(name, os.path.join(listing.base, name), label, others) for name, label, others in rows)
    if not files and not listing.missing:
        raise ManifestError(f"{place}: no rows; give an annotation with videos")
    return Sources(listing.base, files, tuple(listing.missing))


def _folder(folder: str, *, as_frames: bool) -> Sources:
    by_ending: dict[str, list[str]] = {}
    for path in _walk(folder):
        by_ending.setdefault(os.path.splitext(path)[1].lower(), []).append(path)
    choices = (IMAGE_EXTENSIONS,) if as_frames else (VIDEO_EXTENSIONS, IMAGE_EXTENSIONS)
    wanted = next((some for some in choices if some & by_ending.keys()), None)
    if wanted is None:
        kinds, extensions = "images" if as_frames else "videos or images", ", ".join(sorted(itertools.chain(*choices)))
        raise ManifestError(f"{folder}: no {kinds} in it ({extensions}); give another folder")
    paths = sorted(itertools.chain.from_iterable(by_ending.pop(ending, ()) for ending in wanted))
    numbered = sum(map(_are_frames, _by_folder(paths))) if wanted == IMAGE_EXTENSIONS and not as_frames else 0
    files = []
    for path in dict.fromkeys(map(os.path.dirname, paths)) if as_frames else paths:
        relative = os.path.relpath(path, folder)
        files.append(Source(relative, path, os.path.basename(os.path.dirname(path)) if os.sep in relative else ""))
    passed_over = {ending: len(paths) for ending, paths in by_ending.items()}
    return Sources(folder, tuple(files), passed_over=passed_over, num_numbered=numbered)


def _by_folder(paths: Iterable[str]) -> Iterator[list[str]]:
    """File names without endings, a list for each folder."""
    for _, files in itertools.groupby(paths, key=os.path.dirname):
        yield [os.path.splitext(os.path.basename(path))[0] for path in files]


def _are_frames(names: list[str]) -> bool:
    """Whether names differ in a number at their end alone, which counts on without a gap."""
    found = [re.fullmatch(r"(.*?)(\d+)", name) for name in names]
    if len(names) < _FEWEST_FRAMES or None in found or len({match[1] for match in found if match}) > 1:
        return False
    numbers = sorted(int(match[2]) for match in found if match)
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _walk(folder: str) -> Iterator[str]:
    for parent, _, names in walk(folder):
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))


def _told_format(path: str) -> str:
    names = {name.strip() for name in re.split(r"[,\t;]", next(read_lines(path), "").lower())}
    if "youtube_id" in names:
        return "kinetics"
    return "csv" if "path" in names else "list"


def _listing(path: str, *, root: str | None, format: str | None, split: Split, separator: str) -> Listing:
    """Rows of any status: an index says again how its files are."""
    if is_coco(path, format):
        return coco_files(path, root)
    format = format or _told_format(path)
    if format not in ("kinetics", "list", "csv"):
        raise ManifestError(f"--format {format} is no format of annotation files; use {', '.join(ANNOTATED)}")
    if format == "kinetics":
        if root is None:
            raise ManifestError(f"{path} is a Kinetics csv: give the folder that holds its videos with --root")
        return kinetics_listing(path, root, split)
    listing = Listing(folder_of(path) if root is None else root)
    if format == "list":
        if not separator:
            raise ManifestError("--separator is empty; give what parts path and label, for example ','")
        for file, label in list_rows(path, separator):
            listing.add(file, file, label)
        return keep_existing(listing)
    for row in csv_rows(path, ("path",)):
        listing.add(row["path"], row["path"], row.get("label", "").strip())
        listing.others.append({name: value for name, value in row.items() if name not in INDEX_COLUMNS})
    return keep_existing(listing)


def _official(path: str, data: DataConfig, split: Split) -> Listing:
    """Rows of a data set's own list; a segment becomes the columns start and end."""
    if data.root is None:
        raise ManifestError(f"{path} is a list of {data.format}: give the folder that holds its videos with --root")
    listing = read_listing(data, split)
    segments = [segment or ("", "") for segment in listing.segments]
    listing.others = [{"start": str(start), "end": str(end)} for start, end in segments]
    return listing


def other_columns(sources: Iterable[Source]) -> tuple[str, ...]:
    """Names of all columns that are not read here, in their order."""
    return tuple(dict.fromkeys(name for source in sources for name in source.others))
