"""What a run trains on: clips of videos, or images. The loop takes either; see vidgn/training/step.py for what it asks.

An image is a clip of one frame. What differs is which test the validation curve makes.
"""

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgn.config.schema import Config, ViewsConfig
from vidgn.data.clips.plan import plan_for
from vidgn.data.datasets.manifest import Manifest
from vidgn.data.loading.batches import Batch, train_batches
from vidgn.data.loading.prefetch import Prefetch
from vidgn.errors import ConfigError
from vidgn.models.i3d import VideoResNet
from vidgn.rng_streams import Tag, stream
from vidgn.runs.directory import RunDirectory
from vidgn.training.setup import ToModel, at_least_float32
from vidgn.training.state import RunState
from vidgn.training.step import Layout, forward_positions
from vidgn.training.tester import CURVE, SplitScores, Tester


class ClipForward:
    """A forward of clips: logits (N, K) and labels (N,). No labels: made-up clips, all of the first class."""

    def __init__(self, logits_NK: Tensor, label_N: Tensor | None) -> None:
        self.logits_NK, self._label_N = logits_NK, label_N

    def loss_sum(self) -> Tensor:
        """Cross-entropy summed over the clips, in float32 at least."""
        device = self.logits_NK.device
        if self._label_N is None:
            self._label_N = torch.zeros(len(self.logits_NK), dtype=torch.int64, device=device)
        self._label_N = self._label_N.to(device, non_blocking=True)
        return F.cross_entropy(at_least_float32(self.logits_NK), self._label_N, reduction="sum")

    def counts(self) -> Tensor:
        """Clips whose label has the largest logit: (1,)."""
        return (self.logits_NK.detach().argmax(1) == self._label_N).sum()[None]


