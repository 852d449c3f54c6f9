"""RayCaster: Embree behind three questions. What does a ray hit, how far away, and is anything in its way?"""

import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_NOTHING = 1e30
"""Distances beyond are Embree's way to say that nothing was hit."""


class RayCaster:
    """An Embree scene that holds one mesh, built once; rays are in the mesh's frame. Threads may share it.

    Args:
        vertices: ``[V, 3]`` mm. faces: ``[F, 3]``.
    """

    def __init__(self, vertices: Array, faces: NDArray[np.integer]) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self._scene = EmbreeScene()
        points, triangles = np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32)
        # The mesh must outlive the scene that holds it.
        self._mesh = TriangleMesh(self._scene, points, triangles)
        # The first query builds the tree, which threads must not do at once.
        self._scene.run(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32), query="DISTANCE")

    def hits(self, origin: Array, directions: Floats) -> tuple[Floats, Ints, Floats, Floats]:
        """First hits of rays from one point.

        Args:
            origin: ``[3]`` mm. directions: ``[N, 3]``, of any length.

        Returns:
            ``[N]`` each: distance in lengths of ``directions``, face (-1 for none), barycentric u and v.
        """
        found = self._scene.run(_repeated(origin, directions), directions, query="INTERSECT", output=True)
        return found["tfar"], found["primID"], found["u"], found["v"]

    def distances(self, origin: Array, directions: Floats) -> Floats:
        """``[N]`` distance of the first hits alone, inf for none; see ``hits``. Origins may be many, ``[N, 3]``."""
        found: Floats = self._scene.run(_repeated(origin, directions), directions, query="DISTANCE")
        found[found > _NOTHING] = np.inf
        return found

    def blocked(self, origins: Array | Floats, direction: Array) -> NDArray[np.bool_]:
        """Whether rays from ``[N, 3]`` points in one direction meet the mesh."""
        starts = np.ascontiguousarray(origins, np.float32)
        return self._scene.run(starts, _repeated(direction, starts), query="OCCLUDED") >= 0


def _repeated(vector: Array, rays: Floats) -> Floats:
    """A vector for each ray: the same, or ``[N, 3]`` their own."""
    out = np.empty((len(rays), 3), np.float32)
    out[:] = vector
    return out
