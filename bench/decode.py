"""How fast clips come out of files: vidgn against its peers, in turn, within one process, on one thread.

    python bench/decode.py --clips ../shared/data/clips/good --egogestar ../shared/data/egogestar/256 --rounds 15

Every contender gets the same plans and gives the same uint8 (T, 224, 224, 3) RGB clips (pytorchvideo: the same span of
time). A round is one clip of every file for every contender, the order of contenders turning from round to round. What
is printed is the median over rounds of vidgn's clips per second divided by the contender's, by process CPU time
(other load on the machine hardly moves it) and by wall time.
"""

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import decord
import numpy as np
import torch
import torch.nn.functional as F
import torchcodec
from torchcodec.decoders import VideoDecoder
from torchcodec.transforms import Resize
from torchcodec.transforms._decoder_transforms import DecoderTransform

from vidgn.config.schema import ViewsConfig
from vidgn.data.clips.plan import plan_clip, resolve_clip, resolve_views
from vidgn.data.decode import open_video
from vidgn.data.decode.base import Box, ResolvedClip, resize

warnings.filterwarnings("ignore")
from pytorchvideo.data.encoded_video import EncodedVideo  # noqa: E402  (imports warn)

CROP, SHORT_SIDE = 224, (256, 320)
KINETICS = ("R6llTwEh07w.mp4", "SOX5yA1l24A.mp4", "WUzgd7C1pWA.mp4", "test.mp4")


@dataclass(frozen=True)
class Job:
    path: str
    clip: ResolvedClip
    short_side: int  # the scaled short side that the clip's box stands for
    seconds: tuple[float, float]  # what the clip covers
    pts: tuple[int, int]  # time stamps of its first and last frame
    height: int
    width: int


class Crop(DecoderTransform):
    """torchcodec's own crop, at a place of our choosing."""

    def __init__(self, clip: ResolvedClip) -> None:
        self.box = clip.box

    def _make_transform_spec(self, input_dims: tuple[int | None, int | None]) -> str:
        return f"crop, {self.box.height}, {self.box.width}, {self.box.left}, {self.box.top}"

    def _get_output_dims(self) -> tuple[int, int]:
        return self.box.height, self.box.width


def vidgn(job: Job) -> np.ndarray:
    with open_video(job.path) as reader:
        return reader.read([job.clip])[0]


class PlanesOnly:
    """Stands in for conversion: the box's Y, U and V are copied and nothing else is done."""

    def crops(self, frame: av.VideoFrame, boxes: Sequence[Box]) -> Iterator[np.ndarray]:
        for box in boxes:
            for shift, plane in zip((0, 1, 1), frame.planes, strict=True):
                rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                rows[
                    box.top >> shift : (box.top + box.height) >> shift,
                    box.left >> shift : (box.left + box.width) >> shift,
                ].copy()
            yield np.empty((0, 0, 3), np.uint8)


class NoSink:
    def wants(self, index: int, box: Box) -> bool:
        return True

    def put(self, index: int, box: Box, pixels: np.ndarray) -> None:
        pass


def vidgn_planes(job: Job) -> None:
    """What decoding would cost if conversion, resizing and mirroring were the device's: a bound, not a mode."""
    with open_video(job.path) as reader:
        reader._converter = PlanesOnly()
        reader._deliver(sorted(set(job.clip.frame_indices)), [job.clip.box], NoSink())


def torchcodec_slice(job: Job, *, seek_mode: str = "exact") -> np.ndarray:
    decoder = VideoDecoder(job.path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode)
    return boxed(decoder.get_frames_at(list(job.clip.frame_indices)).data.numpy(), job.clip)


def torchcodec_transforms(job: Job, *, seek_mode: str = "exact") -> np.ndarray:
    transforms = [Crop(job.clip), Resize((CROP, CROP))]
    decoder = VideoDecoder(
        job.path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode, transforms=transforms
    )
    frames_THWC = decoder.get_frames_at(list(job.clip.frame_indices)).data.numpy()
    return np.ascontiguousarray(frames_THWC[:, :, ::-1]) if job.clip.flip else frames_THWC


def decord_same(job: Job) -> np.ndarray:
    reader = decord.VideoReader(job.path, num_threads=1)
    return boxed(reader.get_batch(list(job.clip.frame_indices)).asnumpy(), job.clip)


def decord_naive(job: Job) -> np.ndarray:
    """Resize whole frames, then crop."""
    reader = decord.VideoReader(job.path, num_threads=1)
    frames_THWC = reader.get_batch(list(job.clip.frame_indices)).asnumpy()
    return scaled_then_cropped(torch.from_numpy(frames_THWC).permute(0, 3, 1, 2), job)


def decord_scaling(job: Job) -> np.ndarray:
    """Whole frames, resized by decord itself, then cropped."""
    height, width = scaled_size(job)
    reader = decord.VideoReader(job.path, num_threads=1, width=width, height=height)
    return cropped(reader.get_batch(list(job.clip.frame_indices)).asnumpy(), job)


