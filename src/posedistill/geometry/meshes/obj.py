"""Reading .obj with its .mtl.

By hand, because trimesh draws grey what it cannot find (a library, a material, a texture behind options), knows one
library a file, and takes faces counted from the end for others.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes import parts as mesh_parts
from posedistill.geometry.meshes.parts import Colors, Mesh

_LENGTHS = {"v": (3, 4, 6, 7), "vt": (1, 2, 3), "vn": (3,)}
_OUTSIDE = {"#", "o", "g", "s", "l", "p", "vp", "mg", "lod", "shadow_obj", "trace_obj"}
"""Keywords without a say in faces and their looks."""
_OPTION = re.compile(r"\s*(-[a-z_]+)((?:\s+(?:on|off|[-+]?[\d.]+(?:e[-+]?\d+)?)(?=\s)){1,3})", re.IGNORECASE)
_NEUTRAL = {"-s": "1 1 1", "-o": "0 0 0", "-t": "0 0 0", "-mm": "0 1", "-blendu": "on", "-blendv": "on"}
_NEUTRAL |= {"-clamp": "off", "-cc": "off"}
"""Options of a texture under which it looks as without them."""

_UNSEEN = {"d": 1.0, "ke": 0.0}
"""Transparency and light of its own, and the values under which there is none; ``Tr`` is written both ways round."""


class Material(NamedTuple):
    """A material of a library: its file, its name, and its lines as key, in small letters, and value."""

    path: Path
    name: str
    lines: dict[str, str]


def read_obj(path: Path, looks: bool) -> list[Mesh]:
    """The meshes of an .obj file, one for each material; ``looks`` asks for their colours or textures."""
    rows: dict[str, list[list[float]]] = {"v": [], "vt": [], "vn": []}
    faces: dict[str | None, list[list[list[int]]]] = {}
    materials: dict[str | None, Material] = {}
    material: str | None = None
    for number, key, rest in _lines(path):
        words = rest.partition("#")[0].split()
        try:
            if key in rows and len(words) in _LENGTHS[key]:
                rows[key].append([float(word) for word in words][: 2 if key == "vt" else None])
            elif key == "f" and len(words) >= 3:
                faces.setdefault(material, []).append([_corner(word, rows) for word in words])
            elif key == "usemtl":
                material = rest
            elif key == "mtllib":
                several = all((path.parent / word).is_file() for word in words)
                for name in (words if several else [rest]) if looks else []:
                    materials |= _read_materials(mesh_parts.find_file(path, key, name))
            elif key not in _OUTSIDE:
                raise ValueError
        except ValueError:
            expected = "v, vt or vn with numbers, f with corners v/vt/vn, usemtl or mtllib"
            raise DataError(describe(path, f"line {number}", f"{key} {rest}"[:80], expected)) from None
    tables = [_table(path, key, values) for key, values in rows.items()]
    chosen = {name: _chosen(path, name, materials) if looks else None for name in faces}
    return [_part(path, tables, group, chosen[name], looks) for name, group in faces.items()]


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Number, first word and the rest of the lines that hold something; a backslash at the end joins two."""
    joined = ""
    for number, line in enumerate(path.read_text("utf-8-sig", errors="surrogateescape").splitlines(), start=1):
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        words, joined = (joined + line).split(None, 1), ""
        if words and not words[0].startswith("#"):
            yield number, words[0], words[1].strip() if len(words) > 1 else ""


def _corner(word: str, rows: dict[str, list[list[float]]]) -> list[int]:
    """Rows of v, vt and vn, from 0; -1 for none. Numbers below 0 count from the end of what was read so far."""
    corner = [-1, -1, -1]
    for place, (part, table) in enumerate(zip(word.split("/"), rows.values(), strict=False)):
        number = int(part or 0)
        corner[place] = len(table) + number if number < 0 else number - 1
        if corner[place] < (-1 if place and not part else 0):
            raise ValueError
    return corner


