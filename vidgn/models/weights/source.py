"""A weights file whose names are understood."""

import json
import re
from collections.abc import Mapping, Sequence

from vidgn.config.norm_kinds import NORM_KINDS
from vidgn.errors import CheckpointError
from vidgn.models.weights.containers import WeightsFile, check_version
from vidgn.models.weights.formats import FORMATS, Format, Named, canonical_names, find_format

STATISTICS = (".running_mean", ".running_var")


class WeightsSource:
    """A weights file whose names are understood.

    `tensors` by canonical name, `keys` their names in the file; `norm`: bn, gn, ln or in; `metadata`, and `classes` by
    label: empty where the file is not an export of ours.
    """

    def __init__(self, file: WeightsFile, entry: Format, named: Mapping[str, Named]) -> None:
        self.file, self.entry = file, entry
        self.keys = {n.canonical: key for key, n in named.items() if n.canonical}
        self.tensors = {canonical: file.tensors[key] for canonical, key in self.keys.items()}
        self.dropped = [(key, n.reason) for key, n in named.items() if not n.canonical]
        self.metadata = file.metadata if file.metadata.get("format") == "vidgn" else {}
        self.name = "vidgn" if self.metadata else entry.name
        try:
            self.pixels = (entry.read_pixels and entry.read_pixels(file)) or entry.pixels
            self.norm = _norm_of_config(self.metadata) or self._norm_of_names()
            self.classes = tuple(map(str, json.loads(self.metadata.get("classes", "[]"))))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file.path}: its metadata can't be read ({error!r}); export it again") from None

    @property
    def has_statistics(self) -> bool:
        """Whether it was trained with BN, and its running statistics are there."""
        return any(name.endswith(STATISTICS) for name in self.tensors)

    def _norm_of_names(self) -> str:
        """`bn` or `gn`. A foreign file without statistics does not name its norm, and GN is usual."""
        return "bn" if self.has_statistics or self.entry.may_lack_statistics else "gn"

    @property
    def num_classes(self) -> int | None:
        """Rows of its classifier; None if it has none."""
        return self.tensors["head.weight"].shape[0] if "head.weight" in self.tensors else None

    def other_class(self, classes: Sequence[str]) -> str:
        """The first class, by label, that is another one in the file; empty where none is or one side has no names."""
        if not (_are_named(self.classes) and _are_named(classes)):
            return ""
        pairs = enumerate(zip(self.classes, classes, strict=False))
        return next((f"{i} is {a!r} there and {b!r} here" for i, (a, b) in pairs if _plain(a) != _plain(b)), "")

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage: (3, 4, 6, 3) for a ResNet-50."""
        stages = [{n.split(".")[1] for n in self.tensors if n.startswith(f"res{s}.")} for s in range(2, 6)]
        return tuple(len(blocks) for blocks in stages)

    @property
    def width(self) -> int:
        """Channels of conv1."""
        return self.tensors["stem.conv.weight"].shape[0] if "stem.conv.weight" in self.tensors else 0


def _are_named(classes: Sequence[str]) -> bool:
    """Whether these are names, and no numbers of classes or what stands in a converted file for want of names."""
    return any(not re.fullmatch(r"(class )?[0-9]+", name) for name in classes)


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ")


def _norm_of_config(metadata: Mapping[str, str]) -> str | None:
    if "config" not in metadata:
        return None
    kind = str(json.loads(metadata["config"])["norm"]["kind"])
    return "bn" if kind in NORM_KINDS and NORM_KINDS[kind].family == "batch" else kind


def read_source(file: WeightsFile) -> WeightsSource:
    """The file's names understood.

    Raises:
        CheckpointError: for an unknown format, or names that the format does not know.
    """
    if file.network is not None:
        raise CheckpointError(
            f"{file.path}: an ONNX file, which vidgn predict runs; for all else give the weights file it was made of"
        )
    check_version(file.path, file.metadata)
    entry = find_format(file.tensors)
    if entry is None:
        names = ", ".join(list(file.tensors)[:3])
        known = ", ".join(f.name for f in FORMATS)
        raise CheckpointError(f"{file.path}: tensors named {names}, ... are of no known format; known are {known}")
    named = canonical_names(entry, list(file.tensors))
    unknown = [key for key, n in named.items() if not n.canonical and not n.reason]
    if unknown:
        raise CheckpointError(
            f"{file.path}: a {entry.name} file with tensors that no ResNet of ours has: {listed(unknown)}; "
            "weights of plain bottleneck ResNets (50, 101) are read"
        )
    source = WeightsSource(file, entry, named)
    if len(source.keys) + len(source.dropped) < len(named):
        raise CheckpointError(f"{file.path}: a {entry.name} file that names some tensors twice; save it again")
    return source


def listed(names: list[str]) -> str:
    """The first three, and how many more."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
