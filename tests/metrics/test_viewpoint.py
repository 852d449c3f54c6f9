import numpy as np
import pytest

from posedistill.errors import DataError
from posedistill.geometry.rotations import random_rotations
from posedistill.geometry.viewpoint import viewpoint_rotation
from posedistill.metrics.evaluation import Evaluation
from posedistill.metrics.viewpoint import (
    MEDIAN,
    most_frequent_viewpoint,
    random_viewpoints,
    score_viewpoints,
    viewpoint_errors,
)
from posedistill.poses import Poses


def turned(*degrees):
    """Estimates so many degrees of azimuth off, and the truth."""
    truth = np.tile([40.0, 10.0, 0.0], (len(degrees), 1))
    estimate = truth + np.stack([degrees, np.zeros(len(degrees)), np.zeros(len(degrees))], axis=1)
    return Poses.of_cameras(viewpoint_rotation(estimate)), viewpoint_rotation(truth)


def test_categories_count_alike_whatever_their_size():
    estimates, truth = turned(10, 20, 100, 31)
    found = score_viewpoints(estimates, truth, ["car", "car", "car", "bus"])
    assert found.scores["acc_30"] == pytest.approx((2 / 3 + 0) / 2)
    assert found.scores["median_deg"] == pytest.approx((20 + 31) / 2)
    assert found.scores["acc_10"] == pytest.approx((1 / 3) / 2)
    accuracy = found.metrics[0]
    assert found.by_label(accuracy) == pytest.approx({"bus": 0.0, "car": 2 / 3})
    assert [metric.name for metric in found.metrics if metric.level == "headline"] == ["acc_30", "median_deg"]


def test_thirty_degrees_are_within_thirty():
    estimates, truth = turned(30.0)
    assert score_viewpoints(estimates, truth, ["car"]).scores["acc_30"] == 1.0


def test_uniform_guesses_reach_what_geometry_says():
    truth = random_rotations(20000, np.random.default_rng(1))
    found = score_viewpoints(random_viewpoints(20000), truth, ["car"] * 20000)
    assert found.scores["acc_30"] == pytest.approx(0.0075, abs=0.002)


def test_symmetric_categories_are_scored_up_to_their_symmetry():
    estimates, truth = turned(179, 91, 45, 178)
    orders = np.array([2, 4, 0, 1])
    errors = viewpoint_errors(estimates, truth, orders)
    assert errors == pytest.approx([1, 1, 0, 178], abs=1e-6)
    found = score_viewpoints(estimates, truth, ["table", "stool", "bottle", "car"], orders)
    assert found.scores["acc_30"] == 0.75
    assert found.scores["acc_30_unforgiven"] == 0.0
    assert found.scores["opposite"] == 0.25


def test_no_symmetry_adds_no_column():
    estimates, truth = turned(5)
    plain = score_viewpoints(estimates, truth, ["car"], np.array([1]))
    assert "acc_30_unforgiven" not in plain.scores


def test_a_missing_pose_is_infinitely_wrong():
    estimates, truth = turned(0, 5)
    estimates.R[0] = np.nan
    found = score_viewpoints(estimates, truth, ["car", "car"])
    assert found.missed == 1
    assert found.scores["acc_30"] == 0.5
    assert np.isinf(found.outcomes["median_deg"][0])


def test_other_counts_are_refused():
    estimates, truth = turned(0, 5)
    with pytest.raises(DataError, match=r"pictures.*found 2, expected 1"):
        score_viewpoints(estimates, truth[:1], ["car"])


def test_intervals_are_over_categories():
    estimates, truth = turned(*np.linspace(0, 60, 40))
    found = score_viewpoints(estimates, truth, ["car", "bus"] * 20)
    ends = found.interval(MEDIAN)
    assert ends.low < found.scores["median_deg"] < ends.high
    assert Evaluation.from_dict(found.to_dict()).scores == found.scores


def test_the_most_frequent_viewpoint_is_where_most_are():
    rng = np.random.default_rng(0)
    many = np.column_stack([rng.normal(90, 5, 60), np.zeros(60), np.zeros(60)])
    few = np.column_stack([rng.uniform(0, 360, 80), np.zeros(80), np.zeros(80)])
    R = viewpoint_rotation(np.concatenate([few, many]))
    found = most_frequent_viewpoint(R)
    off = viewpoint_errors(Poses.of_cameras(found[None]), viewpoint_rotation(np.array([[90.0, 0.0, 0.0]])))
    assert off[0] < 8
    assert viewpoint_errors(Poses.of_cameras(most_frequent_viewpoint(R, np.arange(140) < 1)[None]), R[:1])[0] < 1e-6
