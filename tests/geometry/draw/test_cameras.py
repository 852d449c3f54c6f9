import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posedistill.geometry.draw.cameras import camera_views, draw_cameras, grid_step, map_axes, new_panel
from posedistill.geometry.rotations import random_rotations

SIZE, MARGIN = (640, 480), 70


def level_cameras(count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Cameras with the world's z above them, 10 m along x and 1 m along y, that look along y and never up."""
    R = np.repeat(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])[None], count, axis=0)
    return R, np.stack([np.linspace(0, 10, count), np.linspace(0, 1, count), np.full(count, 2.0)], axis=1)


def test_up_is_what_the_cameras_have_above_them():
    R, centers = level_cameras()
    above, side = camera_views(R, centers, SIZE, MARGIN)
    np.testing.assert_allclose(side.up, [0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(above.right, side.right)
    assert above.right[0] > 0.99 and abs(above.right[2]) < 1e-9, "the long way lies to the right"
    np.testing.assert_allclose(np.cross(above.right, above.up), side.up, atol=1e-9)
    pixels = above.pixels(centers)
    np.testing.assert_allclose(pixels[[0, -1], 0], [MARGIN, SIZE[0] - MARGIN], atol=1e-6)
    assert np.ptp(side.pixels(centers)[:, 1]) < 1e-6, "they move on a level"


def test_high_scenes_fit_as_well_as_long_ones():
    R, centers = level_cameras()
    tower = centers * 0.1 + np.linspace(0, 30, len(centers))[:, None] * [0, 0, 1]
    for view in camera_views(R, tower, SIZE, MARGIN):
        pixels = view.pixels(tower)
        assert (pixels > MARGIN - 1e-6).all() and (pixels < np.array(SIZE) - MARGIN + 1e-6).all()


def test_another_world_gives_the_same_picture():
    R, centers = level_cameras()
    turn = random_rotations(1, np.random.default_rng(3))[0]
    moved = centers @ turn.T + [5.0, -3.0, 40.0]
    views, others = camera_views(R, centers, SIZE, MARGIN), camera_views(R @ turn.T, moved, SIZE, MARGIN)
    for first, second in zip(views, others, strict=True):
        np.testing.assert_allclose(second.pixels(moved), first.pixels(centers), atol=1e-6)


def test_arrows_point_where_cameras_look():
    R, centers = level_cameras(1)
    above, side = camera_views(R, centers, SIZE, MARGIN)
    panels = []
    for view in (above, side):
        panel = np.full((SIZE[1], SIZE[0], 3), 255, np.uint8)
        draw_cameras(panel, view, R, centers, [(0, 0, 0)], arrow=40.0)
        panels.append((panel < 128).all(axis=2))
    rows, columns = np.nonzero(panels[0])
    assert rows.min() == pytest.approx(240 - 40, abs=2) and rows.max() == pytest.approx(244, abs=1)
    assert abs(columns - 320).max() <= 5, "up the page, with a head"
    rows, columns = np.nonzero(panels[1])
    assert max(abs(rows - 240).max(), abs(columns - 320).max()) <= 5, "away from the viewer: a dot"


def test_cameras_at_the_end_of_the_world_are_left_out():
    R, centers = level_cameras(2)
    above, _ = camera_views(R, centers, SIZE, MARGIN)
    panel = np.full((SIZE[1], SIZE[0], 3), 255, np.uint8)
    draw_cameras(panel, above, R, centers + 1e12, [(0, 0, 0)] * 2, arrow=40.0)
    assert panel.min() == 255


def test_one_place_and_none():
    for count in (0, 1, 2):
        views = camera_views(np.repeat(np.eye(3)[None], count, axis=0), np.full((count, 3), [1, 2, 3]), SIZE, MARGIN)
        assert all(view.scale == 480 - 2 * MARGIN for view in views)


def test_the_grid_has_lines_at_whole_steps():
    R, centers = level_cameras()
    above, _ = camera_views(R, centers, SIZE, MARGIN)
    panel = new_panel(above, "from above", "m")
    drawn = np.flatnonzero((panel[40:200] < 255).any(axis=2).all(axis=0))
    step = grid_step(above.scale) * above.scale
    np.testing.assert_allclose(np.diff(drawn), step, atol=1.0)


@pytest.mark.parametrize("scale", np.geomspace(1e-3, 1e4, 30).tolist())
def test_steps_of_the_grid(scale):
    step = grid_step(scale)
    assert 59.9 <= step * scale <= 151
    assert float(f"{step:.0e}") == pytest.approx(step)


@given(st.integers(0, 1000), st.booleans())
def test_map_axes_are_a_right_handed_frame_that_turns_with_the_world(seed, known):
    rng = np.random.default_rng(seed)
    stands = rng.normal(size=(30, 3)) * [5.0, 2.0, 0.3] + rng.normal(size=3)
    up = np.array([0.0, 0.0, 2.0]) if known else None
    R = random_rotations(1, rng)[0]
    axes, turned = map_axes(stands, up), map_axes(stands @ R.T, None if up is None else R @ up)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(axes) == pytest.approx(1)
    np.testing.assert_allclose(np.abs(turned @ R @ axes.T), np.eye(3), atol=1e-6)
    spread = ((stands - stands.mean(axis=0)) @ axes.T).std(axis=0)
    assert spread[0] >= spread[1] - 1e-9
    if known:
        np.testing.assert_allclose(axes[2], [0, 0, 1], atol=1e-12)
