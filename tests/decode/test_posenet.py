import numpy as np
import pytest

from posedistill.decode import get_decoder, get_settings
from posedistill.decode.posenet import ROTATION_SIZES, CameraPose, PoseNetDecoding, decode, rotation_matrix
from posedistill.geometry.rotations import axis_angle, is_rotation, quaternion_to_matrix, random_rotations

TURN = axis_angle(np.array([0.3, -1.0, 0.5]), 0.7)


def test_published_numbers():
    """6D by Gram-Schmidt, and half-angle logarithms."""
    R = rotation_matrix(np.array([1, 0.2, -0.1, 0.1, 0.9, 0.3]), "6d")
    columns = [(0.975900, 0.195180, -0.097590), (-0.149743, 0.924278, 0.351122), (0.158732, -0.328047, 0.931230)]
    np.testing.assert_allclose(R.T, columns, atol=1e-6)
    half = rotation_matrix(np.array([0, 0.3926991, 0]), "log_quaternion")
    np.testing.assert_allclose(half, quaternion_to_matrix(np.array([0.9238795, 0, 0.3826834, 0])), atol=1e-7)


@pytest.mark.parametrize("kind", list(ROTATION_SIZES))
def test_any_numbers_are_a_rotation(kind):
    parameters = np.random.default_rng(0).normal(size=(4, 5, ROTATION_SIZES[kind]))
    R = rotation_matrix(parameters, kind)
    assert R.shape == (4, 5, 3, 3)
    assert is_rotation(R, 1e-9).all()


def test_no_turn_has_a_logarithm():
    np.testing.assert_array_equal(rotation_matrix(np.zeros(3), "log_quaternion"), np.eye(3))


def test_positions_are_camera_centres_and_rotations_count_from_the_reference():
    R = random_rotations(6, np.random.default_rng(1))
    relative = R @ TURN.T
    centers = np.arange(18.0).reshape(6, 3)
    outputs = np.concatenate([relative[..., 0], relative[..., 1]], axis=-1)
    pose = decode(centers, outputs, PoseNetDecoding("6d", reference=TURN.tolist()))
    np.testing.assert_allclose(pose.R, R, atol=1e-12)
    np.testing.assert_allclose(-np.einsum("nji,nj->ni", pose.R, pose.t), centers, atol=1e-12)
    single = decode(centers[2], outputs[2], PoseNetDecoding("6d", reference=TURN.tolist()))
    np.testing.assert_allclose(single.R, R[2], atol=1e-12)
    assert single.t.shape == (3,)


def test_the_decoder_is_found_by_name():
    settings = get_settings("posenet", {"rotation": "quaternion", "reference": np.eye(3).tolist()})
    pose = get_decoder("posenet")(np.zeros(3), np.array([1.0, 0, 0, 0]), settings)
    assert isinstance(pose, CameraPose)
    np.testing.assert_array_equal(pose.R, np.eye(3))
