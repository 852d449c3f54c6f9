import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posedistill.metrics.statistics import (
    _weighted_medians,
    gap_closed,
    interval,
    paired_difference,
    score,
    summarise,
)


def test_summary_has_the_sample_deviation_and_none_for_one_seed():
    assert summarise([0.2, 0.4, 0.6]).std == pytest.approx(0.2)
    assert np.isnan(summarise([0.4]).std) and summarise([0.4]).mean == 0.4
    assert np.isnan(summarise([]).mean)


def test_a_constant_gain_has_an_interval_of_no_width():
    difference = paired_difference([0.1, 0.5, 0.9], [0.2, 0.6, 1.0])
    assert (difference.low, difference.mean, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert difference.significant and difference.basis == "Student's t, 3 seeds"


def test_pairing_removes_what_the_seeds_share():
    rng = np.random.default_rng(0)
    luck = rng.normal(0.5, 0.2, 8)
    gain = paired_difference(luck, luck + 0.03 + rng.normal(0, 0.002, 8))
    assert gain.significant and gain.high - gain.low < 0.01
    shuffled = paired_difference(luck, np.roll(luck, 3) + 0.03)
    assert not shuffled.significant


def test_three_seeds_are_judged_by_students_t():
    difference = paired_difference([0.0, 0.0, 0.0], [0.01, 0.02, 0.03])
    half = 4.302653 * 0.01 / np.sqrt(3)  # the 97.5 % quantile of t with two degrees of freedom, from tables
    assert (difference.low, difference.high) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-7)
    assert not difference.significant


def test_one_seed_without_targets_has_no_interval():
    difference = paired_difference([0.5], [0.6])
    assert difference.mean == pytest.approx(0.1) and np.isnan(difference.low)
    assert not difference.significant


def test_the_target_bootstrap_agrees_with_the_normal_interval():
    rng = np.random.default_rng(1)
    first, second = rng.random((1, 900)) < 0.6, rng.random((1, 900)) < 0.7
    difference = paired_difference(first, second)
    d = second.astype(float) - first
    half = 1.96 * d.std() / 30
    assert difference.basis == "paired bootstrap, 1 seed x 900 targets"
    assert (difference.low, difference.high) == pytest.approx((d.mean() - half, d.mean() + half), abs=0.006)


def test_resampling_seeds_as_well_widens_the_interval():
    rng = np.random.default_rng(2)
    shift = np.array([-0.2, 0.0, 0.2])[:, None]
    first = rng.random((3, 500)) < 0.5
    second = rng.random((3, 500)) < 0.5 + shift
    both = paired_difference(first, second)
    targets_only = paired_difference(first.mean(axis=0)[None], second.mean(axis=0)[None])
    assert both.high - both.low > 2 * (targets_only.high - targets_only.low)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(0, 5), st.booleans())
def test_the_interval_holds_the_mean_is_antisymmetric_in_it_and_is_repeatable(scores, seed, by_target):
    other = np.roll(scores, 1)
    if by_target:
        scores, other = [scores], [other]
    forward, back = paired_difference(scores, other, 500, seed), paired_difference(other, scores, 500, seed)
    assert forward.low - 1e-9 <= forward.mean <= forward.high + 1e-9
    assert forward.mean == pytest.approx(-back.mean, abs=1e-9)
    assert forward == paired_difference(scores, other, 500, seed)


@pytest.mark.parametrize("pair", [([0.1], [0.1, 0.2]), ([], []), (np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))])
def test_what_cannot_be_paired_is_refused(pair):
    with pytest.raises(ValueError, match="expected \\[S\\] or \\[S, T\\]"):
        paired_difference(*pair)


def test_the_teacher_closes_the_whole_gap_and_the_baseline_none_of_it():
    rng = np.random.default_rng(0)
    baseline = (rng.random((3, 200)) < 0.4).astype(float)
    teacher = (rng.random(200) < 0.8).astype(float)
    whole = gap_closed(baseline, np.tile(teacher, (3, 1)), teacher)
    none = gap_closed(baseline, baseline, teacher)
    assert (whole.mean, whole.low, whole.high) == pytest.approx((1, 1, 1))
    assert (none.mean, none.low, none.high) == (0, 0, 0)


def test_half_of_the_gap_has_an_interval_around_it():
    rng = np.random.default_rng(1)
    baseline, teacher = np.zeros((3, 300)), np.ones(300)
    half = gap_closed(baseline, (rng.random((3, 300)) < 0.5).astype(float), teacher)
    assert half.low < 0.5 < half.high and half.high - half.low < 0.3


def test_without_a_gap_nothing_is_closed():
    rng = np.random.default_rng(2)
    baseline, teacher = ((rng.random(shape) < 0.5).astype(float) for shape in ((3, 100), 100))
    assert gap_closed(baseline, np.ones((3, 100)), teacher) is None  # not ahead beyond chance
    assert gap_closed(np.ones((3, 100)), baseline, teacher) is None  # behind


def test_the_bootstrap_of_medians_is_the_one_of_repeated_targets():
    """Counting along sorted errors must give what drawing them one by one gives."""
    rng = np.random.default_rng(0)
    for targets in (1, 2, 7, 20):
        errors = rng.lognormal(size=(3, targets)).round(1)  # with ties
        counts = rng.multinomial(targets, np.full(targets, 1 / targets), 40)
        drawn = [np.repeat(errors, row, axis=1) for row in counts]
        expected = np.array([np.median(sample, axis=1) for sample in drawn])
        np.testing.assert_allclose(_weighted_medians(errors, counts), expected)


