"""Which point of an object's surface is seen at each cell of a picture, by ray casting: exact for any pose and zoom."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array, cell_centers
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.ray_casting import RayCaster

Floats = NDArray[np.float32]
TARGET = "surface/"
"""What the target is called, before the pixels along a cell: ``surface/4``."""


def strides_of(targets: frozenset[str]) -> list[int]:
    """Sides of the cells that targets ask surfaces of.

    >>> strides_of(frozenset({"masks", "surface/4"}))
    [4]
    """
    return sorted(int(name.removeprefix(TARGET)) for name in targets if name.startswith(TARGET))


class Surfaces:
    """The surfaces of objects, read when they are first looked at. Threads may share it.

    Args:
        obj_ids: in class order. mesh: the mesh of an object, mm.
    """

    def __init__(self, obj_ids: Sequence[int], mesh: Callable[[int], Mesh]) -> None:
        self.obj_ids, self.mesh = list(obj_ids), mesh

    @cached_property
    def casters(self) -> list[RayCaster]:
        """In class order."""
        meshes = [self.mesh(obj_id) for obj_id in self.obj_ids]
        return [RayCaster(mesh.vertices, mesh.faces) for mesh in meshes]

    def seen(self, label: NDArray[np.int64], K: Array, R: Array, t: Array, side: int, stride: int) -> Floats:
        """Points ``[n, side / stride, side / stride, 3]`` mm in the objects' frames; NaN where a ray meets nothing.

        Rays go through the centres of cells of ``stride`` pixels. Only the object itself hides parts of it.

        Args:
            label: ``[n]`` classes. K, R: ``[n, 3, 3]``, t: ``[n, 3]`` mm of square pictures of ``side`` pixels.
        """
        grid = side // stride
        pixels = np.concatenate([cell_centers(grid, grid, stride), np.ones((grid * grid, 1))], axis=1)
        directions = (pixels @ np.linalg.inv(K).transpose(0, 2, 1) @ R).astype(np.float32)
        origins = -(t[:, None] @ R)[:, 0]
        points = np.full((len(label), grid * grid, 3), np.nan, np.float32)
        for row, index in enumerate(label.tolist()):
            distance, face, _, _ = self.casters[index].hits(origins[row], directions[row])
            hit = face >= 0
            points[row, hit] = origins[row].astype(np.float32) + distance[hit, None] * directions[row, hit]
        return points.reshape(len(label), grid, grid, 3)
