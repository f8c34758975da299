"""Which videos the words of `vidgn predict` mean: files, folders, lists, `-`, sources that have no end."""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vidgn.data.datasets.listing import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    csv_header,
    csv_rows,
    folder_of,
    read_lines,
    walk,
)
from vidgn.errors import ConfigError

LISTS = (".txt", ".csv")


def sources_of(words: Sequence[str], *, of_images: bool) -> list[str]:
    """Files, URLs and folders of frames, in the order of the words, those of a folder by name.

    Args:
        of_images: the network takes images: a folder's images are one each, not the frames of a video.

    Raises:
        ConfigError: for a folder without any, and a list that can't be used.
    """
    return [source for word in words for source in _sources(word, of_images)]


def _sources(word: str, of_images: bool) -> Iterable[str]:
    if word == "-":
        if sys.stdin.isatty():
            print("paths, one a line, from the terminal; Ctrl-D ends them", file=sys.stderr)
        return _found(word, (line.rstrip("\r\n") for line in sys.stdin))
    if os.path.splitext(word)[1].lower() in LISTS:
        return _found(word, _listed(word))
    if os.path.isdir(word):
        found = list(_in_folder(word, of_images))
        if not found:
            raise ConfigError(f"{word}: a folder without videos and images; give the folder that holds them, or a file")
        return found
    return [word]


def _found(word: str, lines: Iterable[str]) -> list[str]:
    found = [line for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"{word}: names no file; give one path a line")
    return found


def _listed(path: str) -> Iterator[str]:
    """Paths of a csv's column `path`, or one a line; those that are relative begin at the list's folder."""
    if path.lower().endswith(".csv"):
        if segments := {"start", "start_frame"} & set(csv_header(path)):
            raise ConfigError(
                f"{path}: column {min(segments)} says which parts of files, and predict takes them whole; leave the "
                "column out, or test the parts: vidgn evaluate RUN"
            )
        names: Iterable[str] = (row["path"] for row in csv_rows(path, ("path",)))
    else:
        names = (line.strip() for line in read_lines(path))
    return (name if "://" in name else os.path.join(os.path.dirname(path), name) for name in names if name)


def _in_folder(folder: str, of_images: bool) -> Iterator[str]:
    """Videos at any depth. A folder of images alone is a video of frames, or as many images, which come first then."""
    for place, folders, names in walk(folder):
        folders.sort()
        endings = {name: os.path.splitext(name)[1].lower() for name in sorted(names) if not name.startswith(".")}
        videos = [name for name, ending in endings.items() if ending in VIDEO_EXTENSIONS]
        images = [name for name, ending in endings.items() if ending in IMAGE_EXTENSIONS]
        taken, left, kind = (images, videos, "videos") if images and of_images else (videos, images, "images")
        if taken and left:
            print(f"note: {place}: its {len(left)} {kind} are left out", file=sys.stderr)
        if images and not taken:
            yield place
        yield from (os.path.join(place, name) for name in taken)


def places_of(option: str, out: str | None, sources: Sequence[str], *, ending: str, noun: str) -> dict[str, Path]:
    """Where what is made of each source is written: `out`, or in the folder `out` a file named after it.

    None is written over, nor what is made of one by what is made of another.

    Args:
        noun: what a source is, for messages: image or video.

    Raises:
        ConfigError: for a place that is not there, is a source, or would be written twice.
    """
    if out is None:
        return {}
    folder = Path(out)
    if not folder.is_dir() and len(sources) > 1:
        raise ConfigError(f"{option} {out}: {len(sources)} {noun}s need a folder that is there")
    check_folder(option, str(folder / "file") if folder.is_dir() else out)
    places = {source: folder / f"{Path(source).stem}{ending}" if folder.is_dir() else folder for source in sources}
    own, taken = {Path(source).resolve() for source in sources}, Counter(places.values())
    for source, place in places.items():
        if place.resolve() in own:
            article = "an" if noun == "image" else "a"
            raise ConfigError(f"{option} {out}: {place} is {article} {noun} itself; give another place")
        if taken[place] > 1:
            raise ConfigError(f"{option} {out}: {source} and another {noun} would both be {place}; give one at a time")
    return places


def check_folder(option: str, out: str) -> None:
    """Check that a file can be put there, before the work that leads to it.

    Raises:
        ConfigError: its folder is not there, or nothing may be written to it.
    """
    folder = folder_of(out)
    if not os.path.isdir(folder):
        raise ConfigError(f"{option} {out}: no folder {folder}; make it first, or give another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {out}: nothing may be written to {folder}; give another place")