def pytorchvideo(job: Job) -> np.ndarray:
    """EncodedVideo, uniform subsampling, short side scaled, crop: what its Kinetics tutorials do."""
    video = EncodedVideo.from_path(job.path, decode_audio=False, decoder="pyav")
    frames_CTHW = video.get_clip(*job.seconds)["video"]
    video.close()
    places = torch.linspace(0, frames_CTHW.shape[1] - 1, len(job.clip.frame_indices)).long()
    return scaled_then_cropped(frames_CTHW[:, places].permute(1, 0, 2, 3), job)


def decode_every_frame(job: Job) -> int:
    """PyAV from the keyframe before the first wanted frame to the last wanted one: no frame skipped or converted."""
    container = av.open(job.path)
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    container.seek(job.pts[0], stream=stream)
    count = 0
    for frame in container.decode(stream):
        count += 1
        if frame.pts >= job.pts[1]:
            break
    container.close()
    return count


def boxed(frames_THWC: np.ndarray, clip: ResolvedClip) -> np.ndarray:
    """Crop first, then resize, as vidgn does."""
    box = clip.box
    source_THWC = frames_THWC[:, box.top : box.top + box.height, box.left : box.left + box.width]
    resized_THWC = resize(source_THWC, clip.height, clip.width)
    return np.ascontiguousarray(resized_THWC[:, :, ::-1]) if clip.flip else resized_THWC


def scaled_size(job: Job) -> tuple[int, int]:
    scale = job.short_side / min(job.height, job.width)
    return max(CROP, round(job.height * scale)), max(CROP, round(job.width * scale))


def cropped(frames_THWC: np.ndarray, job: Job) -> np.ndarray:
    scale = frames_THWC.shape[1] / job.height
    top = min(round(job.clip.box.top * scale), frames_THWC.shape[1] - CROP)
    left = min(round(job.clip.box.left * scale), frames_THWC.shape[2] - CROP)
    out_THWC = frames_THWC[:, top : top + CROP, left : left + CROP]
    return np.ascontiguousarray(out_THWC[:, :, ::-1] if job.clip.flip else out_THWC)


def scaled_then_cropped(frames_TCHW: torch.Tensor, job: Job) -> np.ndarray:
    resized_TCHW = F.interpolate(frames_TCHW, size=scaled_size(job), mode="bilinear", antialias=True)
    return cropped(resized_TCHW.permute(0, 2, 3, 1).to(torch.uint8).numpy(), job)


CONTENDERS: dict[str, Callable[[Job], object]] = {
    "vidgn": vidgn,
    "vidgn, YUV planes copied, nothing converted": vidgn_planes,
    "torchcodec exact, crop by slicing": torchcodec_slice,
    "torchcodec exact, its own crop and resize": torchcodec_transforms,
    "torchcodec approximate, crop by slicing": lambda job: torchcodec_slice(job, seek_mode="approximate"),
    "torchcodec approximate, its own crop and resize": lambda job: torchcodec_transforms(job, seek_mode="approximate"),
    "decord, crop then resize": decord_same,
    "decord, resize then crop": decord_naive,
    "decord, resizing itself, then crop": decord_scaling,
    "pytorchvideo EncodedVideo, resize, crop": pytorchvideo,
    "PyAV, every frame decoded, none converted": decode_every_frame,
}


def jobs(paths: Sequence[str], position: int, *, frames: int, stride: int) -> list[Job]:
    """One random clip of each file; the files' sizes are looked up beforehand and cost no contender anything."""
    out = []
    for number, path in enumerate(paths):
        size = sizes(path)
        plan = replace(plan_clip(0, position * len(paths) + number, flip=True), flip=position % 2 == 1)
        clip = resolve_clip(
            plan,
            num_frames=size["num_frames"],
            height=size["height"],
            width=size["width"],
            frames=frames,
            stride=stride,
            short_side=SHORT_SIDE,
            crop=CROP,
        )
        short_side = round(CROP * min(size["height"], size["width"]) / clip.box.height)
        first = clip.frame_indices[0] / size["fps"]
        span = (first, first + frames * stride / size["fps"])
        pts = tuple(size["pts"][end(clip.frame_indices)] for end in (min, max))
        out.append(Job(path, clip, short_side, span, pts, size["height"], size["width"]))
    return out


_SIZES: dict[str, dict] = {}


def sizes(path: str) -> dict:
    if path not in _SIZES:
        with open_video(path) as reader:
            _SIZES[path] = {"num_frames": reader.num_frames, "height": reader.height, "width": reader.width}
            _SIZES[path]["pts"] = reader.timeline.shown_pts
        with av.open(path) as container:
            _SIZES[path]["fps"] = float(container.streams.video[0].average_rate)
    return _SIZES[path]


