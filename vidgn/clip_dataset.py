"""Planned clips for other people's loops. Part of vidgn/api.py's face."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidgn.config.schema import Config
from vidgn.data.clips.order import TrainPlan
from vidgn.data.clips.read import ClipGeometry, ReadTask, read_clips
from vidgn.data.datasets.listing import Split
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.loading.batches import Batch, train_batches
from vidgn.data.loading.prefetch import Prefetch
from vidgn.errors import ConfigError
from vidgn.rng_streams import Tag
from vidgn.training.setup import ToModel


class Clips(Dataset[tuple[Tensor, int]]):
    """Training clips of a split, by position: which video, frames, crop and flip is a function of seed and position.

    Positions run on: p is item p % len of epoch p // len, each an order of its own. With torch's DataLoader any number
    of workers gives the same clips; `loader` is vidgn's own, which replaces videos that can't be read.

    Example:
        >>> import vidgn
        >>> clip_THWC, label = vidgn.Clips(vidgn.load_config(*overrides))[0]  # overrides of `vidgn train`
        >>> clip_THWC.shape, label in (0, 1)
        (torch.Size([8, 28, 28, 3]), True)
    """

    def __init__(self, config: Config, split: Split = "train") -> None:
        """List the videos; none is opened.

        Args:
            config: of `vidgn.load_config`: data, frames, span and seed count.

        Raises:
            VidgnError: if the annotation can't be used, or asks for what is not a clip of one video at a position.
        """
        if config.model.detector or config.data.clips_per_video > 1:
            what = "a detector" if config.model.detector else "data.clips_per_video"
            raise ConfigError(f"Clips are those of one video each, and {what} has others: leave it out")
        self.config, self._rows = config, read_manifest(config.data, split)
        self.classes = self._rows.classes
        self._geometry = ClipGeometry.of(config.data, frames=config.frames, stride=config.stride)
        self._plan = TrainPlan(self._rows, config.data, config.seed, config.frames, Tag.CLIP, Tag.ORDER, 1, 1)

    def __len__(self) -> int:
        """Videos, which are the positions of an epoch."""
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        """Those of the first epoch."""
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """Pixels uint8 (T, H, W, 3) and label.

        Raises:
            VidgnError: if the video can't be read.
        """
        row, plan = self._rows[self._plan.row(position)], self._plan.clip(position)
        clip_1THWC = np.empty((1, *self._geometry.clip_shape), np.uint8)
        read_clips(ReadTask(0, row, (plan,), self._geometry), clip_1THWC)
        return torch.from_numpy(clip_1THWC[0]), self._plan.label(row, plan)

    def loader(self, batch: int, *, first: int = 0, batches: int | None = None) -> Prefetch[Batch]:
        """Batches of `batch` consecutive positions, read ahead by `data.workers` processes. A context manager.

        Args:
            first: position that the first batch begins at.
            batches: how many; None: one epoch, what does not fill a batch left out.
        """
        count = len(self) // batch if batches is None else batches
        positions: Iterator[Sequence[int]] = (
            range(start, start + batch) for start in itertools.islice(itertools.count(first, batch), count)
        )
        config = self.config
        return train_batches(
            self._rows, config.data, seed=config.seed, frames=config.frames, stride=config.stride, positions=positions
        )

    def to_model(self, clip_NTHWC: Tensor) -> Tensor:
        """What a network takes: (N, 3, T, H, W), less data.mean and divided by data.std, on the tensor's device."""
        return ToModel(self.config, clip_NTHWC.device)(clip_NTHWC)
