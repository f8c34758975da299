"""Numbers worked out another way: scipy, resampling video by video, enumeration by itertools, simulation."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from vidgn.report.analyse.statistics import (
    best_sign_flip_p,
    bootstrap_interval,
    detectable_difference,
    over_seeds,
    paired_difference,
    seeds_for,
    sign_flip_test,
    wilson_interval,
)


def outcomes(shape, accuracy, seed):
    return np.random.default_rng(seed).random(shape) < accuracy


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_interval_is_that_of_resampling_videos_one_by_one(num_seeds):
    ours, theirs = outcomes((num_seeds, 300), 0.7, 1), outcomes((num_seeds, 300), 0.62, 2)
    found = paired_difference(ours, theirs)
    difference_V = ours.mean(axis=0) - theirs.mean(axis=0)
    random = np.random.default_rng(7)
    means = [difference_V[random.integers(0, 300, 300)].mean() for _ in range(20_000)]
    low, high = 100 * np.quantile(means, [0.025, 0.975])
    assert found.points == pytest.approx(100 * difference_V.mean())
    assert found.low == pytest.approx(low, abs=0.35)
    assert found.high == pytest.approx(high, abs=0.35)
    assert found.low < found.points < found.high


def test_interval_agrees_with_scipy_bootstrap():
    values = np.random.default_rng(3).choice([-1.0, 0.0, 1.0], size=500, p=[0.1, 0.75, 0.15])
    told = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=0).confidence_interval
    assert bootstrap_interval(values) == pytest.approx((told.low, told.high), abs=0.004)


def test_interval_is_the_same_every_time_and_moves_with_the_seed():
    values = np.random.default_rng(3).normal(size=40)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_equal_arms_have_no_spread_and_nothing_to_detect_with():
    same = outcomes((1, 50), 0.5, 0)
    found = paired_difference(same, same)
    assert (found.points, found.low, found.high, found.discordant) == (0, 0, 0, 0)
    assert found.detectable is None


@pytest.mark.parametrize(("num_videos", "points"), [(19_761, 0.891), (1_530, 3.203), (60, 16.17)])
def test_detectable_difference_at_a_fifth_decided_otherwise(num_videos, points):
    assert 100 * detectable_difference(0.2, num_videos) == pytest.approx(points, abs=0.01)


def test_a_detectable_difference_is_found_four_times_in_five():
    """Simulates McNemar's test at the difference said to be detectable."""
    num_videos, discordant = 4000, 0.2
    difference = detectable_difference(discordant, num_videos)
    share = [(discordant - difference) / 2, 1 - discordant, (discordant + difference) / 2]
    lost, _, gained = np.random.default_rng(5).multinomial(num_videos, share, size=20_000).T
    p = 2 * scipy.stats.norm.sf(np.abs(gained - lost) / np.sqrt(gained + lost))
    assert np.mean(p < 0.05) == pytest.approx(0.80, abs=0.015)


def test_over_seeds():
    found = over_seeds([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3)
    assert found.deviation == pytest.approx(scipy.stats.tstd([1.0, 2.0, 4.0]))
    assert over_seeds([3.0]).deviation is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-30, 30).map(lambda n: n / 10), min_size=2, max_size=8))
def test_sign_flips_against_enumeration(differences):
    found = sign_flip_test(differences)
    means = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = np.mean(np.array(means) >= abs(sum(differences)) - 1e-9)
    assert found.p == pytest.approx(expected)
    assert found.best <= found.p <= 1


def test_sign_flips_against_scipy():
    differences = np.array([0.4, -0.1, 0.9, 0.3, 0.2, 0.8])
    told = scipy.stats.permutation_test(
        (differences, np.zeros(6)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_test(differences).p == pytest.approx(told.pvalue)


def test_what_the_number_of_seeds_can_reach():
    assert sign_flip_test([0.3, 0.5, 0.1]).p == 0.25 == best_sign_flip_p(3)
    assert sign_flip_test([0.3, 0.5, 0.1, 0.2, 0.7, 0.4]).p == 0.03125 == best_sign_flip_p(6)
    assert sign_flip_test([0.3]) is None
    assert (seeds_for(0.05), seeds_for(0.25), seeds_for(0.01)) == (6, 3, 8)


def test_many_seeds_are_sampled():
    found = sign_flip_test(np.random.default_rng(0).normal(0.3, 1, 20))
    told = scipy.stats.ttest_1samp(np.random.default_rng(0).normal(0.3, 1, 20), 0).pvalue
    assert found.p == pytest.approx(told, abs=0.03)


def test_wilson_interval_against_scipy():
    told = scipy.stats.binomtest(13, 60).proportion_ci(method="wilson")
    assert wilson_interval(13, 60) == pytest.approx((told.low, told.high))
