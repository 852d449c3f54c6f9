from concurrent.futures import ThreadPoolExecutor

import numpy as np

from posedistill.geometry.ray_casting import RayCaster

SQUARE = np.array([[-10.0, -10, 100], [10, -10, 100], [10, 10, 100], [-10, 10, 100]])
FACES = np.array([[0, 1, 2], [0, 2, 3]])
RAYS = np.array([[0.01, -0.02, 1.0], [0.09, 0.09, 1.0], [0.2, 0.0, 1.0], [0.02, 0.0, -1.0]], np.float32)


def test_hits_and_distances_are_those_of_the_plane():
    caster = RayCaster(SQUARE, FACES)
    distance, face, u, v = caster.hits(np.zeros(3), RAYS)
    assert (face[:2] >= 0).all() and (face[2:] == -1).all()
    corners = SQUARE[FACES[face[:2]]]
    weights = np.stack([1 - u - v, u, v], axis=1)[:2]
    np.testing.assert_allclose(np.einsum("nc,nci->ni", weights, corners), 100 * RAYS[:2], atol=1e-4)
    np.testing.assert_allclose(distance[:2], 100, rtol=1e-6)
    np.testing.assert_allclose(caster.distances(np.zeros(3), RAYS), [100, 100, np.inf, np.inf], rtol=1e-6)
    np.testing.assert_allclose(caster.distances(np.array([0.0, 0, 40]), 2 * RAYS[:1]), [30], rtol=1e-6)


def test_what_stands_in_the_way_blocks():
    caster = RayCaster(SQUARE, FACES)
    origins = np.array([[0.0, 0, 0], [50, 0, 0], [0, 0, 120]])
    np.testing.assert_array_equal(caster.blocked(origins, np.array([0.0, 0, 1])), [True, False, False])
    np.testing.assert_array_equal(caster.blocked(origins, np.array([0.0, 0, -1])), [False, False, True])


def test_threads_share_a_caster():
    caster = RayCaster(SQUARE, FACES)
    rays = np.repeat(RAYS, 500, axis=0)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: caster.distances(np.zeros(3), rays), range(16)))
    assert all(np.array_equal(one, found[0]) for one in found)
