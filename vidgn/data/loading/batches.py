"""Clips in the order asked for, whatever reads them: the same bytes for any number of workers."""

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from vidgn.config.schema import DataConfig, ViewsConfig
from vidgn.data.clips.plan import ClipPlan, plan_digest, plan_for, row_at, substitute_row, video_position
from vidgn.data.clips.read import ClipGeometry, ReadTask
from vidgn.data.datasets.listing import annotation_path, root_folder
from vidgn.data.datasets.manifest import Manifest
from vidgn.data.datasets.synthetic import check_synthetic
from vidgn.data.loading.pool import Done, InlinePool, ReaderPool
from vidgn.data.loading.prefetch import Stream
from vidgn.errors import ConfigError, DecodeError, ManifestError
from vidgn.rng_streams import Tag

_DIGEST_MODULUS = 2**128
_MAX_ATTEMPTS = 100


@dataclass(frozen=True)
class Substitution:
    """A clip at `position` that came from another video than planned, `id` being unreadable for `reason`."""

    position: int
    id: str
    reason: str
    replaced_by: str


@dataclass
class Batch:
    """The clips of one forward. `digest`: sum of their plan digests modulo 2**128."""

    clip_NTHWC: torch.Tensor  # uint8
    label_N: torch.Tensor  # int64
    ids: tuple[str, ...]
    positions: tuple[int, ...]
    digest: int
    substitutions: tuple[Substitution, ...]


@dataclass
class VideoViews:
    """All views of one test video, or why there are none. `index`: its row in the manifest."""

    index: int
    id: str
    label: int
    clips_VTHWC: torch.Tensor | None  # uint8
    error: str | None


@dataclass
class TrainPlan:
    """Which row and plan belong to a position."""

    manifest: Manifest
    data: DataConfig
    seed: int
    tag: Tag
    order_tag: Tag
    repeats: int
    slots_per_step: int

    def row(self, position: int) -> int:
        if self.repeats > 1:
            position = video_position(position, clips_per_video=self.repeats, slots_per_step=self.slots_per_step)
        return row_at(self.seed, position, len(self.manifest), tag=self.order_tag)

    def clip(self, position: int) -> ClipPlan:
        return plan_for(self.data, self.seed, position, tag=self.tag)

    def substitute(self, position: int, attempt: int) -> int:
        return substitute_row(self.seed, position, attempt, len(self.manifest))


class _Building:
    """A batch some of whose clips are still to come."""

    def __init__(self, positions: Sequence[int], clip_shape: tuple[int, ...], pin_memory: bool) -> None:
        num = len(positions)
        self.positions = tuple(positions)
        self.clip_NTHWC = torch.empty((num, *clip_shape), dtype=torch.uint8, pin_memory=pin_memory)
        self.label_N = torch.zeros(num, dtype=torch.int64, pin_memory=pin_memory)
        self.ids = [""] * num
        self.digest = 0
        self.failures: list[list[tuple[str, str]]] = [[] for _ in positions]  # (id, reason) of each slot
        self.num_open = num

    def batch(self) -> Batch:
        substitutions = []
        for slot, failures in enumerate(self.failures):
            instead = [*(id for id, _ in failures), self.ids[slot]][1:]
            for (id, reason), replaced_by in zip(failures, instead, strict=True):
                substitutions.append(Substitution(self.positions[slot], id, reason, replaced_by))
        digest = self.digest % _DIGEST_MODULUS
        ids = tuple(self.ids)
        return Batch(self.clip_NTHWC, self.label_N, ids, self.positions, digest, tuple(substitutions))


@dataclass
class _Wanted:
    """Clips asked for by one task: where each goes, and the rows that failed for it before."""

    places: list[tuple[_Building, int]]
    plans: tuple[ClipPlan, ...]
    failed_rows: list[int]
    row: int
    attempt: int = 0


