"""Where and when a network saw its class: Grad-CAM over space and time (Selvaraju et al. 2017), as a contact sheet."""

import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidgn.config.schema import ViewsConfig
from vidgn.data.tools.painting import labelled
from vidgn.models.activation_memory import run_units
from vidgn.training.predictor import ClassScore, Predictor
from vidgn.training.setup import at_least_float32, autocast

_NUM_FRAMES = 8
_CAPTION_PIXELS = 24


def grad_cam(predictor: Predictor, clip_THWC: Tensor, label: int) -> Tensor:
    """How much each place of a clip speaks for a class: (T, H, W) in [0, 1], 0 everywhere if none does.

    ReLU of the last map's channels, each weighted by the mean over (T, H, W) of the gradient of the class's logit.

    Args:
        clip_THWC: uint8 (T, H, W, 3).
    """
    model = predictor.network
    with autocast(predictor.config, predictor.device):
        with torch.no_grad():
            map_1CTHW = run_units(model.units(), predictor.to_model(clip_THWC[None]), mode="keep")
        map_1CTHW.requires_grad_()
        logit = model.head(map_1CTHW)[0, label].mean()
    (gradient_1CTHW,) = torch.autograd.grad(logit, map_1CTHW)
    weights_C = at_least_float32(gradient_1CTHW).mean((0, 2, 3, 4))
    cam_THW = (at_least_float32(map_1CTHW[0].detach()) * weights_C[:, None, None, None]).sum(0).relu()
    size = tuple(clip_THWC.shape[:3])
    cam_THW = F.interpolate(cam_THW[None, None], size, mode="trilinear", align_corners=False)[0, 0]
    return (cam_THW / cam_THW.max().clamp_min(1e-12)).cpu()


def explained(predictor: Predictor, video: str | os.PathLike[str], views: ViewsConfig) -> tuple[np.ndarray, ClassScore]:
    """Frames of a video's middle clip in a row, and below them the same with where its best class was seen.

    Returns:
        A picture, uint8 (H, W, 3), and the class, with its score over all views.

    Raises:
        DecodeError: if the video can't be read.
    """
    clips_VTHWC = predictor.clips(video, views)
    best = predictor.best(predictor.outputs_of(clips_VTHWC, views).scores_K)[0]
    clip_THWC = clips_VTHWC[(views.clips // 2) * views.crops + views.crops // 2]
    cam_THW = grad_cam(predictor, clip_THWC, best.label)
    taken = torch.linspace(0, len(clip_THWC) - 1, min(_NUM_FRAMES, len(clip_THWC))).round().long()
    frames_THWC, cam_THW1 = clip_THWC[taken].numpy(), cam_THW[taken].numpy()[..., None]
    seen_THWC = (frames_THWC * (1 - 0.6 * cam_THW1) + 0.6 * cam_THW1 * _heat(cam_THW1)).astype(np.uint8)
    rows = [np.concatenate(list(part), axis=1) for part in (frames_THWC, seen_THWC)]
    caption = np.zeros((_CAPTION_PIXELS, rows[0].shape[1], 3), np.uint8)
    text = f"{best.name} {100 * best.score:.1f} %   {os.path.basename(os.fspath(video))}"
    return np.concatenate([labelled(caption, text), *rows]), best


def _heat(share_THW1: np.ndarray) -> np.ndarray:
    """Blue, green, yellow, red for 0 to 1: (T, H, W, 3) in 0-255."""
    centres = np.array([3.0, 2.0, 1.0])  # of red, green and blue, in quarters
    return 255 * np.clip(1.5 - np.abs(4 * share_THW1 - centres), 0, 1)
