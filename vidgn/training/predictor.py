"""A trained network's classes for a video. One exported file is all that is needed."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from vidgn.config.schema import ViewsConfig
from vidgn.data.clips.read import ClipGeometry, ReadTask, read_clips
from vidgn.data.datasets.manifest import Row
from vidgn.errors import CheckpointError, ConfigError
from vidgn.models.i3d import VideoResNet, build_model
from vidgn.models.weights import ImportReport, WeightsFile, load_file, load_weights, read_about, report_of_onnx
from vidgn.models.weights.onnx_file import OnnxNetwork
from vidgn.training.setup import DTYPES, ToModel, autocast, in_float32, memory_format, set_precision
from vidgn.training.tester import class_scores

_VIEWS_AT_ONCE = {"cpu": 1, "cuda": 6}


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
        self._to_model: Callable[[torch.Tensor], torch.Tensor] = ToModel(
            self.config, self.device, input_mean=self.report.input_mean
        )

    def _take_onnx(self, file: WeightsFile, network: OnnxNetwork) -> None:
        """An ONNX file brings its network along, in float32."""
        self.config = in_float32(self.config)
        self.report = report_of_onnx(file)
        self.model = network
        normalise = ToModel(self.config, self.device, input_mean=self.report.input_mean)
        self._to_model = (lambda frames_NTHWC: frames_NTHWC) if network.takes_uint8 else normalise

    @property
    def is_random(self) -> bool:
        """Whether the weights were never trained."""
        return self.trained_steps == 0

    def scores(self, video: str | os.PathLike[str], views: ViewsConfig) -> torch.Tensor:
        """Softmax averaged over the final map and all `views`, as the test does: (K,), on the CPU, in float32 at least.

        Args:
            views: a uniform plan.

        Raises:
            DecodeError: if the video can't be read.
            ConfigError: for a decoder that is not installed.
        """
        config, parts = self.config, []
        data = replace(config.data, cache_gb=0.0)  # a file that is looked at once is not kept
        geometry = ClipGeometry.of(data, frames=config.frames, stride=config.stride, views=views)
        row = Row(os.fspath(video), os.fspath(video), label=0, num_frames=None)
        task = ReadTask(0, row, (), replace(geometry, decoder=self._decoder))
        frames_VTHWC = np.empty((task.num_clips, *geometry.clip_shape), np.uint8)
        read_clips(task, frames_VTHWC)
        with torch.inference_mode(), autocast(config, self.device):
            for part in torch.from_numpy(frames_VTHWC).split(_VIEWS_AT_ONCE[self.device.type]):
                parts.append(class_scores(self.model(self._to_model(part))))
        return torch.cat(parts).mean(0).cpu()

    def top(self, video: str | os.PathLike[str], views: ViewsConfig, *, count: int = 5) -> list[ClassScore]:
        """The `count` best classes, best first; equal scores in label order.

        Raises:
            DecodeError: if the video can't be read.
        """
        scores_K = self.scores(video, views)
        best = torch.sort(scores_K, descending=True, stable=True).indices[:count].tolist()
        return [ClassScore(label, self.classes[label], float(scores_K[label])) for label in best]


def choose_device(name: str) -> torch.device:
    """`auto`: a GPU where there is one.

    Raises:
        ConfigError: for cuda where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no GPU that torch can use; write --device cpu or auto")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
