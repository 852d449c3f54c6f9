"""Triangle meshes: reading .ply, .obj and .glb (through trimesh), writing BOP's .ply, and what BOP states of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array

_CHUNK = 256


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in the object frame.

    Attributes:
        vertices: ``[V, 3]`` float64 mm. faces: ``[F, 3]`` int64. normals: ``[V, 3]`` float64, unit length.
        colors: ``[V, 3]`` uint8 RGB, or None.
        uv: ``[V, 2]`` float64, origin at the texture's lower left, or None. texture: ``[h, w, 3]`` uint8 RGB, or None.
    """

    vertices: Array
    faces: NDArray[np.int64]
    colors: NDArray[np.uint8] | None
    uv: Array | None
    texture: NDArray[np.uint8] | None
    normals: Array


def load_mesh(path: str | Path) -> Mesh:
    """Read a mesh; lengths are taken to be millimetres. The parts of a scene are joined.

    Raises:
        DataError: missing or damaged file, no faces, vertices that are not finite, faces that name no vertex.
    """
    import trimesh

    path = Path(path)
    try:
        mesh = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # trimesh passes on whatever its format readers stumble over
        raise DataError(
            describe(path, "file", f"{type(error).__name__}: {error}", "a .ply, .obj or .glb mesh")
        ) from error
    faces = np.asarray(getattr(mesh, "faces", ()), dtype=np.int64)
    if len(faces) == 0:
        raise DataError(describe(path, "faces", "no face", "a triangle mesh"))
    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    if not np.isfinite(vertices).all():
        raise DataError(describe(path, "vertices", "NaN or inf", "finite coordinates"))
    if faces.min() < 0 or faces.max() >= len(vertices):
        found = f"indices {faces.min()}..{faces.max()}"
        raise DataError(describe(path, "faces", found, f"indices 0..{len(vertices) - 1}"))
    colors, uv, texture = _appearance(mesh.visual, len(vertices))
    return Mesh(vertices, faces, colors, uv, texture, np.array(mesh.vertex_normals, dtype=np.float64))


def _appearance(visual: Any, count: int) -> tuple[NDArray[np.uint8] | None, Array | None, NDArray[np.uint8] | None]:
    """Vertex colours, or uv with a texture, or neither, of a trimesh ``visual``."""
    if visual.kind in ("vertex", "face"):
        return np.array(visual.vertex_colors[:, :3], dtype=np.uint8), None, None
    if visual.kind != "texture":
        return None, None, None
    material = visual.material
    image = getattr(material, "image", None) or getattr(material, "baseColorTexture", None)
    if image is not None and visual.uv is not None:
        return None, np.array(visual.uv, dtype=np.float64), np.array(image.convert("RGB"), dtype=np.uint8)
    # A plain material: its one colour.
    return np.tile(np.asarray(material.main_color[:3], dtype=np.uint8), (count, 1)), None, None


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
        _save_texture(mesh.texture, path.with_suffix(".png"))
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


def _save_texture(texture: NDArray[np.uint8], path: Path) -> None:
    """Write an RGB image as png; ``DataError`` where the disk refuses it."""
    import cv2

    if not cv2.imwrite(str(path), texture[..., ::-1]):
        raise DataError(describe(path, "file", "a failed write", "a writable folder"))


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
    box = {f"min_{axis}": float(low[i]) for i, axis in enumerate("xyz")}
    return {
        "diameter": diameter(mesh.vertices),
        **box,
        **{f"size_{axis}": float(size[i]) for i, axis in enumerate("xyz")},
    }
