"""The order in which the numbers of a step are added: one tree over its forwards, whatever processes run them.

A step is F = odd * P forwards of m clips, P the largest power of two in F, numbered as their slots are. Every P-th of
them is added one after another, which leaves P sums; then the upper half of the sums is added to the lower half, until
one is left. A rank of W = 2**w <= P processes holds every W-th forward. These are whole parts of the tree, and the sums
of the ranks are what it has with w halvings to go: they are added in the same way. Floats are added in the same pairs,
so the bits are the same for every such W. With other W the order is fixed too, but another one.

A rank runs its forwards in an order in which sums that meet are neighbours, and sets aside log2 of them at most.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from vidgn.geometry import running_order


def tree_sum(rows: Tensor) -> Tensor:
    """Sum over the first axis in the order of the tree: (F, ...) -> (...), a view of `rows`, which are used up."""
    count = len(rows)
    parts = rows.unflatten(0, (-1, count & -count))
    total = parts[0]
    for part in parts[1:]:
        total.add_(part)
    while len(total) > 1:
        low, high = total.chunk(2)
        total = low.add_(high)
    return total[0]


def sum_in_order(values: Sequence[Tensor]) -> Tensor:
    """Sum of what a rank's forwards gave, in the order in which they ran."""
    rows = torch.stack(list(values))
    order = running_order(len(values))
    return tree_sum(rows if order == sorted(order) else rows[sorted(range(len(order)), key=order.__getitem__)])


def sum_over_ranks(tensor: Tensor, world_size: int, group: dist.ProcessGroup | None = None) -> Tensor:
    """Sum over the ranks of a group (None: all), each of which gets all tensors."""
    if world_size == 1:
        return tensor
    rows = tensor.new_empty(world_size, *tensor.shape)
    dist.all_gather(list(rows), tensor.contiguous(), group=group)
    return tree_sum(rows)


def sum_each_over_ranks(tensors: Sequence[Tensor], world_size: int) -> list[Tensor]:
    """Several tensors of any types over all ranks, each summed as by itself, in one collective."""
    if world_size == 1:
        return list(tensors)
    parts = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    rows = parts[0].new_empty(world_size, sum(map(len, parts)))
    dist.all_gather(list(rows), torch.cat(parts))
    columns = rows.split([len(part) for part in parts], dim=1)
    return [
        tree_sum(column.contiguous().view(tensor.dtype).view(world_size, *tensor.shape))
        for column, tensor in zip(columns, tensors, strict=True)
    ]


def steps_of_sum(count: int) -> list[tuple[int, bool]]:
    """How a sum that grows as forwards run is kept to the tree.

    Returns:
        For each forward, once it is added to the sum: how many of the sums set aside are to be added too, the last
        first; and whether the sum is to be set aside then, so that the next forward begins a new one.
    """
    powers = count & -count
    chain, steps = count // powers, list[tuple[int, bool]]()
    for number in range(powers):
        steps += [(0, False)] * (chain - 1)
        halvings = (number + 1 & -(number + 1)).bit_length() - 1  # of the tree that end with this chain
        is_first_of_pair = chain == 1 and number % 2 == 0  # the second is added to it as it comes
        is_last = number == powers - 1
        steps.append((halvings - (chain == 1 and halvings > 0), not is_last and not is_first_of_pair))
    return steps


def most_set_aside(count: int) -> int:
    """The most sums that are set aside at a time."""
    most = now = 0
    for added, is_set_aside in steps_of_sum(count):
        now += is_set_aside - added
        most = max(most, now)
    return most
