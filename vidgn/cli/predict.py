"""`vidgn predict RUN_OR_FILE VIDEO...`: the five best classes of each video; of a detector, the boxes in images."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidgn.errors import ConfigError, DecodeError
from vidgn.processes import without_collection

if TYPE_CHECKING:
    from vidgn.models.weights import WeightsFile

SUMMARY = "name what a trained network sees in videos, or find objects in images"

_EPILOG = """examples
  vidgn predict runs/study/i3d_r50_32f_8x8_gn_s0 clip.mp4
  vidgn predict model.safetensors *.mp4 --json --views paper --device cuda
  vidgn predict --onnx net.onnx clip.mp4
  vidgn predict runs/coco/mask_rcnn_r50_fpn_1f_2x8_gn_s0 street.jpg --out painted.png

A file stands alone: model.safetensors of a run, or what vidgn convert wrote. Exit code 1 if a video could not be read.
"""


def run(argv: list[str]) -> int:
    """Predict every video; one that can't be read costs its line and the exit code.

    Returns:
        0, or 1 if a video could not be read.
    """
    arguments = _parser().parse_args(argv)

    with without_collection():
        from vidgn.api import VideoPredictor
        from vidgn.models.weights import load_file, read_about

    file = load_file(arguments.weights)
    if arguments.onnx and file.network is None:
        raise ConfigError(f"--onnx: {file.path} is no ONNX file: leave it out")
    if "config" in file.metadata and read_about(file)[0].model.detector:
        return _detect(file, arguments)
    for option in ("out", "score"):
        if (value := getattr(arguments, option)) is not None:
            raise ConfigError(f"--{option} {value} is of a detector, and {file.path} names classes: leave it out")
    predictor = VideoPredictor(file, device=arguments.device, decoder=arguments.decoder)
    views = predictor.views(arguments.views)
    if not arguments.json:
        for note in predictor.report.warnings:
            print(f"note: {note}")
    videos, failed = [], 0
    for video in arguments.videos:
        try:
            guesses = predictor.top(video, views)
        except DecodeError as error:
            failed += 1
            videos.append({"video": video, "error": str(error)})
            if not arguments.json:
                print(f"vidgn predict: {error}", file=sys.stderr)
            continue
        videos.append({"video": video, "top": [{"class": g.name, "label": g.label, "score": g.score} for g in guesses]})
        if not arguments.json:
            print(video)
            for guess in guesses:
                print(f"  {100 * guess.score:6.2f} %  {guess.name}")
    if arguments.json:
        output = {
            "weights": str(predictor.path),
            "trained_steps": predictor.trained_steps,
            "random_weights": predictor.is_random,
            "views": views.name,
            "device": predictor.device.type,
            "videos": videos,
        }
        print(json.dumps(output, indent=1))
    return 1 if failed else 0


def _detect(file: "WeightsFile", arguments: argparse.Namespace) -> int:
    """Find objects in every image, and paint them where that is asked for."""
    from vidgn.detection.detect import DetectionPredictor, painted

    for option in ("views", "decoder"):
        if (value := getattr(arguments, option)) is not None:
            raise ConfigError(f"--{option} {value} is of videos, and {file.path} finds objects in images: leave it out")
    least = 0.5 if arguments.score is None else arguments.score
    if not 0.05 <= least <= 1:
        raise ConfigError(f"--score {least:g}: between 0.05, below which nothing is found, and 1")
    places = _places(arguments.out, arguments.videos)
    predictor = DetectionPredictor(file, device=arguments.device)
    told: list[dict[str, Any]] = []
    for image in arguments.videos:
        try:
            found = predictor(image, least_score=least)
            if image in places:
                _save(painted(image, found), places[image])
        except DecodeError as error:
            told.append({"image": image, "error": str(error)})
            print(f"vidgn predict: {error}", file=sys.stderr)
            continue
        told.append({"image": image, "found": [{"class": d.name, "score": d.score, "box": d.box} for d in found]})
        if not arguments.json:
            print(f"{image}: {len(found)} objects")
            for d in found:
                print(f"  {100 * d.score:6.2f} %  {d.name:16} {', '.join(f'{v:.0f}' for v in d.box)}")
    if arguments.json:
        print(json.dumps({"weights": str(predictor.path), "device": predictor.device.type, "images": told}, indent=1))
    return 1 if any("error" in entry for entry in told) else 0


def _places(out: str | None, images: Sequence[str]) -> dict[str, Path]:
    """Where each image is painted; none of them is written over, nor a painted one by another."""
    if out is None:
        return {}
    folder = Path(out)
    if not folder.is_dir() and len(images) > 1:
        raise ConfigError(f"--out {out}: {len(images)} images need a folder that is there")
    places = {image: folder / f"{Path(image).stem}.png" if folder.is_dir() else folder for image in images}
    own = {Path(image).resolve() for image in images}
    for image, place in places.items():
        if place.resolve() in own:
            raise ConfigError(f"--out {out}: {place} is an image itself; give another place")
        if sum(other == place for other in places.values()) > 1:
            raise ConfigError(f"--out {out}: {image} and another image would both be {place}; paint one at a time")
    return places


def _save(picture: Any, place: Path) -> None:
    try:
        picture.save(place)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--out {place}: can't be written ({error}); give a name such as painted.png") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vidgn predict",
        description="Print the five best classes of each video; of a detector, the objects in images. With scores.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("weights", metavar="RUN_OR_FILE", help="directory of a finished run, or an exported file")
    parser.add_argument("videos", metavar="VIDEO", nargs="+", help="videos; of a detector images")
    parser.add_argument("--out", metavar="FILE", help="of a detector: the image painted; a folder for several")
    parser.add_argument("--score", type=float, help="of a detector: least confidence, 0.05 to 1 (default: 0.5)")
    parser.add_argument("--onnx", action="store_true", help="the file must be of vidgn convert --to onnx")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--decoder", choices=("auto", "pyav", "decord", "torchcodec"), help="(default: as trained)")
    parser.add_argument(
        "--views",
        choices=("paper", "center", "image"),
        help="what is seen of a video: 10 clips x 3 crops, 10 centre clips (default), one frame (of image networks)",
    )
    return parser
