import numpy as np
import pytest
import torch

from posedistill.decode.posenet import ROTATION_SIZES, rotation_matrix
from posedistill.estimators.rotations import (
    chordal_distance,
    from_matrix,
    geodesic_angle,
    log_quaternion,
    matrix_to_quaternion,
    quaternion_to_matrix,
    to_matrix,
)
from posedistill.geometry.rotations import angle_between, axis_angle, random_rotations

KINDS = list(ROTATION_SIZES)
RANDOM = torch.as_tensor(random_rotations(200, np.random.default_rng(0)))
HALF_TURNS = torch.as_tensor(axis_angle(np.vstack([np.eye(3), [[1.0, 2.0, -3.0]]]), np.pi))


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_equal_those_of_the_decoder(kind: str) -> None:
    parameters = torch.randn(50, ROTATION_SIZES[kind], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = rotation_matrix(parameters.numpy(), kind)
    np.testing.assert_allclose(to_matrix(parameters, kind), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("R", [RANDOM, HALF_TURNS, torch.eye(3, dtype=torch.float64)[None]])
def test_there_and_back(kind: str, R: torch.Tensor) -> None:
    torch.testing.assert_close(to_matrix(from_matrix(R, kind), kind), R, atol=1e-6, rtol=0)


def test_quaternions_have_a_positive_real_part_and_a_logarithm_within_a_quarter_turn() -> None:
    quaternions = matrix_to_quaternion(RANDOM)
    assert (quaternions[:, 0] >= 0).all()
    torch.testing.assert_close(quaternions.norm(dim=1), torch.ones(200, dtype=torch.float64))
    logarithms = log_quaternion(quaternions)
    torch.testing.assert_close(log_quaternion(-quaternions), logarithms)
    np.testing.assert_allclose(logarithms.norm(dim=1) * 2, angle_between(np.eye(3), RANDOM.numpy()), atol=1e-6)


def test_published_logarithm() -> None:
    logarithm = log_quaternion(torch.tensor([0.9238795, 0.0, 0.3826834, 0.0], dtype=torch.float64))
    np.testing.assert_allclose(logarithm, [0, 0.3926991, 0], atol=1e-6)


def test_angles() -> None:
    angles = torch.tensor([0.0, 1e-4, 0.3, 2.0, 3.0, torch.pi], dtype=torch.float64)
    turned = torch.as_tensor(axis_angle(np.array([1.0, -2.0, 0.5]), angles.numpy()))
    base = RANDOM[:6]
    torch.testing.assert_close(geodesic_angle(base, base @ turned), angles, atol=2e-6, rtol=0)
    small = chordal_distance(base[1:3], (base @ turned)[1:3])
    torch.testing.assert_close(small, 2 * (angles[1:3] / 2).sin(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("distance", [geodesic_angle, chordal_distance])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_at_equality_and_at_half_a_turn(distance, kind: str) -> None:
    for truth in (torch.eye(3)[None].double(), HALF_TURNS):
        start = torch.eye(3).double()[None].expand_as(truth)
        parameters = from_matrix(start, kind).clone().requires_grad_()
        distance(to_matrix(parameters, kind), truth).sum().backward()
        assert parameters.grad is not None
        assert torch.isfinite(parameters.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_angle_goes_down_its_gradient(kind: str) -> None:
    parameters = from_matrix(RANDOM[:20], kind).clone().requires_grad_()
    truth = RANDOM[20:40]
    before = geodesic_angle(to_matrix(parameters, kind), truth)
    before.sum().backward()
    with torch.no_grad():
        after = geodesic_angle(to_matrix(parameters - 1e-3 * parameters.grad, kind), truth)
    assert (after < before).all()


def test_quaternions_of_any_length() -> None:
    q = torch.tensor([[2.0, 0.0, 0.0, 2.0]])
    torch.testing.assert_close(quaternion_to_matrix(q)[0] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))
