"""`vidgn predict RUN_OR_FILE VIDEO...`: the best classes of videos or of windows along them; of a detector, boxes."""

import argparse

from vidgn.errors import ConfigError
from vidgn.processes import without_collection

SUMMARY = "name what a trained network sees in videos, or find objects in images"

_EPILOG = """sources
  files; folders: all videos in them, or a video whose frames are images named by number; lists: .txt with a path a
  line, .csv with a column path; - for paths on stdin. With --windows also what has no end: a URL (rtsp, udp, http), a
  pipe, a camera.

examples
  vidgn predict runs/study/i3d_r50_32f_8x8_gn_s0 clip.mp4
  vidgn predict model.safetensors *.mp4 --format csv --views paper --device cuda > top5.csv
  find videos -name '*.mp4' | vidgn predict RUN - --features features.npz
  vidgn predict RUN long.mp4 --windows 4 --stride 2 --format srt > long.srt
  vidgn predict RUN clip.mp4 --out painted.mp4 --explain seen.png
  vidgn predict RUN rtsp://camera/stream --windows 2 --clips 1 --format jsonl
  ffmpeg -f v4l2 -i /dev/video0 -f mpegts - | vidgn predict RUN /dev/stdin --windows 2 --clips 1
  vidgn predict RUN recording.ts --live --windows 5
  vidgn predict --onnx net.onnx clip.mp4
  vidgn predict runs/coco/mask_rcnn_r50_fpn_1f_2x8_gn_s0 street.jpg --out painted.png

A file stands alone: model.safetensors of a run, or what vidgn convert wrote. Exit code 1 if a video or a window could
not be read; that costs its line.
"""


def run(argv: list[str]) -> int:
    """Predict every video; one that can't be read costs its line and the exit code.

    Returns:
        0, or 1 if a video or a window could not be read.
    """
    arguments = _parser().parse_args(argv)

    with without_collection():
        from vidgn.api import VideoPredictor
        from vidgn.cli.predict_images import detect
        from vidgn.cli.predict_videos import VideoPrediction
        from vidgn.models.weights import load_file, read_about

    file = load_file(arguments.weights)
    if arguments.onnx and file.network is None:
        raise ConfigError(f"--onnx: {file.path} is no ONNX file: leave it out")
    if "config" in file.metadata and read_about(file)[0].model.detector:
        return detect(file, arguments)
    if arguments.score is not None:
        raise ConfigError(f"--score {arguments.score} is of a detector, and {file.path} names classes: leave it out")
    predictor = VideoPredictor(file, device=arguments.device, decoder=arguments.decoder)
    return VideoPrediction(predictor, arguments).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vidgn predict",
        description="Print the best classes of videos, or of windows along them, with scores; of a detector, objects.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("weights", metavar="RUN_OR_FILE", help="directory of a finished run, or an exported file")
    add("videos", metavar="SOURCE", nargs="+", help="videos; of a detector images")
    add("--onnx", action="store_true", help="the file must be of vidgn convert --to onnx")
    add("--format", choices=("text", "json", "jsonl", "csv", "srt"), default="text", help="(default: text)")
    add("--json", action="store_const", dest="format", const="json", help="--format json: one object at the end")
    add("--top", type=int, metavar="K", help="classes that are told of each (default: 5)")
    add(
        "--views",
        choices=("paper", "center", "image"),
        help="what is seen of a video: 10 clips x 3 crops, 10 centre clips (default), one frame (of image networks)",
    )
    add("--clips", type=int, metavar="N", help="clips of a video or window, in place of the views' own number")
    add("--windows", type=float, metavar="SECONDS", help="windows along each video, from one pass of decoding")
    add("--stride", type=float, metavar="SECONDS", help="from one window's start to the next (default: no overlap)")
    add("--live", action="store_true", help="the file is still being written: read it as it grows")
    add("--patience", type=float, metavar="SECONDS", help="without a byte, what is live has stalled (default: 10)")
    add("--out", metavar="FILE", help="the video painted with its label, an .mp4; of a detector the image; or a folder")
    add("--features", metavar="FILE", help="an .npz of what the classifier is given, a row for each video or window")
    add("--per-clip", action="store_true", help="with --features: of each clip, not their mean")
    add("--explain", metavar="FILE", help="a .png of where in the middle clip its class is seen; or a folder")
    add("--score", type=float, help="of a detector: least confidence, 0.05 to 1 (default: 0.5)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--decoder", choices=("auto", "pyav", "decord", "torchcodec"), help="(default: as trained)")
    add("--workers", type=int, metavar="N", help="processes that read ahead (default: 0 for a few files, else cores)")
    return parser
