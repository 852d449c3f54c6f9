"""Point clouds of CAD models: read, or drawn on a mesh's surface; and where a data set keeps them."""

import re
from functools import cached_property
from pathlib import Path

import numpy as np

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes import load_mesh
from posedistill.geometry.meshes.parts import Faces
from posedistill.geometry.meshes.ply import read_points

POINTS = 5000
"""Of a cloud, as published."""
SUFFIXES = (".ply", ".npy", ".npz", ".obj", ".glb")
"""A cloud is a .ply without faces or a .npy; the others are meshes, .npz of ``vertices`` and ``faces``."""


def read_cloud(path: str | Path, count: int = POINTS, seed: int = 0) -> Array:
    """``[count, 3]`` points of a cloud or a mesh, centred, the diagonal of their box 1, in random order.

    Of a larger cloud some points are drawn, of a smaller one all, some of them again; on a mesh points are drawn evenly
    over the surface (Osada et al., TOG 2002). The same file, count and seed give the same points.

    Raises:
        DataError: a missing or damaged file, no point, points that are not numbers or in one place, a mesh without
            faces or area.
    """
    path, rng = Path(path), np.random.default_rng(seed)
    mesh = read_shape(path)
    if isinstance(mesh, tuple):
        points = sample_surface(*mesh, count, rng)
    else:
        rows = rng.permutation(len(mesh))[:count]
        points = mesh[np.concatenate([rows, rng.integers(len(mesh), size=count - len(rows))])]
    return normalised(points, path)


def normalised(points: Array, path: str | Path = "cloud") -> Array:
    """Points ``[N, 3]`` about the middle of their box, its diagonal 1; ``DataError`` where they have none.

    >>> normalised(np.array([[1.0, 1.0, 1.0], [4.0, 5.0, 1.0]])).tolist()
    [[-0.3, -0.4, 0.0], [0.3, 0.4, 0.0]]
    """
    low, high = points.min(axis=0), points.max(axis=0)
    diagonal = float(np.linalg.norm(high - low))
    if not (np.isfinite(points).all() and 0 < diagonal < np.inf):
        raise DataError(describe(path, "points", f"a box of diagonal {diagonal:g}", "finite points in several places"))
    return np.asarray((points - (low + high) / 2) / diagonal)


def sample_surface(vertices: Array, faces: Faces, count: int, rng: np.random.Generator) -> Array:
    """``[count, 3]`` points, uniform over the triangles' area."""
    corners, areas = vertices[faces], _areas(vertices, faces)
    edges = corners[:, 1:] - corners[:, :1]
    chosen = rng.choice(len(faces), count, p=areas / areas.sum())
    shares = rng.random((count, 2))
    shares = np.where(shares.sum(axis=1, keepdims=True) > 1, 1 - shares, shares)  # folded into the triangle
    return np.asarray(corners[chosen, 0] + np.einsum("nk,nkd->nd", shares, edges[chosen]))


def _areas(vertices: Array, faces: Faces) -> Array:
    """``[F]`` twice the triangles' areas."""
    corners = vertices[faces]
    with np.errstate(all="ignore"):  # numbers beyond all measure make an area that is none
        return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)


def read_shape(path: Path) -> Array | tuple[Array, Faces]:
    """A cloud ``[N, 3]``, or a mesh: vertices ``[V, 3]`` and faces ``[F, 3]``.

    Raises:
        DataError: a missing or damaged file, a file of another kind, no point, a mesh without faces or area.
    """
    shape = _read(path)
    if isinstance(shape, tuple) and not 0 < (area := float(_areas(*shape).sum()) / 2) < np.inf:
        raise DataError(describe(path, "faces", f"an area of {area:g}", "corners that are numbers, and some area"))
    return shape


def _read(path: Path) -> Array | tuple[Array, Faces]:
    """As :func:`read_shape`, whatever the area."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(describe(path, "shape", path.suffix or "no suffix", f"one of {', '.join(SUFFIXES)}"))
    if not path.is_file():
        raise DataError(describe(path, "shape", "no such file", "a point cloud or a CAD model"))
    if path.suffix.lower() in (".npy", ".npz"):
        return _arrays(path)
    if path.suffix.lower() == ".ply" and (points := read_points(path)) is not None:
        return _points(path, points)
    mesh = load_mesh(path, looks=False)
    return mesh.vertices, mesh.faces


def _arrays(path: Path) -> Array | tuple[Array, Faces]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if path.suffix.lower() == ".npy":
            return _points(path, loaded)
        with loaded:
            vertices, faces = _points(path, loaded["vertices"]), np.asarray(loaded["faces"], dtype=np.int64)
    except DataError:
        raise
    except Exception as error:  # a damaged file may break any assumption
        expected = "points [N, 3]; in .npz the arrays vertices and faces"
        raise DataError(describe(path, "shape", f"{type(error).__name__}: {error}", expected)) from None
    if faces.ndim != 2 or faces.shape[1:] != (3,) or not len(faces):
        raise DataError(describe(path, "faces", f"shape {list(faces.shape)}", "triangles [F, 3], at least one"))
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise DataError(describe(path, "faces", f"vertex {faces.max()}", f"0 to {len(vertices) - 1}"))
    return vertices, faces


def _points(path: Path, points: np.ndarray) -> Array:
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or points.dtype.kind not in "fiu":
        found = f"{points.dtype} of shape {list(points.shape)}"
        raise DataError(describe(path, "points", found, "numbers of shape [N, 3], at least one"))
    return points.astype(np.float64)


class ShapeFolder:
    """The CAD models or clouds of a data set, by category and name.

    Sought are ``CATEGORY/SHAPE/compressed.ply`` (3DAug-Pose), ``CATEGORY/SHAPE.*``, ``CATEGORYSHAPE.*`` and ``SHAPE.*``
    of any of ``SUFFIXES``; a number is written with two digits, ``1`` is ``01``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @cached_property
    def _files(self) -> dict[str, Path]:
        paths = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        return {path.relative_to(self.folder).with_suffix("").as_posix(): path for path in reversed(paths)}

    def find(self, category: str, shape: str) -> Path | None:
        """The file of a shape; None where there is none."""
        name = f"{int(shape):02d}" if shape.isdecimal() else shape
        stem = str(Path(name).with_suffix("")) if Path(name).suffix.lower() in SUFFIXES else name
        places = (f"{category}/{name}/compressed", f"{category}/{stem}", f"{category}{stem}", stem)
        return next((self._files[place] for place in places if place in self._files), None) if shape else None

    def categories(self) -> list[str]:
        """All that have a shape under a name of their own, in order."""
        found = (re.fullmatch(r"([^/]+)/.+|(\D+)\d+", place) for place in self._files)
        return sorted({match[1] or match[2] for match in found if match})

    def of_category(self, category: str) -> list[str]:
        """Names of all shapes of a category, in order."""
        inside = re.compile(rf"{re.escape(category)}/(?:(.+)/compressed|([^/]+))|{re.escape(category)}(\d+)")
        found = (inside.fullmatch(place) for place in self._files)
        return sorted({next(filter(None, match.groups())) for match in found if match})
