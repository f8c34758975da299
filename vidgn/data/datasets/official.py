"""Lists as the usual data sets bring them: one function a data set, all in `_ROWS`: a file to (video, label) rows."""

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from vidgn.data.datasets.listing import Split, read_lines
from vidgn.errors import ManifestError

Rows = Iterator[tuple[str, str]]
_FLAGS = {"train": "1", "val": "2"}  # HMDB51's; 0: in neither
_SPLIT_FILE = re.compile(r"(?:(?P<label>.+)_test_)?split\d?\.txt", re.IGNORECASE)


def official_rows(path: str, format: str, split: Split, fold: int | None) -> Rows:
    """(video, label) of each row of `split`; videos are paths below the root, or names without an ending.

    Args:
        path: the list; of UCF101 and HMDB51 also the folder of all lists, of which `fold` (1 to 3) takes its own.

    Raises:
        ManifestError: the file is no list of that data set.
    """
    return _ROWS[format](path, split, fold)


def check_no_flags(path: str) -> None:
    """Raise ManifestError for a split file of HMDB51: read as a plain list, its flags would be classes."""
    if not _SPLIT_FILE.search(os.path.basename(path)):
        return
    flags = {line.split()[-1] for line in read_lines(path) if line.strip()}
    if flags and flags <= {"0", "1", "2"}:
        raise ManifestError(
            f"{path}: its numbers are flags of a split (1 train, 2 test, 0 neither), as in HMDB51's lists, and no "
            "labels: write data=hmdb51 data.train=FOLDER data.fold=1 with the folder of these files"
        )


def _ucf101(path: str, split: Split, fold: int | None) -> Rows:
    """`Class/v_Class_g01_c01.avi 1` a line, the number in training lists alone. Source: UCF101's README."""
    if os.path.isdir(path):
        path = os.path.join(path, f"{'train' if split == 'train' else 'test'}list{fold:02d}.txt")
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            file = line.split()[0]
            label, found, _ = file.partition("/")
            if not found:
                raise ManifestError(
                    f"{path}, line {number}: {line.strip()[:80]!r} is not Class/video.avi as in UCF101's lists; "
                    "give trainlist01.txt or testlist01.txt"
                )
            yield file, label


def _hmdb51(path: str, split: Split, fold: int | None) -> Rows:
    """`video.avi 1` a line of `class_test_split1.txt`: 1 train, 2 test, 0 neither. Source: HMDB51's README."""
    paths = [path]
    if os.path.isdir(path):
        wanted = re.compile(rf".+_test_split{fold}\.txt")
        paths = [os.path.join(path, name) for name in sorted(os.listdir(path)) if wanted.fullmatch(name)]
        if not paths:
            raise ManifestError(f"{path}: no CLASS_test_split{fold}.txt in it; give the folder of HMDB51's split files")
    for file in paths:
        named = _SPLIT_FILE.fullmatch(os.path.basename(file))
        if named is None or named["label"] is None:
            raise ManifestError(
                f"{file} is not named CLASS_test_split1.txt, which says the class; give HMDB51's own files"
            )
        for number, line in enumerate(read_lines(file), start=1):
            if not line.strip():
                continue
            name, _, flag = line.strip().rpartition(" ")
            if flag not in ("0", "1", "2"):
                raise ManifestError(
                    f"{file}, line {number}: {flag[:40]!r} is no flag of a split (0, 1 or 2); mend the line"
                )
            if flag == _FLAGS[split]:
                yield f"{named['label']}/{name.strip()}", named["label"]


def _something(path: str, split: Split, fold: int | None) -> Rows:
    """A json list of objects with id and template. Source: Something-Something V2's instructions."""
    del split, fold
    for row in _json_list(path, ("id", "template"), "Something-Something's train.json or validation.json"):
        yield str(row["id"]), str(row["template"]).replace("[", "").replace("]", "")


def _jester(path: str, split: Split, fold: int | None) -> Rows:
    """`id;label` a line. Source: Jester V1's instructions."""
    del split, fold
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            id, found, label = line.strip().partition(";")
            if not found:
                raise ManifestError(
                    f"{path}, line {number}: {line.strip()[:80]!r} is not `id;label`; give Jester's own csv"
                )
            yield id.strip(), label.strip()


def _diving48(path: str, split: Split, fold: int | None) -> Rows:
    """A json list of objects with vid_name and label. Source: Diving48's page."""
    del split, fold
    for row in _json_list(path, ("vid_name", "label"), "Diving48_V2_train.json or Diving48_V2_test.json"):
        yield str(row["vid_name"]), str(row["label"])


def _json_list(path: str, keys: tuple[str, ...], wanted: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads("".join(read_lines(path)))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path} is no json ({error}); give {wanted}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= set(keys) for row in rows):
        raise ManifestError(f"{path} is no list of objects with {' and '.join(keys)}; give {wanted}")
    return rows


_ROWS: dict[str, Callable[[str, Split, int | None], Rows]] = {
    "ucf101": _ucf101,
    "hmdb51": _hmdb51,
    "something": _something,
    "jester": _jester,
    "diving48": _diving48,
}
