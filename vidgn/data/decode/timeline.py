"""The packets of a video stream: which are frames, in which order they are shown, and where decoding has to start.

Pure: built from packet fields, no decoder involved. `order` counts packets in decode order, frame numbers count
frames in presentation order.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np


class PacketInfo(NamedTuple):
    """What demuxing tells of one packet. `pts`: None where the container has none."""

    pts: int | None
    is_keyframe: bool
    is_discard: bool  # decoded but never shown: outside an edit list
    dts: int | None = None


class Segment(NamedTuple):
    """Packets [first, last] in decode order give the wanted frames at `pts` (sorted)."""

    first: int
    last: int
    pts: list[int]


@dataclass(frozen=True)
class Timeline:
    """`shown_pts`: of every frame, sorted: frame i is shown at shown_pts[i]. The others go by packet order.

    `doubts_keyframes`: the container's are not believed, whose reader may seek to them.
    """

    shown_pts: tuple[int, ...]
    order_of: dict[int, int]  # pts -> packet order
    keyframes: tuple[int, ...]  # packet orders
    pts_of: tuple[int, ...]  # by packet order
    has_discarded: bool
    doubts_keyframes: bool = False

    @cached_property
    def _shown(self) -> np.ndarray:
        return np.array(self.shown_pts, np.float64)

    def seconds(self, tick_seconds: float) -> list[float]:
        """When each frame is shown, for time stamps in ticks of so many seconds."""
        return (self._shown * tick_seconds).tolist()

    def frame_number(self, pts: int) -> int:
        return bisect_left(self.shown_pts, pts)

    def start_of(self, pts: int) -> int:
        """Order of the last keyframe from which the frame at `pts` decodes exactly.

        A picture that is shown before the keyframe it follows (open GOP) may refer to the GOP before: it needs the
        keyframe before that one.
        """
        place = bisect_right(self.keyframes, self.order_of[pts]) - 1
        while place > 0 and self.pts_of[self.keyframes[place]] > pts:
            place -= 1
        return self.keyframes[max(place, 0)] if self.keyframes else 0

    def keyframe_before(self, order: int) -> int:
        """Order of the keyframe before the packet `order`, 0 if there is none."""
        place = bisect_left(self.keyframes, order) - 1
        return self.keyframes[place] if place >= 0 else 0

    def segments(self, frame_numbers: Sequence[int]) -> Iterator[Segment]:
        """The stretches of packets to decode for the wanted frames, in decode order, none of them overlapping."""
        first, last, pts_list = -1, -1, []
        for pts in (self.shown_pts[number] for number in frame_numbers):
            start, order = self.start_of(pts), self.order_of[pts]
            if pts_list and start > last:
                yield Segment(first, last, pts_list)
                first, last, pts_list = start, order, [pts]
                continue
            first = start if not pts_list else min(first, start)
            last = max(last, order)
            pts_list.append(pts)
        if pts_list:
            yield Segment(first, last, pts_list)

    def leading(self) -> tuple[int, ...]:
        """Pts of frames of the first GOP that are shown before its keyframe: some decoders drop them."""
        if not self.keyframes:
            return ()
        key_pts = self.pts_of[self.keyframes[0]]
        return self.shown_pts[: self.frame_number(key_pts)]

    def is_open_gop(self) -> bool:
        """Whether pictures behind a keyframe in decode order are shown before it."""
        for key, end in itertools.pairwise((*self.keyframes, len(self.pts_of))):
            if any(pts < self.pts_of[key] for pts in self.pts_of[key + 1 : end]):
                return True
        return False

    def is_as_coded(self) -> bool:
        """Whether several frames are shown in the order of their packets."""
        return len(self.pts_of) > 1 and all(earlier < later for earlier, later in itertools.pairwise(self.pts_of))

    def without(self, dropped_pts: Collection[int]) -> "Timeline":
        """The same packets with some frames known never to come out."""
        shown = tuple(pts for pts in self.shown_pts if pts not in dropped_pts)
        return replace(self, shown_pts=shown)

    def from_start(self) -> "Timeline":
        """The same packets where no keyframe is to be believed: everything decodes from the first."""
        return replace(self, keyframes=(0,), doubts_keyframes=True)


class Damage:
    """Which pictures of a decode can't be trusted: one that failed, and all behind it up to the next sound keyframe.

    What a decoder puts in the place of a lost picture depends on what it has decoded before, and is handed on.
    """

    def __init__(self) -> None:
        self._failed: set[int] = set()
        self._has_keyframe = False

    def add(self, order: int) -> None:
        """The packet `order` did not decode as it should."""
        self._failed.add(order)

    def is_sound(self, order: int, *, is_corrupt: bool, is_keyframe: bool, earliest: int | None = None) -> bool:
        """Whether the picture of packet `order` can be trusted. Pictures come in the order shown.

        What is corrupt before the first keyframe is shown is of a GOP that is not there, and spoils nothing behind.

        Args:
            earliest: the first packet that it may be of, where that can't be told; `order` is then the last.
        """
        self._has_keyframe = self._has_keyframe or is_keyframe
        if is_corrupt:
            if self._has_keyframe:
                self.add(order)
            return False
        if is_keyframe:
            first = order if earliest is None else earliest
            self._failed = {failed for failed in self._failed if failed >= first}
        return all(failed > order for failed in self._failed)


def build_timeline(packets: Sequence[PacketInfo]) -> Timeline | None:
    """The timeline of packets given in decode order; None where pts are missing or not unique, or start again.

    Time starts again where dts goes back: in joined recordings, whose frames would come out interleaved.
    """
    dts = [packet.dts for packet in packets if packet.dts is not None]
    if any(later < earlier for earlier, later in itertools.pairwise(dts)):
        return None
    pts_of = [packet.pts for packet in packets]
    if None in pts_of or len(set(pts_of)) < len(pts_of):
        return None
    known = tuple(pts for pts in pts_of if pts is not None)
    return Timeline(
        shown_pts=tuple(sorted(pts for pts, packet in zip(known, packets, strict=True) if not packet.is_discard)),
        order_of={pts: order for order, pts in enumerate(known)},
        keyframes=tuple(order for order, packet in enumerate(packets) if packet.is_keyframe),
        pts_of=known,
        has_discarded=any(packet.is_discard for packet in packets),
    )
