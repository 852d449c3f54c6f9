"""Points that are spread evenly over a mesh's surface."""

import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array


def surface_samples(vertices: Array, faces: NDArray[np.integer], count: int, seed: int = 0) -> Array:
    """``[count, 3]`` points of a surface, stratified by area; see :func:`faced_samples`.

    >>> square = np.array([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]])
    >>> points = surface_samples(square, np.array([[0, 1, 2], [0, 2, 3]]), 1000)
    >>> points.shape, points.mean(axis=0).round(1).tolist()
    ((1000, 3), [1.0, 1.0, 0.0])
    """
    return faced_samples(vertices, faces, count, seed)[0]


def faced_samples(
    vertices: Array, faces: NDArray[np.integer], count: int, seed: int = 0
) -> tuple[Array, NDArray[np.intp]]:
    """``[count, 3]`` points of a surface, every stretch of which gets its share, and ``[count]`` the faces they are on.

    Args:
        vertices: ``[V, 3]``. faces: ``[F, 3]``; those without area get no point.

    Raises:
        DataError: a surface without area, or of an area that is not finite.
    """
    rng = np.random.default_rng(seed)
    first, second, third = (vertices[faces[:, corner]] for corner in range(3))
    with np.errstate(over="ignore", invalid="ignore"):
        areas = np.linalg.norm(np.cross(second - first, third - first), axis=1)
        ends = np.cumsum(areas)
    total = float(ends[-1]) if len(ends) else 0.0
    if not (0 < total < np.inf):
        raise DataError(describe("mesh", "area", f"{total / 2:g} mm2", "a surface with an area"))
    places = (np.arange(count) + rng.random(count)) * (total / count)
    chosen = np.minimum(np.searchsorted(ends, places, side="right"), len(ends) - 1)
    root, along = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    points: Array = (1 - root) * first[chosen] + root * (1 - along) * second[chosen] + root * along * third[chosen]
    return points, chosen
