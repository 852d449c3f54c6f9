from dataclasses import replace

import numpy as np

from posedistill.geometry.cameras import project
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.objects import box_corners
from posedistill.geometry.rotations import random_rotations
from posedistill.geometry.surfaces import Surfaces

HALF = np.array([40.0, 30.0, 50.0])
QUADS = np.array([(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)])
K = np.array([[400.0, 0.0, 33.0], [0.0, 410.0, 30.0], [0.0, 0.0, 1.0]])
SIDE = 64


def box(half: np.ndarray) -> Mesh:
    corners = box_corners(-half, half)
    return Mesh(corners, QUADS[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3), None, None, None, corners)


SURFACES = Surfaces([1, 2], lambda obj_id: box(HALF / obj_id))


def seen(label, R, t, stride=4):
    count = len(label)
    return SURFACES.seen(np.array(label), np.tile(K, (count, 1, 1)), R, np.array(t), SIDE, stride)


def test_points_lie_on_the_front_of_the_surface_and_project_to_their_cells():
    R = random_rotations(2, np.random.default_rng(0))
    points = seen([0, 1], R, [[5.0, -3.0, 700.0], [0.0, 4.0, 500.0]])
    line = (np.arange(16) + 0.5) * 4 - 0.5
    for row, (half, t) in enumerate(((HALF, [5.0, -3.0, 700.0]), (HALF / 2, [0.0, 4.0, 500.0]))):
        rows, columns = np.nonzero(np.isfinite(points[row, ..., 0]))
        assert len(rows) > 20
        found = points[row, rows, columns]
        np.testing.assert_allclose(np.abs(found / half).max(axis=1), 1, atol=1e-4)
        pixels = project(found, R[row], np.array(t), K)
        np.testing.assert_allclose(pixels, np.stack([line[columns], line[rows]], axis=1), atol=1e-2)
        side = np.abs(found / half).argmax(axis=1)
        outward = np.eye(3)[side] * np.sign(found)
        camera = -R[row].T @ np.array(t)
        assert ((camera - found) * outward).sum(axis=1).min() > 0


def test_a_box_before_the_camera_covers_what_its_outline_covers():
    points = seen([0], np.eye(3)[None], [[0.0, 0.0, 700.0]], stride=1)
    hit = np.isfinite(points[0, ..., 0])
    # 80 x 60 mm of the front, 650 mm away.
    np.testing.assert_allclose(hit.sum(), (400 * 80 / 650) * (410 * 60 / 650), rtol=0.05)


def test_objects_behind_the_camera_or_beside_the_picture_are_not_hit():
    points = seen([0, 0], np.tile(np.eye(3), (2, 1, 1)), [[0.0, 0.0, -700.0], [900.0, 0.0, 700.0]])
    assert np.isnan(points).all()


def test_rays_meet_faces_however_these_are_wound():
    R = random_rotations(3, np.random.default_rng(1))
    mesh = box(HALF)
    mixed = mesh.faces.copy()
    mixed[::2] = mixed[::2, ::-1]
    places = [np.zeros(3, np.int64), np.tile(K, (3, 1, 1)), R, np.tile([5.0, -3.0, 700.0], (3, 1)), SIDE, 4]
    kinds = [replace(mesh, faces=faces) for faces in (mesh.faces, mesh.faces[:, ::-1], mixed)]
    plain, flipped, both = (Surfaces([1], lambda _, own=own: own).seen(*places) for own in kinds)
    np.testing.assert_allclose(flipped, plain, atol=1e-3)
    np.testing.assert_allclose(both, plain, atol=1e-3)
