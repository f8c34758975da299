"""`vidgn convert IN OUT`: weights of any known format into ours, those of others, or a network for other programs."""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vidgn.config.norm_kinds import NORM_KINDS
from vidgn.errors import ConfigError

if TYPE_CHECKING:
    from vidgn.config.schema import Config
    from vidgn.models.weights import Pixels, WeightsSource

SUMMARY = "read weights of other libraries, write ours, theirs, ONNX or a program of torch.export"

_PROGRAMS = ("onnx", "torch-export")

_EPILOG = """examples
  vidgn convert R-50-GN.pkl r50_gn.safetensors --norm gn            Detectron's, inflated into the paper's I3D
  vidgn convert resnet50-11ad3fa6.pth r50.safetensors --model resnet50     torchvision's, left an image network
  vidgn convert I3D_8x8_R50.pyth q.safetensors --classes k400.txt   pytorchvideo's or PySlowFast's
  vidgn convert runs/study/RUN out.pyth --to pytorchvideo
  vidgn convert runs/imagenet/RUN out.pth --to torchvision      a state dict for torchvision.models.resnet50
  vidgn convert runs/study/RUN net.onnx --to onnx --uint8       of any batch, for frames as they are decoded
  vidgn convert runs/study/RUN net.pt2 --to torch-export        for torch.export.load, without vidgn

IN may be of torchvision, timm, Detectron, video-nonlocal-net, PySlowFast, pytorchvideo, mmaction2 or vidgn; its content
tells, not its name. Pickles are read without being run. vidgn train weights=IN takes the same files directly.
ONNX files and programs are run on random clips, and written only if they say what the network says: pip install
'vidgn[export]'. vidgn predict runs ONNX files.
"""


def run(argv: list[str]) -> int:
    """Convert one file and print what was taken, dropped and why.

    Returns:
        0.
    """
    arguments = _parser().parse_args(argv)
    _check_arguments(arguments)
    from vidgn.models.i3d import build_model
    from vidgn.models.weights import load_file, load_weights, read_about, read_source
    from vidgn.training.bn_stats import statistics_used

    out = Path(arguments.output)
    file = load_file(arguments.input)
    own, names = read_about(file) if "config" in file.metadata else (None, None)
    if own is not None and own.model.detector:
        raise ConfigError(
            f"{file.path}: a detector, and networks that classify are converted: vidgn predict runs it as it is"
        )
    source = read_source(file)
    if out.exists() and out.samefile(file.path):
        raise ConfigError(f"{out}: is IN itself, which would be gone; give another name")
    if not out.parent.is_dir() or out.is_dir():
        raise ConfigError(f"{out}: no place for a file; give a file name in a folder that exists")
    config = _config(source, own, arguments)
    if arguments.bn_stats:
        if own is None or statistics_used(own) != "batch":
            raise ConfigError(
                f"--bn-stats {arguments.bn_stats}: {file.path} is of no run with bn_stats=batch: leave it out"
            )
        config = dataclasses.replace(config, bn_stats=arguments.bn_stats)
    classes = _classes(source, names, arguments.classes)
    model = build_model(
        config.model, config.norm, num_classes=len(classes), frames=config.frames, crop=config.data.crop
    )
    report = load_weights(model, source.file, std=config.data.std, pixels=_pixels(source, arguments))
    print("\n".join(report.lines(every=arguments.every)))
    steps = source.metadata.get("trained_steps", "")
    try:
        told = _save(arguments)(
            model,
            out,
            config=config,
            classes=classes,
            input_mean=report.input_mean,
            trained_steps=int(steps) if steps else None,
            source=source.metadata.get("source") or f"{source.name}: {source.file.path.name}",
        )
    except OSError as error:
        raise ConfigError(f"{out}: can't be written ({error.strerror}); free space or choose another place") from None
    if told is not None:
        print(f"  {told}")
    print(f"{out}: {config.model.name}, {config.norm.kind}, {config.frames} frames, {len(classes)} classes")
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    """What can be refused before a file is read."""
    if arguments.uint8 and arguments.to not in _PROGRAMS:
        raise ConfigError(f"--uint8 is of --to {' and '.join(_PROGRAMS)}, not of --to {arguments.to}: leave it out")
    if arguments.to == "onnx":
        from vidgn.models.weights.onnx_file import PACKAGES, need_packages

        need_packages(*PACKAGES)


def _save(arguments: argparse.Namespace) -> Callable[..., str | None]:
    """What writes OUT, and returns what is to be said of it."""
    from vidgn.models import weights

    match arguments.to:
        case "safetensors":
            return weights.save_model
        case "pytorchvideo":
            return weights.save_pytorchvideo
        case "torchvision" | "timm":  # whose names are the same
            return weights.save_torchvision
        case program:
            from vidgn.training import portable

            save = portable.export_onnx if program == "onnx" else portable.export_program
            return partial(save, uint8=arguments.uint8)