def race(paths: Sequence[str], names: Sequence[str], *, rounds: int, frames: int, stride: int) -> dict[str, dict]:
    """Seconds of every contender in every round, and medians of per-round ratios to vidgn."""
    cpu: dict[str, list[float]] = {name: [] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):  # round 0 warms up
        batch = jobs(paths, number, frames=frames, stride=stride)
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            started = time.process_time(), time.perf_counter()
            for job in batch:
                CONTENDERS[name](job)
            if number:
                cpu[name].append(time.process_time() - started[0])
                wall[name].append(time.perf_counter() - started[1])

    def summary(name: str) -> dict:
        ratios = [[mine / theirs for mine, theirs in zip(t[name], t["vidgn"], strict=True)] for t in (cpu, wall)]
        return {
            "clips_per_second_cpu": round(len(paths) / statistics.median(cpu[name]), 2),
            "vidgn_is_faster_cpu": round(statistics.median(ratios[0]), 3),
            "vidgn_is_faster_wall": round(statistics.median(ratios[1]), 3),
            "quartiles_cpu": [round(q, 3) for q in statistics.quantiles(ratios[0])[::2]],
        }

    return {name: summary(name) for name in names}


def race_views(paths: Sequence[str], *, rounds: int) -> dict[str, float]:
    """A test's 10 clips x 3 crops of a video in one pass, against opening it once a clip, and once a view."""
    views = ViewsConfig("paper", clips=10, crops=3, crop="scaled", plan="uniform")
    ratios: dict[str, list[float]] = {"once a clip": [], "once a view": []}
    most_decoded = 0.0
    for _ in range(rounds):
        seconds = {"one pass": 0.0, "once a clip": 0.0, "once a view": 0.0}
        for path in paths:
            size = sizes(path)
            shape = {name: size[name] for name in ("num_frames", "height", "width")}
            clips = resolve_views(views, **shape, frames=32, stride=2, short_side=SHORT_SIDE, crop=CROP)
            groups = {"one pass": 30, "once a clip": 3, "once a view": 1}
            results = {}
            for name, group in groups.items():
                started = time.process_time()
                results[name] = []
                for first in range(0, 30, group):
                    with open_video(path) as reader:
                        results[name] += reader.read(clips[first : first + group])
                        if group == 30:
                            most_decoded = max(most_decoded, reader.num_decoded / reader.num_frames)
                seconds[name] += time.process_time() - started
            for name in ratios:
                assert all(np.array_equal(a, b) for a, b in zip(results["one pass"], results[name], strict=True))
        for name, values in ratios.items():
            values.append(seconds[name] / seconds["one pass"])
    return {**{name: statistics.median(values) for name, values in ratios.items()}, "decoded per frame": most_decoded}


def show(title: str, result: dict[str, dict]) -> None:
    print(f"\n{title}\n{'':50}clips/s  vidgn is faster by (CPU)  quartiles      (wall)")
    for name, row in result.items():
        low, high = row["quartiles_cpu"]
        print(
            f"{name:50}{row['clips_per_second_cpu']:7.2f}{row['vidgn_is_faster_cpu']:14.2f}"
            f"{low:15.2f} {high:5.2f}{row['vidgn_is_faster_wall']:11.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="folder with the Kinetics clips")
    parser.add_argument("--egogestar", type=Path, help="folder of EgoGestAR at short side 256")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    decord.logging.set_level(decord.logging.QUIET)
    print(f"torch {torch.__version__}, torchcodec {torchcodec.__version__}, PyAV {av.__version__}")
    kinetics = [str(arguments.clips / name) for name in KINETICS]
    everyone = list(CONTENDERS)
    results = {"kinetics 32x2": race(kinetics, everyone, rounds=arguments.rounds, frames=32, stride=2)}
    show("Kinetics clips, 32 frames, stride 2", results["kinetics 32x2"])
    indexing = [name for name in everyone if not name.startswith("pytorchvideo")]
    results["kinetics 64x1"] = race(kinetics, indexing, rounds=arguments.rounds, frames=64, stride=1)
    show("Kinetics clips, 64 frames, stride 1", results["kinetics 64x1"])
    if arguments.egogestar:
        videos = [str(path) for path in sorted(arguments.egogestar.rglob("*.mp4"))[::40]]
        results["egogestar 32x2"] = race(videos, indexing, rounds=arguments.rounds, frames=32, stride=2)
        show(f"EgoGestAR 256 ({len(videos)} videos), 32 frames, stride 2", results["egogestar 32x2"])
    views = race_views(kinetics, rounds=max(1, arguments.rounds // 3))
    results["views"] = {name: round(value, 3) for name, value in views.items()}
    print("\nKinetics clips, 10 clips x 3 crops of 256, one pass over each video; all views identical")
    print(f"against opening it once a clip: {views['once a clip']:.2f}, once a view: {views['once a view']:.2f} (CPU)")
    print(f"frames decoded for each frame of a video, at most: {views['decoded per frame']:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
