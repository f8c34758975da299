"""Which classes there are, and the number of each label: names, or whole numbers where both lists hold nothing else."""

import os
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.annotations import read_labels
from vidgn.data.datasets.listing import ANNOTATED, FOLDER_NAMES, SPLITS, Listing, Split, describe
from vidgn.errors import ManifestError

_MANY_CLASSES = 100_000  # without a list of their names


def read_classes(data: DataConfig) -> tuple[str, ...]:
    """Class names in label order: data.classes, else the training annotation's, else the validation annotation's.

    Where every label of both annotations is a whole number, the classes are data.first_label to the largest. Folders
    are names. With data.untrained_classes=allow, names of validation alone are classes too.

    Raises:
        ManifestError: where numbers do not begin there or go far beyond the rows, and for files that can't be used.
    """
    if data.classes is not None:
        return _classes_file(data.classes)
    labels = _labels(data)
    split: Split = "train" if "train" in labels else "val"
    if not labels[split]:
        raise ManifestError(f"{describe(data, split)}: no rows; give an annotation with videos")
    if _are_numbers(data, labels):
        return _numbered(data, labels, split)
    names = set(labels[split])
    _check_spelling(names.union(*labels.values()), data)
    if data.untrained_classes == "allow":
        names.update(*labels.values())
    return tuple(sorted(names))


def _check_spelling(names: Iterable[str], data: DataConfig) -> None:
    spelled: dict[str, str] = {}
    for name in names:
        if spelled.setdefault(unicodedata.normalize("NFC", name), name) != name:
            raise ManifestError(
                f"{describe(data, 'train')}: the class {name!r} is written in two ways, its accents once as part of "
                "the letter and once apart (macOS's folders have them apart): write them alike"
            )


def label_numbers(listing: Listing, data: DataConfig, split: Split, classes: Sequence[str]) -> np.ndarray:
    """The place of each row's label in `classes`; int32. Names come before numbers, which count from data.first_label.

    Raises:
        ManifestError: for a row without a label, or with one that is no class.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    counts_classes: bool | None = None
    found = []
    for id, label in zip(listing.ids, listing.labels, strict=True):
        number = numbers.get(label) if label else None
        if number is None:
            if counts_classes is None:
                counts_classes = _are_numbers(data, _labels(data))
            number = _whole_number(label) - data.first_label if counts_classes else -1
            if not 0 <= number < len(classes):
                raise ManifestError(_refusal(id, label, data, split, classes, counts_classes=counts_classes))
        found.append(number)
    return np.array(found, dtype=np.int32)


def _labels(data: DataConfig) -> dict[Split, list[str]]:
    """All labels of the splits that are given, as written; of training, for the error, where none is."""
    splits: list[Split] = [split for split in SPLITS if _is_given(data, split)] or ["train"]
    return {split: list(read_labels(data, split)) for split in splits}


def _is_given(data: DataConfig, split: Split) -> bool:
    if data.format in ANNOTATED:
        return (data.train if split == "train" else data.val) is not None
    if data.folds is not None:
        return split == "train"
    has_train = (
        data.format == "synthetic"
        or data.root is None
        or any(os.path.isdir(os.path.join(data.root, name)) for name in FOLDER_NAMES["train"])
    )
    return has_train if split == "train" else not has_train or data.untrained_classes == "allow"


def _are_numbers(data: DataConfig, labels: dict[Split, list[str]]) -> bool:
    if data.format not in ANNOTATED or data.format == "coco":  # whose categories are names
        return False
    return all(label.isdecimal() for found in labels.values() for label in found)


def _numbered(data: DataConfig, labels: dict[Split, list[str]], split: Split) -> tuple[str, ...]:
    found = {_whole_number(name) for name in set().union(*labels.values())}
    first, largest, where = data.first_label, max(found), describe(data, split)
    if min(found) != first:
        raise ManifestError(
            f"{where}: labels are whole numbers from {min(found)} on, and classes are counted from {first}: "
            f"write data.first_label={min(found)} if that is the first class, else list all classes in the file "
            "data.classes"
        )
    if largest - first >= max(_MANY_CLASSES, len(labels[split])):
        raise ManifestError(
            f"{where}: label {largest} would make {largest - first + 1} classes of {len(labels[split])} rows; "
            "mend the label, or list all classes in the file data.classes"
        )
    return tuple(map(str, range(first, largest + 1)))


def _whole_number(label: str) -> int:
    return int(label.lstrip("0")[:20] or "0")  # Python refuses thousands of digits; twenty are too many classes


def _refusal(
    id: str, label: str, data: DataConfig, split: Split, classes: Sequence[str], *, counts_classes: bool
) -> str:
    where = describe(data, split)
    if not label:
        return f"{where}: {id} has no label; write one, or take the row out"
    problem = (
        f"{where}: label {label[:40]!r} is not one of the {len(classes)} classes ({', '.join(classes[:3])}, ...); "
    )
    if counts_classes and _whole_number(label) == len(classes) + data.first_label:
        return f"{problem}write data.first_label={data.first_label + 1} if classes are counted from there"
    if label.isdecimal() and not counts_classes and data.format in ANNOTATED:
        return f"{problem}numbers count classes only where every label of both lists is a whole number: write all alike"
    if data.classes is not None:
        return f"{problem}mend the label, or add it to the file data.classes"
    return (
        f"{problem}no training video has it: mend the label, or take the row out; "
        "or, to train, write data.untrained_classes=allow"
    )


def _classes_file(path: str) -> tuple[str, ...]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = tuple(map(str.strip, file.read().rstrip().splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"data.classes={path}: {error}; give a text file with one class name a line") from None
    if len(set(names)) < len(names) or not all(names) or not names:
        twice = next((name for name in names if name and names.count(name) > 1), None)
        problem = f"{twice!r} is there twice" if twice else "a blank line" if names else "no class names"
        raise ManifestError(f"data.classes={path}: {problem}; write one class name a line, in label order")
    return names