def _config(source: "WeightsSource", own: "Config | None", arguments: argparse.Namespace) -> "Config":
    """IN's own configuration where it has one, with what the command line says; else the nearest of conf/."""
    if own is None:
        model = arguments.model or _guess_model(source)
        return _compose(model, arguments.norm or source.norm, arguments.frames, arguments.input)
    if arguments.model or arguments.norm:
        norm = arguments.norm or own.norm.kind
        composed = _compose(arguments.model or "i3d_r50", norm, arguments.frames, arguments.input)
        if arguments.model:
            own = dataclasses.replace(own, model=composed.model)
            if (own.frames == 1) != (composed.frames == 1):  # an image network becomes one of clips, or the reverse
                own = dataclasses.replace(own, frames=composed.frames, span=composed.span)
        own = dataclasses.replace(own, norm=composed.norm if arguments.norm else own.norm)
    if arguments.frames:
        span = own.span if own.span % arguments.frames == 0 else arguments.frames
        own = dataclasses.replace(own, frames=arguments.frames, span=span)
    return own


def _compose(model: str, norm: str, frames: int | None, path: str) -> "Config":
    from vidgn.config.compose import load_config

    frames = frames or (1 if model.startswith("resnet") else 8 if model.endswith("8x8") else 32)
    span = 1 if frames == 1 else 64 if 64 % frames == 0 else frames
    given = [f"model={model}", f"norm={norm}", f"frames={frames}", f"span={span}"]
    views = ["views=image"] if frames == 1 else []
    return dataclasses.replace(load_config([*given, *views, "weights=IN"]), weights=path)


def _guess_model(source: "WeightsSource") -> str:
    """By depth; the I3D of pytorchvideo and PySlowFast is the one without a temporal stride in its stem."""
    by_depth: dict[tuple[int, ...], str] = {(3, 4, 6, 3): "i3d_r50", (3, 4, 23, 3): "i3d_r101"}
    found = by_depth.get(source.depths)
    if found is None or source.width != _compose(found, "bn", None, str(source.file.path)).model.width:
        raise ConfigError(
            f"{source.file.path}: a ResNet of depth {source.depths} and width {source.width} is none of conf/model; "
            "give the one it is for with --model NAME"
        )
    return "i3d_r50_8x8" if found == "i3d_r50" and source.entry.name in ("pytorchvideo", "PySlowFast") else found


def _classes(source: "WeightsSource", own: Sequence[str] | None, path: str | None) -> Sequence[str]:
    number = source.num_classes
    if path is None:
        if own is not None:
            return own
        if number is None:
            raise ConfigError(
                f"{source.file.path}: has no classifier; name the classes of a new one with --classes FILE"
            )
        return [f"class {label}" for label in range(number)]
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--classes {path}: can't be read ({error}); give a text file, one name a line") from None
    if number is not None and number != len(names):
        raise ConfigError(f"--classes {path}: {len(names)} names, and the classifier has {number} classes")
    return names


def _pixels(source: "WeightsSource", arguments: argparse.Namespace) -> "Pixels | None":
    if not arguments.input_mean and not arguments.input_std:
        return None
    mean, std = arguments.input_mean, arguments.input_std
    return dataclasses.replace(
        source.pixels, mean=tuple(mean or source.pixels.mean), std=tuple(std or source.pixels.std)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vidgn convert",
        description="Convert weights, accounting for every tensor.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="IN", help="a weights file of any known format, or a run's directory")
    parser.add_argument("output", metavar="OUT")
    parser.add_argument(
        "--to",
        choices=("safetensors", "pytorchvideo", "torchvision", "timm", *_PROGRAMS),
        default="safetensors",
        help="what OUT is (default safetensors: vidgn's own)",
    )
    parser.add_argument(
        "--uint8", action="store_true", help="of onnx, torch-export: OUT takes frames (N, T, H, W, 3) of RGB in 0-255"
    )
    parser.add_argument(
        "--bn-stats", choices=("ema",), help="of a run with bn_stats=batch: convert it with its running statistics"
    )
    parser.add_argument("--model", help="network of conf/model to put them in (default: by depth, i3d_r50 or the like)")
    parser.add_argument("--norm", choices=tuple(NORM_KINDS), help="(default: the norm of IN)")
    parser.add_argument("--frames", type=_positive, help="frames of a clip (default 32; 8 for i3d_r50_8x8)")
    parser.add_argument("--classes", metavar="FILE", help="class names, one a line, in the order of the classifier")
    channels = ("R", "G", "B")
    parser.add_argument(
        "--input-mean",
        type=_finite,
        nargs=3,
        metavar=channels,
        help="what IN was trained to subtract, 0-255, if not the usual",
    )
    parser.add_argument(
        "--input-std", type=_above_zero, nargs=3, metavar=channels, help="what IN was trained to divide by, 0-255"
    )
    parser.add_argument("--every", action="store_true", help="list every tensor")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: must be a finite number")
    return value


def _above_zero(text: str) -> float:
    value = _finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text}: pixels are divided by it, so it must be above 0")
    return value
