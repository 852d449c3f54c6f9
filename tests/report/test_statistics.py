import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posedistill.report.statistics import gap_closed, paired_difference, summarise


def test_summary_has_the_sample_deviation_and_none_for_one_seed():
    assert summarise([0.2, 0.4, 0.6]).std == pytest.approx(0.2)
    assert np.isnan(summarise([0.4]).std) and summarise([0.4]).mean == 0.4
    assert summarise([]).count == 0 and np.isnan(summarise([]).mean)


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
