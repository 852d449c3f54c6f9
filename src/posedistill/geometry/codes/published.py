"""Codes as ZebraPose (Su et al., CVPR 2022) makes them: vertices halved by a balanced 2-means, and its files.

They are for exchange with its programs: for what it trains, and as tables of networks that it has trained. Unlike
:mod:`~posedistill.geometry.codes.tree` they divide vertices, not area, need more vertices than there are codes, and
give a code to whole faces. Meshes are to be in millimetres: the 2-means stops once its centres move by less than 1.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.files import read_text, write_file
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes.files import save_ply
from posedistill.geometry.meshes.parts import Faces, Mesh

BITS = 16
_CRITERIA = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
_ATTEMPTS = 3


@dataclass(frozen=True, eq=False)
class PublishedCodes:
    """A mesh whose faces have codes.

    Attributes:
        vertices: ``[V, 3]`` mm, with those of the subdivision. faces: ``[F, 3]``.
        codes: ``[F]`` of the faces, most significant bit = first cut.
        points: ``[2^bits, 3]`` mm, mean of the corners of a code's faces; NaN where no face has it.
    """

    vertices: Array
    faces: Faces
    codes: NDArray[np.int64]
    points: Array


def published_codes(vertices: Array, faces: Faces, bits: int = BITS, seed: int = 0) -> PublishedCodes:
    """Subdivide a mesh until it has more than ``2^bits`` vertices, and halve these ``bits`` times.

    Args:
        vertices: ``[V, 3]`` mm. faces: ``[F, 3]``.
    """
    import trimesh

    while len(vertices) <= 2**bits:
        vertices, faces = trimesh.remesh.subdivide(vertices, faces)
    groups = [np.arange(len(vertices))]
    cv2.setRNGSeed(seed)
    for _ in range(bits):
        groups = [half for group in groups for half in _halves(vertices, group)]
    of_vertex = np.empty(len(vertices), np.int64)
    for code, group in enumerate(groups):
        of_vertex[group] = code
    first, second, third = of_vertex[faces].T
    codes = np.where(second == third, second, first)
    return PublishedCodes(vertices, faces, codes, _centroids(vertices, faces, codes, 2**bits))


def _halves(vertices: Array, group: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The vertices of a group in two of sizes that differ by one at most, by the nearer of two centres as far as goes.

    What the larger cluster has too many goes to the other: those nearest to the other's centre.
    """
    points = vertices[group].astype(np.float32)
    centers = cv2.kmeans(points, 2, np.empty(0), _CRITERIA, _ATTEMPTS, cv2.KMEANS_PP_CENTERS)[2]  # type: ignore[call-overload]
    distances = np.square(points[:, None] - centers).sum(axis=2)
    nearer = distances[:, 1] < distances[:, 0]
    target = len(group) // 2
    for cluster in (0, 1):
        members = np.flatnonzero(nearer == cluster)
        if len(members) > target:
            away = distances[members, 1 - cluster].astype(np.int64)
            kept = members[np.lexsort((-members, -away))[:target]]
            nearer = np.full(len(group), cluster == 0)
            nearer[kept] = cluster == 1
            break
    return group[~nearer], group[nearer]


def _centroids(vertices: Array, faces: Faces, codes: NDArray[np.int64], count: int) -> Array:
    corners = vertices[faces].mean(axis=1)
    faces_of = np.bincount(codes, minlength=count)
    sums = np.stack([np.bincount(codes, corners[:, axis], minlength=count) for axis in range(3)], axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / faces_of[:, None])


def write_published(codes: PublishedCodes, folder: Path, obj_id: int) -> None:
    """Write ``Class_CorresPoint%06d.txt`` and ``obj_%06d.ply``, whose colours are the codes (R + 256 G + 65536 B)."""
    count = len(codes.points)
    lines = [f"{count} 2 {count.bit_length() - 1}"]
    lines += [f"{code} {x:.6g} {y:.6g} {z:.6g}" for code, (x, y, z) in enumerate(codes.points.tolist())]
    write_file(folder / f"Class_CorresPoint{obj_id:06d}.txt", "\n".join(lines) + "\n")
    # Each face has corners of its own, so that nothing mixes colours.
    colors = np.repeat(np.stack([codes.codes >> shift & 255 for shift in (0, 8, 16)], axis=1), 3, axis=0)
    corners, own = codes.vertices[codes.faces].reshape(-1, 3), np.arange(codes.faces.size).reshape(-1, 3)
    colored = Mesh(corners, own, colors.astype(np.uint8), None, None, np.zeros_like(corners))
    save_ply(colored, folder / f"obj_{obj_id:06d}.ply")


def read_table(path: Path) -> Array:
    """``[codes, 3]`` mm points of a ``Class_CorresPoint%06d.txt``, in the order of the codes; NaN where there is none.

    Raises:
        DataError: a missing or damaged file, or one in which a code is missing, twice or not in its range.
    """
    expected = "ZebraPose's table: 'codes 2 bits', then 'code x y z' a line"
    rows = [line.split() for line in read_text(path, expected).splitlines() if line.strip()]
    try:
        count, base, bits = (int(word) for word in rows[0])
        table = np.array([[float(word) for word in row] for row in rows[1:]]).reshape(len(rows) - 1, 4)
    except (IndexError, ValueError) as error:
        raise DataError(describe(path, "lines", error, expected)) from error
    if base != 2 or count != 2**bits:
        raise DataError(describe(path, "line 1", " ".join(rows[0]), "2^bits codes of base 2, as in '65536 2 16'"))
    ids = table[:, 0].astype(np.int64)
    if not np.array_equal(np.sort(ids), np.arange(count)):
        missing = np.setdiff1d(np.arange(count), ids)
        found = f"{len(ids)} codes, of which {len(missing)} missing" + (
            f", such as {missing[0]}" if len(missing) else ""
        )
        raise DataError(describe(path, "codes", found, f"each of 0 to {count - 1} once"))
    points = np.empty((count, 3))
    points[ids] = table[:, 1:]
    return points