def _table(path: Path, key: str, rows: list[list[float]]) -> Array:
    """Lines of one kind, ``[N, k]``, all of one length."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise DataError(describe(path, key, f"lines of {' and '.join(map(str, lengths))} numbers", "lines alike"))
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows else 3)


def _part(path: Path, tables: list[Array], polygons: list, material: Material | None, looks: bool) -> Mesh:
    """The faces of one material."""
    v, vt, vn = tables
    sizes = np.array([len(polygon) for polygon in polygons], dtype=np.int64)
    corners = np.array([corner for polygon in polygons for corner in polygon], dtype=np.int64)
    corners = corners[mesh_parts.triangulate(path, "f: v", v[:, :3], corners[:, 0], sizes)[0]]
    for column, key, table in ((1, "f: vt", vt), (2, "f: vn", vn)):
        mesh_parts.check_indices(path, key, corners[..., column][corners[..., column] >= 0], len(table))
    faces, first = mesh_parts.split_corners(*np.moveaxis(corners, 2, 0))
    rows = corners.reshape(-1, 3)[first]
    vertices, colors = v[rows[:, 0], :3], None
    color, texture = (None, None) if material is None else _look(material)
    if looks and v.shape[1] > 4 and texture is None:
        colors = _vertex_colors(path, v)[rows[:, 0]]
    elif color is not None:
        colors = np.tile(color, (len(vertices), 1))
    if texture is None or material is None:
        return mesh_parts.make_mesh(path, vertices, faces, colors)
    if (rows[:, 1] < 0).any() or vt.shape[1] < 2:
        found = f"faces of the textured material {material.name} without texture coordinates"
        raise DataError(describe(path, "f", found, "corners v/vt"))
    return mesh_parts.make_mesh(path, vertices, faces, uv=vt[rows[:, 1], :2], texture=texture)


def _vertex_colors(path: Path, v: Array) -> Colors:
    """Colours of the lines ``v x y z r g b``, which follow an extension of the format."""
    colors = v[:, 3:6]
    if not (colors.min() >= 0 and colors.max() <= 1):
        found = f"colours {colors.min():g}..{colors.max():g} behind x y z"
        raise DataError(describe(path, "v", found, "colours in 0..1"))
    return np.rint(255 * colors).astype(np.uint8)


def _read_materials(library: Path) -> dict[str | None, Material]:
    """The materials of a library by name."""
    found: dict[str | None, Material] = {}
    current: Material | None = None
    for number, key, rest in _lines(library):
        if key.lower() == "newmtl":
            current = found[rest] = Material(library, rest, {})
        elif current is None:
            raise DataError(describe(library, f"line {number}", f"{key} {rest}"[:80], "newmtl first"))
        else:
            current.lines[key.lower()] = rest
    return found


def _chosen(path: Path, name: str | None, materials: dict[str | None, Material]) -> Material | None:
    """The material of a group of faces; faces that name none take the only one there is."""
    if name is None and len(materials) < 2:
        return next(iter(materials.values()), None)
    if name not in materials:
        expected = f"one of {sorted(map(str, materials))}" if materials else "a mtllib that defines it"
        raise DataError(describe(path, "usemtl", name or "faces without one", expected))
    return materials[name]


def _look(material: Material) -> tuple[Colors | None, Colors | None]:
    """Colour ``[3]`` and texture of a material, None for what it does not state; the texture is times ``Kd``."""
    path, name, lines = material
    for key, neutral in _UNSEEN.items():
        if f"map_{key}" in lines or (key in lines and (_color(material, key) != neutral).any()):
            found = lines.get(f"map_{key}", lines.get(key))
            raise DataError(describe(path, f"{name}: {key}", found, f"{neutral:g}: objects are opaque and do not glow"))
    color = _color(material, "kd") if "kd" in lines else None
    if "map_kd" not in lines:
        return None if color is None else np.rint(255 * color).astype(np.uint8), None
    key, rest = f"{name}: map_Kd", lines["map_kd"]
    while option := _OPTION.match(rest):
        neutral_values = _NEUTRAL.get(option[1].lower(), "").split()
        if not neutral_values or any(map(_differ, option[2].split(), neutral_values)):
            raise DataError(describe(path, key, option[0].strip(), f"options as {_NEUTRAL}"))
        rest = rest[option.end() :]
    texture = mesh_parts.read_texture(path, key, mesh_parts.find_file(path, key, rest))
    if color is None:
        return None, texture
    if not color.any():
        raise DataError(describe(path, f"{name}: Kd", f"black, which blackens {rest}", "the texture's factor, 1 1 1"))
    return None, mesh_parts.tinted(texture, mesh_parts.to_linear(color))


def _differ(found: str, neutral: str) -> bool:
    try:
        return float(found) != float(neutral)
    except ValueError:
        return found.lower() != neutral


def _color(material: Material, key: str) -> Array:
    """A value in 0..1 or a colour of three, ``[3]``."""
    text = material.lines[key]
    try:
        color = np.broadcast_to([float(word) for word in text.removeprefix("-halo").split()], 3)
    except ValueError:
        color = np.full(3, np.nan)
    if not ((color >= 0) & (color <= 1)).all():
        raise DataError(describe(material.path, f"{material.name}: {key.title()}", text, "three numbers in 0..1"))
    return color
