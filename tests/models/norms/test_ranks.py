"""BN over two processes is BN over their clips in one: values, gradients and moments."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from vidgn.models.activation_memory import run_units
from vidgn.models.norms.layers import BatchNorm, set_statistics_groups

RANKS = 2
MODES = ["keep", "block"]


def make():
    module = BatchNorm(6).double()
    with torch.no_grad():
        module.weight.copy_(torch.linspace(-1, 2, 6))
    return module


def clips():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 2, 3, 3, generator=generator, dtype=torch.float64)
    # Ranks that differ in mean: pooling their variances alone would be wrong.
    x[2:] += 3
    return x, torch.randn(x.shape, generator=generator, dtype=torch.float64)


def on_rank(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    collectives = []
    gather = dist.all_gather
    dist.all_gather = lambda *args, **kwargs: collectives.append(1) or gather(*args, **kwargs)
    group = dist.new_group([0, 1])
    for mode in MODES:
        collectives.clear()
        torch.save(step(rank, group, mode) | {"collectives": len(collectives)}, f"{folder}/{mode}{rank}.pt")
    for name, sizes in UNEVEN.items():
        torch.save(uneven_step(rank, group, sizes), f"{folder}/{name}{rank}.pt")
    dist.destroy_process_group()


UNEVEN = {"three_and_one": [3, 1], "all_and_none": [4, 0], "none": [0, 0]}


def uneven_step(rank, group, sizes):
    """As detectors have it: ranks with different numbers of boxes, on four axes; one may have none."""
    module = make()
    module.is_uneven = True
    set_statistics_groups(module, group_clips=None, process_group=group)
    x, dy = (t[:, :, 0].split([*sizes, 4 - sum(sizes)])[rank].clone() for t in clips())
    x.requires_grad_()
    y = module(x)
    y.backward(dy)
    moments = {"mean": module.batch_mean_GC, "var": module.batch_var_GC, "count": module.batch_count}
    return moments | {"y": y.detach(), "dx": x.grad, "dgamma": module.weight.grad, "dbeta": module.bias.grad}


def step(rank, group, mode):
    module = make()
    set_statistics_groups(module, group_clips=4, process_group=group)
    x, dy = (t.chunk(RANKS)[rank].clone() for t in clips())
    x.requires_grad_()
    y = run_units([(module, nn.Identity())], x, mode=mode)
    y.backward(dy)
    return {
        "y": y.detach(),
        "dx": x.grad,
        "dgamma": module.weight.grad,
        "dbeta": module.bias.grad,
        "mean": module.batch_mean_GC,
        "var": module.batch_var_GC,
        "count": module.batch_count,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(on_rank, args=(str(folder),), nprocs=RANKS)
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_are_one(folder, mode):
    ranks = [torch.load(folder / f"{mode}{rank}.pt") for rank in range(RANKS)]
    module, (x, dy) = make(), clips()
    x.requires_grad_()
    y = module(x)
    y.backward(dy)

    def both(key):
        return torch.cat([r[key] for r in ranks])

    torch.testing.assert_close(both("y"), y.detach(), rtol=0, atol=1e-13)
    torch.testing.assert_close(both("dx"), x.grad, rtol=0, atol=1e-13)
    torch.testing.assert_close(ranks[0]["dgamma"] + ranks[1]["dgamma"], module.weight.grad)
    torch.testing.assert_close(ranks[0]["dbeta"] + ranks[1]["dbeta"], module.bias.grad)
    for r in ranks:
        torch.testing.assert_close(r["mean"], module.batch_mean_GC)
        torch.testing.assert_close(r["var"], module.batch_var_GC)
        assert r["count"] == module.batch_count == 4 * 2 * 3 * 3
        assert r["collectives"] == 2  # moments, and in backward their sums: recomputing does not gather again
    assert torch.equal(ranks[0]["mean"], ranks[1]["mean"])


@pytest.mark.parametrize("name", ["three_and_one", "all_and_none"])
def test_ranks_may_hold_different_numbers(folder, name):
    module = make()
    x, dy = (t[:, :, 0].clone() for t in clips())
    x.requires_grad_()
    y = module(x)
    y.backward(dy)
    parts = [torch.load(folder / f"{name}{rank}.pt") for rank in range(RANKS)]
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(torch.cat([p["y"] for p in parts]), y.detach(), **close)
    torch.testing.assert_close(torch.cat([p["dx"] for p in parts]), x.grad, **close)
    for key, whole in (("dgamma", module.weight.grad), ("dbeta", module.bias.grad)):
        torch.testing.assert_close(sum(p[key] for p in parts), whole, **close)
    for part in parts:
        torch.testing.assert_close(part["mean"], module.batch_mean_GC, **close)
        torch.testing.assert_close(part["var"], module.batch_var_GC, **close)
        assert part["count"] == module.batch_count
    assert torch.equal(parts[0]["mean"], parts[1]["mean"])


def test_nothing_on_any_rank_gives_nothing(folder):
    for rank in range(RANKS):
        part = torch.load(folder / f"none{rank}.pt")
        assert part["y"].shape == part["dx"].shape == (0, 6, 3, 3)
        assert part["count"] == 0
        assert not part["dgamma"].any()
        assert torch.equal(part["mean"], torch.zeros(1, 6, dtype=torch.float64))  # the running one
