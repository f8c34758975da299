"""The formats of weights found in the wild: how each is recognised, what its names mean, which pixels it expects.

Names of every format map to one canonical form, that of the network and of no library:
`stem.conv.weight`, `stem.norm.{weight,bias,running_mean,running_var}`, then with x one of a, b, c, shortcut
`res{2..5}.{block}.{x}.conv.weight` and `res{2..5}.{block}.{x}.norm.*`, and `head.{weight,bias}`. A name without a place
in the network is dropped with a reason if the format is known to write it, and is an error otherwise.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidgn.models.weights.containers import WeightsFile

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Pixels:
    """What a network was trained on: (x - mean) / std, 0-255, given in RGB order; `bgr`: its conv1 takes B, G, R."""

    mean: Triple
    std: Triple
    bgr: bool = False


@dataclass(frozen=True)
class Format:
    """One entry. `rules`: (pattern, canonical name or None, reason if None); the first full match wins."""

    name: str
    recognise: Callable[[Mapping[str, Any]], bool]  # given the tensors by name
    rules: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str] | None, str], ...]
    pixels: Pixels
    pool1_padding: tuple[int, int, int] | None = None  # the maker's; None: not one for all
    may_lack_statistics: bool = False  # a BN file can come without its running statistics
    read_pixels: Callable[[WeightsFile], Pixels | None] | None = None  # where the file itself says which pixels


@dataclass(frozen=True)
class Named:
    """What a name stands for: `canonical`, or a `reason` to drop it, or neither (unknown)."""

    canonical: str | None
    reason: str


def name_of(entry: Format, key: str) -> Named:
    """The meaning of `key` in the format `entry`."""
    for pattern, target, reason in entry.rules:
        if found := pattern.fullmatch(key):
            if target is None:
                return Named(None, reason)
            return Named(target(found) if callable(target) else found.expand(target), "")
    return Named(None, "")


def find_format(tensors: Mapping[str, Any]) -> Format | None:
    """The format whose names these are."""
    return next((entry for entry in FORMATS if entry.recognise(tensors)), None)


# ---------------------------------------------------------------------------------------------------------------- names

_STATS = "weight|bias|running_mean|running_var|num_batches_tracked"
_LETTERS = {"1": "a", "2": "b", "3": "c"}
_C2_PARTS = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}  # riv is the variance itself


def _rule(pattern: str, target: str | Callable[[re.Match[str]], str] | None, reason: str = "") -> Any:
    return re.compile(pattern), target, reason


_TORCHVISION = (
    _rule(r"conv1\.weight", "stem.conv.weight"),
    _rule(rf"bn1\.({_STATS})", r"stem.norm.\1"),
    _rule(
        r"layer([1-4])\.(\d+)\.conv([123])\.weight",
        lambda m: f"res{int(m[1]) + 1}.{m[2]}.{_LETTERS[m[3]]}.conv.weight",
    ),
    _rule(
        rf"layer([1-4])\.(\d+)\.bn([123])\.({_STATS})",
        lambda m: f"res{int(m[1]) + 1}.{m[2]}.{_LETTERS[m[3]]}.norm.{m[4]}",
    ),
    _rule(r"layer([1-4])\.0\.downsample\.0\.weight", lambda m: f"res{int(m[1]) + 1}.0.shortcut.conv.weight"),
    _rule(rf"layer([1-4])\.0\.downsample\.1\.({_STATS})", lambda m: f"res{int(m[1]) + 1}.0.shortcut.norm.{m[2]}"),
    _rule(r"fc\.(weight|bias)", r"head.\1"),
)

_MMACTION = (
    _rule(r"backbone\.conv1\.conv\.weight", "stem.conv.weight"),
    _rule(rf"backbone\.conv1\.[bg]n\.({_STATS})", r"stem.norm.\1"),
    _rule(
        r"backbone\.layer([1-4])\.(\d+)\.conv([123])\.conv\.weight",
        lambda m: f"res{int(m[1]) + 1}.{m[2]}.{_LETTERS[m[3]]}.conv.weight",
    ),
    _rule(
        rf"backbone\.layer([1-4])\.(\d+)\.conv([123])\.[bg]n\.({_STATS})",
        lambda m: f"res{int(m[1]) + 1}.{m[2]}.{_LETTERS[m[3]]}.norm.{m[4]}",
    ),
    _rule(
        r"backbone\.layer([1-4])\.0\.downsample\.conv\.weight", lambda m: f"res{int(m[1]) + 1}.0.shortcut.conv.weight"
    ),
    _rule(
        rf"backbone\.layer([1-4])\.0\.downsample\.[bg]n\.({_STATS})",
        lambda m: f"res{int(m[1]) + 1}.0.shortcut.norm.{m[2]}",
    ),
    _rule(r"cls_head\.fc_cls\.(weight|bias)", r"head.\1"),
    _rule(r"data_preprocessor\..*", None, "input normalisation: travels as the input mean"),
)

_PYSLOWFAST = (
    _rule(r"s1\.pathway0_stem\.conv\.weight", "stem.conv.weight"),
    _rule(rf"s1\.pathway0_stem\.bn\.({_STATS})", r"stem.norm.\1"),
    _rule(r"s([2-5])\.pathway0_res(\d+)\.branch2\.([abc])\.weight", r"res\1.\2.\3.conv.weight"),
    _rule(rf"s([2-5])\.pathway0_res(\d+)\.branch2\.([abc])_bn\.({_STATS})", r"res\1.\2.\3.norm.\4"),
    _rule(r"s([2-5])\.pathway0_res0\.branch1\.weight", r"res\1.0.shortcut.conv.weight"),
    _rule(rf"s([2-5])\.pathway0_res0\.branch1_bn\.({_STATS})", r"res\1.0.shortcut.norm.\2"),
    _rule(r"head\.projection\.(weight|bias)", r"head.\1"),
)

_CAFFE2 = (
    _rule(r".*_momentum", None, "optimizer state (momentum)"),
    _rule(r"lr|model_iter", None, "state of the training that wrote it"),
    _rule(r"conv1_w", "stem.conv.weight"),
    _rule(r"(?:res_conv1_bn|conv1_gn)_(s|b|rm|riv)", lambda m: f"stem.norm.{_C2_PARTS[m[1]]}"),
    _rule(r"res([2-5])_(\d+)_branch2([abc])_w", r"res\1.\2.\3.conv.weight"),
    _rule(
        r"res([2-5])_(\d+)_branch2([abc])_[bg]n_(s|b|rm|riv)",
        lambda m: f"res{m[1]}.{m[2]}.{m[3]}.norm.{_C2_PARTS[m[4]]}",
    ),
    _rule(r"res([2-5])_0_branch1_w", r"res\1.0.shortcut.conv.weight"),
    _rule(r"res([2-5])_0_branch1_[bg]n_(s|b|rm|riv)", lambda m: f"res{m[1]}.0.shortcut.norm.{_C2_PARTS[m[2]]}"),
    _rule(r"pred_(w|b)", lambda m: "head.weight" if m[1] == "w" else "head.bias"),
)

_PYTORCHVIDEO = (  # the number of a block is made a stage in `canonical_names`
    _rule(r"blocks\.0\.conv\.weight", "stem.conv.weight"),
    _rule(rf"blocks\.0\.norm\.({_STATS})", r"stem.norm.\1"),
    _rule(r"blocks\.(\d+)\.res_blocks\.(\d+)\.branch2\.conv_([abc])\.weight", r"block\1.\2.\3.conv.weight"),
    _rule(rf"blocks\.(\d+)\.res_blocks\.(\d+)\.branch2\.norm_([abc])\.({_STATS})", r"block\1.\2.\3.norm.\4"),
    _rule(r"blocks\.(\d+)\.res_blocks\.0\.branch1_conv\.weight", r"block\1.0.shortcut.conv.weight"),
    _rule(rf"blocks\.(\d+)\.res_blocks\.0\.branch1_norm\.({_STATS})", r"block\1.0.shortcut.norm.\2"),
    _rule(r"blocks\.\d+\.proj\.(weight|bias)", r"head.\1"),
)


def torchvision_name(canonical: str) -> str:
    """The name that torchvision's ResNets have for a canonical one."""
    part, _, rest = canonical.partition(".")
    if part == "head":
        return f"fc.{rest}"
    if part == "stem":
        return rest.replace("conv.", "conv1.").replace("norm.", "bn1.")
    block, unit, kind, name = rest.split(".")
    stage = f"layer{int(part[3:]) - 1}.{block}"
    if unit == "shortcut":
        return f"{stage}.downsample.{'0' if kind == 'conv' else '1'}.{name}"
    return f"{stage}.{'conv' if kind == 'conv' else 'bn'}{'abc'.index(unit) + 1}.{name}"


