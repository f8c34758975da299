"""Windows along a video: where they lie, and that each has the clips that a test has of the same segment."""

import functools
import re
import tracemalloc

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.encoded_videos import FPS, KINDS, encode, write_damaged
from vidgn.config.compose import load_config
from vidgn.data.clips.read import ClipGeometry, ReadTask, read_clips
from vidgn.data.clips.windows import WindowReader, WindowRule
from vidgn.data.datasets.manifest import Row
from vidgn.data.decode.in_turn import FileFrames, ShownFrame
from vidgn.errors import VidgnError


@functools.cache
def geometry(*overrides: str) -> ClipGeometry:
    size = ["frames=4", "span=8", "data.crop=28", "data.short_side=[28,32]", "views=center"]
    config = load_config([*size, *overrides])
    return ClipGeometry.of(config.data, frames=config.frames, stride=config.stride, views=config.views)


def windows(path, seconds, stride, how):
    stream = FileFrames(str(path))
    found = list(WindowReader(stream, how, WindowRule(seconds, stride)))
    stream.close()
    return found


def segment(path, start, end, how):
    task = ReadTask(0, Row("", str(path), 0, None, segment=(start, end)), (), how)
    clips_VTHWC = np.empty((task.num_clips, *how.clip_shape), np.uint8)
    read_clips(task, clips_VTHWC)
    return clips_VTHWC


HALVES = (0.5, 0.2, ())
KINDS_AND_RULES = [
    *((kind, *HALVES) for kind in ("h264_closed", "h264_rotated", "h264_edit_list", "h264_open_trim", "h264_odd_size")),
    *((kind, *HALVES) for kind in ("h264_late_start", "vp9", "mpeg4_packed_avi", "mjpeg", "one_frame")),
    *((kind, 0.28, 0.4, ("views=paper",)) for kind in ("h264_open", "mpeg4_b_frames_avi")),
    *((kind, 0.6, 0.6, ("data.fps=10",)) for kind in ("h264_variable_rate", "mpeg4_b_frames_avi")),
    ("h264_variable_rate", 0.6, 0.3, ("data.sampling=segments",)),
]


@pytest.mark.parametrize(("kind", "seconds", "stride", "overrides"), KINDS_AND_RULES)
def test_a_window_has_the_clips_of_the_segment(kind, seconds, stride, overrides, tmp_path):
    path, how = KINDS[kind](tmp_path), geometry(*overrides)
    found = windows(path, seconds, stride, how)
    assert found
    for number, window in enumerate(found):
        assert window.error is None
        start, end = round(number * stride, 6), round(number * stride + seconds, 6)
        assert window.start_seconds == start
        assert window.end_seconds == end if number < len(found) - 1 else window.end_seconds <= end
        assert (window.clips_VTHWC == segment(path, start, window.end_seconds, how)).all()
        assert (window.clips_VTHWC == segment(path, start, end, how)).all()


def test_the_last_window_is_the_first_that_holds_the_last_frame(tmp_path):
    """40 frames at 25 a second: 1.6 seconds."""
    path, how = KINDS["h264_closed"](tmp_path), geometry()
    told = [(w.start_seconds, w.end_seconds, w.num_frames) for w in windows(path, 0.6, 0.5, how)]
    assert told == [(0, 0.6, 15), (0.5, 1.1, 15), (1, 1.6, 15)]
    told = [(w.start_seconds, w.end_seconds, w.num_frames) for w in windows(path, 0.6, 0.4, how)]
    assert told == [(0, 0.6, 15), (0.4, 1, 15), (0.8, 1.4, 15), (1.2, 1.6, 10)]
    told = [(w.start_seconds, w.end_seconds, w.num_frames) for w in windows(path, 0.2, 1, how)]
    assert told == [(0, 0.2, 5), (1, 1.2, 5)]
    (whole,) = windows(path, 60, 1, how)
    assert (whole.start_seconds, whole.end_seconds, whole.num_frames) == (0, 1.6, 40)


