"""Weights of any known format into one of our models, every tensor accounted for.

Inflation: a 2-D kernel repeated over T frames and divided by T (Carreira & Zisserman 2017), so that a still video gives
what the image gave. A network trained on (x - mean) / std of B, G, R or R, G, B becomes one that takes
(x - mean) / our std of R, G, B: order and scale go into conv1. The mean can't, since conv1 pads with zeros, which mean
`mean` there: it is returned, and the caller subtracts it from the input.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from vidgn.errors import CheckpointError
from vidgn.models.norms.layers import ClipNorm, FrozenBatchNorm, norm_layers
from vidgn.models.weights.containers import WeightsFile, read_file
from vidgn.models.weights.formats import FORMATS, Pixels, Triple, canonical_names, parse_triple
from vidgn.models.weights.source import STATISTICS, WeightsSource, listed, read_source


@dataclass(frozen=True)
class Taken:
    """One tensor of the file and where it went. `how`: empty if as it was."""

    source: str
    target: str
    how: str


@dataclass(frozen=True)
class ImportReport:
    """The account of one import: every tensor of the file and every tensor of the model is in it.

    Example:
        >>> import vidgn
        >>> report = vidgn.load(run).report  # of the directory of a finished run
        >>> report.format, report.classifier, report.dropped
        ('vidgn', 'taken', ())
    """

    path: Path
    format: str
    taken: tuple[Taken, ...]
    dropped: tuple[tuple[str, str], ...]  # name in the file, reason
    kept: tuple[tuple[str, str], ...]  # name in the model left at its initial value, reason
    warnings: tuple[str, ...]
    classifier: Literal["taken", "new"]
    input_mean: Triple  # 0-255 RGB: what the network expects to be subtracted
    input_std: Triple  # 0-255 RGB: what the network now expects to be divided by
    metadata: dict[str, str]  # of a vidgn export; empty otherwise

    def lines(self, *, every: bool = False) -> list[str]:
        """The report as text: a line for each kind of fate, or with `every` for each tensor."""
        lines = [f"{self.path}: {self.format}"]
        lines += [f"  taken {len(names)}: {how} ({_some(names)})" for how, names in _grouped_taken(self.taken)]
        lines += [f"  dropped {len(names)}: {reason} ({_some(names)})" for reason, names in _grouped(self.dropped)]
        lines += [f"  not in the file {len(names)}: {reason} ({_some(names)})" for reason, names in _grouped(self.kept)]
        lines.append(f"  input mean {_numbers(self.input_mean)}, std {_numbers(self.input_std)} (0-255 RGB)")
        lines += [f"  note: {warning}" for warning in self.warnings]
        if every:
            lines += [f"    {t.source} -> {t.target}{', ' + t.how if t.how else ''}" for t in self.taken]
            lines += [f"    {name} dropped: {reason}" for name, reason in self.dropped]
            lines += [f"    {name} at its initial value: {reason}" for name, reason in self.kept]
        return lines

    def summary(self) -> str:
        """`lines()` as one text; what str() gives."""
        return "\n".join(self.lines())

    def __str__(self) -> str:
        return self.summary()


def _grouped_taken(taken: tuple[Taken, ...]) -> list[tuple[str, list[str]]]:
    return _grouped(tuple((t.source, t.how or "as they are") for t in taken))


def _grouped(pairs: tuple[tuple[str, str], ...]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name, reason in pairs:
        groups[reason].append(name)
    return list(groups.items())


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:2])
    return shown if len(names) <= 2 else f"{shown}, ..."


def _numbers(values: Triple) -> str:
    return "[" + ", ".join(f"{v:g}" for v in values) + "]"


_HEAD = ("head.weight", "head.bias")
_COUNTER = ".num_batches_tracked"
_RANDOM = "the weights are random: exported after 0 training steps"


def load_weights(
    model: nn.Module,
    path: str | os.PathLike[str] | WeightsFile,
    *,
    std: Triple,
    pixels: Pixels | None = None,
    classes: Sequence[str] = (),
) -> ImportReport:
    """Put the weights of `path` into `model`; only a classifier for other classes is left out.

    Args:
        path: a file of any format in `FORMATS`, a run's directory, or what `load_file` made of one.
        std: what the model's input will be divided by, 0-255 RGB (config.data.std).
        pixels: overrules what the file or its format says it was trained on.
        classes: what the model will tell apart, in label order, where that is known. Files of vidgn name theirs.

    Returns:
        The account. Feed the model (x - report.input_mean) / std.

    Raises:
        CheckpointError: in one line if the file is torn, hostile or unknown, or does not fit the model; the model
            is then as it was.
    """
    source = read_source(path if isinstance(path, WeightsFile) else read_file(path))
    return _transfer(model, source, std=std, pixels=pixels or source.pixels, classes=classes)


def model_keys(model: nn.Module) -> dict[str, str]:
    """The model's tensors: canonical name -> key of its state dict."""
    named = canonical_names(FORMATS[0], list(model.state_dict()))
    assert all(n.canonical for n in named.values()), [k for k, n in named.items() if not n.canonical]
    return {n.canonical: key for key, n in named.items() if n.canonical}