def canonical_names(entry: Format, keys: list[str]) -> dict[str, Named]:
    """The meaning of every key. pytorchvideo numbers its blocks, a pool among them counting as one: stages by rank."""
    named = {key: name_of(entry, key) for key in keys}
    blocks = sorted(
        {int(m[1]) for n in named.values() if n.canonical and (m := re.match(r"block(\d+)\.", n.canonical))}
    )
    stage = {str(number): f"res{rank + 2}" for rank, number in enumerate(blocks)}
    return {key: Named(_staged(value.canonical, stage), value.reason) for key, value in named.items()}


def _staged(canonical: str | None, stage: Mapping[str, str]) -> str | None:
    return canonical and re.sub(r"^block(\d+)\.", lambda m: f"{stage[m[1]]}.", canonical)


# ---------------------------------------------------------------------------------------------------------------- input


def _from_metadata(file: WeightsFile) -> Pixels | None:
    """A vidgn export says what it was trained on."""
    if file.metadata.get("format") != "vidgn":
        return None
    return Pixels(parse_triple(file.metadata["input_mean"]), parse_triple(file.metadata["input_std"]))


def _from_pyslowfast_cfg(file: WeightsFile) -> Pixels | None:
    """PySlowFast keeps its whole configuration as yaml: DATA.MEAN and DATA.STD of pixels in [0, 1]."""
    text = file.beside.get("cfg")
    if not isinstance(text, str):
        return None
    section = re.search(r"^DATA:\n((?:[ \t-].*\n?)*)", text, re.MULTILINE)
    if not section:
        return None
    mean, std = _yaml_triple(section[1], "MEAN"), _yaml_triple(section[1], "STD")
    if mean is None or std is None:
        return None
    # Channels are reversed after normalisation: mean and std stay in RGB order.
    bgr = bool(re.search(r"^  REVERSE_INPUT_CHANNEL: true\s*$", section[1], re.MULTILINE | re.IGNORECASE))
    return Pixels(_scaled(mean), _scaled(std), bgr)


