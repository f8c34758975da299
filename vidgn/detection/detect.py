"""A trained detector's boxes and masks in an image, and the image painted with them. One exported file is enough."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from vidgn.data.decode.image import ImageReader
from vidgn.detection.networks import build_detector
from vidgn.errors import CheckpointError
from vidgn.models.weights import load_file, read_about
from vidgn.models.weights.containers import WeightsFile
from vidgn.models.weights.formats import parse_triple
from vidgn.training.predictor import choose_device
from vidgn.training.setup import DTYPES, autocast, place_model, set_precision

_COLOURS = ("#d1495b", "#00798c", "#edae49", "#66a182", "#2e4057", "#8d96a3", "#7b3f9d", "#b56b45")


@dataclass(frozen=True)
class Detection:
    """One object. `box`: left, top, right, bottom in pixels; `mask_HW`: booleans, as large as the image."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask_HW: np.ndarray


class DetectionPredictor:
    """A detector out of its export. `classes`: names in label order, background not among them."""

    def __init__(self, path: str | os.PathLike[str] | WeightsFile, *, device: str = "auto") -> None:
        """Read the export and build its network.

        Raises:
            CheckpointError: for a file that is no whole export of a detector.
            ConfigError: for a device that is not there.
        """
        file = path if isinstance(path, WeightsFile) else load_file(path)
        self.path, self.device = file.path, choose_device(device)
        if "config" not in file.metadata:
            raise CheckpointError(f"{file.path}: says not which detector it is for; give a run of vidgn, or its model")
        self.config, self.classes = read_about(file)
        if self.config.model.detector is None:
            raise CheckpointError(f"{file.path}: {self.config.model.name} classifies; give the run of a detector")
        set_precision(self.config)
        model = build_detector(self.config, num_classes=len(self.classes))
        model = model.to(dtype=DTYPES[self.config.trainer.precision])
        try:
            model.load_state_dict(file.tensors)
        except RuntimeError as error:
            raise CheckpointError(f"{file.path}: not the tensors of its detector ({str(error)[:120]!r})") from None
        model.set_mean(parse_triple(file.metadata["input_mean"]))
        self.model = place_model(model, self.config, self.device).eval()

    def __call__(self, image: str | os.PathLike[str], *, least_score: float = 0.05) -> list[Detection]:
        """What is in an image, the surest first.

        Args:
            least_score: the least confidence to be told of; below 0.05 nothing is.

        Raises:
            DecodeError: if the image can't be read.
        """
        with ImageReader(os.fspath(image)) as reader:
            pixels = torch.from_numpy(reader.image_HWC.copy()).permute(2, 0, 1)
        dtype = DTYPES[self.config.trainer.precision]
        with torch.inference_mode(), autocast(self.config, self.device):
            (found,) = self.model([pixels.to(self.device).to(dtype)])
        return [
            Detection(self.classes[int(label) - 1], float(score), tuple(box.tolist()), (mask[0] > 0.5).cpu().numpy())
            for label, score, box, mask in zip(*(found[k] for k in ("labels", "scores", "boxes", "masks")), strict=True)
            if float(score) >= least_score
        ]


def painted(image: str | os.PathLike[str], detections: Sequence[Detection]) -> Image.Image:
    """The image with the masks, boxes, names and scores of what was found in it; a colour a class.

    Raises:
        DecodeError: if the image can't be read.
    """
    with ImageReader(os.fspath(image)) as reader:
        canvas_CHW: Tensor = torch.from_numpy(reader.image_HWC.copy()).permute(2, 0, 1).contiguous()
    names = sorted({d.name for d in detections})
    width = max(1, min(canvas_CHW.shape[1:]) // 200)
    for d in reversed(detections):  # the surest on top; together they would be black where they overlap
        colour = _COLOURS[names.index(d.name) % len(_COLOURS)]
        canvas_CHW = draw_segmentation_masks(canvas_CHW, torch.from_numpy(d.mask_HW), alpha=0.45, colors=colour)
        canvas_CHW = draw_bounding_boxes(
            canvas_CHW,
            torch.tensor([d.box]),
            labels=[f"{d.name} {d.score:.2f}"],
            colors=colour,
            width=width,
            label_colors="white",
            fill_labels=True,
        )
    return Image.fromarray(canvas_CHW.permute(1, 2, 0).numpy())
