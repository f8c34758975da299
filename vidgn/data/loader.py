"""Clips in the order asked for, whatever reads them: the same bytes for any number of workers."""

import os
from collections.abc import Iterable, Sequence

import torch

from vidgn.config.schema import DataConfig, ViewsConfig
from vidgn.data.feeds import Batch, Substitution, TrainFeed, TrainPlan, VideoViews, ViewFeed
from vidgn.data.listing import annotation_path, root_folder
from vidgn.data.manifest import Manifest
from vidgn.data.pool import InlinePool, ReaderPool
from vidgn.data.reading import ClipGeometry
from vidgn.data.stream import Stream
from vidgn.data.synthetic import check_synthetic
from vidgn.errors import ConfigError, ManifestError
from vidgn.streams import Tag

__all__ = ["Batch", "Stream", "Substitution", "VideoViews", "check_data", "train_batches", "view_videos"]

_TRAIN_SLOTS = 2  # places a reader has: one being filled, one being emptied or waiting


def train_batches(
    manifest: Manifest,
    data: DataConfig,
    *,
    seed: int,
    frames: int,
    stride: int,
    positions: Iterable[Sequence[int]],
    tag: Tag = Tag.CLIP,
    order_tag: Tag = Tag.ORDER,
    pin_memory: bool = False,
    slots_per_step: int | None = None,
) -> Stream[Batch]:
    """Training clips: one batch for each sequence of `positions`, in their order; the sequences are read ahead.

    `slots_per_step`: clips of a step over all ranks; needed where data.clips_per_video > 1, which is 1 without it.
    A video that can't be read is replaced by another, drawn for its position, and named in the batch.
    Use as a context manager, or `close()` the iterator: it holds processes.
    """
    geometry = ClipGeometry.of(data, frames=frames, stride=stride)
    repeats = data.clips_per_video if slots_per_step else 1
    plan = TrainPlan(manifest, data, seed, tag, order_tag, repeats, slots_per_step or 1)
    feed = TrainFeed(plan, geometry, iter(positions), pin_memory)
    slot_bytes = repeats * _num_bytes(geometry.clip_shape)
    return Stream(feed, _pool(data, _TRAIN_SLOTS, slot_bytes), window=2 * _TRAIN_SLOTS * data.workers)


def view_videos(
    manifest: Manifest,
    data: DataConfig,
    views: ViewsConfig,
    *,
    seed: int,
    frames: int,
    stride: int,
    rows: Sequence[int],
    pin_memory: bool = False,
) -> Stream[VideoViews]:
    """The views of the manifest's `rows`, in their order; each file is opened once. `curve` is planned by the row."""
    geometry = ClipGeometry.of(data, frames=frames, stride=stride, views=views)
    feed = ViewFeed(manifest, data, seed, geometry, list(rows), pin_memory)
    slot_bytes = views.clips * views.crops * _num_bytes(geometry.clip_shape)
    return Stream(feed, _pool(data, 1, slot_bytes), window=data.workers)


def _num_bytes(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _pool(data: DataConfig, slots: int, slot_bytes: int) -> InlinePool | ReaderPool:
    if data.workers == 0:
        return InlinePool()
    return ReaderPool(data.workers, slots=slots, slot_bytes=slot_bytes, timeout_seconds=data.timeout_seconds)


def check_data(data: DataConfig) -> None:
    """Raises ConfigError or ManifestError for settings and files that can't be, before anything is read or started."""
    if data.format == "synthetic":
        if data.synthetic is None or data.root is None:
            raise ConfigError("data.format=synthetic needs data.root and data.synthetic: write data=synthetic")
        check_synthetic(data.synthetic)
        return
    if data.format == "list" and not data.separator:
        raise ConfigError("data.separator is empty: write what parts path and label, for example data.separator=','")
    if data.classes is not None and not os.path.isfile(data.classes):
        raise ManifestError(f"data.classes={data.classes}: no such file; give one with a class name a line, or null")
    annotated = data.format in ("kinetics", "list", "csv")
    for split in ("train", "val") if annotated else ():
        annotation_path(data, split)
    if data.root is not None or data.format not in ("list", "csv"):
        root_folder(data)
