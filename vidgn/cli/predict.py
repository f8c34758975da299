"""`vidgn predict RUN_OR_FILE VIDEO...`: the five best classes of each video."""

import argparse
import json
import sys

from vidgn.errors import DecodeError
from vidgn.processes import without_collection

SUMMARY = "name what a trained network sees in videos"

_EPILOG = """examples
  vidgn predict runs/study/i3d_r50_32f_8x8_gn_s0 clip.mp4
  vidgn predict model.safetensors *.mp4 --json --views paper --device cuda

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

    predictor = VideoPredictor(arguments.weights, device=arguments.device, decoder=arguments.decoder)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vidgn predict",
        description="Print the five best classes of each video, with their scores.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("weights", metavar="RUN_OR_FILE", help="directory of a finished run, or an exported file")
    parser.add_argument("videos", metavar="VIDEO", nargs="+")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--decoder", choices=("auto", "pyav", "decord", "torchcodec"), help="(default: as trained)")
    parser.add_argument(
        "--views",
        choices=("paper", "center", "image"),
        help="what is seen of a video: 10 clips x 3 crops, 10 centre clips (default), one frame (of image networks)",
    )
    return parser
