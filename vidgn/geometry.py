"""Batch geometry: what the experiment asks for, laid out on the machine there is. Pure integer arithmetic.

The experiment fixes S slots a step and groups of g consecutive slots that share BN statistics. The machine adds W
processes that each push m clips at once. Forward f of rank r holds slots [(f*W + r)*m, +m). Every legal (W, m) gives
the same parameters up to the order of float summation, and the same bits for one m and W = 1, 2, 4, ...: a rank runs
its forwards in an order that vidgn/summation.py needs for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from vidgn.config.schema import Config
from vidgn.errors import ConfigError

_SMALL_FORWARD = 2**20  # positions of all clips' inputs: below, what is the same for any number of clips costs the most


@dataclass(frozen=True)
class Geometry:
    """A legal layout of one step.

    Raises:
        ConfigError: if W*m does not divide S, or neither of g and m divides the other with g/m dividing W.
    """

    slots_per_step: int  # S = gpus * clips_per_gpu
    group_clips: int  # g: consecutive slots that share BN statistics
    world_size: int  # W
    clips_per_forward: int  # m

    def __post_init__(self) -> None:
        if min(self.slots_per_step, self.group_clips, self.world_size, self.clips_per_forward) < 1:
            raise ConfigError(f"batch geometry needs numbers of at least 1, not {self}")
        assert self.slots_per_step % self.group_clips == 0, "a group is a virtual GPU, a clip or the step"
        if not is_legal(self.slots_per_step, self.group_clips, self.world_size, self.clips_per_forward):
            raise ConfigError(_refusal(self))

    @property
    def forwards_per_step(self) -> int:
        """Forwards of each rank that make one step."""
        return self.slots_per_step // (self.world_size * self.clips_per_forward)

    @property
    def groups_per_forward(self) -> int:
        """Statistics groups inside one forward of one rank; 1 also where a group spans ranks."""
        return max(1, self.clips_per_forward // self.group_clips)

    @property
    def ranks_per_group(self) -> int:
        """Ranks that hold one statistics group; 1 unless it is larger than a forward."""
        return max(1, self.group_clips // self.clips_per_forward)

    @property
    def sums_in_tree(self) -> bool:
        """Whether all forwards of a step are added in the order that one process adds them in."""
        w = self.world_size
        return w & (w - 1) == 0 or self.forwards_per_step == 1

    def slots(self, rank: int, number: int) -> range:
        """Slots of a step that the forward holds which rank `rank` runs as its `number`-th, in order."""
        forward = running_order(self.forwards_per_step)[number]
        first = (forward * self.world_size + rank) * self.clips_per_forward
        return range(first, first + self.clips_per_forward)

    def rank_groups(self) -> list[list[int]]:
        """Ranks that normalise together, as process groups: a partition of all ranks."""
        n = self.ranks_per_group
        return [list(range(first, first + n)) for first in range(0, self.world_size, n)]


def running_order(count: int) -> list[int]:
    """Which of its `count` forwards a rank runs first, second, ...: those that are added first are neighbours."""
    powers = count & -count
    order = [0]
    while len(order) < powers:  # 0; 0 1; 0 2 1 3; 0 4 2 6 1 5 3 7
        order = [2 * place for place in order] + [2 * place + 1 for place in order]
    return [place + powers * turn for place in order for turn in range(count // powers)]


def is_legal(slots: int, group: int, world_size: int, clips: int) -> bool:
    """The rule: W*m divides S, and (g divides m, or m divides g and g/m divides W)."""
    if slots % (world_size * clips):
        return False
    return clips % group == 0 or (group % clips == 0 and world_size % (group // clips) == 0)


def legal_clips_per_forward(slots: int, group: int, world_size: int) -> list[int]:
    """Every legal m for S, g, W, rising; empty where W can't carry the experiment."""
    if slots % world_size:
        return []
    share = slots // world_size
    return [m for m in _divisors(share) if is_legal(slots, group, world_size, m)]


def legal_world_sizes(slots: int, group: int) -> list[int]:
    """Every W that has a legal m, rising."""
    return [w for w in _divisors(slots) if legal_clips_per_forward(slots, group, w)]


