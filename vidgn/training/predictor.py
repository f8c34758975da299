"""A trained network's classes for a video. One exported file is all that is needed."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from vidgn.config.schema import ViewsConfig
from vidgn.data.clips.read import ClipGeometry
from vidgn.data.clips.windows import WindowReader, WindowRule
from vidgn.data.datasets.listing import Listing
from vidgn.data.datasets.manifest import Manifest
from vidgn.data.decode.in_turn import FrameStream
from vidgn.data.loading.batches import VideoViews, view_videos
from vidgn.data.loading.prefetch import Prefetch
from vidgn.errors import CheckpointError, ConfigError, DecodeError
from vidgn.models.i3d import VideoResNet, build_model
from vidgn.models.weights import ImportReport, WeightsFile, load_file, load_weights, read_about, report_of_onnx
from vidgn.models.weights.onnx_file import OnnxNetwork
from vidgn.training.setup import (
    DTYPES,
    ToModel,
    at_least_float32,
    autocast,
    in_float32,
    memory_format,
    set_precision,
)
from vidgn.training.tester import blocks_of, clips_at_once, scores_of_clips


@dataclass(frozen=True)
class ClassScore:
    """One class and its softmax score, averaged over all views.

    Example:
        >>> import vidgn
        >>> vidgn.ClassScore(label=3, name="drawing", score=0.5).name
        'drawing'
    """

    label: int
    name: str
    score: float


@dataclass(frozen=True)
class Outputs:
    """What a network says of a video: scores, and of each clip what the classifier was given, on the CPU.

    `features_VC`: None of an ONNX file.
    """

    scores_K: Tensor
    features_VC: Tensor | None


@dataclass(frozen=True)
class Window:
    """A part of a video, in seconds from its first frame on, and its classes, best first.

    `end_seconds` of the last one: when its last frame is over. `num_frames`: of the video in it. `features_VC`: what
    the classifier was given of each clip. `error`: why there is none of that.

    Example:
        >>> import vidgn
        >>> first = next(vidgn.load(run, device="cpu").windows("clip.mp4", 0.2))
        >>> isinstance(first, vidgn.Window), first.start_seconds
        (True, 0.0)
    """

    start_seconds: float
    end_seconds: float
    num_frames: int
    classes: list[ClassScore] = field(default_factory=list)
    features_VC: Tensor | None = None
    error: str | None = None


class Predictor:
    """A network out of its export, ready for videos.

    `classes`: names in label order. `trained_steps`: None where the weights come from elsewhere. `report`: the account
    of the import.
    """

    def __init__(
        self, path: str | os.PathLike[str] | WeightsFile, *, device: str = "auto", decoder: str | None = None
    ) -> None:
        """Read the export and build its network.

        Args:
            decoder: as data.decoder; None: the one of training.

        Raises:
            CheckpointError: for a file that is no whole export.
            ConfigError: for a device that is not there.
        """
        file = path if isinstance(path, WeightsFile) else load_file(path)
        if file.network is not None and device == "cuda":
            raise ConfigError(f"--device cuda: {file.path} is ONNX, which runs on the CPU here: leave it out")
        self.device = choose_device(device if file.network is None else "cpu")
        if file.metadata.get("format") != "vidgn":
            raise CheckpointError(
                f"{file.path}: says neither which network nor which classes it is for; "
                f"make it say so: vidgn convert {file.path} OUT.safetensors --classes NAMES.txt"
            )
        self.path = file.path
        self.config, self.classes = read_about(file)
        if self.config.model.detector:
            raise CheckpointError(f"{file.path}: a detector finds boxes in images: vidgn.load_detector, vidgn predict")
        steps = file.metadata.get("trained_steps", "")
        self.trained_steps = int(steps) if steps else None
        self._decoder = decoder or self.config.data.decoder
        if file.network is not None:
            self._take_onnx(file, file.network)
            return
        model = build_model(
            self.config.model,
            self.config.norm,
            num_classes=len(self.classes),
            frames=self.config.frames,
            crop=self.config.data.crop,
        )
        self.report: ImportReport = load_weights(model, file, std=self.config.data.std)
        if self.report.classifier == "new":
            raise CheckpointError(f"{file.path}: its {len(self.classes)} class names are not those of its classifier")
        set_precision(self.config)
        model = model.to(device=self.device, dtype=DTYPES[self.config.trainer.precision])
        if memory_format(self.config, self.device) == torch.channels_last_3d:
            model = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.model: VideoResNet | OnnxNetwork = model.eval()
        self.to_model: Callable[[Tensor], Tensor] = ToModel(self.config, self.device, input_mean=self.report.input_mean)

    def _take_onnx(self, file: WeightsFile, network: OnnxNetwork) -> None:
        """An ONNX file brings its network along, in float32."""
        wrong = network.why_not(frames=self.config.frames, num_classes=len(self.classes))
        if wrong is not None:
            raise CheckpointError(f"{file.path}: {wrong}; convert it again")
        self.config = in_float32(self.config)
        self.report = report_of_onnx(file)
        self.model = network
        normalise = ToModel(self.config, self.device, input_mean=self.report.input_mean)
        self.to_model = (lambda frames_NTHWC: frames_NTHWC) if network.takes_uint8 else normalise

    @property
    def network(self) -> VideoResNet:
        """The network itself.

        Raises:
            ConfigError: of an ONNX file.
        """
        if isinstance(self.model, OnnxNetwork):
            raise ConfigError(
                f"{self.path}: an ONNX file gives scores alone; give the weights file that it was made of"
            )
        return self.model

    @property
    def is_random(self) -> bool:
        """Whether the weights were never trained."""
        return self.trained_steps == 0

    def scores(self, video: str | os.PathLike[str], views: ViewsConfig) -> Tensor:
        """Softmax averaged over the final map and all `views`, as the test does: (K,), on the CPU, in float32 at least.

        Args:
            views: a uniform plan.

        Raises:
            DecodeError: if the video can't be read.
            ConfigError: for a decoder that is not installed.
        """
        return self.outputs(video, views).scores_K

    def outputs(self, video: str | os.PathLike[str], views: ViewsConfig) -> Outputs:
        """Scores and features of one video.

        Raises:
            DecodeError: if the video can't be read.
        """
        return self.outputs_of(self.clips(video, views), views)

    def mean_features(self, video: str | os.PathLike[str], views: ViewsConfig) -> Tensor:
        """Features of one video, the mean over its views: (C,).

        Raises:
            ConfigError: of an ONNX file.
            DecodeError: if the video can't be read.
        """
        _ = self.network  # an ONNX file has no features
        features_VC = self.outputs(video, views).features_VC
        assert features_VC is not None
        return features_VC.mean(0)

    def clips(self, video: str | os.PathLike[str], views: ViewsConfig) -> Tensor:
        """All views of one video: uint8 (V, T, H, W, 3).

        Raises:
            DecodeError: if the video can't be read.
        """
        with self._reading([os.fspath(video)], views, workers=0) as reading:
            (found,) = reading
        if found.clips_VTHWC is None:
            raise DecodeError(found.error)
        return found.clips_VTHWC

    def outputs_of(self, clips_VTHWC: Tensor, views: ViewsConfig) -> Outputs:
        """Scores and features of the views of one video, uint8 (V, T, H, W, 3)."""
        return self._outputs([clips_VTHWC], clips_at_once(self.config, views, use_batch_statistics=False))[0]

    def each(
        self, videos: Sequence[str | os.PathLike[str]], views: ViewsConfig, *, workers: int = 0
    ) -> Iterator[Outputs | str]:
        """Outputs of many videos in their order, or why one can't be read; by the code of `vidgn evaluate`.

        Args:
            workers: processes that read ahead; 0: none.
        """
        at_once = clips_at_once(self.config, views, use_batch_statistics=False)
        single = views.clips * views.crops == 1
        with self._reading([os.fspath(video) for video in videos], views, workers=workers) as reading:
            for block in blocks_of(reading, at_once if single else 1):
                clips = [video.clips_VTHWC for video in block if video.clips_VTHWC is not None]
                found = iter(self._outputs(clips, at_once))
                for video in block:
                    yield next(found) if video.error is None else video.error

    def windows_of(self, stream: FrameStream, views: ViewsConfig, rule: WindowRule) -> Iterator[Window]:
        """Each window of one video, once its last frame is there: see vidgn/data/clips/windows.py.

        Args:
            stream: of `open_in_turn`.
            views: a uniform plan.

        Raises:
            DecodeError: if the video can't be read on.
        """
        config = self.config
        geometry = ClipGeometry.of(config.data, frames=config.frames, stride=config.stride, views=views)
        for window in WindowReader(stream, geometry, rule):
            place = (window.start_seconds, window.end_seconds, window.num_frames)
            if window.clips_VTHWC is None:
                yield Window(*place, error=window.error)
                continue
            found = self.outputs_of(torch.from_numpy(window.clips_VTHWC), views)
            yield Window(*place, self.best(found.scores_K), found.features_VC)

    def _reading(self, names: list[str], views: ViewsConfig, *, workers: int) -> Prefetch[VideoViews]:
        config = self.config
        # A file that is looked at once is not kept.
        data = replace(config.data, cache_gb=0.0, workers=workers, decoder=self._decoder, flip_pairs=())
        manifest = Manifest(Listing("", names, names), np.zeros(len(names), np.int64), self.classes)
        return view_videos(
            manifest, data, views, seed=0, frames=config.frames, stride=config.stride, rows=range(len(names))
        )

    def _outputs(self, videos: Sequence[Tensor], at_once: int) -> list[Outputs]:
        """Of the clips of videos, uint8 (V, T, H, W, C) each, so many clips through the network at once."""
        if not videos:
            return []
        given: list[Tensor] = []

        def keep(_: torch.nn.Module, inputs: tuple[Tensor]) -> None:
            given.append(at_least_float32(inputs[0]).mean((1, 2, 3)))

        is_onnx, views = isinstance(self.model, OnnxNetwork), len(videos[0])
        hook = None if is_onnx else self.network.head.proj.register_forward_pre_hook(keep)
        try:
            with torch.inference_mode(), autocast(self.config, self.device):
                scores = scores_of_clips(self.model, torch.cat(list(videos)), self.to_model, at_once=at_once)
                features = [None] * len(videos) if is_onnx else torch.cat(given).cpu().split(views)
                parts = zip(scores.split(views), features, strict=True)
                return [Outputs(scores_VK.mean(0).cpu(), features_VC) for scores_VK, features_VC in parts]
        finally:
            if hook is not None:
                hook.remove()

    def best(self, scores_K: Tensor, count: int | None = None) -> list[ClassScore]:
        """The `count` best classes, or all, best first; equal scores in label order."""
        best = torch.sort(scores_K, descending=True, stable=True).indices[:count].tolist()
        return [ClassScore(label, self.classes[label], float(scores_K[label])) for label in best]

    def top(self, video: str | os.PathLike[str], views: ViewsConfig, *, count: int = 5) -> list[ClassScore]:
        """The `count` best classes of a video.

        Raises:
            DecodeError: if the video can't be read.
        """
        return self.best(self.scores(video, views), count)


def choose_device(name: str) -> torch.device:
    """`auto`: a GPU where there is one.

    Raises:
        ConfigError: for cuda where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no GPU that torch can use; write --device cpu or auto")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
