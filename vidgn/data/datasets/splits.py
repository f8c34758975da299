"""What training and validation list together: contradictions are errors, leaks and gaps are said."""

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.listing import describe
from vidgn.data.datasets.manifest import Manifest
from vidgn.errors import ManifestError

_NUM_NAMED = 3


def check_splits(train: Manifest, val: Manifest, data: DataConfig) -> list[str]:
    """What a reader of the result should know of the two lists, a line each.

    Raises:
        ManifestError: where a file has two labels, or a class is tested that no training video has (unless
            data.untrained_classes=allow).
    """
    notes, labels, real = list[str](), dict[str, int](), _RealPaths()
    items = "images" if data.format in ("imagenet", "coco") else "videos"
    for rows, split in ((train, "train"), (val, "val")):
        paths = _places(rows, real)
        for path, label in zip(paths, rows.labels, strict=True):
            if labels.setdefault(path, label) != label:
                one, other = (rows.classes[n] for n in (labels[path], label))
                raise ManifestError(
                    f"{describe(data, split)}: {path} is {one!r} and {other!r}; a video has one label: mend the list"
                )
        twice = [path for path, count in Counter(paths).items() if count > 1]
        if twice:
            notes.append(f"{len(twice)} {items} are listed more than once in {split}: {_named(twice)}")
    both = _files(train, real) & _files(val, real)
    if both:
        notes.append(f"{len(both)} {items} are in training and in validation: {_named(sorted(both))}")
    if data.format == "coco":  # an image has objects of several classes
        return notes
    trained, tested = set(train.labels), set(val.labels)
    if untrained := [train.classes[label] for label in sorted(tested - trained)]:
        what = f"{len(untrained)} classes are tested that no training video has: {_named(untrained)}"
        if data.untrained_classes == "error":
            raise ManifestError(
                f"{what}; see that both lists number or name classes alike, or write data.untrained_classes=allow"
            )
        notes.append(what)
    unseen = [name for number, name in enumerate(train.classes) if number not in trained | tested]
    if unseen:
        notes.append(f"{len(unseen)} classes have no video at all: {_named(unseen)}")
    if untested := [train.classes[label] for label in sorted(trained - tested)]:
        notes.append(f"{len(untested)} classes have no validation video: {_named(untested)}")
    return notes


class _RealPaths(dict[str, tuple[str, frozenset[str]]]):
    """Paths without links, whatever they are written from: of each folder its own, and which names in it are links."""

    def __missing__(self, folder: str) -> tuple[str, frozenset[str]]:
        with suppress(OSError), os.scandir(folder) as entries:
            self[folder] = os.path.realpath(folder), frozenset(e.name for e in entries if e.is_symlink())
            return self[folder]
        return os.path.realpath(folder), frozenset()

    def of(self, path: str) -> str:
        folder, name = os.path.split(path)
        real, links = self[folder or os.curdir]
        return os.path.realpath(path) if name in links else os.path.join(real, name)


def _places(rows: Manifest, real: _RealPaths) -> list[str]:
    """The file of each row, with its segment where it has one."""
    found = []
    for index in range(len(rows)):
        segment = rows[index].segment
        part = "" if segment is None else f" ({segment[0]:.3f} to {segment[1]:.3f} {rows[index].segment_unit})"
        found.append(f"{real.of(rows[index].path)}{part}")
    return found


def _files(rows: Manifest, real: _RealPaths) -> set[str]:
    return {real.of(rows[index].path) for index in range(len(rows))}


def _named(names: Iterable[str]) -> str:
    some = list(names)
    return ", ".join(some[:_NUM_NAMED]) + (", ..." if len(some) > _NUM_NAMED else "")
