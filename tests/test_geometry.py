"""Batch geometry against the rule worked out by enumeration."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgn.config.compose import load_config
from vidgn.errors import ConfigError
from vidgn.geometry import Geometry, choose_geometry, group_clips, is_legal, legal_clips_per_forward, legal_world_sizes

sizes = st.integers(1, 12)


@st.composite
def layouts(draw):
    """S, g, W, m: often legal, sometimes not."""
    clips_per_gpu, gpus = draw(sizes), draw(sizes)
    slots = clips_per_gpu * gpus
    group = draw(st.sampled_from([1, clips_per_gpu, slots]))
    divisors = [d for d in range(1, slots + 1) if slots % d == 0]
    world = draw(st.one_of(st.sampled_from(divisors), sizes))
    return slots, group, world, draw(st.one_of(st.sampled_from(divisors), sizes))


def lay_out(slots, group, world, clips):
    """Whether the layout works, found by walking over the slots: no divisibility rule is used."""
    rows = [list(range(first, first + clips)) for first in range(0, slots, clips)]
    if rows[-1][-1] != slots - 1 or len(rows) % world:
        return False  # a forward would reach beyond the step, or some rank would have one less
    for first in range(0, slots, group):
        members = set(range(first, first + group))
        holders = [i for i, row in enumerate(rows) if members & set(row)]
        inside = all(set(rows[i]) <= members for i in holders)
        if len(holders) > 1 and not inside:
            return False  # a forward would hold only parts of groups
        if len({i // world for i in holders}) > 1:
            return False  # a group would spread over forwards that do not run at the same time
        if len(holders) == 1 and len(rows[holders[0]]) % group:
            return False
    spans = {
        tuple(i % world for i, row in enumerate(rows) if set(range(f, f + group)) & set(row))
        for f in range(0, slots, group)
    }
    together = [s for s in spans if len(s) > 1]
    return all(not set(a) & set(b) for a in together for b in together if a != b)  # one process group a rank


@given(layouts())
def test_legal_is_what_can_be_laid_out(layout):
    assert is_legal(*layout) == lay_out(*layout)


@given(layouts())
def test_every_slot_once_and_groups_whole(layout):
    slots, group, world, clips = layout
    if not is_legal(*layout):
        with pytest.raises(ConfigError):
            Geometry(slots, group, world, clips)
        return
    g = Geometry(slots, group, world, clips)
    held = [s for f in range(g.forwards_per_step) for r in range(world) for s in g.slots(r, f)]
    assert sorted(held) == list(range(slots))
    assert g.groups_per_forward * group == clips or g.ranks_per_group * clips == group
    assert sorted(r for ranks in g.rank_groups() for r in ranks) == list(range(world))
    for f in range(g.forwards_per_step):
        for ranks in g.rank_groups():
            together = sorted(s for r in ranks for s in g.slots(r, f))
            if g.ranks_per_group > 1:  # what these ranks hold in a forward is exactly one group
                first = together[0]
                assert first % group == 0
                assert together == list(range(first, first + group))


@given(layouts())
def test_an_error_names_only_legal_choices(layout):
    slots, group, world, clips = layout
    legal = legal_clips_per_forward(slots, group, world)
    assert legal == [m for m in range(1, slots + 1) if is_legal(slots, group, world, m)]
    if clips in legal:
        return
    with pytest.raises(ConfigError) as caught:
        Geometry(slots, group, world, clips)
    message = str(caught.value)
    if legal:
        choices = message.rsplit("write ", 1)[1].removesuffix(" or auto").split(" or ")
        assert choices
        assert {int(c) for c in choices} <= set(legal)
    else:
        assert message.endswith(f"legal are {', '.join(map(str, legal_world_sizes(slots, group)))}")


def cell(kind, *, clips_per_forward="auto"):
    config = load_config([f"norm={kind}", "clips_per_gpu=4", "gpus=8", "weights=x"])
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, clips_per_forward=clips_per_forward))


@pytest.mark.parametrize(
    ("kind", "group"), [("bn", 4), ("sync_bn", 32), ("frozen_bn", 1), ("gn", 1), ("ln", 1), ("in", 1)]
)
def test_group_by_kind(kind, group):
    assert group_clips(cell(kind)) == group


@pytest.mark.parametrize(
    ("kind", "world", "most", "forwards", "clips"),
    [
        ("bn", 1, None, 8, 4),  # one machine without a GPU: a virtual GPU at a time
        ("bn", 1, 100, 1, 32),  # one large GPU: the whole step, eight groups in a forward
        ("bn", 1, 5, 8, 4),
        ("bn", 16, 100, 1, 2),  # each group over two ranks
        ("bn", 8, 3, 2, 2),  # does not fit at 4: a group over two ranks, two forwards
        ("gn", 32, None, 1, 1),
        ("sync_bn", 4, 2, 1, 8),  # one group a step: every clip at once, whatever fits
        ("gn", 1, 3, 16, 2),
    ],
)
def test_auto(kind, world, most, forwards, clips):
    g = choose_geometry(cell(kind), world_size=world, most_clips=most)
    assert (g.forwards_per_step, g.clips_per_forward) == (forwards, clips)


@pytest.mark.parametrize(("crop", "frames", "clips"), [(224, 32, 4), (112, 8, 8), (56, 8, 32)])
def test_without_a_limit_small_clips_go_at_once(crop, frames, clips):
    """2**20 positions a forward, at least a virtual GPU."""
    config = dataclasses.replace(cell("bn"), frames=frames)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, crop=crop))
    assert choose_geometry(config, world_size=1).clips_per_forward == clips


@pytest.mark.parametrize(
    ("world", "most", "before", "clips"),
    [(1, None, 2, 4), (2, None, 8, 8), (4, None, 8, 8), (8, None, 8, 4), (2, 4, 8, 4), (2, 8, 8, 8)],
)
def test_auto_stays_what_the_run_began_with_where_that_is_legal_and_fits(world, most, before, clips):
    assert choose_geometry(cell("bn"), world_size=world, most_clips=most, before=before).clips_per_forward == clips


def test_errors_have_the_numbers_and_the_nearest_choices():
    with pytest.raises(ConfigError, match=r"clips_per_forward=6: 1 processes x 6 clips do not divide the 32 .* 4 or 8"):
        choose_geometry(cell("bn", clips_per_forward=6), world_size=1)
    with pytest.raises(ConfigError, match=r"=2: groups of 4 clips .* can't be laid out on 1 processes x 2 .* write 4"):
        choose_geometry(cell("bn", clips_per_forward=2), world_size=1)
    with pytest.raises(
        ConfigError, match=r"5 processes can't carry 32 clips .* start 4 or 8 .* legal are 1, 2, 4, 8, 16"
    ):
        choose_geometry(cell("bn"), world_size=5)
