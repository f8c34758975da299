"""vidgn from Python: what `import vidgn` offers, each imported when it is first asked for (see vidgn/__init__.py).

Errors are VidgnError. Nothing here prints or exits.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from vidgn.clip_dataset import Clips
from vidgn.config import compose
from vidgn.config.norm_kinds import NORM_KINDS
from vidgn.config.schema import Config, ViewsConfig
from vidgn.data.clips.plan import ClipPlan, plan_for
from vidgn.data.clips.windows import WindowRule
from vidgn.data.decode import open_video
from vidgn.data.decode.in_turn import open_in_turn
from vidgn.errors import ConfigError, VidgnError
from vidgn.experiments import Study, evaluate, study, train
from vidgn.geometry import choose_geometry
from vidgn.memory.prediction import Prediction, predict
from vidgn.models import weights as _weights
from vidgn.models.i3d import VideoResNet, build_model, check_statistics
from vidgn.models.norms.drop_in import BatchNorm3d, replace_norms
from vidgn.models.norms.layers import statistics_layers
from vidgn.models.weights import ImportReport
from vidgn.training.predictor import ClassScore, Predictor, Window

if TYPE_CHECKING:  # which needs pycocotools
    from vidgn.detection.detect import DetectionPredictor

__all__ = [
    "ClassScore",
    "ClipPlan",
    "Clips",
    "Config",
    "ImportReport",
    "Prediction",
    "Study",
    "VideoClassifier",
    "VideoPredictor",
    "VidgnError",
    "Window",
    "create_model",
    "evaluate",
    "list_models",
    "list_norms",
    "list_weights",
    "load",
    "load_config",
    "load_detector",
    "load_weights",
    "open_video",
    "plan",
    "predict_memory",
    "replace_norms",
    "study",
    "train",
]


class VideoClassifier(VideoResNet):
    """A network of vidgn for anybody's loop: dropout is drawn by torch, BN keeps up its own running statistics.

    `weights_report`: the account of the weights it began with, None for random ones. `classes` are the caller's.

    Example:
        >>> import vidgn
        >>> net = vidgn.create_model("i3d_tiny", frames=8, crop=32)
        >>> isinstance(net, vidgn.VideoClassifier), net.weights_report
        (True, None)
    """

    weights_report: ImportReport | None = None

    def forward(self, clip_NCTHW: Tensor, dropout_scale_NC: Tensor | None = None) -> Tensor:
        """Logits (N, K) of clips (N, 3, T, H, W), the mean over the final map of larger clips.

        Clips are (x - mean) / std of RGB in 0-255: `weights_report.input_mean` and `input_std`, or the 114.75 and
        57.375 of random weights.
        """
        if dropout_scale_NC is None and self.training and self.dropout > 0:
            dropout_scale_NC = F.dropout(clip_NCTHW.new_ones(len(clip_NCTHW), self.head.num_features), self.dropout)
        return super().forward(clip_NCTHW, dropout_scale_NC).mean((2, 3, 4))


def create_model(
    name: str = "i3d_r50",
    *,
    norm: str = "gn",
    num_classes: int = 400,
    frames: int = 32,
    crop: int = 224,
    weights: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> VideoClassifier:
    """A network on clips (N, 3, T, H, W), in training mode, on the CPU.

    Args:
        name: one of `list_models()`. Networks of images take `frames=1`.
        norm: one of `list_norms()` but sync_bn, which needs vidgn's own trainer; for anything finer,
            `vidgn.replace_norms`.
        frames, crop: size of a training clip; larger ones are pooled.
        weights: a file of any of `list_weights()`, or a run's directory.
        seed: of the random weights; they are the same for every norm.

    Raises:
        VidgnError: for a name that is not there, a size that the network can't take, weights that do not fit.

    Example:
        >>> import torch, vidgn
        >>> net = vidgn.create_model("i3d_tiny", norm="bn", num_classes=5, frames=8, crop=32)
        >>> net(torch.zeros(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """
    if norm == "sync_bn":
        raise ConfigError("norm=sync_bn needs vidgn's own trainer (vidgn train): give bn, which is it in one process")
    if name.startswith("mask_rcnn"):
        raise ConfigError(f"{name} detects: train it with vidgn train sweep=coco, and take vidgn.load_detector(run)")
    given = ["weights=given"] if weights is not None else []  # frozen_bn needs some
    size = [f"frames={frames}", f"data.crop={crop}", f"data.short_side=[{crop},{crop}]"]
    made = load_config(f"model={name}", f"norm={norm}", *size, *given)
    check_statistics(made.model, made.norm, frames=frames, crop=crop, group_clips=2)
    net = build_model(made.model, made.norm, num_classes=num_classes, frames=frames, crop=crop, seed=seed)
    for _, layer in statistics_layers(net):
        layer.__class__ = BatchNorm3d  # its forward alone is another
    net.__class__ = VideoClassifier
    assert isinstance(net, VideoClassifier)
    if weights is not None:
        net.weights_report = load_weights(net, weights)
    return net


def list_models() -> list[str]:
    """Names of the networks that classify.

    Example:
        >>> import vidgn
        >>> "i3d_r50" in vidgn.list_models()
        True
    """
    names = sorted(path.stem for path in (compose.config_dir() / "model").glob("*.yaml"))
    return [name for name in names if not name.startswith("mask_rcnn")]


def list_norms() -> list[str]:
    """Names of the norms.

    Example:
        >>> import vidgn
        >>> vidgn.list_norms()
        ['bn', 'sync_bn', 'frozen_bn', 'gn', 'ln', 'in']
    """
    return list(NORM_KINDS)


def list_weights() -> list[str]:
    """Names of the formats that `load_weights` understands.

    Example:
        >>> import vidgn
        >>> "pytorchvideo" in vidgn.list_weights()
        True
    """
    return [known.name for known in _weights.FORMATS]


def load_weights(
    model: torch.nn.Module, source: str | os.PathLike[str], *, std: tuple[float, float, float] | None = None
) -> ImportReport:
    """Put the weights of a file, or of a run's directory, into a network of vidgn; every tensor is accounted for.

    2-D kernels are inflated; a classifier for another number of classes is left out.

    Args:
        std: what the network's input is divided by, RGB in 0-255 (None: 57.375, as vidgn trains).

    Returns:
        What was taken, dropped and left, and the input mean to subtract.

    Raises:
        VidgnError: in one line if the file is torn, hostile or unknown, or does not fit.

    Example:
        >>> import tempfile, vidgn, safetensors.torch
        >>> net = vidgn.create_model("i3d_tiny", frames=8, crop=32, num_classes=5)
        >>> file = tempfile.mktemp(suffix=".safetensors")
        >>> safetensors.torch.save_file(net.state_dict(), file)
        >>> vidgn.load_weights(net, file).classifier
        'taken'
    """
    return _weights.load_weights(model, source, std=std or load_config().data.std)


class VideoPredictor(Predictor):
    """A trained network as a function of videos. `classes`: names in label order; `report`: the account of the file.

    Example:
        >>> import vidgn
        >>> predictor = vidgn.load(run)  # the directory of a finished run
        >>> len(predictor("clip.mp4")) == len(predictor.classes)
        True
        >>> predictor.features("clip.mp4").shape == (predictor.model.head.num_features,)
        True
    """

    def __call__(self, video: str | os.PathLike[str], *, views: str | None = None) -> list[ClassScore]:
        """All classes, best first, as `vidgn predict` has them.

        Args:
            views: `center`, 10 clips; `paper`, 30; `image`, one frame (None: as the network was trained, `center` or
                `image`).

        Raises:
            VidgnError: if the video can't be read.
        """
        return self.top(video, self.views(views), count=len(self.classes))

    def features(self, video: str | os.PathLike[str], *, views: str | None = None) -> Tensor:
        """What the classifier is given, the mean over the views and the last map: (C,) on the CPU, in float32 at least.

        Raises:
            VidgnError: if the video can't be read; of an ONNX file.
        """
        return self.mean_features(video, self.views(views))

    def windows(
        self,
        video: str | os.PathLike[str],
        seconds: float,
        *,
        stride: float | None = None,
        views: str | None = None,
        live: bool = False,
        patience_seconds: float = 10.0,
    ) -> Iterator[Window]:
        """Windows along a video, each as soon as it is read, from one pass of decoding, as `vidgn predict` has them.

        Args:
            video: a file, or a URL or a pipe, whose end is not known.
            stride: seconds from one start to the next; None: `seconds`.
            live: the file is still being written.
            patience_seconds: without a byte, what is live has stalled.

        Raises:
            VidgnError: if the video can't be read. A window that can't be read is there, with its `error`.
        """
        rule = WindowRule(seconds, seconds if stride is None else stride)
        stream = open_in_turn(video, live=live, patience_seconds=patience_seconds)
        chosen = self.views(views)

        def each() -> Iterator[Window]:
            with contextlib.closing(stream):
                yield from self.windows_of(stream, chosen, rule)

        return each()

    def views(self, name: str | None = None) -> ViewsConfig:
        """What is seen of a video, by name (None: as the network was trained); of a clip, not one frame."""
        single = self.config.frames == 1
        if name == "image" and not single:
            raise ConfigError(
                f"views image: one frame, and this network takes {self.config.frames}: give center or paper"
            )
        chosen = name or ("image" if single else "center")
        return compose.load_config([f"views={chosen}", *(["frames=1", "span=1"] if single else [])]).views


def load(path: str | os.PathLike[str], *, device: str = "auto") -> VideoPredictor:
    """A finished run, or the file that it left, as a function of videos: `load(run)("clip.mp4")[:5]`.

    Raises:
        VidgnError: for a file that does not say which network and classes it is for.

    Example:
        >>> import vidgn
        >>> best = vidgn.load(run)("clip.mp4")[0]  # `run`: a directory, or model.safetensors, or ONNX of vidgn convert
        >>> 0 <= best.score <= 1
        True
    """
    return VideoPredictor(path, device=device)


def load_detector(path: str | os.PathLike[str], *, device: str = "auto") -> "DetectionPredictor":
    """A finished run of a detector as a function of images: `load_detector(run)("street.jpg")[0].box`.

    Raises:
        VidgnError: for a file that is no export of a detector.

    Example:
        >>> import vidgn
        >>> detector = vidgn.load_detector(trained)  # the directory of a finished run
        >>> all(found.name in detector.classes for found in detector("street.png"))
        True
    """
    from vidgn.detection.detect import DetectionPredictor

    return DetectionPredictor(path, device=device)


def load_config(*overrides: str) -> Config:
    """The configuration that `vidgn train OVERRIDES` has.

    Raises:
        VidgnError: for a key or value that is not there, with the nearest that is.

    Example:
        >>> import vidgn
        >>> vidgn.load_config("frames=64", "norm=gn").frames
        64
    """
    return compose.load_config(overrides)


def predict_memory(config: Config, *, clips_per_forward: int | None = None, processes: int = 1) -> Prediction:
    """What a training step of a configuration needs of a GPU; neither a GPU nor data is looked at.

    Args:
        clips_per_forward: clips that go through the network at once; None: what the configuration says, or as many as
            are a small forward.

    Raises:
        VidgnError: for a number of clips or processes that can't carry the experiment.

    Example:
        >>> import vidgn
        >>> tiny = vidgn.load_config("model=i3d_tiny", "frames=8", "data.crop=32", "data.short_side=[32,36]")
        >>> vidgn.predict_memory(tiny).peak_bytes > 1e6
        True
    """
    clips = clips_per_forward or choose_geometry(config, world_size=processes).clips_per_forward
    return predict(config, clips_per_forward=clips, world_size=processes)


def plan(config: Config, positions: Sequence[int]) -> list[ClipPlan]:
    """What the training clips at some positions (0-based, over all epochs) are before their videos are known.

    Example:
        >>> import vidgn
        >>> one, other = vidgn.plan(vidgn.load_config(), [0, 1])
        >>> one == vidgn.plan(vidgn.load_config(), [0])[0] != other
        True
    """
    return [plan_for(config.data, config.seed, position, frames=config.frames) for position in positions]
