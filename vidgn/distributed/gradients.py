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
from torch.nn.parallel import DistributedDataParallel

from vidgn.distributed.ranks import Ranks
from vidgn.summation import steps_of_sum, tree_sum


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
    works: Sequence[Any]  # what is under way
    rows: Tensor | None = None  # of each rank, the share that this one adds


class TreeReduction:
    """What DistributedDataParallel does with a bucket of gradients once backward has filled it: the sum over ranks.

    Each rank is sent its share of the bucket by all others, adds, and sends the sums to all: as many bytes as a ring
    all-reduce, 2 (W-1)/W of the bucket. Both ways go on while backward computes the next bucket. Two ranks have but one
    order, and all-reduce.
    """

    def __init__(self, gradients: GradientSums, ranks: Ranks) -> None:
        self._gradients, self._rank, self._world_size = gradients, ranks.rank, ranks.world_size
        self._buckets: list[_Bucket] = []

    def hook(self, _: None, bucket: GradBucket) -> Future[Tensor]:
        """Begin with `bucket`; with the last one, end with all."""
        self._gradients.add_all(bucket.parameters(), bucket.gradients())
        flat = bucket.buffer()
        future: Future[Tensor] = Future(devices=[flat.device] if flat.is_cuda else [])
        if self._world_size == 2:
            self._buckets.append(_Bucket(flat, future, [dist.all_reduce(flat, async_op=True)]))
        else:
            self._buckets.append(self._send_shares(flat, future))
            self._send_sums(self._buckets[-2:-1])
        if bucket.is_last():
            self._gradients.forget()
            self._send_sums(self._buckets[-1:])
            self._end()
        return future

    def _send_shares(self, flat: Tensor, future: Future[Tensor]) -> _Bucket:
        shares = flat.tensor_split(self._world_size)
        mine = shares[self._rank]
        rows = mine.new_empty(self._world_size, len(mine))
        rows[self._rank] = mine
        return _Bucket(flat, future, self._exchange(shares, rows.unbind()), rows)

    def _send_sums(self, buckets: Iterable[_Bucket]) -> None:
        for bucket in buckets:
            if bucket.rows is not None:
                _wait(bucket)
                shares = bucket.flat.tensor_split(self._world_size)
                mine = shares[self._rank].copy_(tree_sum(bucket.rows))
                bucket.works, bucket.rows = self._exchange([mine] * self._world_size, shares), None

    def _exchange(self, sent: Sequence[Tensor], received: Sequence[Tensor]) -> Sequence[Any]:
        """`sent[r]` to rank r, and `received[r]` from it."""
        operations = []
        for distance in range(1, self._world_size):
            there, back = ((self._rank + d) % self._world_size for d in (distance, -distance))
            operations.append(dist.P2POp(dist.isend, sent[there], there))
            operations.append(dist.P2POp(dist.irecv, received[back], back))
        return dist.batch_isend_irecv(operations)

    def _end(self) -> None:
        for bucket in self._buckets:
            _wait(bucket)
            bucket.future.set_result(bucket.flat)
        self._buckets.clear()


def _wait(bucket: _Bucket) -> None:
    for work in bucket.works:
        work.wait()


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
            model.register_comm_hook(None, TreeReduction(gradients, ranks).hook)
    if compiled:
        model.compile()
    return model
