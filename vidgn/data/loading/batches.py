"""Clips in the order asked for, whatever reads them: the same bytes for any number of workers."""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from vidgn.config.schema import DataConfig, ViewsConfig
from vidgn.data.clips.order import TrainPlan, mirrored_labels
from vidgn.data.clips.plan import ClipPlan, plan_digest, plan_for
from vidgn.data.clips.read import ClipGeometry, ReadTask, clips_in, read_into
from vidgn.data.datasets.manifest import Manifest, Row
from vidgn.data.loading.pool import Limits, Outcome, Pool, WorkerPool
from vidgn.data.loading.prefetch import InlinePool, Prefetch
from vidgn.errors import DecodeError
from vidgn.rng_streams import Tag

_DIGEST_MODULUS = 2**128
_MAX_ATTEMPTS = 100
_TRAIN_SLOTS = 2  # places a worker has: one being filled, one being emptied or waiting
_MAX_DEATHS = 2  # workers that may die on a file: the machine may have killed the first through no fault of the file
_GRACE_SECONDS = 2.0  # for the error of a decoder that keeps its own time limit
_PRELOAD = ("torch", "vidgn.data.decode.image", "vidgn.data.decode.pyav", "vidgn.data.clips.read")


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

    def without_tensors(self) -> "Batch":
        """What is left to know of it once it is trained on."""
        nothing = torch.empty(0)
        return replace(self, clip_NTHWC=nothing, label_N=nothing)


@dataclass
class VideoViews:
    """All views of one test video, or why there are none. `index`: its row in the manifest."""

    index: int
    id: str
    label: int
    clips_VTHWC: torch.Tensor | None  # uint8
    error: str | None


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
) -> Prefetch[Batch]:
    """Training clips: one batch for each sequence of `positions`, in their order; the sequences are read ahead.

    A video that can't be read is replaced by another, drawn for its position, and named in the batch. Use as a context
    manager, or `close()` the iterator: it holds processes.

    Args:
        slots_per_step: clips of a step over all ranks; needed where data.clips_per_video > 1, which is 1 without
            it.
    """
    geometry = ClipGeometry.of(data, frames=frames, stride=stride)
    repeats = data.clips_per_video if slots_per_step else 1
    plan = TrainPlan(manifest, data, seed, frames, tag, order_tag, repeats, slots_per_step or 1)
    source = TrainSource(plan, geometry, iter(positions), pin_memory)
    slot_bytes = repeats * math.prod(geometry.clip_shape)
    return Prefetch(source, _pool(data, _TRAIN_SLOTS, slot_bytes), window=2 * _TRAIN_SLOTS * data.workers)


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
) -> Prefetch[VideoViews]:
    """The views of the manifest's `rows`, in their order; each file is opened once. `curve` is planned by the row."""
    geometry = ClipGeometry.of(data, frames=frames, stride=stride, views=views)
    source = ViewSource(manifest, data, seed, geometry, list(rows), pin_memory)
    slot_bytes = views.clips * views.crops * math.prod(geometry.clip_shape)
    return Prefetch(source, _pool(data, 1, slot_bytes), window=data.workers)


def _pool(data: DataConfig, slots: int, slot_bytes: int) -> Pool[ReadTask]:
    if data.workers == 0:
        return InlinePool(read_into, buffer_bytes=lambda task: task.num_bytes)
    return WorkerPool(
        read_into,
        workers=data.workers,
        limits=Limits(data.timeout_seconds + _GRACE_SECONDS, memory_mib=None),
        preload=_PRELOAD,
        slots=slots,
        slot_bytes=slot_bytes,
        max_deaths=_MAX_DEATHS,
    )


def _why_unreadable(outcome: Outcome[ReadTask], data: DataConfig) -> str:
    path = outcome.item.row.path
    match outcome.failure:
        case "timeout":
            reason = f"not read within data.timeout_seconds={data.timeout_seconds:g}; transcode or remove the file"
        case "crash":
            reason = f"{_MAX_DEATHS} reader processes died on it; transcode or remove the file"
        case "memory":
            reason = outcome.reason
        case _:
            return outcome.reason
    return f"{path}: {reason}"


class _PendingBatch:
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
class _PendingRead:
    """The clips of one read: where each goes, and the rows that failed for it before."""

    places: list[tuple[_PendingBatch, int]]
    plans: tuple[ClipPlan, ...]
    failed_rows: list[int]
    row: int
    attempt: int = 0