def _from_preprocessor(file: WeightsFile) -> Pixels | None:
    """mmaction2's input normalisation, in files where it was saved along."""
    mean, std = (file.tensors.get(f"data_preprocessor.{name}") for name in ("mean", "std"))
    if mean is None or std is None or mean.numel() != 3 or std.numel() != 3:
        return None
    return Pixels(_triple(mean.flatten().tolist()), _triple(std.flatten().tolist()))


def _yaml_triple(section: str, key: str) -> list[float] | None:
    number = r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?"
    block = re.search(rf"^  {key}:\s*\n((?:  - {number}\s*\n){{3}})", section + "\n", re.MULTILINE)
    flow = re.search(rf"^  {key}: *\[({number}(?:, *{number}){{2}})\]", section, re.MULTILINE)
    found = block or flow
    return [float(x) for x in re.findall(number, found[1].replace("- ", ""))] if found else None


def _scaled(values: list[float]) -> Triple:
    return _triple([255 * value for value in values])


def _triple(values: list[float]) -> Triple:
    first, second, third = values
    return first, second, third


def parse_triple(text: str) -> Triple:
    """Three numbers separated by commas, as in the metadata of a vidgn export."""
    return _triple([float(x) for x in text.split(",")])


def format_triple(values: Sequence[float]) -> str:
    """`parse_triple`'s other way; floats survive it exactly."""
    return ",".join(repr(float(v)) for v in values)


TORCHVISION_PIXELS = Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # and timm's, mmaction2's
_NLN = Pixels(
    (114.75, 114.75, 114.75), (57.375, 57.375, 57.375)
)  # video-nonlocal-net, PySlowFast, pytorchvideo: 0.45 and 0.225 of [0, 1]
_DETECTRON = Pixels((122.7717, 115.9465, 102.9801), (1.0, 1.0, 1.0), bgr=True)  # PIXEL_MEANS 102.9801, ... in BGR
_PADDED = (0, 1, 1)

FORMATS: tuple[Format, ...] = (
    Format(
        "pytorchvideo",  # and vidgn's own, which differs in its metadata
        lambda keys: "blocks.0.conv.weight" in keys,
        _PYTORCHVIDEO,
        _NLN,
        read_pixels=_from_metadata,
    ),
    Format(
        "PySlowFast",
        lambda keys: "s1.pathway0_stem.conv.weight" in keys,
        _PYSLOWFAST,
        _NLN,
        pool1_padding=_PADDED,
        read_pixels=_from_pyslowfast_cfg,
    ),
    Format(
        "mmaction2",
        lambda keys: "backbone.conv1.conv.weight" in keys,
        _MMACTION,
        TORCHVISION_PIXELS,
        pool1_padding=_PADDED,
        read_pixels=_from_preprocessor,
    ),
    Format(
        "torchvision/timm ResNet",
        lambda keys: {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= set(keys),
        _TORCHVISION,
        TORCHVISION_PIXELS,
        pool1_padding=_PADDED,
    ),
    Format(
        "Detectron GN ResNet",
        lambda keys: {"conv1_w", "conv1_gn_s"} <= set(keys),
        _CAFFE2,
        _DETECTRON,
        pool1_padding=_PADDED,
    ),
    Format(
        "caffe2 (video-nonlocal-net, PySlowFast)",
        lambda keys: {"conv1_w", "res_conv1_bn_s"} <= set(keys),
        _CAFFE2,
        _NLN,
        may_lack_statistics=True,  # its ImageNet models were stripped of them (process_data/convert_models)
    ),
)
