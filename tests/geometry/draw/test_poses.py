import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.geometry.cameras import project
from posedistill.geometry.draw.poses import AXES, BOX_EDGES, Shape, draw_line, draw_pose, line_width, silhouette
from posedistill.geometry.objects import box_corners

K = np.array([[500.0, 0.0, 160.0], [0.0, 500.0, 120.0], [0.0, 0.0, 1.0]])
CORNERS = box_corners(np.full(3, -50.0), np.full(3, 50.0))
T = np.array([0.0, 0.0, 600.0])
GRAY = np.full((240, 320, 3), 90, np.uint8)


def cube() -> Shape:
    quads = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    return Shape(CORNERS, np.array([face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]))


def test_edges_are_those_of_a_cube():
    assert len(BOX_EDGES) == 12
    assert {np.linalg.norm(CORNERS[a] - CORNERS[b]) for a, b in BOX_EDGES} == {100.0}


def test_draws_box_and_axes_where_they_project_and_leaves_the_input_alone():
    out = draw_pose(GRAY, np.eye(3), T, K, CORNERS, color=(250, 200, 10))
    assert (GRAY == 90).all() and out.dtype == np.uint8 and out.shape == GRAY.shape
    for x, y in project(CORNERS[::2], np.eye(3), T, K).round().astype(int):
        assert (out[y, x] != 90).any()
    x_axis = project(np.array([[40.0, 0.0, 0.0]]), np.eye(3), T, K)[0].round().astype(int)
    np.testing.assert_array_equal(out[x_axis[1], x_axis[0]], AXES[0])
    assert (out[:20] == 90).all() and (out[:, :60] == 90).all()


def test_contour_follows_the_silhouette():
    mask = silhouette(cube(), np.eye(3), T, K, GRAY.shape)
    half = 500.0 * 50 / 550
    assert mask.sum() == pytest.approx((2 * half + 1) ** 2, rel=0.03)
    ys, xs = np.nonzero(mask)
    assert abs(xs.mean() - 160) < 0.6 and abs(ys.mean() - 120) < 0.6
    plain, outlined = (draw_pose(GRAY, np.eye(3), T, K, CORNERS, shape=shape) for shape in (None, cube()))
    changed = (plain != outlined).any(axis=2)
    assert changed.any() and not changed[~np.roll(mask, 2, 0) & ~mask & ~np.roll(mask, -2, 0)].all()


def test_label_stays_inside_a_small_picture():
    image = np.zeros((60, 90, 3), np.uint8)
    tiny = np.array([[100.0, 0.0, 2.0], [0.0, 100.0, 2.0], [0.0, 0.0, 1.0]])
    out = draw_pose(image, np.eye(3), T, tiny, CORNERS, color=(255, 255, 255), label="a long object name 0.99")
    assert (out[:25] == 255).all(axis=2).sum() > 100


@pytest.mark.parametrize("row", [15, 120, 225])
def test_a_label_does_not_cover_a_small_object(row):
    """At the upper edge of the picture, where there is no room above, it stands below."""
    small, t = 0.2 * CORNERS, np.array([0.0, (row - 120) * T[2] / 500, T[2]])
    plain, labelled = (draw_pose(GRAY, np.eye(3), t, K, small, label=label) for label in ("", "cat 0.99"))
    pixels = (small + t) @ K.T
    pixels = np.round(pixels[:, :2] / pixels[:, 2:]).astype(int)
    (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
    assert (plain != labelled).any()
    np.testing.assert_array_equal(*(drawn[top : bottom + 1, left : right + 1] for drawn in (plain, labelled)))


@pytest.mark.parametrize("depth", [-600.0, 0.0, 40.0])
def test_objects_behind_or_around_the_camera_do_not_crash(depth):
    out = draw_pose(GRAY, np.eye(3), np.array([0.0, 0.0, depth]), K, CORNERS, label="near", shape=cube())
    assert out.shape == GRAY.shape
    if depth < -100:
        np.testing.assert_array_equal(out, GRAY)


@settings(max_examples=60)
@given(
    ends=st.lists(st.floats(-1e308, 1e308) | st.sampled_from([np.nan, np.inf, 1.0, 1e-30]), min_size=6, max_size=6),
    focal=st.sampled_from([1e-9, 500.0, 1e200]),
)
def test_no_coordinate_is_too_absurd_to_draw(ends, focal):
    camera = np.array([[focal, 0.0, 160.0], [0.0, focal, 120.0], [0.0, 0.0, 1.0]])
    with np.errstate(all="ignore"):
        draw_line(GRAY.copy(), np.array(ends[:3]), np.array(ends[3:]), camera, (255, 0, 0), 2)
        draw_pose(GRAY, np.eye(3), np.array(ends[:3]), camera, CORNERS, label="far", shape=cube())


def test_long_lines_keep_their_place():
    """A segment from near the picture to a place beyond 32 bits is drawn as the shorter one along it."""
    drawn = [GRAY.copy(), GRAY.copy()]
    for canvas, far in zip(drawn, (3.0, 1e12), strict=True):
        draw_line(canvas, np.array([0.0, 0.0, 500.0]), np.array([500.0 * far, 250.0 * far, 500.0]), K, (255, 0, 0), 1)
    assert (drawn[0] != 90).any()
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() <= 16
    outside = GRAY.copy()
    draw_line(outside, np.array([-900.0, -900, 500]), np.array([900.0, -900, 500]), K, (255, 0, 0), 3)
    np.testing.assert_array_equal(outside, GRAY)


def test_lines_grow_with_the_picture():
    assert [line_width(np.zeros((8, width, 3), np.uint8)) for width in (320, 640, 2560)] == [1, 1, 4]
