"""Lists as the usual data sets bring them. One function a data set, all in `_ROWS`: a file to rows."""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.listing import Split, csv_rows, read_lines
from vidgn.errors import ManifestError

Segment = tuple[float, float]  # seconds
Rows = Iterator[tuple[str, str, Segment | None]]
_ACTIVITYNET = "activity_net.v1-3.min.json"
_FLAGS = {"train": "1", "val": "2"}  # HMDB51's; 0: in neither
_SPLIT_FILE = re.compile(r"(?:(?P<label>.+)_test_)?split\d?\.txt", re.IGNORECASE)


def official_rows(path: str, format: str, split: Split, data: DataConfig) -> Rows:
    """(video, label, segment) of each row of `split`; videos are paths below the root, or names without an ending.

    Args:
        path: the list; of UCF101 and HMDB51 also the folder of all lists, of which data.fold (1 to 3) takes its own.

    Raises:
        ManifestError: the file is no list of that data set.
    """
    return _ROWS[format](path, split, data)


def seconds_of(start: str, end: str, where: str) -> Segment:
    """A segment written as seconds, or as hours:minutes:seconds.

    Raises:
        ManifestError: for what is no time, or ends before it starts.
    """
    found = []
    for text in (start, end):
        try:
            parts = [float(part) for part in text.split(":")]
        except ValueError:
            parts = []
        if not 1 <= len(parts) <= 3 or not all(math.isfinite(part) and part >= 0 for part in parts):
            raise ManifestError(f"{where}: start {start[:20]!r}, end {end[:20]!r} are not both seconds; mend the row")
        found.append(sum(part * 60**power for power, part in enumerate(reversed(parts))))
    if found[0] >= found[1]:
        raise ManifestError(f"{where}: its segment ends at {end[:20]} and starts at {start[:20]}; mend the row")
    return found[0], found[1]


def segment_of(row: Mapping[str, str], path: str) -> Segment | None:
    """The part of its file that a row of a csv is: columns start and end in seconds, or start_frame and end_frame.

    None where they are not there or empty.

    Raises:
        ManifestError: for what is no time or number, or ends before it starts.
    """
    where = f"{path}: {row['path']}"
    numbers = [row.get(name, "").strip() for name in ("start_frame", "end_frame")]
    if any(numbers):
        if not all(number.isdecimal() and len(number) < 10 for number in numbers) or int(numbers[0]) >= int(numbers[1]):
            told = f"start_frame {numbers[0][:20]!r}, end_frame {numbers[1][:20]!r}"
            raise ManifestError(f"{where}: {told} are no numbers of frames that rise; mend the row")
        return float(numbers[0]), float(numbers[1])
    texts = [row.get(name, "").strip() for name in ("start", "end")]
    return seconds_of(texts[0], texts[1], where) if any(texts) else None


def segment_id(file: str, segment: Segment | None) -> str:
    """What tells the segments of a file apart."""
    return file if segment is None else f"{file}@{segment[0]:.3f}-{segment[1]:.3f}"


def check_no_flags(path: str) -> None:
    """Raise ManifestError for a split file of HMDB51: read as a plain list, its flags would be classes."""
    if not _SPLIT_FILE.search(os.path.basename(path)):
        return
    flags = {line.split()[-1] for line in read_lines(path) if line.strip()}
    if flags and flags <= {"0", "1", "2"}:
        raise ManifestError(
            f"{path}: its numbers are flags of a split (1 train, 2 test, 0 neither), as in HMDB51's lists, and no "
            "labels: write data=hmdb51 data.train=FOLDER data.fold=1 with the folder of these files; if they are "
            "labels, give the list another name"
        )


def _ucf101(path: str, split: Split, data: DataConfig) -> Rows:
    """`Class/v_Class_g01_c01.avi 1` a line, the number in training lists alone. Source: UCF101's README."""
    if os.path.isdir(path):
        path = os.path.join(path, f"{'train' if split == 'train' else 'test'}list{data.fold:02d}.txt")
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            file = line.split()[0]
            label, found, _ = file.partition("/")
            if not found:
                raise ManifestError(
                    f"{path}, line {number}: {line.strip()[:80]!r} is not Class/video.avi as in UCF101's lists; "
                    "give trainlist01.txt or testlist01.txt"
                )
            yield file, label, None


