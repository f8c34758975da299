"""The videos that a run began with, and keeps: one that vanishes later can't be read, and makes no other set."""

import gzip
import hashlib
import json
import os
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vidgn.atomic_files import write_atomic
from vidgn.config.schema import Config, DataConfig
from vidgn.data.datasets.annotations import read_listing
from vidgn.data.datasets.classes import read_classes
from vidgn.data.datasets.listing import Listing, Split
from vidgn.data.datasets.manifest import FOLDERS, Manifest, check_complete, label_rows
from vidgn.errors import ManifestError

Read = Callable[[DataConfig, Split], Listing]
_ASKED_AT_ONCE = 32
_WORDS: Mapping[Split, str] = {"train": "training", "val": "validation"}


def rows_of(
    config: Config,
    split: Split,
    *,
    is_test: bool = False,
    log: Callable[[str], None] = lambda text: None,
    read: Read = read_listing,
) -> Manifest:
    """The rows of `split` that a run began with, with the paths they have now; of a run that is new, those there are.

    Rows of other data are returned as they are, for the identity to tell.

    Args:
        is_test: of a trained run, which may be tested on videos in another place.
        read: `read_listing`, or one that remembers.

    Raises:
        ManifestError: as `read_manifest`; and where no video of the run is there, or the run's videos were moved and
            some did not come along.
    """
    data, now = config.data, read(config.data, split)
    began = kept_rows(config.run_dir, split)
    rows = None if began is None or (is_test and is_moved(config)) else _still(began, now, data, split)
    if rows is None:
        for note in now.notes:
            log(note)
        check_complete(now, data, split)
        return label_rows(now, data, split, read_classes(data))
    there = set(now.ids)
    gone = [id for id in rows.listing().ids if id not in there]
    if gone:
        some = f"{len(gone)} of the {len(rows)} {_WORDS[split]} videos that {config.run_dir} began with can't be found"
        which = f"below {now.base} (first: {', '.join(gone[:3])})"
        if len(gone) == len(rows) or is_moved(config):
            raise ManifestError(f"{some} {which}: give data.root=FOLDER where they are")
        log(f"{some} any more {which}: each counts as one that can't be read")
    return rows


def keep_rows(run_dir: Path, split: Split, rows: Manifest) -> None:
    """Write down what a run began with, and where the files are now."""
    listing = rows.listing()
    listing.num_bytes = listing.num_bytes or sizes(os.path.join(listing.base, path) for path in listing.paths)
    lists = {**asdict(listing), "labels": rows.labels, "classes": rows.classes}
    packed = gzip.compress(json.dumps(lists).encode(), compresslevel=6, mtime=0)
    path = _file(run_dir, split)
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_bytes() != packed:
        write_atomic(path, lambda f: f.write(packed))


def sizes(paths: Iterable[str]) -> list[int]:
    """Bytes of each file, 0 of folders and of what is not there. Many are asked for at once: networks take time."""

    def size(path: str) -> int:
        try:
            found = os.stat(path)
        except OSError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        return list(pool.map(size, paths, chunksize=256))


def kept_rows(run_dir: Path, split: Split) -> Manifest | None:
    """What `keep_rows` wrote, None where it has written nothing.

    Raises:
        ManifestError: if it is damaged.
    """
    path = _file(run_dir, split)
    try:
        lists: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        labels, classes = lists.pop("labels"), tuple(lists.pop("classes"))
        return Manifest(Listing(**lists), np.array(labels, dtype=np.int32), classes)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (gzip.BadGzipFile, zlib.error, EOFError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{path} is damaged ({error}): put it back from a copy, or train anew with tag=NAME"
        ) from None


def _file(run_dir: Path, split: Split) -> Path:
    return run_dir / "videos" / f"{split}.json.gz"


def _still(began: Manifest, now: Listing, data: DataConfig, split: Split) -> Manifest | None:
    """The rows a run began with, where they are now; None where other ones are asked for by now."""
    if now.content != began.content:
        return None
    is_listed = data.format not in FOLDERS  # else a file that is gone is in no list
    if is_listed or data.classes is not None:
        with suppress(ManifestError):  # numbers that do not begin at the first class were taken by earlier versions
            if read_classes(data) != began.classes:
                return None
    try:
        labels = label_rows(now, data, split, began.classes).labels
    except ManifestError:  # another class
        return None
    lists = began.listing()
    found, wanted = Counter(zip(now.ids, labels, strict=True)), Counter(zip(lists.ids, began.labels, strict=True))
    listed = {*now.missing, *now.unreadable}
    if is_listed and any(id not in listed for id, _ in wanted - found):
        return None
    left_out = {*lists.missing, *lists.unreadable}
    if any(id not in left_out for id, _ in found - wanted):
        return None
    paths = dict(zip(now.ids, now.paths, strict=True))
    lists = replace(lists, base=now.base, paths=[paths.get(i, p) for i, p in zip(lists.ids, lists.paths, strict=True)])
    return Manifest(lists, np.array(began.labels, dtype=np.int32), began.classes)


def other_files(config: Config, rows: Manifest) -> str:
    """A digest of the sizes of the validation files, empty where they are those that the run began with."""
    kept = kept_rows(config.run_dir, "val")
    if kept is None or not is_moved(config):
        return ""
    began, now = kept.listing(), rows.listing()
    if not began.num_bytes:  # of an earlier version
        return ""
    found = sorted(zip(now.ids, sizes(os.path.join(now.base, path) for path in now.paths), strict=True))
    same = found == sorted(zip(began.ids, began.num_bytes, strict=True))
    return "" if same else hashlib.sha256(repr(found).encode(errors="surrogateescape")).hexdigest()


def is_moved(config: Config) -> bool:
    """Whether this start has other paths than the one before."""
    file = config.run_dir / "config.yaml"
    if not file.exists():  # killed before it was written
        return False
    before = yaml.safe_load(file.read_text())["data"]
    return any(before[key] != getattr(config.data, key) for key in ("root", "train", "val"))