def _transfer(
    model: nn.Module, source: WeightsSource, *, std: Triple, pixels: Pixels, classes: Sequence[str]
) -> ImportReport:
    state, keys = model.state_dict(), model_keys(model)
    classifier = _classifier_fate(source, state[keys["head.weight"]] if "head.weight" in keys else None, classes)
    statistics = _statistics_fate(source, keys, model)
    taken, kept, dropped, misfits, missing = [], [], list(source.dropped), [], []
    loaded: dict[str, torch.Tensor] = {}
    for canonical, key in keys.items():
        found = source.tensors.get(canonical)
        if canonical in _HEAD and classifier:
            kept.append((key, classifier))
        elif found is not None:
            fitted = _fit(found, state[key].shape)
            if fitted is None:
                misfits.append(f"{source.keys[canonical]} is {_size(found)} and {key} {_size(state[key])}")
                continue
            tensor, how = fitted
            if canonical == "stem.conv.weight":
                tensor, how = _absorb(tensor, how, pixels, std)
            loaded[key] = tensor.to(state[key].dtype)
            _check_values(source, canonical, loaded[key])
            taken.append(Taken(source.keys[canonical], key, how))
        elif canonical.endswith(STATISTICS) and statistics:
            kept.append((key, statistics))
        elif not canonical.endswith(_COUNTER):
            missing.append(key)
    for canonical, name in source.keys.items():
        if canonical in _HEAD and classifier:
            dropped.append((name, classifier))
        elif canonical in keys:
            continue
        elif canonical.endswith(STATISTICS):
            dropped.append((name, "running statistics, of which this model's norm has none"))
        elif canonical.endswith(_COUNTER):
            dropped.append((name, "counter of batches, not used"))
        else:
            misfits.append(f"{name} has no place in the model")
    _refuse(source, missing, misfits)
    model.load_state_dict({**state, **loaded})
    dropped += [(name, "not weights") for name in _tensors_beside(source.file.beside)]
    return ImportReport(
        source.file.path,
        source.name,
        tuple(taken),
        tuple(dropped),
        tuple(kept),
        tuple(_warnings(model, source, keys, statistics, classifier)),
        "new" if classifier else "taken",
        pixels.mean,
        std,
        source.metadata,
    )


def _classifier_fate(source: WeightsSource, weight: torch.Tensor | None, classes: Sequence[str]) -> str:
    """Why the model's classifier stays new; empty if the file's is taken."""
    if weight is None:
        return "a classifier, of which a detector has its own"
    present = [name for name in _HEAD if name in source.tensors]
    if not present:
        return "the file has no classifier: a new one"
    theirs = source.tensors[present[0]].shape[0]
    if theirs != weight.shape[0]:
        return f"classifier for {theirs} classes where this model has {weight.shape[0]}: a new one"
    other = source.other_class(classes)
    return f"classifier for other classes ({other}): a new one" if other else ""


def _statistics_fate(source: WeightsSource, keys: Mapping[str, str], model: nn.Module) -> str:
    """Why running statistics may stay at 0 and 1; empty if they must come from the file.

    Raises:
        CheckpointError: if the model's BN can't do without and the file was trained without.
    """
    if source.has_statistics or not any(name.endswith(STATISTICS) for name in keys):
        return ""
    if source.entry.may_lack_statistics and not _is_frozen(model):
        return "a BN file without running statistics: 0 and 1 until they are measured"
    raise CheckpointError(
        f"{source.file.path}: a {source.name} file without running statistics, which this model's BN needs; "
        "use weights trained with BN, or norm=gn"
    )


def _is_frozen(model: nn.Module) -> bool:
    return any(isinstance(layer, FrozenBatchNorm) for _, layer in norm_layers(model))


def _norm_kind(model: nn.Module) -> str:
    """`bn` (any of its kinds), `gn`, `ln` or `in`."""
    layer = norm_layers(model)[0][1]
    if not isinstance(layer, ClipNorm):
        return "bn"
    return {1: "ln", layer.num_features: "in"}.get(layer.groups, "gn")


