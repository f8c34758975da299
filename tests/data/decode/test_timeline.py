"""Where decoding starts and what it covers, on packet lists written by hand."""

import itertools

import pytest

from vidgn.data.decode.timeline import Damage, PacketInfo, Segment, Timeline, build_timeline


def timeline(text: str) -> Timeline:
    """`K` keyframe, `-` other, `x` discarded; packets in decode order as kind and pts: 'K0 -3 -1 -2 K6'."""
    packets = []
    for word in text.split():
        packets.append(PacketInfo(int(word[1:]), word[0] in "KX", word[0] in "xX"))
    built = build_timeline(packets)
    assert built is not None
    return built


def test_frames_are_numbered_in_presentation_order() -> None:
    assert timeline("K0 -30 -10 -20 K40").shown_pts == (0, 10, 20, 30, 40)


def test_discarded_packets_are_no_frames_but_can_be_started_from() -> None:
    trimmed = timeline("X-20 x-10 -0 -10 K20")
    assert trimmed.shown_pts == (0, 10, 20)
    assert trimmed.has_discarded
    assert trimmed.start_of(0) == 0


def test_decoding_starts_at_the_keyframe_before() -> None:
    closed = timeline("K0 -3 -1 -2 K4 -7 -5 -6")
    assert [closed.start_of(pts) for pts in range(8)] == [0, 0, 0, 0, 4, 4, 4, 4]
    assert not closed.is_open_gop()


def test_pictures_shown_before_their_keyframe_need_the_one_before() -> None:
    open_gop = timeline("K0 -3 -1 -2 K6 -4 -5 -9 -7 -8")
    assert open_gop.is_open_gop()
    assert [open_gop.start_of(pts) for pts in (3, 4, 5, 6, 7)] == [0, 0, 0, 4, 4]


def test_only_wanted_stretches_are_decoded() -> None:
    closed = timeline("K0 -1 -2 -3 K4 -5 -6 -7 K8 -9 -10 -11")
    assert list(closed.segments([1, 2])) == [Segment(0, 2, [1, 2])]
    assert list(closed.segments([1, 9])) == [Segment(0, 1, [1]), Segment(8, 9, [9])]
    assert list(closed.segments([3, 4, 11])) == [Segment(0, 3, [3]), Segment(4, 4, [4]), Segment(8, 11, [11])]


def test_stretches_never_overlap_in_open_gops() -> None:
    open_gop = timeline("K0 -3 -1 -2 K6 -4 -5 -9 -7 -8")
    assert list(open_gop.segments([4, 6])) == [Segment(0, 5, [4, 6])]
    for first in range(10):
        for last in range(first, 10):
            segments = list(open_gop.segments([first, last] if last > first else [first]))
            assert all(a.last < b.first for a, b in itertools.pairwise(segments))


@pytest.mark.parametrize("pts", [[0, None, 2], [0, 1, 1]])
def test_without_usable_time_stamps_there_is_no_timeline(pts: list[int | None]) -> None:
    assert build_timeline([PacketInfo(p, True, False) for p in pts]) is None


def test_frames_known_not_to_come_out_are_dropped() -> None:
    cut_off = timeline("K6 -4 -5 -9 -7 -8")
    assert cut_off.leading() == (4, 5)
    assert cut_off.without({4, 5}).shown_pts == (6, 7, 8, 9)


def test_without_keyframes_no_gop_is_open() -> None:
    assert not timeline("-0 -2 -1").is_open_gop()


def test_pictures_behind_a_failed_packet_are_sound_again_from_the_next_keyframe_on() -> None:
    """In decode order K0 1 2 3 K4 5, where packet 2 fails; pictures come as they are shown."""
    damage = Damage()
    damage.add(2)
    sound = [damage.is_sound(order, is_corrupt=False, is_keyframe=order in (0, 4)) for order in (0, 1, 3, 4, 5)]
    assert sound == [True, True, False, True, True]


def test_a_keyframe_that_failed_itself_is_not_sound_and_mends_nothing() -> None:
    damage = Damage()
    damage.add(4)
    assert [damage.is_sound(order, is_corrupt=False, is_keyframe=order == 4) for order in (4, 5)] == [False, False]


def test_what_is_corrupt_before_the_first_keyframe_spoils_nothing() -> None:
    damage = Damage()
    assert not damage.is_sound(1, is_corrupt=True, is_keyframe=False)
    assert damage.is_sound(0, is_corrupt=False, is_keyframe=True)
    assert damage.is_sound(2, is_corrupt=False, is_keyframe=False)
    assert not damage.is_sound(3, is_corrupt=True, is_keyframe=False)
    assert not damage.is_sound(4, is_corrupt=False, is_keyframe=False)


def test_without_times_a_keyframe_mends_what_lies_surely_before_it() -> None:
    damage = Damage()
    damage.add(10)
    assert not damage.is_sound(20, earliest=5, is_corrupt=False, is_keyframe=True)
    assert damage.is_sound(30, earliest=15, is_corrupt=False, is_keyframe=True)
