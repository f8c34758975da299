"""Gradients of a step: added over a rank's forwards, then over ranks, in the order of vidgn/summation.py."""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # pyright: ignore[reportPrivateImportUsage]
from torch.futures import Future
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from vidgn.distributed.ranks import Ranks
from vidgn.summation import all_gather, steps_of_sum, tree_sum


class GradientSums:
    """This rank's gradients over the forwards of a step. Autograd adds to `grad`; what is added later is set aside."""

    def __init__(self, model: nn.Module, forwards_per_step: int, *, stays: bool = False) -> None:
        """Nothing is set aside yet.

        Args:
            stays: gradients must stay where they are in memory, as a CUDA graph asks for.
        """
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._steps, self._stays = steps_of_sum(forwards_per_step), stays
        self._aside: list[dict[Tensor, Tensor]] = []

    def forget(self) -> None:
        """Nothing is set aside any more: all is added, or the step was not finished."""
        self._aside.clear()

    def forward_is_done(self, number: int) -> None:
        """After the backward of the forward that ran as the `number`-th of its step."""
        num_added, is_set_aside = self._steps[number]
        if not (num_added and self._aside) and not is_set_aside:
            return
        gradients: dict[Tensor, Tensor] = {p: p.grad for p in self._parameters if p.grad is not None}
        for _ in range(min(num_added, len(self._aside))):
            _add(gradients, self._aside.pop())
        if is_set_aside:
            self._set_aside(gradients)

    def add_all(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """In the backward of a step's last forward: add to the gradients of some parameters what was set aside."""
        for sums in reversed(self._aside):
            _add(dict(zip(parameters, gradients, strict=True)), sums)

    def _set_aside(self, gradients: dict[Tensor, Tensor]) -> None:
        if self._stays:
            self._aside.append({p: grad.clone() for p, grad in gradients.items()})
            torch._foreach_zero_(list(gradients.values()))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            return
        self._aside.append(gradients)
        for parameter in gradients:
            parameter.grad = None


def _add(gradients: dict[Tensor, Tensor], sums: dict[Tensor, Tensor]) -> None:
    kept = [sums[p] for p in gradients]
    torch._foreach_add_(list(gradients.values()), kept)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


@dataclass
class _Bucket:
    flat: Tensor
    future: Future[Tensor]
    received: Tensor  # the share that this rank adds, of each rank
    work: Any
    summed: Tensor | None = None  # of all shares, where a bucket can't be cut into equal ones


class TreeReduction:
    """What DistributedDataParallel does with a bucket of gradients once backward has filled it: the sum over ranks.

    Each rank is sent its share of the bucket by all others, adds, and sends the sums to all: as many bytes as a ring
    all-reduce, 2 (W-1)/W of the bucket. Both ways go on while backward computes the next bucket.
    """

    def __init__(self, gradients: GradientSums, world_size: int) -> None:
        self._gradients, self._world_size = gradients, world_size
        self._buckets: list[_Bucket] = []

    def hook(self, _: None, bucket: GradBucket) -> Future[Tensor]:
        """Begin with `bucket`; with the last one, end with all."""
        self._gradients.add_all(bucket.parameters(), bucket.gradients())
        flat = bucket.buffer()
        lacking = -len(flat) % self._world_size
        sent = F.pad(flat, (0, lacking)) if lacking else flat
        received = torch.empty_like(sent)
        work = dist.all_to_all_single(received, sent, async_op=True)
        future: Future[Tensor] = Future(devices=[flat.device] if flat.is_cuda else [])
        self._buckets.append(_Bucket(flat, future, received, work, torch.empty_like(sent) if lacking else None))
        self._send_sums(self._buckets[-2:-1])
        if bucket.is_last():
            self._gradients.forget()
            self._send_sums(self._buckets[-1:])
            self._end()
        return future

    def _send_sums(self, buckets: Iterable[_Bucket]) -> None:
        for bucket in buckets:
            bucket.work.wait()
            share = tree_sum(bucket.received.view(self._world_size, -1))
            into = bucket.flat if bucket.summed is None else bucket.summed
            bucket.work = all_gather(into, share, async_op=True)
            bucket.received = share  # kept while it is sent

    def _end(self) -> None:
        buckets, self._buckets = self._buckets, []
        for bucket in buckets:
            bucket.work.wait()
            if bucket.summed is not None:
                bucket.flat.copy_(bucket.summed[: len(bucket.flat)])
            bucket.future.set_result(bucket.flat)


def wrapped(model: nn.Module, ranks: Ranks, *, gradients: GradientSums | None, compiled: bool) -> nn.Module:
    """The module to call in training: gradients meet in DDP's buckets where there are several ranks.

    Args:
        gradients: to be added over ranks in the order of the tree; None: as DDP does, which gives their mean.
    """
    if ranks.world_size > 1:
        new_name = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
        no_buffers: dict[str, Any] = {"forward_sync_buffers" if new_name else "broadcast_buffers": False}
        model = DistributedDataParallel(model, gradient_as_bucket_view=True, **no_buffers)
        if gradients is not None:
            model.register_comm_hook(None, TreeReduction(gradients, ranks.world_size).hook)
    if compiled:
        model.compile()
    return model
