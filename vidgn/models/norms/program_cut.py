"""How a map is cut into the programs of Triton's kernels. It needs no Triton: the memory prediction counts with it."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from torch import Tensor

from vidgn.models.norms.slices import statistics_dtype

_PROGRAMS = 1024  # wanted at least: some eight for each multiprocessor of a large GPU
_TILE = 2048  # values that a program holds at a time
_BLOCK = 64  # channels of a program where they are neighbours in memory: 128 bytes in 16 bits


@dataclass(frozen=True)
class Cut:
    """How a map is cut into programs: a function of shapes alone, so that any GPU adds in the same order."""

    clips: int
    channels: int
    positions: int  # T * H * W
    rows: int
    groups: int
    is_last: bool  # channels_last
    columns: int  # channels of a block
    tile: int  # positions held at a time
    chunk: int  # positions of a slice
    split: int  # slices of a clip
    block_groups: int
    block_width: int  # columns for each group of a block

    @property
    def slices(self) -> int:
        """Of a row."""
        return self.clips // self.rows * self.split

    @property
    def group_channels(self) -> int:
        return self.channels // self.groups

    @property
    def parts(self) -> int:
        """Blocks of a group, where it is wider than one."""
        return _ceil(self.group_channels, self.block_width)

    @property
    def group_blocks(self) -> int:
        """Blocks of whole groups, or of parts of one."""
        return _ceil(self.groups, self.block_groups) * self.parts

    @property
    def channel_blocks(self) -> int:
        return _ceil(self.channels, self.columns)

    @property
    def partials(self) -> int:
        """How many partial results are read at a time where they are put together."""
        return max(16, min(512, self.tile // 2))

    @cached_property
    def shape(self) -> dict[str, int]:
        """What every kernel is told."""
        stride_s, stride_c = (self.channels, 1) if self.is_last else (1, self.positions)
        return {
            "C": self.channels,
            "S": self.positions,
            "stride_n": self.channels * self.positions,
            "stride_s": stride_s,
            "stride_c": stride_c,
            "cpg": self.group_channels,
            "num_groups": self.groups,
            "chunk": self.chunk,
            "row_clips": self.clips // self.rows,
            "split": self.split,
            "POSITIONS": self.tile,
        }

    @cached_property
    def by_group(self) -> dict[str, Any]:
        """What kernels are told whose blocks are of whole groups."""
        return {
            **self.shape,
            "parts": self.parts,
            "GROUPS": self.block_groups,
            "WIDTH": self.block_width,
            "EXACT": self.group_channels % self.block_width == 0,
        }


def cut(x: Tensor, *, rows: int, groups: int) -> Cut:
    """How the dense map `x` (N, C, ...) is cut."""
    clips, channels = x.shape[:2]
    positions = x.numel() // (clips * channels)
    return _cut(clips, channels, positions, rows, groups, not x.is_contiguous(), (_TILE, _BLOCK, _PROGRAMS))


@lru_cache(maxsize=1024)
def _cut(
    clips: int, channels: int, positions: int, rows: int, groups: int, is_last: bool, wanted: tuple[int, int, int]
) -> Cut:
    most, block, programs = wanted
    columns = min(block if is_last else max(1, most // power_of_2(positions)), block, power_of_2(channels))
    width = min(power_of_2(channels // groups), columns)
    tile = min(most // columns, power_of_2(positions))
    blocks = clips * _ceil(channels, columns)
    chunk = _ceil(_ceil(positions, _ceil(programs, blocks)), tile) * tile
    return Cut(
        clips=clips,
        channels=channels,
        positions=positions,
        rows=rows,
        groups=groups,
        is_last=is_last,
        columns=columns,
        tile=tile,
        chunk=chunk,
        split=_ceil(positions, chunk),
        block_groups=columns // width,
        block_width=width,
    )


def temporary_bytes(operator: str, x: Tensor, *, rows: int, groups: int) -> int:
    """What `moments` and `gradient` allocate besides their results, in bytes."""
    c, size = cut(x, rows=rows, groups=groups), statistics_dtype(x).itemsize
    if operator == "moments":
        return c.clips * 2 * (c.split * c.parts + 1) * groups * size
    return 2 * (c.clips * (c.split + 1) + c.rows) * c.channels * size


def power_of_2(n: int) -> int:
    """The next, or n itself."""
    return 1 << (n - 1).bit_length()


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
