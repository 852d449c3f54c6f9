import numpy as np
import pytest
from tests.distill.conftest import LABELLED_TURNS

from posedistill.geometry.cameras import project
from posedistill.geometry.rotations import angle_between, axis_angle, is_rotation, random_rotations
from posedistill.geometry.viewpoint import (
    canonical_viewpoint,
    cars_viewpoint,
    flipped,
    from_shapenet,
    label_angles,
    labelled_viewpoint,
    mirrored_shape,
    nearest_equivalent,
    pix3d_viewpoint,
    rotation_viewpoint,
    viewpoint_rotation,
)

K = np.array([[500.0, 0.0, 112.0], [0.0, 500.0, 112.0], [0.0, 0.0, 1.0]])
AHEAD = np.array([0.0, 0.0, 3.0])


@pytest.fixture
def viewpoints():
    rng = np.random.default_rng(0)
    return rng.uniform([0, -89, -180], [360, 89, 180], (200, 3))


def pixels(points, viewpoint):
    return project(points, viewpoint_rotation(viewpoint), AHEAD, K)


@pytest.mark.parametrize(("first", "second", "degrees"), LABELLED_TURNS)
def test_geodesic_distances_of_label_angles(first, second, degrees):
    R = viewpoint_rotation(labelled_viewpoint(np.array([first, second], dtype=float)))
    assert np.rad2deg(angle_between(R[0], R[1])) == pytest.approx(degrees, abs=5e-5)


def test_label_angles_give_the_same_rotation(viewpoints):
    labels = label_angles(viewpoints)
    assert (labels >= 0).all() and (labels < [360, 180, 360]).all()
    np.testing.assert_allclose(
        viewpoint_rotation(labelled_viewpoint(labels)), viewpoint_rotation(viewpoints), atol=1e-9
    )


def test_angles_come_back_from_rotations(viewpoints):
    found = rotation_viewpoint(viewpoint_rotation(viewpoints))
    np.testing.assert_allclose(found, viewpoints, atol=1e-9)


@pytest.mark.parametrize("elevation", [90.0, -90.0])
def test_rotations_from_straight_above_come_back(elevation):
    R = viewpoint_rotation(np.array([[30.0, elevation, 20.0], [0.0, elevation, -170.0]]))
    np.testing.assert_allclose(viewpoint_rotation(rotation_viewpoint(R)), R, atol=1e-9)


def test_any_rotation_comes_back():
    R = random_rotations(200, np.random.default_rng(1))
    np.testing.assert_allclose(viewpoint_rotation(rotation_viewpoint(R)), R, atol=1e-9)


def test_where_things_appear():
    """The front looks at a camera of azimuth 0; from azimuth 90 it is on the left; from above the top is near."""
    front, top = np.array([[0.0, -0.5, 0.0]]), np.array([[0.0, 0.0, 0.5]])
    depth = lambda point, view: (viewpoint_rotation(np.array(view)) @ point[0])[2]  # noqa: E731
    assert depth(front, [0.0, 0.0, 0.0]) < 0
    assert pixels(front, np.array([90.0, 0.0, 0.0]))[0, 0] < 112
    assert pixels(top, np.array([0.0, 0.0, 0.0]))[0, 1] < 112  # up is up
    assert depth(top, [0.0, 60.0, 0.0]) < 0
    assert pixels(top, np.array([0.0, 0.0, 30.0]))[0, 0] < 112  # counter-clockwise


def test_mirrored_pictures(viewpoints):
    mirrored = viewpoints * [-1, 1, -1]
    np.testing.assert_allclose(flipped(viewpoint_rotation(viewpoints)), viewpoint_rotation(mirrored), atol=1e-9)
    points = np.random.default_rng(2).normal(size=(50, 3)) / 5
    for before, after in zip(viewpoints[:20], mirrored[:20], strict=True):
        seen = pixels(points, before)
        seen[:, 0] = 224 - seen[:, 0]
        np.testing.assert_allclose(pixels(mirrored_shape(points), after), seen, atol=1e-9)


def test_turned_pictures(viewpoints):
    turn = np.random.default_rng(3).uniform(-60, 60, 200)
    counter_clockwise = axis_angle(np.array([0.0, 0.0, 1.0]), -np.deg2rad(turn))  # OpenCV's y points down
    turned = viewpoints + np.stack([0 * turn, 0 * turn, turn], axis=1)
    np.testing.assert_allclose(
        counter_clockwise @ viewpoint_rotation(viewpoints), viewpoint_rotation(turned), atol=1e-9
    )


