"""Mesh, and what the readers of .ply, .obj and .glb share: textures, polygons, and parts joined under one texture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array

Colors = NDArray[np.uint8]
Faces = NDArray[np.int64]

GREY = 128
"""sRGB level of a surface whose file states no colour."""
_PADDING = 8
"""Texels around each picture of a joined texture: what a halved one mixes in is the picture's own."""
_LARGEST = 16384
"""Pixels along a side of a joined texture."""
_PICTURE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in the object frame.

    Attributes:
        vertices: ``[V, 3]`` float64 mm. faces: ``[F, 3]`` int64. normals: ``[V, 3]`` float64, unit length.
        colors: ``[V, 3]`` uint8 sRGB, or None.
        uv: ``[V, 2]`` float64, origin at the texture's lower left, or None; the texture repeats outside of 0..1.
        texture: ``[h, w, 3]`` uint8 sRGB, or None. Only a mesh without colours has one.
    """

    vertices: Array
    faces: Faces
    colors: Colors | None
    uv: Array | None
    texture: Colors | None
    normals: Array

    def shape_digest(self) -> str:
        """A short hash of the geometry."""
        return _digest(self.vertices, self.faces, self.normals)

    def looks_digest(self) -> str:
        """A short hash of colours, texture coordinates and texture."""
        return _digest(self.colors, self.uv, self.texture)


def _digest(*arrays: NDArray | None) -> str:
    digest = sha256()
    for array in arrays:
        digest.update(b"none" if array is None else f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def make_mesh(
    path: Path,
    vertices: Array,
    faces: Faces,
    colors: Colors | None = None,
    uv: Array | None = None,
    texture: Colors | None = None,
) -> Mesh:
    """A mesh whose numbers are sound; normals follow from the faces, smooth wherever these share a vertex.

    Raises:
        DataError: no face, coordinates that are not finite, faces that name no vertex.
    """
    import trimesh

    if len(faces) == 0:
        raise DataError(describe(path, "faces", "no face", "a triangle mesh"))
    for key, values in (("vertices", vertices), ("texture coordinates", uv)):
        if values is not None and not np.isfinite(values).all():
            raise DataError(describe(path, key, "NaN or inf", "finite coordinates"))
    check_indices(path, "faces", faces, len(vertices))
    normals = trimesh.Trimesh(vertices, faces, process=False).vertex_normals
    return Mesh(vertices, faces, colors, uv, texture, np.array(normals, dtype=np.float64))


def box_mesh(corners: Array) -> Mesh:
    """The box of eight corners ``[8, 3]``, index bits (x, y, z), x most significant.

    >>> from posedistill.geometry.objects import box_corners
    >>> len(box_mesh(box_corners(np.zeros(3), np.ones(3))).faces)
    12
    """
    quads = np.array([(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)])
    normals = corners - corners.mean(axis=0)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    return Mesh(corners, quads[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3), None, None, None, normals)


def check_indices(path: Path, key: str, indices: Faces, count: int) -> None:
    """Raise ``DataError`` unless all indices are in ``0..count - 1``."""
    if indices.size and (indices.min() < 0 or indices.max() >= count):
        found = f"indices {indices.min()}..{indices.max()}"
        raise DataError(describe(path, key, found, f"indices 0..{count - 1}"))


def triangulate(path: Path, key: str, vertices: Array, corners: Faces, sizes: Faces) -> tuple[Faces, Faces]:
    """Triangles that make up polygons.

    Args:
        corners: the vertices of all polygons, one after the other. sizes: how many of them each polygon has.

    Returns:
        ``[F, 3]`` where in ``corners`` those of the triangles stand, and ``[F]`` the polygon of each.

    Raises:
        DataError: a vertex that does not exist, or as :func:`triangle_corners`.
    """
    check_indices(path, key, corners, len(vertices))
    starts, places, owners = np.cumsum(sizes) - sizes, [], []
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        fans = triangle_corners(path, vertices[corners[starts[members, None] + np.arange(size)]])
        places.append((starts[members, None, None] + fans).reshape(-1, 3))
        owners.append(np.repeat(members, size - 2))
    return np.concatenate(places), np.concatenate(owners)


def triangle_corners(path: Path, polygons: Array) -> Faces:
    """The corners ``[P, n - 2, 3]``, numbered 0 to n - 1, of triangles that make up polygons of points ``[P, n, 3]``.

    Triangles fan out from the first corner from which none of them turns over.

    Raises:
        DataError: fewer than three corners, or a concave polygon without such a corner.
    """
    count, size = polygons.shape[:2]
    if size < 3:
        raise DataError(describe(path, "faces", f"a face of {size} corners", "three or more"))
    fan = np.stack([np.zeros(size - 2, int), np.arange(1, size - 1), np.arange(2, size)], axis=1)
    corners = np.tile(fan, (count, 1, 1))
    todo = np.arange(count) if size > 3 else np.arange(0)
    for first in range(size):
        if not len(todo):
            return corners
        turned = (fan + first) % size
        a, b, c = (polygons[todo][:, turned[:, i]] for i in range(3))
        areas = np.cross(b - a, c - a)
        whole = areas.sum(axis=1, keepdims=True)
        fits = ((areas * whole).sum(axis=2) >= -1e-9 * (whole**2).sum(axis=2)).all(axis=1)
        corners[todo[fits]] = turned
        todo = todo[~fits]
    if len(todo):
        found = f"{len(todo)} concave polygons of {size} corners"
        raise DataError(describe(path, "faces", found, "triangles, or polygons that a fan of triangles fills"))
    return corners


def split_corners(*keys: Faces) -> tuple[Faces, NDArray[np.intp]]:
    """Faces ``[F, 3]`` with a vertex for each distinct combination of keys ``[F, 3]``, and a corner that has it."""
    rows = np.zeros(keys[0].size, dtype=np.int64)
    for key in keys:  # numbered anew each time: whole rows are slow to compare, and products would overflow
        rows = np.unique(rows, return_inverse=True)[1] * (np.ptp(key) + 1) + key.ravel() - key.min()
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    return inverse.reshape(-1, 3), first


def find_file(owner: Path, key: str, name: str) -> Path:
    """The file that a mesh or a material names.

    Backslashes are slashes. What is not there as named is searched in another letter case, then beside ``owner`` under
    its last name, and taken where just one file fits.

    Raises:
        DataError: no such file, or several that fit.
    """
    parts = name.strip().strip('"').replace("\\", "/").split("/")
    exact = owner.parent.joinpath(*parts)
    found = [exact] if exact.is_file() else (_any_case(owner.parent, parts) or _any_case(owner.parent, parts[-1:]))
    if len(found) != 1:
        several = f", which may be {' or '.join(path.name for path in found)}" if found else ", which does not exist"
        raise DataError(describe(owner, key, name.strip() + several, f"a file in {owner.parent}"))
    return found[0]


def _any_case(folder: Path, parts: Sequence[str]) -> list[Path]:
    """Files at a path below the folder, whatever the case of their letters."""
    found = [folder]
    for part in parts:
        if part in (".", ".."):
            found = [path / part for path in found]
            continue
        inside = [child for path in found if path.is_dir() for child in path.iterdir()]
        found = sorted(child for child in inside if child.name.lower() == part.lower())
    return [path for path in found if path.is_file()]


def read_texture(path: Path, key: str, content: Path | bytes, opaque: bool = False) -> Colors:
    """A texture ``[h, w, 3]`` in sRGB, from a file or from bytes that ``path`` holds.

    Args:
        opaque: refuse a picture that is transparent somewhere; otherwise its alpha is not looked at.

    Raises:
        DataError: no readable picture of 8 bits.
    """
    from PIL import Image

    name = content if isinstance(content, Path) else "its picture"
    try:
        with Image.open(content if isinstance(content, Path) else BytesIO(content)) as image:
            if image.mode not in _PICTURE_MODES:
                raise DataError(describe(path, key, f"{name} of mode {image.mode}", "8 bits a channel"))
            if opaque and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
                raise DataError(describe(path, key, f"{name}, partly transparent", "objects that are opaque"))
            return np.array(image.convert("RGB"), dtype=np.uint8)
    except DataError:
        raise
    except Exception as error:  # Pillow passes on whatever its format readers stumble over
        raise DataError(describe(path, key, f"{name}: {error}", "a readable image")) from error


def to_srgb(linear: Array) -> Colors:
    """sRGB bytes of linear values in 0..1.

    >>> to_srgb(np.array([0.0, 0.5, 1.0]))
    array([  0, 188, 255], dtype=uint8)
    """
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
    return np.rint(255 * curve.clip(0, 1)).astype(np.uint8)


def to_linear(srgb: Array) -> Array:
    """Linear values of sRGB values in 0..1."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def tinted(texture: Colors, factor: Array) -> Colors:
    """A texture times a linear factor ``[3]``."""
    table = to_srgb(to_linear(np.arange(256) / 255)[:, None] * factor)
    return np.stack([table[texture[..., i], i] for i in range(3)], axis=-1)


