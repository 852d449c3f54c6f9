import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedistill.geometry.rotations import random_rotations
from posedistill.metrics.vsd import DepthCaster, VisibleSurface

K = np.array([[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]])
SIDE = 100.25  # so that no edge runs through the middle of a pixel: at 1 m the square is 50 x 50 pixels
SQUARE = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * SIDE / 2
FACES = np.array([[0, 1, 2], [0, 2, 3]])
DISTANCE = 1000.0


def surface(depth, K=K):
    return VisibleSurface(depth.astype(np.float32), K, {1: DepthCaster(SQUARE, FACES)})


def vsd(depth, t_est, t_gt, diameter=100.0, K=K):
    scene = surface(depth, K)
    rendered = [scene.render(1, np.eye(3), np.asarray(t, dtype=float)) for t in (t_est, t_gt)]
    return scene.errors(*rendered, diameter)


def image_of(*translations, background=0.0):
    depth = np.full((480, 640), background)
    caster = DepthCaster(SQUARE, FACES)
    for t in translations:
        seen = caster.cast(np.eye(3), np.asarray(t, dtype=float), K, (0, 0, 640, 480))
        depth = np.where((seen > 0) & ((depth == 0) | (seen < depth)), seen, depth)
    return depth


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_cast_depth_is_the_plane_s(seed):
    rng = np.random.default_rng(seed)
    K = np.array([[rng.uniform(300, 600), rng.uniform(-30, 30), 330.0], [0, rng.uniform(300, 600), 250.0], [0, 0, 1]])
    R, t = random_rotations(1, rng)[0], rng.uniform([-100, -100, 700], [100, 100, 1200])
    caster = DepthCaster(SQUARE, FACES)
    box = caster.box(R, t, K, 640, 480)
    depth = caster.cast(R, t, K, box)
    v, u = np.nonzero(depth)
    rays = np.stack([u + box[0], v + box[1], np.ones(len(u))], axis=1) @ np.linalg.inv(K).T
    normal = R[:, 2]
    np.testing.assert_allclose(depth[v, u], (normal @ t) / (rays @ normal), rtol=1e-3)
    inside = (rays * depth[v, u, None] - t) @ R  # back in the object's frame
    assert (np.abs(inside[:, :2]) < SIDE / 2 + 0.2).all()
    whole = caster.cast(R, t, K, (0, 0, 640, 480))
    assert np.count_nonzero(whole) == len(u)  # the box holds all of it


def test_the_square_has_its_pixels():
    depth = image_of([0, 0, DISTANCE])
    np.testing.assert_array_equal(np.argwhere(depth > 0).min(axis=0), [215, 295])
    np.testing.assert_array_equal(np.argwhere(depth > 0).max(axis=0), [265, 345])
    np.testing.assert_allclose(depth[depth > 0], DISTANCE, rtol=1e-5)


def test_the_true_pose_scores_0():
    t = [10.0, -20.0, DISTANCE]
    np.testing.assert_array_equal(vsd(image_of(t), t, t), np.zeros(10))
    np.testing.assert_array_equal(vsd(image_of(t, background=2000.0), t, t), np.zeros(10))


def test_a_sidestep_by_half_a_side_in_closed_form():
    """Half of each square is common; with a background both squares are visible in front of, two thirds are lost."""
    t, aside = [0.0, 0.0, DISTANCE], [51.0, 0.0, DISTANCE]
    # 51 columns of pixels, of which 25.5 = 51 mm * 0.5 px/mm drop out: 25 or 26 in common.
    expected = 1 - 25.5 / (51 + 25.5)
    assert vsd(image_of(t), aside, t) == pytest.approx(np.full(10, expected), abs=0.015)
    assert vsd(image_of(t, background=2000.0), aside, t) == pytest.approx(np.full(10, expected), abs=0.015)
    # A wall right behind hides nothing: within delta. One in front hides the part that stands out.
    covered = image_of(t)
    covered[:, 346:] = 500.0
    assert vsd(covered, aside, t) == pytest.approx(np.full(10, 1 - 25.5 / 51), abs=0.015)