def test_turned_frames(viewpoints):
    phi = np.random.default_rng(4).uniform(-180, 180, 200)
    moved = viewpoints + np.stack([phi, 0 * phi, 0 * phi], axis=1)
    point = np.array([0.1, -0.4, 0.3])
    turned_shape = axis_angle(np.array([0.0, 0.0, 1.0]), np.deg2rad(phi)) @ point
    np.testing.assert_allclose(
        np.einsum("nij,nj->ni", viewpoint_rotation(moved), turned_shape),
        viewpoint_rotation(viewpoints) @ point,
        atol=1e-9,
    )


def test_cars_are_turned_as_their_data_set_says():
    rng = np.random.default_rng(5)
    angles = rng.uniform([-0.1, -0.6, -0.35], [6.4, 0.6, 0.35], (50, 3))
    azimuth, elevation, theta = angles.T
    c, s, zero, one = np.cos(azimuth), np.sin(azimuth), np.zeros(50), np.ones(50)
    Ry = np.stack([c, zero, -s, zero, one, zero, s, zero, c], axis=1).reshape(-1, 3, 3)
    published = axis_angle(np.array([0.0, 0.0, 1.0]), theta) @ axis_angle(np.array([1.0, 0.0, 0.0]), elevation) @ Ry
    shapenet = rng.normal(size=(50, 3))
    expected = np.einsum("nij,nj->ni", published, shapenet * [1, -1, -1])
    ours = np.einsum("nij,nj->ni", viewpoint_rotation(cars_viewpoint(angles)), from_shapenet(shapenet))
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_pix3d_cameras_stand_where_they_are_said_to():
    camera = np.random.default_rng(6).normal(size=(50, 3))
    R = viewpoint_rotation(pix3d_viewpoint(camera, 0.1))
    assert is_rotation(R).all()
    # x left, y up, z inward in the frame of viewpoints (front towards -y): left is what a viewer of the front has left.
    ours = camera[:, [0, 2, 1]] * [-1, 1, 1]
    towards = -R[:, 2]
    np.testing.assert_allclose(towards, ours / np.linalg.norm(ours, axis=1, keepdims=True), atol=1e-9)
    assert rotation_viewpoint(R)[:, 2] == pytest.approx(-np.rad2deg(0.1))


def test_symmetric_shapes_are_compared_with_their_nearest_pose():
    rng = np.random.default_rng(7)
    R, reference = random_rotations(90, rng), random_rotations(90, rng)
    turns = axis_angle(np.array([0.0, 0.0, 1.0]), np.linspace(0, 2 * np.pi, 721)[:-1])
    for order, step in ((1, 720), (2, 360), (4, 180), (0, 1)):
        candidates = R[:, None] @ turns[::step]
        least = angle_between(candidates, reference[:, None]).min(axis=1)
        found = angle_between(nearest_equivalent(R, reference, np.full(90, order)), reference)
        assert np.abs(found - least).max() < (1e-9 if order else 0.01)
        assert (found <= least + 1e-9).all()


def test_equivalent_viewpoints_have_one_canonical_form():
    orders = np.array([1, 2, 4, 0])
    for turn in (0.0, 180.0):
        seen = np.tile([30.0 + turn, 10.0, 5.0], (4, 1))
        found = canonical_viewpoint(seen, orders)
        assert found[:, 0].tolist() == [30.0 + turn, 30.0, 30.0, 0.0]
        assert (found[:, 1:] == [10.0, 5.0]).all()


@pytest.mark.parametrize(("order", "jump"), [(2, 90.0), (4, 45.0)])
def test_canonical_forms_jump_half_a_step_from_the_front_and_not_at_it(order, jump):
    """The front is what photographs show most: 359 and 1 degrees are neighbours, also seen from the rear."""
    azimuth = np.array([359.0, 1.0, 179.0, 181.0, jump - 1, jump + 1])
    found = canonical_viewpoint(np.stack([azimuth, 0 * azimuth, 0 * azimuth], 1), np.full(6, order))[:, 0]
    assert found.tolist() == [359.0, 1.0, 359.0, 1.0, jump - 1, 361.0 - jump]