def _hmdb51(path: str, split: Split, data: DataConfig) -> Rows:
    """`video.avi 1` a line of `class_test_split1.txt`: 1 train, 2 test, 0 neither. Source: HMDB51's README."""
    paths = [path]
    if os.path.isdir(path):
        wanted = re.compile(rf".+_test_split{data.fold}\.txt")
        paths = [os.path.join(path, name) for name in sorted(os.listdir(path)) if wanted.fullmatch(name)]
        if not paths:
            raise ManifestError(
                f"{path}: no CLASS_test_split{data.fold}.txt in it; give the folder of HMDB51's split files"
            )
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
                yield f"{named['label']}/{name.strip()}", named["label"], None


def _ssv2(path: str, split: Split, data: DataConfig) -> Rows:
    """A json list of objects with id and template. Source: Something-Something V2's instructions."""
    del split, data
    for row in _json_list(path, ("id", "template"), "Something-Something's train.json or validation.json"):
        yield str(row["id"]), str(row["template"]).replace("[", "").replace("]", ""), None


def _jester(path: str, split: Split, data: DataConfig) -> Rows:
    """`id;label` a line. Source: Jester V1's instructions."""
    del split, data
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            id, found, label = line.strip().partition(";")
            if not found:
                raise ManifestError(
                    f"{path}, line {number}: {line.strip()[:80]!r} is not `id;label`; give Jester's own csv"
                )
            yield id.strip(), label.strip(), None


def _diving48(path: str, split: Split, data: DataConfig) -> Rows:
    """A json list of objects with vid_name and label. Source: Diving48's page."""
    del split, data
    for row in _json_list(path, ("vid_name", "label"), "Diving48_V2_train.json or Diving48_V2_test.json"):
        yield str(row["vid_name"]), str(row["label"]), None


def _activitynet(path: str, split: Split, data: DataConfig) -> Rows:
    """ActivityNet's json: videos with a subset and annotations, each a segment in seconds and a label."""
    del data
    wanted = {"train": "training", "val": "validation"}[split]
    told = _json(path, _ACTIVITYNET)
    database = told.get("database") if isinstance(told, dict) else None
    try:
        for id, video in (database or {}).items():
            for found in video["annotations"] if video["subset"] == wanted else ():
                start, end = found["segment"]
                yield id, str(found["label"]), seconds_of(str(start), str(end), f"{path}: {id}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ManifestError):
            raise
        database = None
    if database is None:
        raise ManifestError(f"{path} has no database of videos with subset and annotations; give {_ACTIVITYNET}")


def _epic(path: str, split: Split, data: DataConfig) -> Rows:
    """EPIC-Kitchens' csv; the class is the number in the column data.label. Source: EPIC-KITCHENS-100's annotations."""
    del split
    for row in csv_rows(path, ("video_id", "start_timestamp", "stop_timestamp", data.label)):
        where = f"{path}: {row.get('narration_id', row['video_id'])}"
        segment = seconds_of(row["start_timestamp"], row["stop_timestamp"], where)
        yield row["video_id"], row[data.label].strip(), segment


def _json(path: str, wanted: str) -> Any:
    try:
        return json.loads("".join(read_lines(path)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{path} is no json ({error}); give {wanted}") from None


def _json_list(path: str, keys: tuple[str, ...], wanted: str) -> list[dict[str, Any]]:
    rows = _json(path, wanted)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= set(keys) for row in rows):
        raise ManifestError(f"{path} is no list of objects with {' and '.join(keys)}; give {wanted}")
    return rows


_ROWS: dict[str, Callable[[str, Split, DataConfig], Rows]] = {
    "ucf101": _ucf101,
    "hmdb51": _hmdb51,
    "ssv2": _ssv2,
    "jester": _jester,
    "diving48": _diving48,
    "activitynet": _activitynet,
    "epic": _epic,
}