def _fit(tensor: torch.Tensor, shape: torch.Size) -> tuple[torch.Tensor, str] | None:
    """`tensor` in `shape`: as it is, with axes of 1 more or fewer at its end, or inflated over T. None if it can't."""
    if tensor.shape == shape:
        return tensor, ""
    if len(shape) == 5 and tensor.ndim in (4, 5):
        kernel = tensor.unsqueeze(2) if tensor.ndim == 4 else tensor
        flat = (*shape[:2], 1, *shape[3:])
        if tuple(kernel.shape) != flat:
            return None
        frames = shape[2]
        inflated = (kernel.double() / frames).expand(shape)
        return inflated, "" if frames == 1 else f"inflated over {frames} frames"
    plain = _without_trailing_ones(tuple(tensor.shape))
    if plain == _without_trailing_ones(tuple(shape)):
        return tensor.reshape(shape), ""
    return None


def _without_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _absorb(kernel: torch.Tensor, how: str, pixels: Pixels, std: Triple) -> tuple[torch.Tensor, str]:
    """conv1 for R, G, B pixels divided by `std`, from one for `pixels`. Unchanged bits where nothing changes."""
    done = [how] if how else []
    if pixels.bgr:
        kernel = kernel.flip(1)
        done.append("channels turned from BGR to RGB")
    if pixels.std != std:
        ratio = torch.tensor(std, dtype=torch.float64) / torch.tensor(pixels.std, dtype=torch.float64)
        kernel = kernel.double() * ratio.view(1, 3, *(1,) * (kernel.ndim - 2))
        done.append("scaled to our input std")
    return kernel, ", ".join(done)


def _check_values(source: WeightsSource, canonical: str, tensor: torch.Tensor) -> None:
    name = f"{source.file.path}: {source.keys[canonical]}"
    if not torch.isfinite(tensor).all():
        raise CheckpointError(
            f"{name} holds values that are not finite numbers: the training that wrote it diverged; "
            "take an earlier checkpoint of it"
        )
    if canonical.endswith(".running_var") and (tensor < 0).any():
        raise CheckpointError(
            f"{name} holds negative variances: a torn file, or not a variance; "
            "fetch it again, or save its state_dict anew"
        )


def _refuse(source: WeightsSource, missing: list[str], misfits: list[str]) -> None:
    what = f"{source.file.path}: a {source.name} file of ResNet depth {source.depths}, width {source.width}"
    if misfits:
        raise CheckpointError(f"{what}, does not fit this model: {listed(misfits)}; choose the model= it was made for")
    if missing:
        raise CheckpointError(f"{what}, lacks {listed(missing)}; choose the model= it was made for")


def _warnings(
    model: nn.Module, source: WeightsSource, keys: Mapping[str, str], statistics: str, classifier: str
) -> list[str]:
    lines = []
    theirs, ours = source.norm, _norm_kind(model)
    if theirs != ours:
        lines.append(
            f"trained with norm {theirs}, and this model's is {ours}: gamma and beta are taken"
            + (", running statistics dropped" if source.has_statistics else "")
            + "; it is another network until it is trained on"
        )
    if statistics:
        lines.append(statistics + " (if it was folded into an affine layer, it is not the same network any more)")
    pool = next((m for m in model.modules() if isinstance(m, nn.MaxPool3d)), None)
    padding = source.entry.pool1_padding
    if pool is not None and padding is not None and _three(pool.padding) != padding:
        lines.append(f"made for a pool1 padded by {padding}, this model pads by {_three(pool.padding)}: maps differ")
    if classifier and "head.weight" in keys:
        lines.append(classifier)
    if source.metadata.get("trained_steps") == "0":
        lines.append(_RANDOM)
    return lines


def report_of_onnx(file: WeightsFile) -> ImportReport:
    """The account of an ONNX file, which is its network: no tensor goes anywhere."""
    warnings = (_RANDOM,) if file.metadata["trained_steps"] == "0" else ()
    mean, std = parse_triple(file.metadata["input_mean"]), parse_triple(file.metadata["input_std"])
    return ImportReport(file.path, "ONNX", (), (), (), warnings, "taken", mean, std, file.metadata)


def _three(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) * 3 if isinstance(value, int) else tuple(value)


def _tensors_beside(value: object, path: str = "", depth: int = 0) -> list[str]:
    """Dotted names of the tensors outside the weights: optimizer state and the like."""
    if isinstance(value, torch.Tensor):
        return [path]
    if isinstance(value, Mapping) and depth < 8:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)) and depth < 8:
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return []
    return [n for key, item in items for n in _tensors_beside(item, f"{path}.{key}" if path else key, depth + 1)]


def _size(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