class ClipsTask:
    """Clips of videos, classified."""

    def __init__(
        self,
        config: Config,
        model: VideoResNet,
        *,
        train: Manifest,
        val: Manifest,
        layout: Layout,
        run: RunDirectory,
        state: RunState,
        input_mean: tuple[float, ...] | None,
    ) -> None:
        """Nothing is read yet.

        Args:
            input_mean: what to subtract from 0-255 RGB, where the weights to start from bring their own.
        """
        self.config, self.model, self.train_rows, self.val_rows = config, model, train, val
        self._layout = layout
        self.to_model = ToModel(config, layout.ranks.device, input_mean=input_mean)
        self._tester = Tester(
            config,
            model,
            val,
            to_model=self.to_model,
            statistics_batches=lambda: self._read(self._statistics_steps, Tag.BN_STATS, Tag.BN_STATS_ORDER),
            num_statistics_forwards=len(self._statistics_steps) * layout.geometry.forwards_per_step,
            layout=layout,
            run=run,
            state=state,
        )

    @staticmethod
    def curve_views(config: Config) -> ViewsConfig:
        """What the validation curve sees of a video: one clip under training augmentation (GN paper, fig. 7)."""
        del config
        return CURVE

    @property
    def input_mean(self) -> tuple[float, ...]:
        """What is subtracted from 0-255 RGB."""
        return self.to_model.mean

    @property
    def num_rows(self) -> int:
        """Videos of the training set."""
        return len(self.train_rows)

    def batches(self, steps: range) -> Prefetch[Batch]:
        """This rank's training batches for the forwards of `steps`, read ahead. A context manager."""
        return self._read(steps, Tag.CLIP, Tag.ORDER)

    def inputs(self, batch: Batch, *, step: int, slots: range) -> tuple[Tensor, ...]:
        """Clips, labels and, where there is dropout, each slot's own mask."""
        scale_NC = dropout_scale(
            self.config, channels=self.model.head.num_features, step=step, slots=slots, dtype=self.to_model.dtype
        )
        if scale_NC is None:
            return batch.clip_NTHWC, batch.label_N
        is_cuda = self._layout.ranks.device.type == "cuda"
        return batch.clip_NTHWC, batch.label_N, scale_NC.pin_memory() if is_cuda else scale_NC

    def made_up(self, clips: int) -> tuple[Tensor, ...]:
        """Black clips of the first class."""
        config = self.config
        clip_NTHWC = torch.zeros(clips, config.frames, config.data.crop, config.data.crop, 3, dtype=torch.uint8)
        scale_NC = torch.ones(clips, self.model.head.num_features, dtype=self.to_model.dtype)
        label_N = torch.zeros(clips, dtype=torch.int64)
        return (clip_NTHWC, label_N, scale_NC) if config.model.dropout else (clip_NTHWC, label_N)

    def forward(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> ClipForward:
        """Clips through the network."""
        clip_NTHWC, label_N, *scale_NC = inputs
        on_device = [scale.to(self._layout.ranks.device, non_blocking=True) for scale in scale_NC]
        return ClipForward(module(self.to_model(clip_NTHWC), *on_device).flatten(1), label_N)

    def describe(self, batch: Batch) -> list[dict[str, Any]]:
        """Position, id and plan of each clip."""
        data = self.config.data
        return [
            {"position": p, "id": i, "plan": vars(plan_for(data, self.config.seed, p, frames=self.config.frames))}
            for p, i in zip(batch.positions, batch.ids, strict=True)
        ]

    def numbers(self, counts: list[float], slots: int) -> dict[str, float]:
        """Percent of clips that were right."""
        return {"top1": 100 * counts[0] / slots}

    def curve_point(self) -> dict[str, Any]:
        """Errors, loss and counts of the curve's own test."""
        with self._tester.tested(self.curve_views(self.config), unit="curve") as scores:
            pass
        return {
            "top1_error_percent": 100 - scores.top_percent(1),
            "top5_error_percent": 100 - scores.top_percent(5),
            "loss": scores.loss,
            "num_videos": scores.num_videos,
            "num_unreadable": len(scores.unreadable),
        }

    def tested(self, views: ViewsConfig) -> AbstractContextManager[SplitScores]:
        """Scores of the validation split; inside, the model still has the statistics it was tested with."""
        return self._tester.tested(views)

    def state(self) -> dict[str, Any]:
        """The input mean, which may have come with the first weights."""
        return {"input_mean": list(self.to_model.mean)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over the input mean of a checkpoint."""
        self.to_model.set_mean(state["input_mean"])

    def check_classes(self, state: dict[str, Any], run_dir: Path) -> None:
        """Check that the model in a checkpoint has the classes of this data.

        Raises:
            ConfigError: if it has another number of classes.
        """
        classifier = f"blocks.{len(self.model.blocks) - 1}.proj.bias"
        trained, given = len(state["model"][classifier]), len(self.val_rows.classes)
        if trained != given:
            raise ConfigError(
                f"{run_dir} was trained on {trained} classes, and this data has {given}: write data.classes=FILE "
                f"with the {trained} names in label order, or the data.train the run was started with"
            )

    @property
    def _statistics_steps(self) -> range:
        """Steps of plans that precise statistics are taken of: `bn_stats_steps`, at most an epoch."""
        one_epoch = -(-len(self.train_rows) // self._layout.geometry.slots_per_step)
        return range(min(self.config.bn_stats_steps, one_epoch))

    def _read(self, steps: range, tag: Tag, order_tag: Tag) -> Prefetch[Batch]:
        return train_batches(
            self.train_rows,
            self.config.data,
            seed=self.config.seed,
            frames=self.config.frames,
            stride=self.config.stride,
            positions=forward_positions(self._layout, steps),
            slots_per_step=self._layout.geometry.slots_per_step,
            tag=tag,
            order_tag=order_tag,
            pin_memory=self._layout.ranks.device.type == "cuda",
        )


class ImagesTask(ClipsTask):
    """Images: clips of one frame, tested on the curve as they are at the end."""

    @staticmethod
    def curve_views(config: Config) -> ViewsConfig:
        """The configured views: a centre crop is as cheap as any."""
        return config.views


TASKS: dict[str, type[ClipsTask]] = {"video": ClipsTask, "image": ImagesTask}  # by data.augment


class MadeUpClips:
    """Clips, masks and labels of the right shapes and no content: for memory and speed, without data or files."""

    def __init__(self, config: Config, model: VideoResNet, device: torch.device) -> None:
        self.config, self._model, self._device = config, model, device
        self.to_model = ToModel(config, device)
        self._place = torch.empty(0, dtype=torch.uint8, device=device)

    def inputs(self, batch: None, *, step: int, slots: range) -> tuple[Tensor, ...]:
        """As a shape alone: (clips,) of an empty tensor."""
        del batch, step
        return self.made_up(len(slots))

    def made_up(self, clips: int) -> tuple[Tensor, ...]:
        """As `inputs`."""
        return (torch.empty(clips, 0),)

    def forward(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> ClipForward:
        """A training forward of as many clips as there are slots."""
        count = len(inputs[0])
        clip_NCTHW = self.to_model(self.clips(count, self.config.data.crop))  # no name keeps the pixels alive
        return ClipForward(module(clip_NCTHW, self._dropout_scale(count)).flatten(1), None)

    def clips(self, count: int, crop: int) -> Tensor:
        """uint8 (N, T, H, W, 3) on the device, in a place that stays, as in a run (see Uploads)."""
        shape = (count, self.config.frames, crop, crop, 3)
        if self._place.numel() < math.prod(shape):
            self._place = torch.zeros(math.prod(shape), dtype=torch.uint8, device=self._device)
        return self._place[: math.prod(shape)].view(shape)

    def _dropout_scale(self, count: int) -> Tensor | None:
        if self.config.model.dropout == 0:
            return None
        shape = (count, self._model.head.num_features)
        return torch.ones(shape, device=self._device, dtype=self.to_model.dtype)


def dropout_scale(config: Config, *, channels: int, step: int, slots: range, dtype: torch.dtype) -> Tensor | None:
    """(N, C) of 0 and 1/(1-p), drawn for each slot: which process holds a clip does not matter. None where p is 0."""
    p = config.model.dropout
    if p == 0:
        return None
    rows = [stream(Tag.DROPOUT, config.seed, step, slot).random(channels) >= p for slot in slots]
    return torch.stack([torch.from_numpy(row) for row in rows]).to(dtype) / (1 - p)
