"""What a step costs and sends: bytes between processes, counted; seconds, from a formula with five measured numbers.

step = S/W * clip + exposed                   S slots, W processes, `clip` seconds of forward and backward
exposed = max(tail, all_reduce - backward)    gradients travel behind the last backward of a step, but for the last
                                              bucket, which is full only when that is over
all_reduce = 2 (W-1)/W * bytes / bandwidth + 2 (W-1) * latency      a ring (Patarasuk & Yuan 2009)
"""

from dataclasses import dataclass

from torch import Tensor, nn

from vidgn.geometry import Geometry
from vidgn.models.norms.layers import statistics_layers

BUCKET_BYTES = 25 * 2**20  # DistributedDataParallel's bucket_cap_mb
BACKWARD_SHARE = 2 / 3  # of a clip's seconds: two products of a convolution in backward for one in forward


@dataclass(frozen=True)
class Traffic:
    """Bytes that each process puts into collectives in one step, before what a ring makes of them."""

    gradient_bytes: int  # one all-reduce, in buckets
    statistics_bytes: int  # BN: running averages once a step; groups that span ranks in every forward and backward

    def __str__(self) -> str:
        parts = [f"{self.gradient_bytes / 1e6:.2f} MB of gradients"]
        if self.statistics_bytes:
            parts.append(f"{self.statistics_bytes / 1e6:.3f} MB of BN statistics")
        return f"{' and '.join(parts)} a step between processes"


def traffic(model: nn.Module, geometry: Geometry) -> Traffic:
    """What a step of `model` sends in this layout; nothing in a world of one."""
    if geometry.world_size == 1:
        return Traffic(0, 0)
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    moments = 0  # a mean and a variance per channel
    for _, layer in statistics_layers(model):
        mean = layer.running_mean
        assert isinstance(mean, Tensor)
        moments += 2 * mean.numel() * mean.element_size()
    in_forwards = 2 * moments * geometry.forwards_per_step if geometry.ranks_per_group > 1 else 0
    return Traffic(gradients, moments + in_forwards)


@dataclass(frozen=True)
class Link:
    """Between neighbours of the ring. On several nodes the slowest link counts."""

    bytes_per_second: float
    latency_seconds: float


def all_reduce_seconds(num_bytes: float, world_size: int, link: Link) -> float:
    """A ring all-reduce of `num_bytes` on every process."""
    hops = world_size - 1
    return 2 * hops / world_size * num_bytes / link.bytes_per_second + 2 * hops * link.latency_seconds


def step_seconds(
    *, slots: int, clips_per_forward: int, world_size: int, clip_seconds: float, gradient_bytes: float, link: Link
) -> float:
    """One optimizer update.

    Optimizer and data are not in it: the first is small against a forward, the second is read ahead.

    Args:
        clip_seconds: forward and backward of one clip in one process of `world_size` at work.
    """
    compute = slots / world_size * clip_seconds
    if world_size == 1:
        return compute
    backward = BACKWARD_SHARE * clips_per_forward * clip_seconds
    tail = all_reduce_seconds(min(gradient_bytes, BUCKET_BYTES), world_size, link)
    return compute + max(tail, all_reduce_seconds(gradient_bytes, world_size, link) - backward)
