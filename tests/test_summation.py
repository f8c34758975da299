"""The order of sums against one written down as a recursion, on floats that show each change of it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidgn.geometry import Geometry, running_order
from vidgn.summation import most_set_aside, steps_of_sum, sum_in_order, tree_sum

counts = st.integers(1, 96)


def numbers(count: int) -> torch.Tensor:
    """Of very different sizes: hardly any two orders give the same bits."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 7, generator=generator) * 10 ** torch.empty(count, 7).uniform_(-3, 3, generator=generator)


def by_recursion(forwards: list[torch.Tensor]) -> torch.Tensor:
    """As the module's text has it: halves while the number is even, then one after another."""
    half = len(forwards) // 2
    if len(forwards) % 2:
        total = forwards[0]
        for other in forwards[1:]:
            total = total + other
        return total
    return by_recursion(forwards[0::2]) + by_recursion(forwards[1::2]) if half else forwards[0]


def as_it_comes(values: list[torch.Tensor]) -> torch.Tensor:
    """As gradients are added: to one that grows, with sums set aside."""
    now, aside, most = None, list[torch.Tensor](), 0
    for value, (num_added, is_set_aside) in zip(values, steps_of_sum(len(values)), strict=True):
        now = value if now is None else now + value
        for _ in range(num_added):
            now = now + aside.pop()
        if is_set_aside:
            aside.append(now)
            now = None
        most = max(most, len(aside))
    assert now is not None
    assert not aside
    assert most == most_set_aside(len(values)) <= math.log2(len(values))
    return now


@given(counts)
def test_the_tree_is_the_recursion(count):
    x = numbers(count)
    assert torch.equal(tree_sum(x.clone()), by_recursion(list(x)))


@given(counts, st.integers(0, 6))
def test_any_power_of_two_of_ranks_adds_the_same_pairs(count, log_ranks):
    x, ranks = numbers(count), 2**log_ranks
    if count % ranks:
        return
    order = running_order(count // ranks)
    assert sorted(order) == list(range(count // ranks))
    held = [[x[forward * ranks + rank] for forward in order] for rank in range(ranks)]
    for add in (as_it_comes, sum_in_order):
        sums = torch.stack([add(values) for values in held])
        assert torch.equal(tree_sum(sums), by_recursion(list(x)))


def test_the_order_shows():
    """Else all of this would say nothing."""
    x = numbers(64)
    in_turn = x[0].clone()
    for row in x[1:]:
        in_turn += row
    assert not torch.equal(in_turn, tree_sum(x.clone()))


@pytest.mark.parametrize(("world_size", "same"), [(1, True), (2, True), (4, True), (3, False), (6, False), (12, True)])
def test_which_worlds_are_in_the_tree(world_size, same):
    """12 forwards: 12 ranks hold one each."""
    assert Geometry(24, 1, world_size, 2).sums_in_tree == same
    x = numbers(12)
    held = [[x[f * world_size + rank] for f in running_order(12 // world_size)] for rank in range(world_size)]
    total = tree_sum(torch.stack([sum_in_order(values) for values in held]))
    assert torch.equal(total, by_recursion(list(x))) == same
