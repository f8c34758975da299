"""Statistics and sums of norms over the ranks of a process group, each rank with the same bits."""

import torch
import torch.distributed as dist
from torch import Tensor

from vidgn.models.norms.define import operator
from vidgn.models.norms.slices import merge
from vidgn.summation import sum_over_ranks


@operator("pool_moments(Tensor mean, Tensor var, str group_name) -> (Tensor, Tensor)")
def pool_moments(mean: Tensor, var: Tensor, group_name: str) -> tuple[Tensor, Tensor]:
    """Moments of what the ranks of a process group hold together, each the same number of elements."""
    group = _process_group(group_name)
    local = torch.stack([mean, var])
    gathered = local.new_empty(group.size(), *local.shape)
    dist.all_gather(list(gathered.unbind()), local, group=group)
    means, variances = gathered.view(group.size(), 2, -1).unbind(1)
    mean_R1, var_R1 = merge(means.t().contiguous(), variances.t().contiguous(), groups=1)
    return mean_R1.view(mean.shape), var_R1.view(mean.shape)


@torch.library.register_fake("vidgn::pool_moments")
def _(mean: Tensor, var: Tensor, group_name: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(mean), torch.empty_like(var)


@operator("pool_uneven(Tensor mean, Tensor var, int count, str group_name) -> (Tensor, Tensor, Tensor)")
def pool_uneven(mean: Tensor, var: Tensor, count: int, group_name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The same of ranks that hold different numbers of elements, `count` on this one; and how many that are in all.

    Source: Chan et al. 1979.
    """
    group = _process_group(group_name)
    local = torch.cat([mean.flatten(), var.flatten(), mean.new_tensor([float(count)])]).double()
    gathered = local.new_empty(group.size(), local.numel())
    dist.all_gather(list(gathered.unbind()), local, group=group)
    total = gathered[:, -1].sum()
    share_W1 = gathered[:, -1:] / total.clamp_min(1)
    means_WC, variances_WC = gathered[:, :-1].chunk(2, dim=1)
    mean_C = (share_W1 * means_WC).sum(0)
    var_C = (share_W1 * (variances_WC + (means_WC - mean_C).square())).sum(0)
    return mean_C.view(mean.shape).to(mean.dtype), var_C.view(mean.shape).to(mean.dtype), total


@torch.library.register_fake("vidgn::pool_uneven")
def _(mean: Tensor, var: Tensor, count: int, group_name: str) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(mean), torch.empty_like(var), mean.new_empty((), dtype=torch.float64)


def add_up(sums: Tensor, *, group_name: str) -> None:
    """Over the ranks of a process group, in place."""
    group = _process_group(group_name)
    sums.copy_(sum_over_ranks(sums, group.size(), group))


def _process_group(name: str) -> dist.ProcessGroup:
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[reportPrivateImportUsage]
