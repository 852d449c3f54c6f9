"""Depth, lateral and rotation errors of matched poses: golden values, and what must hold for any pose."""

import json

import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset
from posedistill.geometry.rotations import axis_angle, random_rotations
from posedistill.metrics import Evaluation, score_estimates
from posedistill.metrics.error_analysis import (
    ErrorAnalysis,
    median_and_spread,
    median_and_spread_intervals,
    sight_errors,
)
from posedistill.poses import Poses

from .conftest import estimates_of, write_dataset


@pytest.fixture
def dataset(tmp_path, frames):
    return BopDataset(write_dataset(tmp_path, frames))


def changed(poses: Poses, R=None, t=None) -> Poses:
    ids = (poses.scene_id, poses.im_id, poses.obj_id, poses.score)
    return Poses(*ids, poses.R if R is None else R, poses.t if t is None else t, poses.seconds)


def analysis(poses: Poses, dataset: BopDataset) -> ErrorAnalysis:
    found = score_estimates(poses, dataset).errors
    assert found is not None
    return found


@pytest.mark.parametrize("share", [0.02, -0.02, 0.4])
def test_a_pose_moved_along_its_ray_is_off_in_depth_alone(dataset, perfect, share):
    found = analysis(changed(perfect, t=perfect.t * (1 + share)), dataset)
    np.testing.assert_allclose(found.depth, share, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.depth_mm, share * np.linalg.norm(perfect.t, axis=1), atol=1e-9)
    np.testing.assert_allclose(found.lateral_mm, 0, atol=1e-9)
    np.testing.assert_allclose(found.rotation_deg, 0, atol=1e-9)


def test_a_pose_moved_across_its_ray_is_off_sideways_alone(dataset, perfect):
    across = np.cross(perfect.t, [0.0, 0.0, 1.0])
    across *= 7.0 / np.linalg.norm(across, axis=1, keepdims=True)
    found = analysis(changed(perfect, t=perfect.t + across), dataset)
    np.testing.assert_allclose(found.lateral_mm, 7.0)
    np.testing.assert_allclose(found.depth_mm, 0, atol=1e-9)


def test_a_turned_pose_is_off_in_rotation_alone(dataset, perfect):
    turn = axis_angle(np.array([1.0, 2.0, 2.0]) / 3, np.deg2rad(4.0))
    found = analysis(changed(perfect, R=perfect.R @ turn), dataset)
    np.testing.assert_allclose(found.rotation_deg, 4.0)
    np.testing.assert_allclose([found.depth_mm, found.lateral_mm], 0, atol=1e-9)


def test_rotations_count_up_to_symmetry(dataset, perfect):
    """The bar (object 2) looks the same after half a turn, the block does not."""
    half = axis_angle(np.array([0.0, 0.0, 1.0]), np.pi)
    found = analysis(changed(perfect, R=perfect.R @ half), dataset)
    np.testing.assert_allclose(found.rotation_deg[perfect.obj_id == 2], 0, atol=1e-6)
    np.testing.assert_allclose(found.rotation_deg[perfect.obj_id == 1], 180)


def test_depth_and_lateral_make_up_the_distance_in_any_camera_frame():
    rng = np.random.default_rng(1)
    true, estimated = rng.normal([0, 0, 900], 60, (50, 3)), rng.normal([0, 0, 900], 60, (50, 3))
    share, depth, lateral = sight_errors(estimated, true)
    np.testing.assert_allclose(np.hypot(depth, lateral), np.linalg.norm(estimated - true, axis=1))
    np.testing.assert_allclose(share * np.linalg.norm(true, axis=1), depth)
    turn = random_rotations(1, rng)[0]
    np.testing.assert_allclose(sight_errors(estimated @ turn.T, true @ turn.T), (share, depth, lateral), atol=1e-9)


def test_missed_targets_are_counted_and_have_no_errors(dataset, perfect):
    found = analysis(perfect.select(perfect.im_id != 7), dataset)
    assert (len(found), found.missed) == (6, 2)
    assert (
        np.isnan(found.depth).tolist()
        == np.isnan(found.rotation_deg).tolist()
        == [False] * 2 + [True] * 2 + [False] * 2
    )


def test_each_estimate_stands_for_one_target_the_nearest_first(tmp_path):
    """Two blocks and one estimate between them: the nearer one is matched, however far, and the other missed."""
    left, right, eye = np.array([-100.0, 0, 800]), np.array([100.0, 0, 800]), np.eye(3)
    folder = write_dataset(tmp_path, {3: [(1, eye, left), (1, eye, right)]}, visib={(3, 1): 0.5})
    found = analysis(estimates_of([(3, 1, 0.9, eye, np.array([40.0, 0, 800]))]), BopDataset(folder))
    assert found.missed == 1 and np.isnan(found.lateral_mm[0])
    np.testing.assert_allclose(np.hypot(found.lateral_mm[1], found.depth_mm[1]), 60)
    assert found.visible.tolist() == [1.0, 0.5]


def test_spread_is_the_deviation_of_a_normal_distribution():
    rng = np.random.default_rng(0)
    errors = rng.normal(2.0, 3.0, 20_000)
    errors[:1000] = 1e6  # a few that are anywhere
    median, spread = median_and_spread(errors)
    assert median == pytest.approx(2.0, abs=0.3) and spread == pytest.approx(3.0, rel=0.1)
    assert np.isnan(median_and_spread([np.nan, np.nan])).all() and np.isnan(median_and_spread([])).all()


def test_intervals_hold_the_value_and_narrow_with_the_targets():
    rng = np.random.default_rng(0)
    few, many = (median_and_spread_intervals(rng.normal(2.0, 3.0, (1, count))) for count in (40, 1000))
    for small, large in zip(few, many, strict=True):
        assert small.low < small.value < small.high and large.low < large.value < large.high
        assert large.high - large.low < (small.high - small.low) / 3
    assert few[0].low < 2.0 < few[0].high and few[1].low < 3.0 < few[1].high


def test_intervals_of_several_seeds_are_of_their_mean():
    rng = np.random.default_rng(0)
    hard = rng.normal(0.0, 1.0, 200)
    seeds = np.stack([hard + shift for shift in (-1.0, 0.0, 1.0)])
    seeds[0, :20] = np.nan
    alone, together = median_and_spread_intervals(hard[None])[0], median_and_spread_intervals(seeds)[0]
    assert together.value == pytest.approx(np.mean([median_and_spread(row)[0] for row in seeds]))
    assert together.high - together.low > 2 * (alone.high - alone.low)  # seeds differ far more than targets


def test_nothing_matched_leaves_no_interval():
    median, spread = median_and_spread_intervals(np.full((1, 5), np.nan))
    assert np.isnan([median.value, median.low, spread.value, spread.high]).all()


def test_errors_survive_the_file(dataset, perfect):
    scores = score_estimates(perfect.select(slice(0, 5)), dataset)
    again = Evaluation.from_dict(json.loads(json.dumps(scores.to_dict(), allow_nan=False)))
    for name, values in vars(scores.errors).items():
        np.testing.assert_allclose(getattr(again.errors, name), values, atol=1e-6)
    older = scores.to_dict()
    del older["errors"]
    assert Evaluation.from_dict(older).errors is None