def join(path: Path, parts: Sequence[Mesh]) -> Mesh:
    """One mesh of several; different textures and plain colours are put into one texture.

    Raises:
        DataError: no part; colours that vary over a part beside textures of others; textures that repeat too often.
    """
    if not parts:
        raise DataError(describe(path, "faces", "no face", "a triangle mesh"))
    if len({None if part.texture is None else part.texture.tobytes() for part in parts}) > 1:
        parts = _in_one_texture([_tiled(path, _with_texture(path, part)) for part in parts])
    elif any(part.colors is not None for part in parts):
        parts = [_with_colors(part) for part in parts]
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])[:-1]
    faces = np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=True)])
    columns = {name: [getattr(part, name) for part in parts] for name in ("vertices", "colors", "uv", "normals")}
    joined: dict[str, Any] = {key: None if rows[0] is None else np.concatenate(rows) for key, rows in columns.items()}
    return replace(parts[0], faces=faces, **joined)


def _with_colors(part: Mesh) -> Mesh:
    grey = np.full((len(part.vertices), 3), GREY, np.uint8)
    return replace(part, colors=grey if part.colors is None else part.colors)


def _with_texture(path: Path, part: Mesh) -> Mesh:
    """The part with a texture of its one colour, where it has none."""
    if part.texture is not None:
        return part
    colors = np.unique(np.asarray(_with_colors(part).colors), axis=0)
    if len(colors) > 1:
        found = "a part with vertex colours beside a part with a texture"
        raise DataError(describe(path, "colours", found, "either of them in all parts"))
    return replace(part, colors=None, uv=np.zeros((len(part.vertices), 2)), texture=colors[None])