def test_a_difference_of_medians_is_not_a_median_difference():
    first, second = np.array([[1.0, 2.0, 9.0]]), np.array([[4.0, 2.5, 1.0]])
    assert paired_difference(first, second, statistic="median").mean == 0.5
    assert paired_difference([[1, 5, 9]], [[2, 6, 1]], statistic="median").mean == -3  # the median difference is 1
    seeds = paired_difference([[1, 2, 3], [5, 6, 7]], [[2, 2, 2], [4, 4, 9]], statistic="median")
    assert seeds.mean == ((2 - 2) + (4 - 6)) / 2 and seeds.basis == "paired bootstrap of medians, 2 seeds x 3 targets"


@given(st.lists(st.floats(0.01, 10), min_size=5, max_size=12), st.integers(1, 3), st.floats(-1, 1), st.floats(0.1, 10))
def test_medians_shift_and_scale_and_their_difference_is_antisymmetric(errors, seeds, shift, scale):
    rng = np.random.default_rng(seeds)
    first = np.array([rng.permutation(errors) for _ in range(seeds)])
    second = np.array([rng.permutation(errors) for _ in range(seeds)])
    forward, back, moved, scaled = (
        paired_difference(one, other, 300, statistic="median")
        for one, other in ((first, second), (second, first), (first, second + shift), (scale * first, scale * second))
    )
    values = np.array([forward.mean, forward.low, forward.high])
    np.testing.assert_allclose([-back.mean, -back.high, -back.low], values, atol=1e-9)
    np.testing.assert_allclose([moved.mean, moved.low, moved.high], values + shift, atol=1e-9)
    np.testing.assert_allclose([scaled.mean, scaled.low, scaled.high], scale * values, rtol=1e-9, atol=1e-9)


def test_the_interval_of_medians_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        hard = rng.normal(size=150)  # what is hard is hard for both
        first, second = (np.exp(hard + 0.2 * rng.normal(size=(1, 150))) for _ in range(2))
        difference = paired_difference(first, 0.8 * second, 400, statistic="median")
        hits += difference.low <= -0.2 <= difference.high
    assert hits / 60 >= 0.85


def test_pairing_helps_medians_too():
    rng = np.random.default_rng(1)
    errors = rng.lognormal(size=(3, 200))
    paired = paired_difference(errors, 0.9 * errors, statistic="median")
    mixed = paired_difference(errors, 0.9 * rng.permuted(errors, axis=1), statistic="median")
    assert paired.significant and paired.high < 0
    assert mixed.high - mixed.low > 3 * (paired.high - paired.low)


def test_poses_that_were_not_found_leave_a_median_but_no_interval_where_they_could_reach_it():
    errors = np.arange(1.0, 41.0)[None]
    few, many = errors.copy(), errors.copy()
    few[0, -2:], many[0, 21:] = np.inf, np.inf
    assert np.isfinite(paired_difference(errors, few, statistic="median").low)
    unbounded = paired_difference(errors, many, statistic="median")
    assert unbounded.mean == 0 and np.isnan(unbounded.low) and not unbounded.significant


def test_half_of_a_gap_in_errors():
    rng = np.random.default_rng(0)
    baseline = rng.lognormal(size=(3, 200))
    half = gap_closed(baseline, 0.75 * baseline, 0.5 * baseline[0], statistic="median", lower_is_better=True)
    assert half.low < 0.5 < half.high and 0.3 < half.mean < 0.7
    exact = gap_closed(baseline[:1], 0.75 * baseline[:1], 0.5 * baseline[0], statistic="median", lower_is_better=True)
    assert (exact.mean, exact.low, exact.high) == pytest.approx((0.5, 0.5, 0.5))
    worse = gap_closed(baseline[:1], 1.5 * baseline[:1], 0.5 * baseline[0], statistic="median", lower_is_better=True)
    assert worse.mean == pytest.approx(-1)
    assert gap_closed(baseline, baseline, 2 * baseline[0], statistic="median", lower_is_better=True) is None


def test_means_over_categories_weigh_rare_ones_as_much():
    outcomes, groups = np.array([1.0, 0.0, 0.0, 0.0]), ["rare", "common", "common", "common"]
    assert score(outcomes, "mean", groups) == 0.5 and score(outcomes, "mean") == 0.25
    assert score(np.array([4.0, 1.0, 2.0, 30.0]), "median", groups) == 3.0
    found = interval(outcomes, "mean", groups)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)  # drawn within each category
    better = np.array([[1.0, 1.0, 0.0, 1.0]])
    assert paired_difference(outcomes[None], better, groups=groups).mean == pytest.approx(1 / 3)
    assert paired_difference(outcomes[None], better).mean == 0.5


def test_the_interval_of_a_median_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        found = interval(rng.lognormal(np.log(0.95), 0.7, 103), "median", resamples=500, seed=seed)
        assert found.low <= found.value <= found.high
        covered += found.low <= 0.95 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_infinite_errors_leave_an_interval_without_an_end():
    found = interval(np.array([1.0] * 11 + [np.inf] * 9), "median")
    assert (found.value, found.low, found.high) == (1.0, 1.0, np.inf)
