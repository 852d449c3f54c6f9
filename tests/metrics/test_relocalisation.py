import json

import numpy as np
import pytest

from posedistill.errors import DataError
from posedistill.geometry.rotations import axis_angle, quaternion_to_matrix, random_rotations
from posedistill.metrics import relocalisation
from posedistill.metrics.relocalisation import (
    THRESHOLDS,
    constant_pose,
    nearest_position,
    nearest_training_pose,
    orientation_errors,
    position_errors,
    position_metric,
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
    found = score_cameras(estimates, truth)
    assert found.scores["position_m"] == pytest.approx(np.median(off[:, 0]))
    assert found.scores["orientation_deg"] == pytest.approx(2.05)
    assert found.scores["recall_0.05m_5deg"] == pytest.approx((off[:, 0] <= 0.05).mean())
    assert (found.scores["recall_0.25m_2deg"], found.scores["recall_5m_10deg"]) == (0, 1)
    assert (found.targets, found.missed) == (40, 0)
    assert [metric.name for metric in found.metrics if metric.level == "headline"] == ["position_m", "orientation_deg"]
    assert [metric.heading for metric in found.metrics[1:3]] == ["median orientation, °", "within 0.05 m, 5°"]


def test_a_recall_needs_both() -> None:
    truth = Poses.of_cameras(np.tile(np.eye(3), (3, 1, 1)), np.zeros((3, 3)))
    turns = axis_angle(np.array([0.0, 1.0, 0.0]), np.deg2rad([1.0, 1.0, 90.0]))
    found = score_cameras(posed([(0.01, 0, 0), (1, 0, 0), (0.01, 0, 0)], turns), truth)
    assert found.outcomes["recall_0.05m_5deg"].tolist() == [1, 0, 0]


@pytest.mark.parametrize(("metres", "degrees"), THRESHOLDS)
def test_an_error_of_exactly_the_limit_lies_within(monkeypatch, metres: float, degrees: float) -> None:
    still = Poses.of_cameras(np.tile(np.eye(3), (4, 1, 1)), np.zeros((4, 3)))
    position, orientation = np.array([metres, 0, 0, 0]), np.array([0, degrees, 0, 0])
    position[2], orientation[3] = np.nextafter(metres, np.inf), np.nextafter(degrees, np.inf)
    monkeypatch.setattr(relocalisation, "position_errors", lambda *_: position)
    monkeypatch.setattr(relocalisation, "orientation_errors", lambda *_: orientation)
    found = score_cameras(still, still)
    assert found.outcomes[f"recall_{metres:g}m_{degrees:g}deg"].tolist() == [1, 1, 0, 0]


def test_a_missing_pose_is_infinitely_wrong(truth: Poses) -> None:
    R, t = truth.R.copy(), truth.t.copy()
    R[:15], t[5:15] = np.nan, np.nan
    scores = score_cameras(Poses.of_cameras(R, t), truth)
    assert scores.missed == 15
    assert scores.scores["position_m"] == 0
    assert scores.scores["recall_5m_10deg"] == pytest.approx(25 / 40)
    R[:30] = np.nan
    scores = score_cameras(Poses.of_cameras(R, t), truth)
    interval = scores.interval(position_metric())
    assert (interval.value, interval.low, interval.high) == (np.inf, np.inf, np.inf)


def test_wrong_counts_are_refused(truth: Poses) -> None:
    with pytest.raises(DataError, match="'images': found 3, expected 40"):
        score_cameras(Poses.of_cameras(truth.R[:3], truth.t[:3]), truth)
    empty = Poses.of_cameras(np.zeros((0, 3, 3)), np.zeros((0, 3)))
    with pytest.raises(DataError, match="at least one"):
        score_cameras(empty, empty)


def test_a_record_holds_medians_outcomes_and_curves(truth: Poses) -> None:
    off = np.zeros((40, 3))
    off[:, 0] = np.linspace(0.01, 0.8, 40)
    turn = axis_angle(np.array([0.0, 1.0, 0.0]), np.deg2rad(np.linspace(4, 0.1, 40)))
    scores = score_cameras(posed(truth.centers + off, turn @ truth.R), truth)
    record = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    names = ["position_m", "orientation_deg", "recall_0.05m_5deg", "recall_0.25m_2deg"]
    assert list(record["scores"]) == list(record["outcomes"]) == [*names, "recall_0.5m_5deg", "recall_5m_10deg"]
    for name, statistic in zip(record["scores"], [np.median] * 2 + [np.mean] * 4, strict=True):
        assert statistic(record["outcomes"][name]) == pytest.approx(record["scores"][name], abs=1e-6)
    assert record["scores"]["recall_0.5m_5deg"] == pytest.approx((off[:, 0] <= 0.5).mean())
    curve = record["curves"]["position_m"]
    assert np.interp(0.405, curve["x"], curve["y"]) == pytest.approx(0.5, abs=0.02)
    assert curve["y"][0] == 0 and curve["y"][-1] == 1 and record["curves"]["orientation_deg"]["x"][-1] == 180


def test_a_record_of_missing_poses_is_json_and_its_curve_ends_below_one(truth: Poses) -> None:
    R = truth.R.copy()
    R[:10] = np.nan
    record = json.loads(json.dumps(score_cameras(Poses.of_cameras(R, truth.t), truth).to_dict(), allow_nan=False))
    assert record["outcomes"]["position_m"].count(None) == 10 and record["scores"]["position_m"] == 0
    assert record["curves"]["position_m"]["y"][-1] == 0.75
    R[:30] = np.nan
    record = score_cameras(Poses.of_cameras(R, truth.t), truth).to_dict()
    assert "position_m" not in record["scores"] and record["scores"]["recall_5m_10deg"] == 0.25


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
    stored = rng.normal(size=(40, 16))
    rows = np.array([7, 3, 22])
    queries = 5 * stored[rows] + 0.01 * rng.normal(size=(3, 16))
    found = nearest_training_pose(queries, stored, truth)
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
    assert 0.2 < scores.scores["position_m"] < 2
    assert 10 < scores.scores["orientation_deg"] < 60


@pytest.fixture
def real_poses(real_data) -> tuple[Poses, Poses]:
    from posedistill.data.formats.seven_scenes import read_seven_scenes

    root = real_data / "7scenes" / "redkitchen"
    datasets = [read_seven_scenes(root, split) for split in ("train", "test")]
    return Poses.of_cameras(datasets[0].R, datasets[0].t), Poses.of_cameras(datasets[1].R, datasets[1].t)
