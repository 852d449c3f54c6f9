"""Pictures from elsewhere, beside what a camera there really sees of the made room."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.room import Room, pinhole, walk

from posedistill.geometry.novel_view import novel_view, resampled, smoothed
from posedistill.geometry.rotations import axis_angle
from posedistill.geometry.warp import BORDER

CAMERA = pinhole(160, 120)


@pytest.fixture(scope="module")
def room() -> Room:
    return Room(seed=2)


def inverse_depths(room: Room, R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """``[H, W]`` of each pixel, cast."""
    columns, rows = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float64)
    points = room.points(pixels, CAMERA.K, R, t) @ R.T + t
    return 1.0 / points[:, 2].reshape(CAMERA.height, CAMERA.width)


def difference(seen: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Median over pixels that show something, and the share of these."""
    shown = np.abs(seen.astype(int) - BORDER).max(axis=2) > 2
    return float(np.median(np.abs(seen.astype(int) - truth).mean(axis=2)[shown])), float(shown.mean())


@pytest.mark.parametrize(
    "move", [(0.15, 0.0, 0.0), (0.0, -0.1, 0.0), (0.0, 0.0, 0.25), (0.0, 0.0, -0.2), (0.1, 0.1, 0.1)]
)
def test_a_picture_from_beside_is_what_a_camera_there_sees(room: Room, move: tuple[float, float, float]) -> None:
    for pose in range(3):
        R, t = (values[pose] for values in walk(3, seed=4))
        turn = axis_angle(np.array([0.2, 1.0, 0.3]), 0.06)
        step = -turn @ np.array(move)
        photograph, truth = room.picture(CAMERA, R, t), room.picture(CAMERA, turn @ R, turn @ t + step)
        seen = novel_view(photograph, inverse_depths(room, R, t), CAMERA.K, turn, step)
        ours, shown = difference(seen, truth)
        only_turned, _ = difference(novel_view(photograph, np.zeros(photograph.shape[:2]), CAMERA.K, turn, step), truth)
        assert shown > 0.75
        assert ours < 5 and ours < 0.5 * only_turned, (ours, only_turned)


def test_no_move_changes_nothing(room: Room) -> None:
    R, t = (values[0] for values in walk(1, seed=1))
    photograph = room.picture(CAMERA, R, t)
    seen = novel_view(photograph, inverse_depths(room, R, t), CAMERA.K, np.eye(3), np.zeros(3))
    np.testing.assert_array_equal(seen, photograph)


def test_what_lies_behind_the_camera_has_the_borders_colour(room: Room) -> None:
    R, t = (values[0] for values in walk(1, seed=1))
    away = axis_angle(np.array([0.0, 1.0, 0.0]), np.pi)
    seen = novel_view(room.picture(CAMERA, R, t), inverse_depths(room, R, t), CAMERA.K, away, np.zeros(3))
    assert (seen == BORDER).all()


@given(st.integers(0, 10_000), st.floats(0.02, 1.0))
def test_holes_take_values_within_those_about_them(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    values, weights = rng.uniform(1, 3, (20, 30)), rng.random((20, 30)) * (rng.random((20, 30)) < share)
    weights[7, 11] = 1.0
    found, known = smoothed(np.where(weights > 0, values, 1e6), weights), values[weights > 0]
    assert np.isfinite(found).all()
    assert known.min() - 1e-9 <= found.min() and found.max() <= known.max() + 1e-9


def test_known_cells_keep_an_edge_between_them() -> None:
    values = np.where(np.arange(40) < 20, 1.0, 3.0) * np.ones((30, 1))
    weights = np.ones_like(values)
    weights[10:20, 4:10] = 0
    found = smoothed(values, weights)
    np.testing.assert_allclose(found[:, :16], 1.0, atol=0.03)
    np.testing.assert_allclose(found[:, 24:], 3.0, atol=0.03)


def test_cells_lie_where_their_camera_says() -> None:
    """A ramp along the rays is the same ramp for a camera of twice the pixels."""
    coarse, fine = pinhole(20, 15), pinhole(80, 60)
    columns = (np.arange(20) - coarse.K[0, 2]) / coarse.K[0, 0]
    found = resampled(columns * np.ones((15, 1)), coarse.K, fine.K, (60, 80))
    expected = (np.arange(80) - fine.K[0, 2]) / fine.K[0, 0]
    np.testing.assert_allclose(found[30, 4:76], expected[4:76], atol=1e-3)