def group_clips(config: Config) -> int:
    """G by norm kind: a virtual GPU's clips for bn, the whole step for sync_bn, one clip for all others.

    The images of a virtual GPU share a detector's losses, whatever the norm is.
    """
    if config.model.detector and config.norm.traits.shares_over != "step":
        return config.clips_per_gpu
    match config.norm.traits.shares_over:
        case "gpu":
            return config.clips_per_gpu
        case "step":
            return config.slots_per_step
        case "clip" | "none":
            return 1


def choose_geometry(
    config: Config, *, world_size: int, most_clips: int | None = None, before: int | None = None
) -> Geometry:
    """The layout for `world_size` processes.

    `trainer.clips_per_forward=auto` takes the largest legal m up to `most_clips` (what fits in memory; None: as many
    as make a small forward, at least clips_per_gpu, which is right for CPUs), or the smallest legal one where none is
    that small. What the run was begun with is kept where it is legal and fits: the bits of a result depend on it.

    Args:
        before: m of the run's first start.

    Raises:
        ConfigError: with the numbers and the nearest legal choices.
    """
    slots, group = config.slots_per_step, group_clips(config)
    clips = config.trainer.clips_per_forward
    if config.model.detector:  # a virtual GPU's images go through it together
        if config.norm.traits.shares_over == "step" and world_size != config.gpus:
            raise ConfigError(
                f"norm={config.norm.kind} takes a detector's statistics over all {config.gpus} virtual GPUs at once, "
                f"each on a process of its own: write launch.nproc_per_node={config.gpus}, or norm=bn"
            )
        if config.gpus % world_size:
            near = _nearest(world_size, list(_divisors(config.gpus)))
            raise ConfigError(
                f"{world_size} processes can't carry a detector's {config.gpus} virtual GPUs: start {near} "
                "(launch.nproc_per_node x launch.nnodes)"
            )
        clips = config.clips_per_gpu
    if clips == "auto":
        legal = legal_clips_per_forward(slots, group, world_size)
        if not legal:
            raise ConfigError(_refuse_world_size(slots, group, world_size))
        small = _SMALL_FORWARD // (config.frames * config.data.crop**2)
        limit = max(config.clips_per_gpu, small) if most_clips is None else most_clips
        clips = max((m for m in legal if m <= limit), default=legal[0])
        if before in legal and (most_clips is None or before <= most_clips):
            clips = before
    return Geometry(slots, group, world_size, clips)


def order_of_sums(config: Config, geometry: Geometry) -> str:
    """What a start writes down of the order of its sums: `canonical` on 1, 2, 4, ... ranks, or one of its own."""
    if config.trainer.summation == "canonical" and geometry.sums_in_tree:
        return "canonical"
    return f"{config.trainer.summation} of {geometry.world_size} processes"


def _divisors(number: int) -> Iterator[int]:
    return (d for d in range(1, number + 1) if number % d == 0)


def _refusal(g: Geometry) -> str:
    legal = legal_clips_per_forward(g.slots_per_step, g.group_clips, g.world_size)
    if not legal:
        return _refuse_world_size(g.slots_per_step, g.group_clips, g.world_size)
    reason = (
        f"{g.world_size} processes x {g.clips_per_forward} clips do not divide the {g.slots_per_step} clips of a step"
        if g.slots_per_step % (g.world_size * g.clips_per_forward)
        else f"groups of {g.group_clips} clips that share BN statistics can't be laid out on "
        f"{g.world_size} processes x {g.clips_per_forward} clips"
    )
    nearest = _nearest(g.clips_per_forward, legal)
    return f"trainer.clips_per_forward={g.clips_per_forward}: {reason}; write {nearest} or auto"


def _refuse_world_size(slots: int, group: int, world_size: int) -> str:
    legal = legal_world_sizes(slots, group)
    return (
        f"{world_size} processes can't carry {slots} clips a step in statistics groups of {group}: "
        f"start {_nearest(world_size, legal)} (launch.nproc_per_node x launch.nnodes); "
        f"legal are {', '.join(map(str, legal))}"
    )


def _nearest(value: int, legal: list[int]) -> str:
    below = [v for v in legal if v <= value][-1:]
    above = [v for v in legal if v > value][:1]
    return " or ".join(map(str, below + above))
