"""Which video, which plan and which label belong to a position of training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidgn.config.schema import DataConfig
from vidgn.data.clips.plan import ClipPlan, balanced_row_at, plan_for, row_at, substitute_row, video_position
from vidgn.data.datasets.manifest import Manifest, Row
from vidgn.errors import ConfigError
from vidgn.rng_streams import Tag


def mirrored_labels(classes: Sequence[str], data: DataConfig) -> dict[int, int]:
    """Label -> label of its mirror image, for the pairs of data.flip_pairs.

    Raises:
        ConfigError: if a name of a pair is no class.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    found = dict[int, int]()
    for pair in data.flip_pairs:
        if absent := [name for name in pair if name not in numbers]:
            raise ConfigError(
                f"data.flip_pairs: {absent[0]!r} is not one of the {len(classes)} classes ({', '.join(classes[:3])}, "
                "...); write pairs of names, for example [[left,right]]"
            )
        one, other = (numbers[name] for name in pair)
        found |= {one: other, other: one}
    return found


@dataclass
class TrainPlan:
    """Which row and plan belong to a position."""

    manifest: Manifest
    data: DataConfig
    seed: int
    frames: int
    tag: Tag
    order_tag: Tag
    repeats: int
    slots_per_step: int

    def __post_init__(self) -> None:
        self._mirrored = mirrored_labels(self.manifest.classes, self.data)
        self._rows_of_class: list[np.ndarray] | None = None
        if self.data.balance == "class":
            labels = np.array(self.manifest.labels)
            self._rows_of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def label(self, row: Row, plan: ClipPlan) -> int:
        """Of the row, or of its mirror image where the clip is one."""
        return self._mirrored.get(row.label, row.label) if plan.flip else row.label

    def row(self, position: int) -> int:
        if self.repeats > 1:
            position = video_position(position, clips_per_video=self.repeats, slots_per_step=self.slots_per_step)
        if self._rows_of_class is not None:
            return balanced_row_at(self.seed, position, self._rows_of_class, tag=self.order_tag)
        return row_at(self.seed, position, len(self.manifest), tag=self.order_tag)

    def clip(self, position: int) -> ClipPlan:
        return plan_for(self.data, self.seed, position, frames=self.frames, tag=self.tag)

    def substitute(self, position: int, attempt: int) -> int:
        return substitute_row(self.seed, position, attempt, len(self.manifest))
