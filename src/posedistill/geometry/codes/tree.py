"""CodeTree: a surface cut in halves again and again by planes, so that any point is encoded by a few dot products.

ZebraPose (Su et al., CVPR 2022) halves the vertices of a mesh by a balanced 2-means. To assign points to the nearer of
two centres in equal numbers is to sort them along the line between the centres and to cut at the median, hence by a
plane. Here the points are samples of the surface, equal in area, and the planes are kept: a code is exact anywhere,
whatever the mesh's triangles, and without pictures of codes on disk. ``published`` has their form.
"""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.files import write_file
from posedistill.geometry.cameras import Array
from posedistill.geometry.codes.fold import cutting_plane
from posedistill.geometry.codes.samples import surface_samples

BITS = 16
"""Of the deepest tree."""
_SAMPLES_PER_CELL = 4
_CHUNK = 1 << 16
"""Points that are encoded at a time: what they gather stays in a cache."""

Floats = NDArray[np.float32]
Codes = NDArray[np.int32]


def node_count(bits: int) -> int:
    """Cells of all depths from 1 to ``bits``.

    >>> node_count(3)
    14
    """
    return 2 ** (bits + 1) - 2


@dataclass(frozen=True, eq=False)
class CodeTree:
    """The code of one object's surface, most significant bit = coarsest cut.

    Attributes:
        planes: ``[2^bits - 1, 4]`` float32 (n, c) mm, node ``j`` of level ``l`` at ``2^l - 1 + j``; the bit of a point
            ``x`` is whether ``n x > c``.
        points: ``[2^(bits + 1) - 2, 3]`` float32 mm, the centroid of each cell, cell ``j`` of depth ``l`` (1 to
            ``bits``) at ``2^l - 2 + j``.
        radii: as many, float32 mm: root mean square distance of a cell's surface from its centroid.
    """

    planes: Floats
    points: Floats
    radii: Floats

    @property
    def bits(self) -> int:
        """Depth."""
        return len(self.planes).bit_length()

    def cut(self, bits: int) -> "CodeTree":
        """The first bits alone; codes are nested.

        Raises:
            DataError: it has fewer.
        """
        if not 1 <= bits <= self.bits:
            raise DataError(describe("codes", "bits", bits, f"1 to {self.bits}"))
        count = node_count(bits)
        return CodeTree(self.planes[: 2**bits - 1], self.points[:count], self.radii[:count])

    def encode(self, points: Floats | Array) -> Codes:
        """``[N]`` cell of the deepest level of each point ``[N, 3]`` mm, wherever it lies."""
        points = np.asarray(points, np.float32)
        cells = np.empty(len(points), np.int32)
        for start in range(0, len(points), _CHUNK):
            part = points[start : start + _CHUNK]
            cell = np.zeros(len(part), np.int32)
            for level in range(self.bits):
                plane = self.planes[cell + ((1 << level) - 1)]
                cell = 2 * cell + (np.einsum("ni,ni->n", plane[:, :3], part) > plane[:, 3])
            cells[start : start + _CHUNK] = cell
        return cells

    def depth(self, level: int) -> slice:
        """Where the cells of a depth, 1 to ``bits``, stand in ``points`` and ``radii``."""
        return slice(2**level - 2, 2 ** (level + 1) - 2)


def build_tree(
    vertices: Array,
    faces: NDArray[np.integer],
    bits: int = BITS,
    refinements: int = 3,
    seed: int = 0,
    half_turn: Array | None = None,
) -> CodeTree:
    """Halve a surface ``bits`` times by planes; the first bits do not depend on how many there are.

    Each cut starts across the widest direction of its cell and is moved ``refinements`` times to stand between the
    means of both halves (a balanced 2-means).

    Args:
        vertices: ``[V, 3]`` mm. faces: ``[F, 3]``.
        half_turn: ``[4, 4]`` symmetry of 180 degrees, which puts a point and its twin into cells that differ in the
            first bit alone: the surface is cut through its axis, and both sides are divided alike.

    Raises:
        DataError: a surface without area, or more bits than ``BITS``.
    """
    if not 1 <= bits <= BITS:
        raise DataError(describe("codes", "bits", bits, f"1 to {BITS}"))
    samples = surface_samples(vertices, faces, _SAMPLES_PER_CELL * 2**BITS, seed)
    if half_turn is None:
        return _halved(samples, bits, refinements)
    plane = cutting_plane(half_turn, samples)
    far = samples @ plane[:3] > plane[3]
    samples[far] = samples[far] @ half_turn[:3, :3].T + half_turn[:3, 3]
    return _unfolded(_halved(samples, bits - 1, refinements), samples, plane, half_turn)


