import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.geometry.rotations import (
    angle_between,
    axis_angle,
    cross_matrix,
    is_rotation,
    quaternion_to_matrix,
    random_rotations,
    rotation_onto,
)

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=50)
@given(seed=seeds, angle=st.floats(0, np.pi))
def test_angle_between_undoes_axis_angle(seed, angle):
    rng = np.random.default_rng(seed)
    R = random_rotations(1, rng)[0]
    turn = axis_angle(rng.normal(size=3), angle)
    assert is_rotation(turn, 1e-12)
    assert angle_between(R, R @ turn) == pytest.approx(angle, abs=1e-9)
    assert angle_between(R @ turn, R) == pytest.approx(angle, abs=1e-9)


def test_angle_between_keeps_tiny_angles():
    assert angle_between(np.eye(3), axis_angle(np.array([0.3, 1.0, 2.0]), 1e-10)) == pytest.approx(1e-10, rel=1e-4)


@settings(max_examples=30)
@given(seed=seeds)
def test_angle_is_a_metric_invariant_under_rotation(seed):
    A, B, C, D = random_rotations(4, np.random.default_rng(seed))
    assert angle_between(A, C) <= angle_between(A, B) + angle_between(B, C) + 1e-12
    assert angle_between(D @ A, D @ B) == pytest.approx(angle_between(A, B), abs=1e-9)


def test_is_rotation_answers_for_each_and_stays_silent_on_nan():
    bad_nan = np.full((3, 3), np.nan)
    sheared = np.eye(3) + 0.01 * np.eye(3, k=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = is_rotation(np.stack([np.eye(3), np.diag([1.0, 1.0, -1.0]), sheared, bad_nan, np.zeros((3, 3))]))
    assert found.tolist() == [True, False, False, False, False]
    assert is_rotation(sheared, tol=0.02)


def test_random_rotations_are_uniform_and_seeded():
    R = random_rotations(20_000, np.random.default_rng(0))
    assert is_rotation(R, 1e-12).all()
    assert np.abs(R.mean(axis=0)).max() < 0.02
    # Of uniform rotations the angle has the density (1 - cos) / pi, hence the mean pi / 2 + 2 / pi.
    assert angle_between(np.eye(3), R).mean() == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.02)
    np.testing.assert_array_equal(R[:5], random_rotations(20_000, np.random.default_rng(0))[:5])


def test_quaternions_golden():
    half = np.sqrt(0.5)
    np.testing.assert_allclose(quaternion_to_matrix(np.array([half, 0, 0, half])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


@settings(max_examples=50)
@given(seed=seeds)
def test_rotation_onto_is_the_smallest_turn(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 5, 3))
    R = rotation_onto(a, b)
    assert is_rotation(R, 1e-9).all()
    unit_a, unit_b = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (a, b))
    np.testing.assert_allclose(np.einsum("nij,nj->ni", R, unit_a), unit_b, atol=1e-9)
    angle = np.arccos(np.clip((unit_a * unit_b).sum(axis=-1), -1, 1))
    np.testing.assert_allclose(angle_between(np.eye(3), R), angle, atol=1e-6)


@pytest.mark.parametrize("direction", [[0, 0, 1], [1, 0, 0], [0, -2, 0], [1, 2, 3]])
def test_rotation_onto_the_opposite(direction):
    direction = np.array([direction], dtype=float)
    R = rotation_onto(direction, -direction)
    assert is_rotation(R, 1e-9).all()
    np.testing.assert_allclose(R[0] @ direction[0], -direction[0], atol=1e-9)


@settings(max_examples=50)
@given(seed=seeds, exponent=st.floats(-17, 0))
def test_rotation_onto_nearly_opposite_directions(seed, exponent):
    """At any distance from the opposite: a rotation, and onto the target, to the last digits."""
    rng = np.random.default_rng(seed)
    a, off = rng.normal(size=(2, 50, 3))
    a /= np.linalg.norm(a, axis=-1, keepdims=True)
    b = -a + 10**exponent * off
    b /= np.linalg.norm(b, axis=-1, keepdims=True)
    R = rotation_onto(a, b)
    assert is_rotation(R, 1e-14).all()
    np.testing.assert_allclose(np.einsum("nij,nj->ni", R, a), b, atol=1e-14)


def test_cross_matrix():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 3))
    np.testing.assert_allclose(np.einsum("nij,nj->ni", cross_matrix(a), b), np.cross(a, b))
