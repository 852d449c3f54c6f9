import cv2
import numpy as np
import pytest
from tests.data.conftest import box_mesh

from posedistill.data.render.layout import Look
from posedistill.data.render.raycast import build_model, cast, compose, pixel_rays
from posedistill.data.render.shapes import assemble, code_objects, superquadric
from posedistill.geometry.cameras import project
from posedistill.geometry.rotations import random_rotations

K = np.array([[300.0, 0, 80], [0, 310.0, 60], [0, 0, 1]])
WIDTH, HEIGHT = 160, 120
RAYS = pixel_rays(K, WIDTH, HEIGHT)
LOOK = Look(np.ones(3), 1.0, 0.0, 10.0)


def at(t: tuple[float, float, float], R: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    return np.eye(3) if R is None else R, np.array(t, float)


def test_depth_of_a_sphere_is_the_analytic_one() -> None:
    ball = assemble([(superquadric((50, 50, 50), cells=80), lambda p: np.full(p.shape, 0.5))])
    center = np.array([30.0, -20.0, 600.0])
    image = compose([cast(build_model(ball, 1, 0), *at(tuple(center)), K, RAYS)], WIDTH, HEIGHT)
    unit = RAYS / np.linalg.norm(RAYS, axis=-1, keepdims=True)
    along = unit @ center
    inside = 50**2 - (center @ center - along**2)
    expected = (along - np.sqrt(np.maximum(inside, 0))) * unit[..., 2]
    clear = inside > 300  # away from the grazing rim, where a facet's depth error grows
    assert clear.sum() > 1000
    assert np.abs(image.depth - expected)[clear].max() < 0.5
    assert not np.isfinite(image.depth[inside < -100]).any()


def test_depth_of_a_turned_box_is_the_analytic_one() -> None:
    R = random_rotations(1, np.random.default_rng(3))[0]
    t, half = np.array([-20.0, 10.0, 500.0]), np.array([40.0, 30.0, 20.0])
    image = compose([cast(build_model(box_mesh((80, 60, 40)), 1, 0), *at(tuple(t), R), K, RAYS)], WIDTH, HEIGHT)
    directions, origin = RAYS.astype(float) @ R, -R.T @ t
    with np.errstate(divide="ignore"):
        slabs = np.stack([(sign * half - origin) / directions for sign in (-1, 1)])
    enter, leave = slabs.min(axis=0).max(axis=-1), slabs.max(axis=0).min(axis=-1)
    clear = leave - enter > 1.0
    assert clear.sum() > 500
    assert np.abs(image.depth - enter)[clear].max() < 0.05
    assert not np.isfinite(image.depth[leave < enter - 1.0]).any()


def test_a_silhouette_agrees_with_the_projected_vertices() -> None:
    mesh = code_objects()[1]
    R = random_rotations(1, np.random.default_rng(0))[0]
    t = np.array([10.0, 5.0, 500.0])
    mask = compose([cast(build_model(mesh, 1, 0), R, t, K, RAYS)], WIDTH, HEIGHT).silhouette(0)
    pixels = project(mesh.vertices, R, t, K)
    ys, xs = np.nonzero(mask)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    assert np.abs([xs.min() - low[0], ys.min() - low[1], xs.max() - high[0], ys.max() - high[1]]).max() <= 1.5
    near = np.rint(pixels).astype(int)
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    assert grown[near[:, 1], near[:, 0]].all()


def test_the_nearer_of_two_boxes_hides_the_other() -> None:
    models = [build_model(box_mesh(size), i, 0) for i, size in enumerate([(100, 100, 20), (40, 200, 20)], start=1)]
    views = [cast(models[0], *at((0, 0, 600)), K, RAYS), cast(models[1], *at((0, 0, 400)), K, RAYS)]
    for order in ((0, 1), (1, 0)):
        image = compose([views[i] for i in order], WIDTH, HEIGHT)
        far, near = order.index(0), order.index(1)
        assert image.depth[60, 80] == pytest.approx(390)
        assert image.owner[60, 80] == near
        np.testing.assert_array_equal(image.owner == near, image.silhouette(near))
        np.testing.assert_array_equal(image.owner == far, image.silhouette(far) & ~image.silhouette(near))
        # 40 mm at 390 mm hide 31 of the 51 columns that 100 mm at 590 mm cover.
        assert (image.owner == far).sum() / image.silhouette(far).sum() == pytest.approx(20 / 51, abs=0.03)


def test_what_is_beside_or_behind_the_camera_shows_nothing() -> None:
    model = build_model(box_mesh((50, 50, 50)), 1, 0)
    assert cast(model, *at((5000, 0, 600)), K, RAYS) is None
    assert cast(model, *at((0, 0, -600)), K, RAYS) is None
    straddling = cast(model, *at((0, 30, 10)), K, RAYS)  # the camera's plane cuts the box
    assert straddling is not None
    assert straddling.depth.shape == (HEIGHT, WIDTH)


def test_ambient_occlusion_is_one_outside_and_low_inside() -> None:
    ball = build_model(assemble([(superquadric((50, 50, 50), cells=10), lambda p: np.full(p.shape, 0.5))]), 1, 128)
    assert ball.attributes[:, 6].min() > 0.9
    cup = code_objects()[2]
    handle = build_model(cup, 1, 64).attributes[:, 6]
    assert handle.min() < 0.4
    assert handle.max() > 0.9
