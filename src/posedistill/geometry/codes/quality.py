"""How fine the cells of a code are at each depth, and what about a mesh makes them poor."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array
from posedistill.geometry.codes.samples import faced_samples
from posedistill.geometry.codes.tree import CodeTree
from posedistill.geometry.ray_casting import RayCaster

_STRADDLING = 4.0
"""Largest distance from its centroid in a cell that lies on both sides of a gap, over the mean of all cells."""
_TOLD = 0.02
"""Share of straddling cells, and of thin walls, from which on they are told."""
_THIN_DEPTH = 10
_CAST = 20_000
"""Points of a surface from which thin walls are looked for."""
_SIZES = (1.0, 10_000.0)
"""Diameters of likely objects, mm."""


@dataclass(frozen=True)
class Quality:
    """Of the cells of one depth.

    Attributes:
        mean: distance of the surface from the centroids of its cells, mm. largest: of any of its points.
        straddling: share of the cells that reach over a gap in the surface.
    """

    bits: int
    mean: float
    largest: float
    straddling: float


def measure(tree: CodeTree, samples: Array) -> list[Quality]:
    """Of every depth, by points ``[N, 3]`` mm that lie evenly on the surface."""
    cells, found = tree.encode(samples), []
    points = np.asarray(samples, np.float32)
    for bits in range(1, tree.bits + 1):
        own = cells >> (tree.bits - bits)
        distances = np.linalg.norm(points - tree.points[tree.depth(bits)][own], axis=1)
        largest = np.zeros(2**bits)
        np.maximum.at(largest, own, distances)
        mean = float(distances.mean())
        straddling = largest > _STRADDLING * mean
        found.append(Quality(bits, mean, float(largest.max()), float(straddling.mean())))
    return found


def thin_share(vertices: Array, faces: NDArray[np.integer], limit: float) -> float:
    """Share of a surface from which another side of it is less than ``limit`` mm away, straight ahead or behind.

    Both count, through a wall and across a gap: a cell holds what is near, and faces may be wound either way.
    """
    points, own = faced_samples(vertices, faces, _CAST, seed=1)
    first, second, third = (vertices[faces[own, corner]] for corner in range(3))
    normals = np.cross(second - first, third - first)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    caster, start = RayCaster(vertices, faces), 1e-3 * limit  # beyond the face that a point is on
    ahead, behind = (caster.distances(points + start * away, away.astype(np.float32)) for away in (normals, -normals))
    return float((np.minimum(ahead, behind) < limit).mean())


def warnings(qualities: list[Quality], vertices: Array, faces: NDArray[np.integer], diameter: float) -> list[str]:
    """What a user should know before trusting these codes of a mesh, in words."""
    told = []
    if not _SIZES[0] <= diameter <= _SIZES[1]:
        told.append(f"a diameter of {diameter:g} mm: is the mesh in millimetres?")
    # A gap in the surface shows once cells are smaller than it; before, all of them are large.
    worst = max(qualities, key=lambda quality: quality.straddling)
    if worst.straddling > _TOLD:
        told.append(f"{worst.straddling:.1%} of the cells of {worst.bits} bits reach over a gap in the surface")
    coarse = [quality for quality in qualities if quality.bits <= _THIN_DEPTH][-1]
    thin = thin_share(vertices, faces, coarse.mean)
    if thin > _TOLD:
        where = f"{thin:.0%} of the surface is thinner than {coarse.mean:.2g} mm, or as near to another part"
        told.append(f"{where}: front and back share cells down to {coarse.bits} bits")
    return told
