"""Ranks of labels and sums of counts, against a slow second way."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidgn.training.tester import SplitScores, VideoScore, label_ranks

scores = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, math.nan]), min_size=7, max_size=7), min_size=1, max_size=5
)


@given(scores, st.integers(0, 6))
def test_rank_is_the_place_in_a_stable_sort(rows, label):
    ranks = label_ranks(torch.tensor(rows), torch.full((len(rows),), label))
    for row, rank in zip(rows, ranks.tolist(), strict=True):
        if any(map(math.isnan, row)):
            assert rank >= 5
        else:
            assert sorted(range(7), key=lambda k: (-row[k], k)).index(label) == rank


def test_a_nan_is_wrong_even_with_few_classes():
    assert label_ranks(torch.tensor([[math.nan, 1.0]]), torch.tensor([1])) >= 5


def test_percentages_count_every_video():
    videos = [VideoScore("a", 0, "ok", 0, 0.5, 0, 0.5), VideoScore("b", 1, "ok", 4, 0.25, 0, 0.5)]
    videos += [VideoScore("c,d", 1, "unreadable", -1, 0.0, -1, 0.0), VideoScore('e"', 2, "ok", 5, 0.1, 0, 0.5)]
    tested = SplitScores(tuple(videos), ("c,d: torn",))
    assert (tested.top_percent(1), tested.top_percent(5), tested.num_videos) == (25.0, 50.0, 4)
    assert tested.loss == pytest.approx(-(math.log(0.5) + math.log(0.25) + math.log(0.1)) / 3)
    lines = tested.csv().splitlines()
    assert lines[0] == "id,label,status,rank,label_score,prediction,prediction_score"
    assert lines[3].startswith('"c,d",1,unreadable,-1,')
    assert lines[4].startswith('"e""",2,ok,5,')
