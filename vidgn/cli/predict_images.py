"""`vidgn predict` of a detector: objects in images."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidgn.cli.predict_sources import places_of, sources_of
from vidgn.errors import ConfigError, DecodeError

if TYPE_CHECKING:
    from vidgn.models.weights import WeightsFile

OF_VIDEOS = (
    *("views", "clips", "decoder", "workers", "top", "features", "per_clip", "explain"),
    *("windows", "stride", "live", "patience"),
)


def detect(file: "WeightsFile", arguments: argparse.Namespace) -> int:
    """Find objects in every image, and paint them where that is asked for.

    Returns:
        0, or 1 if an image could not be read.
    """
    from vidgn.detection.detect import DetectionPredictor, painted

    for option in OF_VIDEOS:
        value = getattr(arguments, option)
        if value is not None and value is not False:
            given = f"--{option.replace('_', '-')}{'' if value is True else f' {value}'}"
            raise ConfigError(f"{given} is of videos, and {file.path} finds objects in images: leave it out")
    if arguments.format not in ("text", "json"):
        raise ConfigError(f"--format {arguments.format} is of videos: give --format json, or leave it out")
    images = sources_of(arguments.videos, of_images=True)
    least = 0.5 if arguments.score is None else arguments.score
    if not 0.05 <= least <= 1:
        raise ConfigError(f"--score {least:g}: between 0.05, below which nothing is found, and 1")
    places = places_of("--out", arguments.out, images, ending=".png", noun="image")
    predictor = DetectionPredictor(file, device=arguments.device)
    as_json = arguments.format == "json"
    told: list[dict[str, Any]] = []
    for image in images:
        try:
            found = predictor(image, least_score=least)
            if image in places:
                _save(painted(image, found), places[image])
        except DecodeError as error:
            told.append({"image": image, "error": str(error)})
            print(f"vidgn predict: {error}", file=sys.stderr)
            continue
        told.append({"image": image, "found": [{"class": d.name, "score": d.score, "box": d.box} for d in found]})
        if not as_json:
            print(f"{image}: {len(found)} objects")
            for d in found:
                print(f"  {100 * d.score:6.2f} %  {d.name:16} {', '.join(f'{v:.0f}' for v in d.box)}")
    if as_json:
        print(json.dumps({"weights": str(predictor.path), "device": predictor.device.type, "images": told}, indent=1))
    return 1 if any("error" in entry for entry in told) else 0


def _save(picture: Any, place: Path) -> None:
    try:
        picture.save(place)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--out {place}: can't be written ({error}); give a name such as painted.png") from None