class TrainSource:
    """Makes batches. Failed files are replaced position by position, so that the result does not depend on grouping."""

    def __init__(
        self, plan: TrainPlan, geometry: ClipGeometry, positions: Iterator[Sequence[int]], pin_memory: bool
    ) -> None:
        self._plan, self._geometry, self.pin_memory = plan, geometry, pin_memory
        self._groups = _groups(positions, plan.slots_per_step if plan.repeats > 1 else None)
        self._pending: deque[_PendingBatch] = deque()
        self._reads: dict[int, _PendingRead] = {}
        self._keys = itertools.count()

    def num_ahead(self, ready: Iterable[Batch]) -> int:
        return sum(len(item.positions) for item in itertools.islice(itertools.chain(ready, self._pending), 1, None))

    def next_reads(self) -> list[ReadTask] | None:
        group = next(self._groups, None)
        if group is None:
            return None
        by_row: dict[int, list[tuple[_PendingBatch, int]]] = {}
        for positions in group:
            batch = _PendingBatch(positions, self._geometry.clip_shape, self.pin_memory)
            self._pending.append(batch)
            for slot, position in enumerate(positions):
                # Without repeats, a row that comes twice in a batch is read twice: its positions are epochs apart.
                row = self._plan.row(position)
                key = row if self._plan.repeats > 1 else len(by_row)
                by_row.setdefault(key, []).append((batch, slot))
        # A row drawn twice in a step (an epoch ends in it) is opened twice: a worker has a buffer for `repeats` clips.
        size = self._plan.repeats
        return [self._task(all[i : i + size]) for all in by_row.values() for i in range(0, len(all), size)]

    def complete(self, outcome: Outcome[ReadTask]) -> list[ReadTask]:
        read, row = self._reads.pop(outcome.item.key), outcome.item.row
        if outcome.failure is not None:
            reason = _why_unreadable(outcome, self._plan.data)
            return [self._replace(read, index, row, reason) for index in range(len(read.places))]
        clips_VTHWC = torch.from_numpy(clips_in(outcome.buffer, outcome.item))
        resolved = outcome.value
        for (batch, slot), plan, clip_THWC, of_clip in zip(read.places, read.plans, clips_VTHWC, resolved, strict=True):
            batch.clip_NTHWC[slot].copy_(clip_THWC)
            batch.label_N[slot] = self._plan.label(row, plan)
            batch.ids[slot] = row.id
            batch.digest += plan_digest(batch.positions[slot], row.id, plan, of_clip)
            batch.num_open -= 1
        return []

    def next_ready(self) -> Batch | None:
        if self._pending and not self._pending[0].num_open:
            return self._pending.popleft().batch()
        return None

    def _task(self, places: list[tuple[_PendingBatch, int]]) -> ReadTask:
        positions = [batch.positions[slot] for batch, slot in places]
        plans = tuple(self._plan.clip(position) for position in positions)
        return self._ask(_PendingRead(places, plans, [], self._plan.row(positions[0])))

    def _ask(self, read: _PendingRead) -> ReadTask:
        key = next(self._keys)
        self._reads[key] = read
        return ReadTask(key, self._plan.manifest[read.row], read.plans, self._geometry)

    def _replace(self, read: _PendingRead, index: int, failed: Row, reason: str) -> ReadTask:
        """The read for one clip of a file that failed: the next row drawn for its position that has not failed yet."""
        batch, slot = read.places[index]
        failures = batch.failures[slot]
        failures.append((failed.id, reason))
        failed_rows = [*read.failed_rows, read.row]
        for attempt in range(read.attempt, _MAX_ATTEMPTS):
            row = self._plan.substitute(batch.positions[slot], attempt)
            if row not in failed_rows:
                place, plan = [(batch, slot)], (read.plans[index],)
                return self._ask(_PendingRead(place, plan, failed_rows, row, attempt + 1))
        raise DecodeError(
            f"position {batch.positions[slot]}: {len(failures)} videos drawn for it can't be read "
            f"(last: {reason}); run `vidgn data check` on the data set"
        )


def _groups(positions: Iterator[Sequence[int]], slots_per_step: int | None) -> Iterator[list[Sequence[int]]]:
    """Forwards that may share openings: those of one step where videos repeat, else each by itself."""
    if slots_per_step is None:
        yield from ([forward] for forward in positions)
        return
    for _, group in itertools.groupby(positions, key=lambda forward: forward[0] // slots_per_step):
        yield list(group)


class ViewSource:
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
        self._mirrored = mirrored_labels(manifest.classes, data)

    def num_ahead(self, ready: Iterable[VideoViews]) -> int:
        return max(self._asked - self._popped + sum(1 for _ in ready) - 1, 0)

    def next_reads(self) -> list[ReadTask] | None:
        if self._asked == len(self._rows):
            return None
        key = self._asked
        self._asked += 1
        index = self._rows[key]
        assert self._geometry.views is not None
        training = self._geometry.views.plan == "training"
        plan = plan_for(self._data, self._seed, index, frames=self._geometry.frames, tag=Tag.CURVE)
        plans = (plan,) if training else ()
        return [ReadTask(key, self._manifest[index], plans, self._geometry)]

    def complete(self, outcome: Outcome[ReadTask]) -> list[ReadTask]:
        clips_VTHWC, error, task = None, None, outcome.item
        if outcome.failure is not None:
            error = _why_unreadable(outcome, self._data)
        else:
            read_VTHWC = torch.from_numpy(clips_in(outcome.buffer, task))
            clips_VTHWC = torch.empty(read_VTHWC.shape, dtype=torch.uint8, pin_memory=self.pin_memory)
            clips_VTHWC.copy_(read_VTHWC)
        label, is_flipped = task.row.label, any(plan.flip for plan in task.plans)
        label = self._mirrored.get(label, label) if is_flipped else label
        self._done[task.key] = VideoViews(self._rows[task.key], task.row.id, label, clips_VTHWC, error)
        return []

    def next_ready(self) -> VideoViews | None:
        item = self._done.pop(self._popped, None)
        self._popped += item is not None
        return item
