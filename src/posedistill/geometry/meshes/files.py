"""Meshes as files: reading .ply, .obj and .glb, writing BOP's .ply, and what BOP states of each."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes.glb import read_glb
from posedistill.geometry.meshes.obj import read_obj
from posedistill.geometry.meshes.parts import Mesh, join
from posedistill.geometry.meshes.ply import read_ply
from posedistill.geometry.meshes.stl import read_stl

READERS = {".ply": read_ply, ".obj": read_obj, ".glb": read_glb, ".stl": read_stl}
"""In the order in which an object's mesh is looked for."""
_CHUNK = 256


def load_mesh(path: str | Path, looks: bool = True) -> Mesh:
    """Read a mesh; lengths are taken to be millimetres. The parts of a scene are joined.

    Args:
        looks: whether colours and textures count. Without them a missing texture is no fault.

    Raises:
        DataError: missing or damaged file; no faces; colours, textures or materials that are missing, or that are not
            drawn as the file means them.
    """
    path = Path(path)
    expected = f"a mesh ({', '.join(READERS)})"
    if not path.is_file():
        raise DataError(describe(path, "file", "a folder" if path.exists() else "no such file", expected))
    try:
        return join(path, READERS[path.suffix.lower()](path, looks))
    except (DataError, ImportError):  # a library that is missing is no damage
        raise
    except Exception as error:  # a damaged file may break any assumption
        raise DataError(describe(path, "file", f"{type(error).__name__}: {error}", expected)) from error


def save_ply(mesh: Mesh, path: str | Path) -> None:
    """Write a binary .ply as BOP data sets hold them: normals, then colours or texture coordinates.

    A texture is written beside it as ``<stem>.png`` and named by the file's ``comment TextureFile``.
    """
    path = Path(path)
    columns: list[tuple[str, str, NDArray]] = []
    columns += [(name, "<f4", mesh.vertices[:, i]) for i, name in enumerate(("x", "y", "z"))]
    columns += [(name, "<f4", mesh.normals[:, i]) for i, name in enumerate(("nx", "ny", "nz"))]
    comments = []
    if mesh.colors is not None:
        columns += [(name, "u1", mesh.colors[:, i]) for i, name in enumerate(("red", "green", "blue"))]
    if mesh.uv is not None and mesh.texture is not None:
        columns += [(name, "<f4", mesh.uv[:, i]) for i, name in enumerate(("texture_u", "texture_v"))]
        comments.append(f"comment TextureFile {path.stem}.png")
        texture = path.with_suffix(".png")
        if not cv2.imwrite(str(texture), mesh.texture[..., ::-1]):
            raise DataError(describe(texture, "file", "a failed write", "a writable folder"))
    vertices = np.empty(len(mesh.vertices), dtype=[(name, kind) for name, kind, _ in columns])
    for name, _, values in columns:
        vertices[name] = values
    faces = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("vertices", "<i4", 3)])
    faces["count"], faces["vertices"] = 3, mesh.faces
    properties = [f"property {'uchar' if kind == 'u1' else 'float'} {name}" for name, kind, _ in columns]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *comments,
        f"element vertex {len(vertices)}",
        *properties,
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    path.write_bytes("\n".join(header).encode("ascii") + vertices.tobytes() + faces.tobytes())


def hull_corners(points: Array) -> Array:
    """The corners ``[H, 3]`` of the convex hull of ``[V, 3]`` points; of flat point sets all distinct points."""
    from scipy.spatial import ConvexHull, QhullError

    points = np.asarray(points, dtype=np.float64)
    try:
        return points[ConvexHull(points).vertices]
    except (QhullError, ValueError):  # no volume, or fewer than 4 points
        return np.unique(points, axis=0)


def diameter(vertices: Array) -> float:
    """Largest distance between two of ``[V, 3]`` points, exactly; only corners of the convex hull can be ends of it.

    >>> diameter(np.array([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0], [1.0, 1.0, 0.0]]))
    5.0
    """
    from scipy.spatial.distance import cdist

    corners = hull_corners(vertices)
    reach = np.linalg.norm(corners - (corners.min(axis=0) + corners.max(axis=0)) / 2, axis=1)
    lowest = np.linalg.norm(corners - corners[reach.argmax()], axis=1).max()
    # A pair of points is no farther apart than their two reaches together: most corners can end no longer one.
    ends = corners[reach + reach.max() >= lowest * (1 - 1e-9)]
    return float(max(cdist(ends[i : i + _CHUNK], ends).max() for i in range(0, len(ends), _CHUNK)))


def model_info(mesh: Mesh) -> dict[str, float]:
    """The mesh's entry of BOP's ``models_info.json``: diameter and axis-aligned box, mm."""
    low, size = mesh.vertices.min(axis=0), np.ptp(mesh.vertices, axis=0)
    sides = (("min", low), ("size", size))
    box = {f"{name}_{axis}": float(values[i]) for name, values in sides for i, axis in enumerate("xyz")}
    return {"diameter": diameter(mesh.vertices), **box}