def test_a_step_back_fails_the_tight_tolerances_alone():
    """12 mm on at a diameter of 100 mm: wrong for tau = 0.05 and 0.1, right from 0.15 on, but for a rim of a pixel."""
    t, behind = [0.0, 0.0, DISTANCE], [0.0, 0.0, DISTANCE + 12]
    errors = vsd(image_of(t), behind, t)
    np.testing.assert_array_equal(errors[:2], 1.0)
    assert errors[2:] == pytest.approx(np.full(8, 1 - (49 / 51) ** 2))


def test_an_estimate_behind_the_surface_is_seen_where_the_true_object_is():
    """BOP-19: 40 mm behind is more than delta, yet counted as visible over the true object's pixels."""
    t, behind = [0.0, 0.0, DISTANCE], [0.0, 0.0, DISTANCE + 40]
    errors = vsd(image_of(t), behind, t)
    assert errors[-1] < 0.1  # 40 < 0.5 * 100: right, but for the rim
    assert errors[6] == 1.0  # 40 > 0.35 * 100


def test_hidden_objects_count_where_they_are_visible():
    t, aside = [0.0, 0.0, DISTANCE], [0.0, 4.0, DISTANCE]
    occluded = image_of(t)
    occluded[240:] = 600.0  # the lower half is covered
    upper = vsd(occluded, aside, t)
    assert upper == pytest.approx(np.full(10, 2 / 25), abs=0.02)  # 2 of 25 rows differ


def test_apart_and_outside_are_1():
    t = [0.0, 0.0, DISTANCE]
    assert (vsd(image_of(t), [300.0, 0, DISTANCE], t) == 1.0).all()
    assert (vsd(image_of(t), [9000.0, 0, DISTANCE], t) == 1.0).all()
    assert (vsd(image_of(t), [0, 0, -DISTANCE], t) == 1.0).all()
    hidden = np.full((480, 640), 300.0)
    assert (vsd(hidden, t, t) == 1.0).all()  # nothing is visible of either


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_vsd_falls_with_the_tolerance(seed):
    rng = np.random.default_rng(seed)
    t = rng.uniform([-50, -50, 800], [50, 50, 1200])
    errors = vsd(image_of(t), t + rng.normal(size=3) * 20, t)
    assert (np.diff(errors) <= 0).all() and (errors >= 0).all() and (errors <= 1).all()


def test_against_the_definition_pixel_by_pixel(frames):
    """The window arithmetic and the sorting give what the definition gives on whole images."""
    from .conftest import CASTERS, INFOS, render_depth
    from .conftest import K as K_small

    rng = np.random.default_rng(3)
    (obj_id, R, t), other = frames[3]
    depth = render_depth([(obj_id, R, t), other])
    depth[rng.uniform(size=depth.shape) < 0.1] = 0.0  # holes
    shape = depth.shape
    rays = np.linalg.norm(
        np.stack([*np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), np.ones(shape)], -1)
        @ np.linalg.inv(K_small).T,
        axis=-1,
    )
    for _ in range(5):
        t_est = t + rng.normal(size=3) * 10
        scene = VisibleSurface(depth, K_small, CASTERS)
        found = scene.errors(scene.render(obj_id, R, t_est), scene.render(obj_id, R, t), INFOS[obj_id]["diameter"])
        window = (0, 0, shape[1], shape[0])
        test, est, gt = (
            image * rays
            for image in (
                depth,
                CASTERS[obj_id].cast(R, t_est, K_small, window),
                CASTERS[obj_id].cast(R, t, K_small, window),
            )
        )
        visib_gt = (gt > 0) & ((gt - test <= 15) | (test == 0))
        visib_est = ((est > 0) & ((est - test <= 15) | (test == 0))) | (visib_gt & (est > 0))
        both, union = visib_gt & visib_est, visib_gt | visib_est
        gap = np.abs(gt - est)[both] / INFOS[obj_id]["diameter"]
        expected = [((gap >= tau).sum() + (union & ~both).sum()) / union.sum() for tau in np.linspace(0.05, 0.5, 10)]
        np.testing.assert_allclose(found, expected, atol=2e-3)
