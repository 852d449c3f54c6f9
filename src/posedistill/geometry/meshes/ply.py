"""Reading .ply, text and binary.

By hand, because trimesh reads no binary file whose polygons differ in size, averages colours of faces at their corners,
and draws grey what it does not know: a missing texture, colours as floats or under other names.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes import parts as mesh_parts
from posedistill.geometry.meshes.parts import Colors, Faces, Mesh

_KINDS = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4"}
_KINDS |= {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4"}
_KINDS |= {"double": "f8", "float64": "f8", "int64": "i8", "uint64": "u8"}
_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_UV = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"))
_INDICES = ("vertex_indices", "vertex_index")

Column = NDArray | list[NDArray]
"""Of each row a number, or a list of numbers: ``[N]`` or ``[N, k]``, or N arrays where the lists differ in length."""
Columns = dict[str, Column]


class _Property(NamedTuple):
    name: str
    kind: str
    counted: str
    """Type of a list's length; empty for a single number."""


class _Header(NamedTuple):
    byte_order: str
    """Empty for text."""
    elements: dict[str, tuple[int, list[_Property]]]
    textures: list[str]
    size: int


def read_ply(path: Path, looks: bool) -> list[Mesh]:
    """The mesh of a .ply file; ``looks`` asks for its colours or texture."""
    data = path.read_bytes()
    header = _header(path, data)
    columns = _columns(path, header, data[header.size :])
    vertex, face = columns.get("vertex", {}), columns.get("face", {})
    vertices = _vertices(path, vertex)
    polygons, sizes = _polygons(path, face)
    corners, owners = mesh_parts.triangulate(path, "faces", vertices, polygons, sizes)
    faces = polygons[corners]
    if not looks:
        return [mesh_parts.make_mesh(path, vertices, faces)]
    colors, painted = _colors(path, "vertex", vertex), _colors(path, "face", face)
    uv = next((uv for names in _UV if (uv := _stacked(vertex, names)) is not None), None)
    at_corners = "texcoord" in face
    if header.textures and (at_corners or uv is not None or colors is None):
        texture = _texture(path, header.textures)
        if at_corners or uv is None:
            faces, rows, uv = _split_at_seams(path, faces, face, sizes, corners)
            vertices = vertices[rows]
        return [mesh_parts.make_mesh(path, vertices, faces, uv=uv, texture=texture)]
    mesh = mesh_parts.make_mesh(path, vertices, faces, colors)
    if colors is not None or painted is None:
        return [mesh]
    # A vertex for each colour around it, with the normal that they share.
    color = painted[owners].astype(np.int64) @ [1 << 16, 1 << 8, 1]
    split, first = mesh_parts.split_corners(faces, np.repeat(color[:, None], 3, axis=1))
    rows = faces.ravel()[first]
    colors = painted[owners][first // 3]
    return [replace(mesh, vertices=vertices[rows], faces=split, colors=colors, normals=mesh.normals[rows])]


def read_points(path: Path) -> Array | None:
    """The vertices ``[N, 3]`` of a .ply file without faces; None where it has faces.

    Raises:
        DataError: a damaged file, or vertices without x, y, z.
    """
    data = path.read_bytes()
    header = _header(path, data)
    if header.elements.get("face", (0, []))[0]:
        return None
    return _vertices(path, _columns(path, header, data[header.size :]).get("vertex", {}))


def _vertices(path: Path, vertex: Columns) -> Array:
    vertices = _stacked(vertex, ("x", "y", "z"))
    if vertices is None:
        raise DataError(describe(path, "element vertex", sorted(vertex), "properties x, y, z"))
    return vertices


def _header(path: Path, data: bytes) -> _Header:
    end = re.search(rb"^end_header[ \t\r]*\n", data, re.MULTILINE)
    if not data.startswith(b"ply") or end is None:
        raise DataError(describe(path, "file", "no header from 'ply' to 'end_header'", "a .ply mesh"))
    byte_order, textures = "", []
    elements: dict[str, tuple[int, list[_Property]]] = {}
    for line in data[: end.start()].decode(errors="replace").splitlines()[1:]:
        words = line.split()
        try:
            match words:
                case ["format", name, _]:
                    byte_order = _FORMATS[name]
                case ["element", name, count] if int(count) >= 0:
                    elements[name] = (int(count), [])
                case ["property", "list", counted, kind, name]:
                    next(reversed(elements.values()))[1].append(_Property(name, _KINDS[kind], _KINDS[counted]))
                case ["property", kind, name]:
                    next(reversed(elements.values()))[1].append(_Property(name, _KINDS[kind], ""))
                case ["comment", key, *_] if key.lower() == "texturefile":
                    textures.append(line.split(None, 2)[2].strip())
                case ["comment" | "obj_info", *_] | []:
                    pass
                case _:
                    raise ValueError
        except (ValueError, KeyError, IndexError, StopIteration):
            expected = "format, element, property or comment, as .ply defines them"
            raise DataError(describe(path, "header", line[:80], expected)) from None
    return _Header(byte_order, elements, textures, end.end())


def _columns(path: Path, header: _Header, body: bytes) -> dict[str, Columns]:
    """The columns of each element, by name."""
    order, text = header.byte_order, not header.byte_order
    if text:  # as binary numbers of one type
        try:
            body = np.array([float(word) for word in body.split()]).tobytes()
        except ValueError as error:
            raise DataError(describe(path, "body", error, "numbers")) from None
    found: dict[str, Columns] = {}
    start = 0
    for name, (count, properties) in header.elements.items():
        as_text = [_Property(p.name, "f8", p.counted and "f8") for p in properties]
        as_binary = [_Property(p.name, order + p.kind, p.counted and order + p.counted) for p in properties]
        try:
            columns, start = _rows(as_text if text else as_binary, count, body, start)
            found[name] = {p.name: _as_stated(columns[p.name], p.kind) for p in properties}
        except (ValueError, OverflowError) as error:
            raise DataError(describe(path, f"element {name}", error, f"{count} whole rows")) from None
    if start != len(body):
        expected = f"the rows of {', '.join(found)} that the header states"
        raise DataError(describe(path, "body", "values beyond the rows", expected))
    return found


def _rows(fields: list[_Property], count: int, data: bytes, start: int) -> tuple[Columns, int]:
    """The columns of ``count`` rows, and where they end; fast where all lists are as long as in the first row."""
    row, place = np.dtype([]), start
    for name, kind, counted in fields:
        size = _length(data, counted, place) if counted and count else 0
        added = [(f"length of {name}", counted), (name, kind, (size,))] if counted else [(name, kind)]
        row = np.dtype([*row.descr, *added] if row.names else added)
        place = start + row.itemsize
    end = start + count * row.itemsize
    lists = [name for name, _, counted in fields if counted]
    if end <= len(data):
        rows = np.frombuffer(data, row, count, start)
        if all((rows[f"length of {name}"] == row[name].shape[0]).all() for name in lists):
            return {name: rows[name] for name, _, _ in fields}, end
    if not lists:
        raise ValueError("the end of the file")
    columns: dict[str, list] = {name: [] for name, _, _ in fields}
    for _ in range(count):
        for name, kind, counted in fields:
            size = _length(data, counted, start) if counted else 1
            start += np.dtype(counted).itemsize if counted else 0
            values = np.frombuffer(data, kind, size, start)
            columns[name].append(values if counted else values[0])
            start += values.nbytes
    return {name: columns[name] if name in lists else np.array(columns[name]) for name in columns}, start


def _length(data: bytes, kind: str, start: int) -> int:
    """A list's length; ``ValueError`` for one that the file cannot hold."""
    length = float(np.frombuffer(data, kind, 1, start)[0])
    if not (length.is_integer() and 0 <= length <= len(data)):
        raise ValueError(f"a list of length {length:g}")
    return int(length)


def _as_stated(column: Column, kind: str) -> Column:
    """Values in the type that the header states."""
    if isinstance(column, list):
        return [np.asarray(_as_stated(values, kind)) for values in column]
    with np.errstate(invalid="ignore", over="ignore"):
        stated = column.astype(kind)
    if "f" not in kind and not np.array_equal(stated, column):
        raise ValueError(f"a number that is no {kind}")
    return stated


def _stacked(columns: Columns, names: tuple[str, ...]) -> Array | None:
    """Columns side by side, ``[N, k]`` float64; None unless all are there, as single numbers."""
    chosen = [columns[name] for name in names if name in columns]
    if len(chosen) < len(names) or any(isinstance(column, list) or column.ndim > 1 for column in chosen):
        return None
    return np.column_stack(chosen).astype(np.float64)


def _polygons(path: Path, face: Columns) -> tuple[Faces, Faces]:
    """The vertices of all faces, one face after the other, and how many each has."""
    polygons: Any = next((face[name] for name in _INDICES if name in face), None)
    if polygons is None or (len(polygons) and np.ndim(polygons[0]) != 1):
        raise DataError(describe(path, "element face", sorted(face), "property list vertex_indices"))
    if not len(polygons):
        raise DataError(describe(path, "faces", "no face", "a triangle mesh"))
    return _joined(polygons).astype(np.int64), np.array([len(polygon) for polygon in polygons], dtype=np.int64)


def _joined(lists: Column) -> NDArray:
    return lists.ravel() if isinstance(lists, np.ndarray) else np.concatenate(lists)


def _colors(path: Path, element: str, columns: Columns) -> Colors | None:
    """Colours ``[N, 3]`` under any of their names: bytes, or floats in 0..1; None where there are none."""
    names = next((names for names in _COLORS if all(name in columns for name in names)), None)
    if names is None:
        return None
    values, kind = _stacked(columns, names), np.asarray(columns[names[0]]).dtype
    scale = {"f": 255.0, "u": 1.0 if kind.itemsize == 1 else 1 / 257, "i": 1.0}[kind.kind]
    if values is None or not (scale * values.min(initial=0) >= 0 and scale * values.max(initial=0) <= 255):
        found = f"{element} colours of {kind} beyond {'0..1' if kind.kind == 'f' else 'their range'}"
        raise DataError(describe(path, ", ".join(names), found, "bytes, or floats in 0..1"))
    return np.rint(scale * values).astype(np.uint8)


def _texture(path: Path, names: list[str]) -> Colors:
    if len(set(names)) > 1:
        raise DataError(describe(path, "TextureFile", names, "one texture"))
    return mesh_parts.read_texture(path, "TextureFile", mesh_parts.find_file(path, "TextureFile", names[0]))


def _split_at_seams(
    path: Path, faces: Faces, face: Columns, sizes: Faces, corners: Faces
) -> tuple[Faces, NDArray[np.intp], Array]:
    """Faces, the row of each of their vertices, and its uv, where texture coordinates stand at the faces' corners."""
    if "texcoord" not in face:
        found = "a texture without texture coordinates"
        raise DataError(describe(path, "TextureFile", found, "properties texture_u, texture_v or texcoord"))
    if any(len(uv) != 2 * size for uv, size in zip(face["texcoord"], sizes.tolist(), strict=True)):
        raise DataError(describe(path, "texcoord", "lists of other lengths", "two numbers for each corner"))
    places = _joined(face["texcoord"]).astype(np.float64).reshape(-1, 2)[corners.ravel()]
    _, inverse = np.unique(places, axis=0, return_inverse=True)
    split, first = mesh_parts.split_corners(faces, inverse.reshape(-1, 3))
    return split, faces.ravel()[first], places[first]