class TrainFeed:
    """Makes batches. Failed files are replaced position by position, so that the result does not depend on grouping."""

    def __init__(
        self, plan: TrainPlan, geometry: ClipGeometry, positions: Iterator[Sequence[int]], pin_memory: bool
    ) -> None:
        self._plan, self._geometry, self.pin_memory = plan, geometry, pin_memory
        self._groups = _groups(positions, plan.slots_per_step if plan.repeats > 1 else None)
        self._building: deque[_Building] = deque()
        self._wanted: dict[int, _Wanted] = {}
        self._keys = itertools.count()

    def ahead(self, ready: Iterable[Batch]) -> int:
        return sum(len(item.positions) for item in itertools.islice(itertools.chain(ready, self._building), 1, None))

    def more(self) -> list[ReadTask] | None:
        group = next(self._groups, None)
        if group is None:
            return None
        by_row: dict[int, list[tuple[_Building, int]]] = {}
        for positions in group:
            building = _Building(positions, self._geometry.clip_shape, self.pin_memory)
            self._building.append(building)
            for slot, position in enumerate(positions):
                # Without repeats, a row that comes twice in a batch is read twice: its positions are epochs apart.
                row = self._plan.row(position)
                key = row if self._plan.repeats > 1 else len(by_row)
                by_row.setdefault(key, []).append((building, slot))
        # A row drawn twice in a step (an epoch ends in it) is opened twice: a reader has room for `repeats` clips.
        size = self._plan.repeats
        return [self._task(all[i : i + size]) for all in by_row.values() for i in range(0, len(all), size)]

    def accept(self, done: Done) -> list[ReadTask]:
        wanted = self._wanted.pop(done.task.key)
        if done.clips_VTHWC is None:
            assert done.error is not None
            return [self._instead(wanted, index, done) for index in range(len(wanted.places))]
        clips_VTHWC = torch.from_numpy(done.clips_VTHWC)
        row = done.task.row
        for (building, slot), plan, clip_THWC in zip(wanted.places, wanted.plans, clips_VTHWC, strict=True):
            building.clip_NTHWC[slot].copy_(clip_THWC)
            building.label_N[slot] = row.label
            building.ids[slot] = row.id
            building.digest += plan_digest(building.positions[slot], row.id, plan)
            building.num_open -= 1
        return []

    def pop(self) -> Batch | None:
        if self._building and not self._building[0].num_open:
            return self._building.popleft().batch()
        return None

    def _task(self, places: list[tuple[_Building, int]]) -> ReadTask:
        positions = [building.positions[slot] for building, slot in places]
        plans = tuple(self._plan.clip(position) for position in positions)
        return self._ask(_Wanted(places, plans, [], self._plan.row(positions[0])))

    def _ask(self, wanted: _Wanted) -> ReadTask:
        key = next(self._keys)
        self._wanted[key] = wanted
        return ReadTask(key, self._plan.manifest[wanted.row], wanted.plans, self._geometry)

    def _instead(self, wanted: _Wanted, index: int, done: Done) -> ReadTask:
        """The task for one clip of a file that failed: the next row drawn for its position that has not failed yet."""
        building, slot = wanted.places[index]
        failures = building.failures[slot]
        failures.append((done.task.row.id, done.error or ""))
        failed_rows = [*wanted.failed_rows, wanted.row]
        for attempt in range(wanted.attempt, _MAX_ATTEMPTS):
            row = self._plan.substitute(building.positions[slot], attempt)
            if row not in failed_rows:
                place, plan = [(building, slot)], (wanted.plans[index],)
                return self._ask(_Wanted(place, plan, failed_rows, row, attempt + 1))
        raise DecodeError(
            f"position {building.positions[slot]}: {len(failures)} videos drawn for it can't be read "
            f"(last: {done.error}); run `vidgn data check` on the data set"
        )


def _groups(positions: Iterator[Sequence[int]], slots_per_step: int | None) -> Iterator[list[Sequence[int]]]:
    """Forwards that may share openings: those of one step where videos repeat, else each by itself."""
    if slots_per_step is None:
        yield from ([forward] for forward in positions)
        return
    for _, group in itertools.groupby(positions, key=lambda forward: forward[0] // slots_per_step):
        yield list(group)


class ViewFeed:
    """Makes the views of one video after another."""

    def __init__(
        self,
        manifest: Manifest,
        data: DataConfig,
        seed: int,
        geometry: ClipGeometry,
        rows: list[int],
        pin_memory: bool,
    ) -> None:
        self._manifest, self._data, self._seed, self._geometry = manifest, data, seed, geometry
        self.pin_memory = pin_memory
        self._rows, self._asked, self._popped = rows, 0, 0
        self._done: dict[int, VideoViews] = {}

    def ahead(self, ready: Iterable[VideoViews]) -> int:
        return max(self._asked - self._popped + sum(1 for _ in ready) - 1, 0)

    def more(self) -> list[ReadTask] | None:
        if self._asked == len(self._rows):
            return None
        key = self._asked
        self._asked += 1
        index = self._rows[key]
        assert self._geometry.views is not None
        training = self._geometry.views.plan == "training"
        plans = (plan_for(self._data, self._seed, index, tag=Tag.CURVE),) if training else ()
        return [ReadTask(key, self._manifest[index], plans, self._geometry)]

    def accept(self, done: Done) -> list[ReadTask]:
        clips_VTHWC = None
        if done.clips_VTHWC is not None:
            clips_VTHWC = torch.empty(done.clips_VTHWC.shape, dtype=torch.uint8, pin_memory=self.pin_memory)
            clips_VTHWC.copy_(torch.from_numpy(done.clips_VTHWC))
        row, key = done.task.row, done.task.key
        self._done[key] = VideoViews(self._rows[key], row.id, row.label, clips_VTHWC, done.error)
        return []

    def pop(self) -> VideoViews | None:
        item = self._done.pop(self._popped, None)
        self._popped += item is not None
        return item


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

    A video that can't be read is replaced by another, drawn for its position, and named in the batch. Use as a context
    manager, or `close()` the iterator: it holds processes.

    Args:
        slots_per_step: clips of a step over all ranks; needed where data.clips_per_video > 1, which is 1 without
            it.
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
    """Check settings and files before anything is read or started.

    Raises:
        ConfigError: a key, a value or a combination can't be run.
        ManifestError: for settings and files that can't be, before anything is read or started.
    """
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
