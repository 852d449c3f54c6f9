import json

import numpy as np
import pytest

from posedistill.errors import DataError
from posedistill.geometry.rotations import axis_angle, quaternion_to_matrix, random_rotations
from posedistill.metrics.relocalisation import (
    THRESHOLDS,
    constant_pose,
    median_interval,
    nearest_position,
    nearest_training_pose,
    orientation_errors,
    position_errors,
    recall,
    score_cameras,
)
from posedistill.poses import Poses


def posed(centers: np.ndarray, R: np.ndarray) -> Poses:
    return Poses.of_cameras(R, centers=np.asarray(centers, dtype=float))


@pytest.fixture
def truth() -> Poses:
    rng = np.random.default_rng(0)
    return posed(rng.normal(size=(40, 3)), random_rotations(40, rng))


def test_published_errors() -> None:
    """1 m and 11.421186 degrees, 2 m and 19.942385 degrees."""
    estimates = posed([(1, 2, 3), (0, 0, 1)], quaternion_to_matrix(np.array([(1, 0.1, 0, 0), (0.9, 0, 0.2, 0)])))
    labels = quaternion_to_matrix(np.array([(2, 0, 0, 0), (0.9238795325, 0, 0.3826834324, 0)]))
    truth = posed([(1, 1, 3), (0, 2, 1)], labels)
    np.testing.assert_allclose(position_errors(estimates, truth), [1, 2], atol=1e-12)
    np.testing.assert_allclose(orientation_errors(estimates, truth), [11.421186, 19.942385], atol=1e-6)


def test_positions_are_where_cameras_stand_and_not_translations(truth: Poses) -> None:
    turned = posed(truth.centers, axis_angle(np.array([0.0, 0.0, 1.0]), np.pi) @ truth.R)
    np.testing.assert_allclose(position_errors(turned, truth), 0, atol=1e-12)
    np.testing.assert_allclose(orientation_errors(turned, truth), 180, atol=1e-6)


def test_tiny_turns_are_measured(truth: Poses) -> None:
    """An arc cosine would round these off or give nan."""
    for degrees in (0.0, 1e-6, 1e-3):
        turn = axis_angle(np.array([1.0, 0.0, 0.0]), np.deg2rad(degrees))
        errors = orientation_errors(Poses.of_cameras(truth.R @ turn, truth.t), truth)
        np.testing.assert_allclose(errors, degrees, atol=1e-12 + 1e-9)


def test_medians_and_recalls(truth: Poses) -> None:
    off = np.zeros((40, 3))
    off[:, 0] = np.linspace(0.01, 0.8, 40)
    turn = axis_angle(np.array([0.0, 1.0, 0.0]), np.deg2rad(np.linspace(4, 0.1, 40)))
    estimates = posed(truth.centers + off, turn @ truth.R)
    scores = score_cameras(estimates, truth)
    assert scores.position.value == pytest.approx(np.median(off[:, 0]))
    assert scores.orientation.value == pytest.approx(2.05)
    assert list(scores.recall) == list(THRESHOLDS)
    assert scores.recall[(0.05, 5.0)] == pytest.approx((off[:, 0] <= 0.05).mean())
    assert scores.recall[(0.25, 2.0)] == 0
    assert scores.recall[(5.0, 10.0)] == 1
    assert scores.mean == pytest.approx((off[:, 0].mean(), 2.05))
    assert scores.percentiles[90][0] == pytest.approx(0.74, abs=0.02)
    assert (scores.count, scores.missing) == (40, 0)


def test_a_recall_needs_both(truth: Poses) -> None:
    assert recall(np.array([0.01, 1.0, 0.01]), np.array([1.0, 1.0, 90.0]), 0.05, 5.0) == pytest.approx(1 / 3)


def test_a_missing_pose_is_infinitely_wrong(truth: Poses) -> None:
    R, t = truth.R.copy(), truth.t.copy()
    R[:15], t[5:15] = np.nan, np.nan
    scores = score_cameras(Poses.of_cameras(R, t), truth)
    assert scores.missing == 15
    assert scores.position.value == 0
    assert scores.recall[(5.0, 10.0)] == pytest.approx(25 / 40)
    R[:30] = np.nan
    scores = score_cameras(Poses.of_cameras(R, t), truth)
    assert scores.position == (np.inf, np.inf, np.inf)


def test_wrong_counts_are_refused(truth: Poses) -> None:
    with pytest.raises(DataError, match="'images': found 3, expected 40"):
        score_cameras(Poses.of_cameras(truth.R[:3], truth.t[:3]), truth)
    empty = Poses.of_cameras(np.zeros((0, 3, 3)), np.zeros((0, 3)))
    with pytest.raises(DataError, match="at least one"):
        score_cameras(empty, empty)


def test_a_report_is_plain_json(truth: Poses) -> None:
    scores = json.loads(json.dumps(score_cameras(truth, truth).to_dict()))
    assert scores["position_m"] == {"value": 0, "low": 0, "high": 0}
    assert scores["recall"]["0.05 m, 5 deg"] == 1


