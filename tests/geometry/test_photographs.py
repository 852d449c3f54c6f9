import cv2
import numpy as np
import pytest

from posedistill.errors import DataError
from posedistill.geometry.cameras import project
from posedistill.geometry.photographs import black_share, lens_reach, middle_crop, scale, scaled_size, undistort

K = np.array([[150.0, 0, 99.5], [0, 150.0, 74.5], [0, 0, 1]])
NOISE = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)


@pytest.mark.parametrize("lens", [(-0.25, 0.08, 0.002, -0.001), (-0.2,), (-0.2, 0.05), (-0.2, 0.05, 0, 0, 0.01)])
def test_dots_lie_where_a_pinhole_sees_them(lens):
    """Lenses of any number of parameters: COLMAP's commonest has one."""
    points = np.array([[0.3, 0.2, 1.0], [-0.25, 0.1, 1.0], [0.0, -0.22, 1.0]])
    full = np.array([*lens, *[0.0] * (5 - len(lens))])
    bent = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, full)[0][:, 0]
    rows, columns = np.mgrid[:150, :200]
    for point, (u, v) in zip(points, bent, strict=True):
        dot = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 8)
        picture, straight = undistort(np.repeat(dot[:, :, None], 3, axis=2).astype(np.uint8), K, lens)
        x, y = project(point[None], np.eye(3), np.zeros(3), straight)[0]
        weights = picture[..., 0].astype(float)
        assert abs((weights * columns).sum() / weights.sum() - x) < 0.3
        assert abs((weights * rows).sum() / weights.sum() - y) < 0.3


def test_it_is_what_opencv_does_and_keeps_no_edge_empty():
    lens = np.array([-0.25, 0.08, 0.002, -0.001])
    straight_K, _ = cv2.getOptimalNewCameraMatrix(K, lens, (200, 150), alpha=0)
    picture, found = undistort(NOISE, K, tuple(lens))
    np.testing.assert_array_equal(picture, cv2.undistort(NOISE, K, lens, newCameraMatrix=straight_K))
    np.testing.assert_allclose(found, straight_K)
    white, _ = undistort(np.full_like(NOISE, 255), K, tuple(lens))
    assert white.min() == 255


def test_a_wide_lens_leaves_black_edges():
    wide = np.array([[250.0, 0, 319.5], [0, 250.0, 239.5], [0, 0, 1]])
    white, _ = undistort(np.full((480, 640, 3), 255, np.uint8), wide, (-0.25, 0.06))
    black = (white[..., 0] == 0).mean()
    assert black_share(wide, (-0.25, 0.06), (640, 480)) == pytest.approx(black, abs=0.005) and black > 0.04
    assert black_share(K, (-0.25, 0.08), (200, 150)) == black_share(K, (), (200, 150)) == 0


def test_a_lens_that_folds_the_picture_is_refused():
    """r - r^3 / 2 turns back at r = sqrt(2 / 3), where it is 0.544; the farthest corner lies at 0.829."""
    assert lens_reach(K, (-0.5,), (200, 150)) == pytest.approx(0.5443 / 0.8287, abs=1e-3)
    with pytest.raises(DataError, match=r"'distortion': found .*, which turns back at 66% of the way"):
        undistort(NOISE, K, (-0.5,))


def test_a_pinhole_is_left_alone():
    for lens in ((), (0.0, 0.0, 0.0, 0.0)):
        picture, found = undistort(NOISE, K, lens)
        assert picture is NOISE and found is K


@pytest.mark.parametrize("size", [(100, 75), (400, 300), (91, 64)])
def test_scaling_averages_or_interpolates(size):
    way = cv2.INTER_AREA if size[0] < 200 else cv2.INTER_CUBIC
    np.testing.assert_array_equal(scale(NOISE, size), cv2.resize(NOISE, size, interpolation=way))


def test_no_side_falls_below_the_shorter_one():
    assert scaled_size(1920, 1080, 256) == (455, 256)
    assert scaled_size(480, 640, 256) == (256, 341)
    assert min(scaled_size(1000, 999, 31)) == 31


def test_the_middle():
    image = np.arange(7 * 9).reshape(7, 9, 1)
    assert middle_crop(image, (3, 3))[1, 1, 0] == image[3, 4, 0]
    assert middle_crop(image, (7, 9)).shape == (7, 9, 1)
    assert middle_crop(image, (2, 2))[0, 0, 0] == image[3, 4, 0]
