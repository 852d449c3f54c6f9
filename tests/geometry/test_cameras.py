import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.geometry.cameras import crop_cameras, project
from posedistill.geometry.rotations import is_rotation, random_rotations

seeds = st.integers(0, 2**32 - 1)


def random_views(rng, count):
    """K with unequal focal lengths and skew, and poses in front of the camera."""
    K = np.tile(np.eye(3), (count, 1, 1))
    K[:, 0, 0], K[:, 1, 1] = rng.uniform(300, 900, (2, count))
    K[:, 0, 1] = rng.uniform(-20, 20, count)
    K[:, :2, 2] = rng.uniform(100, 400, (count, 2))
    t = rng.uniform([-200, -200, 500], [200, 200, 1500], (count, 3))
    return K, random_rotations(count, rng), t


@settings(max_examples=50)
@given(seed=seeds, size=st.integers(32, 512))
def test_a_crop_is_a_camera(seed, size):
    rng = np.random.default_rng(seed)
    K, R, t = random_views(rng, 4)
    points = rng.uniform(-100, 100, (4, 20, 3))
    centers, sides = rng.uniform(0, 640, (4, 2)), rng.uniform(20, 600, 4)
    crop = crop_cameras(K, centers, sides, size, rng.uniform(-np.pi, np.pi, 4))

    full = project(points, R, t, K)
    warped = np.concatenate([full, np.ones((4, 20, 1))], axis=-1) @ crop.homography.swapaxes(1, 2)
    turned_R, turned_t = crop.rotation @ R, np.einsum("bij,bj->bi", crop.rotation, t)
    seen = project(points, turned_R, turned_t, crop.K)

    np.testing.assert_allclose(seen, warped[..., :2], atol=1e-6)
    assert is_rotation(crop.rotation, 1e-12).all()
    assert (crop.K[:, 1, 0] == 0).all() and (crop.K[:, 2] == [0, 0, 1]).all()
    assert (crop.K[:, [0, 1], [0, 1]] > 0).all()


@settings(max_examples=50)
@given(seed=seeds)
def test_crop_centre_scale_and_turn(seed):
    rng = np.random.default_rng(seed)
    center, side, angle = rng.uniform(0, 640, (1, 2)), rng.uniform(20, 600, 1), rng.uniform(-np.pi, np.pi, 1)
    homography = crop_cameras(np.diag([500.0, 510.0, 1.0])[None], center, side, 256, angle).homography[0]
    np.testing.assert_allclose(homography @ [*center[0], 1.0], [128.0, 128.0, 1.0], atol=1e-9)
    right = homography[:2, :2] @ [side[0] / 2, 0.0]
    np.testing.assert_allclose(right, 128.0 * np.array([np.cos(angle[0]), np.sin(angle[0])]), atol=1e-9)


def test_without_a_turn_nothing_turns():
    K = np.array([[[572.0, 0.0, 325.0], [0.0, 574.0, 242.0], [0.0, 0.0, 1.0]]])
    crop = crop_cameras(K, np.array([[100.0, 50.0]]), np.array([64.0]), 128)
    np.testing.assert_array_equal(crop.rotation[0], np.eye(3))
    np.testing.assert_allclose(crop.K[0], [[1144, 0, 2 * (325 - 100) + 64], [0, 1148, 2 * (242 - 50) + 64], [0, 0, 1]])


def test_projection_golden():
    K = np.array([[500.0, 10.0, 320.0], [0.0, 400.0, 240.0], [0.0, 0.0, 1.0]])
    pixels = project(np.array([[1.0, 2.0, 0.0]]), np.eye(3), np.array([0.0, 0.0, 4.0]), K)
    np.testing.assert_allclose(pixels, [[500 * 0.25 + 10 * 0.5 + 320, 400 * 0.5 + 240]])