def test_a_record_holds_medians_outcomes_and_curves(truth: Poses) -> None:
    off = np.zeros((40, 3))
    off[:, 0] = np.linspace(0.01, 0.8, 40)
    turn = axis_angle(np.array([0.0, 1.0, 0.0]), np.deg2rad(np.linspace(4, 0.1, 40)))
    scores = score_cameras(posed(truth.centers + off, turn @ truth.R), truth)
    record = json.loads(json.dumps(scores.to_record(), allow_nan=False))
    names = ["position_m", "orientation_deg", "recall_0.05m_5deg", "recall_0.25m_2deg"]
    assert list(record["scores"]) == list(record["outcomes"]) == [*names, "recall_0.5m_5deg", "recall_5m_10deg"]
    for name, statistic in zip(record["scores"], [np.median] * 2 + [np.mean] * 4, strict=True):
        assert statistic(record["outcomes"][name]) == pytest.approx(record["scores"][name], abs=1e-6)
    assert record["scores"]["recall_0.5m_5deg"] == scores.recall[(0.5, 5.0)] == pytest.approx((off[:, 0] <= 0.5).mean())
    curve = record["curves"]["position_m"]
    assert np.interp(0.405, curve["x"], curve["y"]) == pytest.approx(0.5, abs=0.02)
    assert curve["y"][0] == 0 and curve["y"][-1] == 1 and record["curves"]["orientation_deg"]["x"][-1] == 180


def test_a_record_of_missing_poses_is_json_and_its_curve_ends_below_one(truth: Poses) -> None:
    R = truth.R.copy()
    R[:10] = np.nan
    record = json.loads(json.dumps(score_cameras(Poses.of_cameras(R, truth.t), truth).to_record(), allow_nan=False))
    assert record["outcomes"]["position_m"].count(None) == 10 and record["scores"]["position_m"] == 0
    assert record["curves"]["position_m"]["y"][-1] == 0.75
    R[:30] = np.nan
    record = score_cameras(Poses.of_cameras(R, truth.t), truth).to_record()
    assert record["scores"]["position_m"] is None and record["scores"]["recall_5m_10deg"] == 0.25


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        interval = median_interval(rng.lognormal(np.log(0.95), 0.7, 103), resamples=500, seed=seed)
        assert interval.low <= interval.value <= interval.high
        covered += interval.low <= 0.95 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99
    wide = median_interval(rng.lognormal(np.log(0.95), 0.7, 103))
    assert wide.high - wide.low > 0.15


def test_intervals_are_repeatable() -> None:
    errors = np.random.default_rng(0).random(30)
    assert median_interval(errors, seed=3) == median_interval(errors, seed=3)


def test_the_constant_answer(truth: Poses) -> None:
    base = random_rotations(1, np.random.default_rng(5))[0]
    turns = axis_angle(np.array([0.0, 0.0, 1.0]), np.linspace(-0.5, 0.5, 41))
    train = posed(np.random.default_rng(1).normal(size=(41, 3)), turns @ base)
    answer = constant_pose(train, 7)
    assert answer.R.shape == (7, 3, 3)
    np.testing.assert_allclose(answer.R[3], base, atol=1e-9)
    np.testing.assert_allclose(answer.centers[3], train.centers.mean(axis=0), atol=1e-9)


def test_retrieval_answers_with_the_image_that_looks_most_alike(truth: Poses) -> None:
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(40, 16))
    rows = np.array([7, 3, 22])
    queries = 5 * gallery[rows] + 0.01 * rng.normal(size=(3, 16))
    found = nearest_training_pose(queries, gallery, truth)
    np.testing.assert_array_equal(found.R, truth.R[rows])
    np.testing.assert_array_equal(found.t, truth.t[rows])


def test_no_retrieval_beats_the_nearest_position(truth: Poses) -> None:
    queries = posed(truth.centers[:10] + 0.3, truth.R[:10])
    best = position_errors(nearest_position(queries, truth), queries)
    other = position_errors(
        nearest_training_pose(np.random.default_rng(0).normal(size=(10, 4)), np.ones((40, 4)), truth), queries
    )
    assert (best <= other + 1e-12).all()


def test_redkitchens_constant_answer(real_poses: tuple[Poses, Poses]) -> None:
    """Our frames are a part of the scene; the whole has 1.34 m and 35.2 degrees."""
    train, test = real_poses
    scores = score_cameras(constant_pose(train, len(test.R)), test)
    assert 0.2 < scores.position.value < 2
    assert 10 < scores.orientation.value < 60


@pytest.fixture
def real_poses(real_data) -> tuple[Poses, Poses]:
    from posedistill.data.formats.seven_scenes import read_seven_scenes

    root = real_data / "7scenes" / "redkitchen"
    datasets = [read_seven_scenes(root, split) for split in ("train", "test")]
    return Poses.of_cameras(datasets[0].R, datasets[0].t), Poses.of_cameras(datasets[1].R, datasets[1].t)


def test_scores_without_most_poses_are_json() -> None:
    """An infinite median is null: other readers of json know no Infinity."""
    truth = Poses.of_cameras(np.repeat(np.eye(3)[None], 4, axis=0), np.zeros((4, 3)))
    lost = Poses.of_cameras(truth.R.copy(), truth.t.copy())
    lost.R[1:], lost.t[1:] = np.nan, np.nan
    scores = json.loads(json.dumps(score_cameras(lost, truth).to_dict(), allow_nan=False))
    assert scores["position_m"]["value"] is None and scores["missing"] == 3 and scores["mean"]["m"] is None
    assert scores["percentiles"]["95"] == {"m": None, "deg": None}