def _halved(samples: Array, bits: int, refinements: int) -> CodeTree:
    """The tree of points that are equal in area, as many as a power of two."""
    cells = samples[None]
    planes, points, radii = [np.empty((0, 4))], [np.empty((0, 3))], [np.empty(0)]
    for _ in range(bits):
        order, plane = _cut(cells, refinements)
        planes.append(plane)
        halves = np.take_along_axis(cells, order[..., None], axis=1)
        cells = halves.reshape(2 * len(cells), -1, 3)
        centers = cells.mean(axis=1)
        points.append(centers)
        radii.append(np.sqrt(np.square(cells - centers[:, None]).sum(axis=2).mean(axis=1)))
    return CodeTree(*(np.concatenate(table).astype(np.float32) for table in (planes, points, radii)))


def _cut(cells: Array, refinements: int) -> tuple[NDArray[np.intp], Array]:
    """Order ``[C, M]`` of the points in cells ``[C, M, 3]``, lower half first, and the planes ``[C, 4]`` between."""
    half = cells.shape[1] // 2
    centered = cells - cells.mean(axis=1, keepdims=True)
    normals = _signed(np.linalg.eigh(np.swapaxes(centered, 1, 2) @ centered)[1][..., -1])
    for _ in range(refinements):
        upper = np.argpartition((centered @ normals[..., None])[..., 0], half, axis=1)[:, half:]
        # The points of a cell sum to 0: the means of its halves are opposite.
        mean = np.take_along_axis(centered, upper[..., None], axis=1).mean(axis=1)
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        normals = _signed(np.where(length > 0, mean / np.maximum(length, 1e-300), normals))
    heights = (cells @ normals[..., None])[..., 0]
    order = np.argpartition(heights, half, axis=1)
    sorted_heights = np.take_along_axis(heights, order, axis=1)
    offsets = (sorted_heights[:, :half].max(axis=1) + sorted_heights[:, half]) / 2
    return order, np.concatenate([normals, offsets[:, None]], axis=1)


def _signed(normals: Array) -> Array:
    """Directions ``[C, 3]`` of which the largest component is positive."""
    largest = np.take_along_axis(normals, np.abs(normals).argmax(axis=1)[:, None], axis=1)
    return np.where(largest < 0, -normals, normals)


def _unfolded(side: CodeTree, samples: Array, plane: Array, transform: Array) -> CodeTree:
    """The tree whose first plane divides, and both of whose halves are divided as ``side`` is, of ``samples``.

    A point ``x`` of the far side is where ``T x`` is on the near one, so its planes are ``(R^T n, c - n t)``.
    """
    R, t = transform[:3, :3], transform[:3, 3]
    normals, offsets = side.planes[:, :3], side.planes[:, 3]
    far_planes = np.concatenate([normals @ R, (offsets - normals @ t)[:, None]], axis=1)
    far_points = (side.points - t) @ R
    whole = samples.mean(axis=0)
    radius = np.sqrt(np.square(samples - whole).sum(axis=1).mean())
    planes: list[Array | Floats] = [plane[None]]
    points: list[Array | Floats] = [np.stack([whole, (whole - t) @ R])]
    radii: list[Array | Floats] = [np.full(2, radius)]
    for level in range(side.bits):
        nodes, cells = slice(2**level - 1, 2 ** (level + 1) - 1), side.depth(level + 1)
        planes += [side.planes[nodes], far_planes[nodes]]
        points += [side.points[cells], far_points[cells]]
        radii += [side.radii[cells], side.radii[cells]]
    return CodeTree(*(np.concatenate(parts).astype(np.float32) for parts in (planes, points, radii)))


def save_tree(tree: CodeTree, path: Path) -> None:
    """Write a tree as an ``.npz``; ``DataError`` where the disk refuses it."""
    from io import BytesIO

    stream = BytesIO()
    np.savez(stream, planes=tree.planes, points=tree.points, radii=tree.radii)
    write_file(path, stream.getvalue())


def load_tree(path: Path) -> CodeTree:
    """What :func:`save_tree` wrote.

    Raises:
        DataError: a missing or damaged file, or one of something else.
    """
    expected = "codes as posedistill data codes writes them"
    try:
        with np.load(path, allow_pickle=False) as file:
            tree = CodeTree(*(np.asarray(file[name], np.float32) for name in ("planes", "points", "radii")))
    except FileNotFoundError:
        raise DataError(describe(path, "file", "no such file", expected)) from None
    except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
        raise DataError(describe(path, "file", error, expected)) from error
    count = node_count(tree.bits)
    shapes = [table.shape for table in (tree.planes, tree.points, tree.radii)]
    if shapes != [(2**tree.bits - 1, 4), (count, 3), (count,)]:
        raise DataError(describe(path, "tables", shapes, expected))
    if not all(np.isfinite(table).all() for table in (tree.planes, tree.points, tree.radii)):
        raise DataError(describe(path, "tables", "NaN or inf", expected))
    return tree