class Made:
    """A stream whose frames are shown at `times` and hold their number. `known`: whether that is told before."""

    path, height, width = "made", 28, 28

    def __init__(self, times, known):
        self.times, self.all_seconds = times, times if known else None
        self.frame_seconds = (times[-1] - times[0]) / max(1, len(times) - 1) if known else 0.01

    def frames(self):
        for number, seconds in enumerate(self.times):
            picture = np.full((28, 28, 3), number % 256, np.uint8)
            yield ShownFrame(number, seconds, lambda boxes, p=picture: [p for _ in boxes])

    def close(self):
        pass


@hypothesis.settings(max_examples=50)
@given(
    gaps=st.lists(st.integers(1, 60) | st.integers(1, 400), min_size=1, max_size=25),
    seconds=st.integers(1, 80),
    stride=st.integers(1, 80),
    known=st.booleans(),
)
def test_windows_cover_every_frame_once_in_order_and_stop(gaps, seconds, stride, known):
    """In hundredths of a second, gaps included: against every k tried by hand."""
    times = [100 + sum(gaps[:n]) / 100 for n in range(len(gaps))]
    stream = Made(times, known)
    found = list(WindowReader(stream, geometry(), WindowRule(seconds / 100, stride / 100)))
    marks = [round(100 * (t - 100)) for t in times]
    expected, k = [], 0
    while True:
        held = [m for m in marks if k * stride <= m < k * stride + seconds]
        if held:
            expected.append((k * stride / 100, len(held)))
        if k * stride + seconds > marks[-1]:
            break
        k += 1
    assert [(w.start_seconds, w.num_frames) for w in found if w.error is None] == expected
    for window in found:
        assert (window.clips_VTHWC is None) == (window.num_frames == 0)


def test_a_gap_is_said_once():
    times = [0.0, 0.5, 1e6, 1e6 + 0.5]
    found = list(WindowReader(Made(times, known=False), geometry(), WindowRule(1, 0.25)))
    assert [(w.start_seconds, w.num_frames, w.error) for w in found] == [
        (0, 2, None),
        (0.25, 1, None),
        (0.5, 1, None),
        (0.75, 0, "no frame is shown between 0.75 and 1e+06 s"),
        (999999.25, 1, None),
        (999999.5, 1, None),
        (999999.75, 2, None),
    ]


def test_a_damaged_stretch_costs_its_windows(tmp_path):
    """Three packets from the 28th on are zeros, and what builds on them can't be trusted."""
    path, how = write_damaged("torn.mp4", tmp_path), geometry("views=center")
    found = windows(path, 0.4, 0.4, how)
    assert [w.error is None for w in found] == [True, True, False, False]
    for window in found[:2]:
        assert (window.clips_VTHWC == segment(path, window.start_seconds, window.end_seconds, how)).all()
    for window in found[2:]:
        assert re.fullmatch(r"frame (2[789]|3\d) does not decode", window.error)
        with pytest.raises(VidgnError, match="does not decode"):
            segment(path, window.start_seconds, window.end_seconds, how)


def test_memory_does_not_grow_with_the_length(tmp_path):
    """But for the list of frames: each pixel that is held would cost 2352 bytes a frame."""
    peaks = []
    for num_frames in (150, 1500):
        path = encode(tmp_path / f"{num_frames}.mkv", "mpeg4", size=(32, 32), num_frames=num_frames)
        stream = FileFrames(str(path))
        tracemalloc.start()
        num_windows = sum(1 for _ in WindowReader(stream, geometry(), WindowRule(0.8, 0.4)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        stream.close()
        assert num_windows == num_frames / FPS / 0.4 - 1
    assert peaks[1] - peaks[0] < 300 * 1350


@pytest.mark.parametrize(("seconds", "stride"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0), (1, float("inf"))])
def test_windows_without_length_are_refused(seconds, stride):
    with pytest.raises(VidgnError, match=r"--(windows|stride) .*: give seconds"):
        WindowRule(seconds, stride)