def _tiled(path: Path, part: Mesh) -> Mesh:
    """The part with its texture repeated as often as its coordinates ask for, which are in 0..1 then.

    Each face is moved by whole repeats towards the origin first: a wall of many tiles needs few.
    """
    assert part.uv is not None and part.texture is not None
    corners = part.uv[part.faces]
    moves = np.floor(corners.min(axis=1) + 1e-6).astype(np.int64)
    repeats = np.maximum(np.ceil((corners.max(axis=1) - moves).max(axis=0) - 1e-6), 1)
    if (repeats * part.texture.shape[1::-1] > _LARGEST).any():
        found = f"a face that repeats its texture {repeats[0]:g} x {repeats[1]:g} times, beside other textures"
        raise DataError(describe(path, "texture coordinates", found, f"at most {_LARGEST} pixels a side"))
    faces, first = split_corners(part.faces, *(np.repeat(moves[:, i, None], 3, axis=1) for i in range(2)))
    rows = part.faces.ravel()[first]
    uv = (part.uv[rows] - moves[first // 3]) / repeats
    texture = np.tile(part.texture, (int(repeats[1]), int(repeats[0]), 1))
    return Mesh(part.vertices[rows], faces, None, uv, texture, part.normals[rows])


def _in_one_texture(parts: Sequence[Mesh]) -> list[Mesh]:
    """The parts with their textures one below the other in a common one; equal textures share their place."""
    pads = ((_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0))
    textures = [np.asarray(part.texture) for part in parts]
    pictures = {texture.tobytes(): np.pad(texture, pads, mode="wrap") for texture in textures}
    heights = [picture.shape[0] for picture in pictures.values()]
    tops = dict(zip(pictures, np.cumsum([0, *heights])[:-1].tolist(), strict=True))
    width, height = max(picture.shape[1] for picture in pictures.values()), sum(heights)
    sheet = np.full((height, width, 3), GREY, np.uint8)
    for key, picture in pictures.items():
        sheet[tops[key] : tops[key] + picture.shape[0], : picture.shape[1]] = picture
    placed = []
    for part, texture in zip(parts, textures, strict=True):
        below = height - tops[texture.tobytes()] - _PADDING - texture.shape[0]
        uv = (np.asarray(part.uv) * texture.shape[1::-1] + [_PADDING, below]) / [width, height]
        placed.append(replace(part, uv=uv, texture=sheet))
    return placed
