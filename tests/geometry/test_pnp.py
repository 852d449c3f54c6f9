import builtins

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.geometry.cameras import project
from posedistill.geometry.objects import box_corners
from posedistill.geometry.pnp import solve_pnp, support
from posedistill.geometry.rotations import angle_between, is_rotation, random_rotations

CORNERS = box_corners(np.array([-40.0, -30.0, -20.0]), np.array([40.0, 30.0, 20.0]))


def scene(seed, copies=10, noise=0.0, outliers=0.0):
    """Votes of ``copies`` cells for 8 corners: pixels, points, K with skew, true R and t."""
    rng = np.random.default_rng(seed)
    points = np.tile(CORNERS, (copies, 1))
    K = np.array([[560.0, rng.uniform(-5, 5), 320.0], [0.0, 590.0, 240.0], [0.0, 0.0, 1.0]])
    R, t = random_rotations(1, rng)[0], rng.uniform([-100, -100, 500], [100, 100, 1200])
    pixels = project(points, R, t, K) + rng.normal(size=(len(points), 2)) * noise
    wrong = rng.permutation(len(points))[: int(outliers * len(points))]
    pixels[wrong] += rng.uniform(-80, 80, (len(wrong), 2))
    return pixels, points, K, R, t


@pytest.fixture(params=["poselib", "opencv"])
def solver(request, monkeypatch):
    """Both engines; OpenCV is reached by making poselib's import fail."""
    if request.param == "opencv":
        original = builtins.__import__

        def without_poselib(name, *args, **kwargs):
            if name == "poselib":
                raise ImportError(name)
            return original(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without_poselib)
    return request.param


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_exact_matches_give_the_exact_pose(seed):
    pixels, points, K, R, t = scene(seed, copies=1)
    result = solve_pnp(pixels, points, K)
    assert np.degrees(angle_between(result.R, R)) < 1e-4
    np.testing.assert_allclose(result.t, t, atol=1e-2)
    assert result.inliers.all() and result.score > 0.999
    assert is_rotation(result.R, 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_outliers_are_found_out(seed, solver):
    pixels, points, K, R, t = scene(seed, noise=0.5, outliers=0.4)
    result = solve_pnp(pixels, points, K)
    assert np.degrees(angle_between(result.R, R)) < 2.0
    assert np.linalg.norm(result.t - t) < 20.0
    assert 45 <= result.inliers.sum() <= 56
    errors = np.linalg.norm(project(points, result.R, result.t, K) - pixels, axis=1)
    # Errors are judged in square pixels, which here differ by 2.6 % from the camera's own.
    np.testing.assert_array_equal(
        result.inliers[np.abs(errors - 5.0) > 0.15], (errors < 5.0)[np.abs(errors - 5.0) > 0.15]
    )
    assert result.score == pytest.approx(np.maximum(1 - (errors / 5.0) ** 2, 0).mean(), abs=5e-3)


def test_the_same_input_gives_the_same_pose(solver):
    pixels, points, K, *_ = scene(3, noise=1.0, outliers=0.4)
    first, second = (solve_pnp(pixels, points, K, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.R, second.R)
    np.testing.assert_array_equal(first.t, second.t)
    assert first.score == second.score


def test_weights_sharpen_the_pose(solver):
    plain, weighted = [], []
    for seed in range(20):
        pixels, points, K, R, _ = scene(seed)
        rng = np.random.default_rng(seed)
        sigma = rng.choice([0.2, 2.0], size=len(points))
        pixels = pixels + rng.normal(size=pixels.shape) * sigma[:, None]
        plain.append(angle_between(solve_pnp(pixels, points, K).R, R))
        weighted.append(angle_between(solve_pnp(pixels, points, K, 1 / sigma**2).R, R))
    assert np.median(weighted) < 0.5 * np.median(plain)


def test_a_match_of_weight_zero_or_nan_does_not_count():
    pixels, points, K, R, _ = scene(1, copies=2)
    weights = np.ones(16)
    pixels[3], weights[3] = [1e6, -1e6], 0.0
    pixels[5] = np.nan
    weights[7] = np.nan
    result = solve_pnp(pixels, points, K, weights)
    assert np.degrees(angle_between(result.R, R)) < 1e-4
    assert not result.inliers[[3, 5, 7]].any() and result.inliers.sum() == 13
    assert result.score == pytest.approx(13 / 14)  # the lost match of weight 1 is a loss


def test_errors_are_those_of_the_pose_and_infinite_where_a_match_is_none():
    _, points, _, R, t = scene(0)
    K = np.array([[560.0, 0.0, 320.0], [0.0, 560.0, 240.0], [0.0, 0.0, 1.0]])
    pixels = project(points, R, t, K)
    pixels[5] = np.nan
    pixels[6] += 3.0
    found = solve_pnp(pixels, points, K)
    shown = project(points, found.R, found.t, K)
    usable = np.arange(len(pixels)) != 5
    np.testing.assert_allclose(found.errors[usable], np.linalg.norm(shown - pixels, axis=1)[usable], atol=1e-6)
    assert np.isinf(found.errors[5]) and not found.inliers[5]
    assert support(found.errors, np.full(len(pixels), 1 / len(pixels)), 5.0) == pytest.approx(found.score)


@pytest.mark.parametrize("case", ["none", "three", "nan", "weightless", "one point", "noise"])
def test_no_pose_is_none(case, solver):
    pixels, points, K, *_ = scene(0, copies=2)
    weights = np.ones(16)
    if case == "none":
        pixels, points, weights = pixels[:0], points[:0], weights[:0]
    elif case == "three":
        pixels, points, weights = pixels[:3], points[:3], weights[:3]
    elif case == "nan":
        pixels[3:] = np.nan
    elif case == "weightless":
        weights[:] = 0.0
    elif case == "one point":
        pixels[:], points[:] = pixels[0], points[0]
    elif case == "noise":
        pixels = np.random.default_rng(0).uniform(-1e5, 1e5, pixels.shape)
    assert solve_pnp(pixels, points, K, weights) is None


def test_a_looser_threshold_takes_more_matches():
    pixels, points, K, *_ = scene(2, noise=3.0)
    tight, loose = (solve_pnp(pixels, points, K, threshold=threshold) for threshold in (2.0, 20.0))
    assert tight.inliers.sum() < loose.inliers.sum()


def test_matches_at_one_pixel_give_no_pose():
    """A network that says the same everywhere must not put the object at the far end of the world."""
    corners = np.array([[x, y, z] for x in (-40.0, 40.0) for y in (-30.0, 30.0) for z in (-20.0, 20.0)])
    K = np.array([[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]])
    assert solve_pnp(np.full((8, 2), 100.0), corners, K) is None
