"""Reading .obj with its .mtl.

By hand, because trimesh draws grey what it cannot find (a library, a material, a texture behind options), knows one
library a file, and takes faces counted from the end for others.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.mesh_parts import (
    Colors,
    Mesh,
    check_indices,
    find_file,
    make_mesh,
    read_texture,
    split_corners,
    tinted,
    to_linear,
    triangle_corners,
)

_LENGTHS = {"v": (3, 4, 6, 7), "vt": (1, 2, 3), "vn": (3,)}
_OUTSIDE = {"#", "o", "g", "s", "l", "p", "vp", "mg", "usemap", "lod", "shadow_obj", "trace_obj"}
"""Keywords without a say in faces and their looks."""
_OPTION = re.compile(r"\s*(-[a-z_]+)((?:\s+(?:on|off|[-+]?[\d.]+(?:e[-+]?\d+)?)(?=\s)){1,3})", re.IGNORECASE)
_NEUTRAL = {"-s": "1 1 1", "-o": "0 0 0", "-t": "0 0 0", "-mm": "0 1", "-blendu": "on", "-blendv": "on"}
_NEUTRAL |= {"-clamp": "off", "-cc": "off"}
"""Options of a texture under which it looks as without them."""

Material = dict[str, str]
"""Key, in small letters, to what follows it."""


def read_obj(path: Path, looks: bool) -> list[Mesh]:
    """The meshes of an .obj file, one for each material; ``looks`` asks for their colours or textures."""
    rows: dict[str, list[list[float]]] = {"v": [], "vt": [], "vn": []}
    faces: dict[str | None, list[list[tuple[int, int, int]]]] = {}
    materials: dict[str, tuple[Path, Material]] = {}
    material: str | None = None
    for number, key, rest in _lines(path):
        try:
            if key in rows:
                values = [float(word) for word in rest.partition("#")[0].split()]
                if len(values) not in _LENGTHS[key]:
                    raise ValueError
                rows[key].append(values)
            elif key == "f":
                words = rest.partition("#")[0].split()
                if len(words) < 3:
                    raise ValueError
                faces.setdefault(material, []).append([_corner(word, rows) for word in words])
            elif key == "usemtl":
                material = rest
            elif key == "mtllib":
                materials |= _read_materials(path, rest) if looks else {}
            elif key not in _OUTSIDE:
                raise ValueError
        except ValueError:
            expected = "v, vt or vn with numbers, f with corners v/vt/vn, usemtl or mtllib"
            raise DataError(describe(path, f"line {number}", f"{key} {rest}"[:80], expected)) from None
    tables = [_table(path, key, values) for key, values in rows.items()]
    return [
        mesh
        for name, polygons in faces.items()
        for mesh in [_part(path, tables, polygons, _chosen(path, name, materials) if looks else None, looks)]
    ]


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Number, first word and the rest of the lines that hold something; a backslash at the end joins two."""
    joined = ""
    text = path.read_text("utf-8", errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        words, joined = (joined + line).split(None, 1), ""
        if words and not words[0].startswith("#"):
            yield number, words[0], words[1].strip() if len(words) > 1 else ""


def _corner(word: str, rows: dict[str, list[list[float]]]) -> tuple[int, int, int]:
    """Rows of v, vt and vn, from 0; -1 for none. Numbers below 0 count from the end of what was read so far."""
    parts = [*word.split("/"), "", ""][:3]
    if word.count("/") > 2:
        raise ValueError
    v, vt, vn = (_row(part, len(rows[key])) for part, key in zip(parts, ("v", "vt", "vn"), strict=True))
    if v < 0:
        raise ValueError
    return v, vt, vn


def _row(part: str, count: int) -> int:
    number = int(part) if part else None
    if number is None:
        return -1
    if number == 0 or number < -count:
        raise ValueError
    return number - 1 if number > 0 else count + number


def _table(path: Path, key: str, rows: list[list[float]]) -> Array:
    """Lines of one kind, ``[N, k]``, all of one length."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise DataError(describe(path, key, f"lines of {' and '.join(map(str, lengths))} numbers", "lines alike"))
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows else 3)


def _part(
    path: Path, tables: list[Array], polygons: list, material: tuple[Path, str, Material] | None, looks: bool
) -> Mesh:
    """The faces of one material."""
    v, vt, vn = tables
    groups = []
    for size in sorted({len(polygon) for polygon in polygons}):
        corners = np.array([polygon for polygon in polygons if len(polygon) == size], dtype=np.int64)
        check_indices(path, "f: v", corners[..., 0], len(v))
        joined = triangle_corners(path, v[corners[..., 0], :3])
        groups.append(corners[np.arange(len(corners))[:, None, None], joined].reshape(-1, 3, 3))
    corners = np.concatenate(groups)
    for column, key, table in ((1, "f: vt", vt), (2, "f: vn", vn)):
        check_indices(path, key, corners[..., column][corners[..., column] >= 0], len(table))
    faces, first = split_corners(*(corners[..., column] for column in range(3)))
    rows = corners.reshape(-1, 3)[first]
    vertices = v[rows[:, 0], :3]
    colors = _vertex_colors(path, v)[rows[:, 0]] if looks and v.shape[1] > 4 else None
    if material is None:
        return make_mesh(path, vertices, faces, colors)
    color, texture = _look(*material)
    if texture is None:
        plain = None if color is None else np.tile(color, (len(vertices), 1))
        return make_mesh(path, vertices, faces, plain if colors is None else colors)
    if (rows[:, 1] < 0).any() or vt.shape[1] < 2:
        found = f"faces of the textured material {material[1]} without texture coordinates"
        raise DataError(describe(path, "f", found, "corners v/vt"))
    return make_mesh(path, vertices, faces, uv=vt[rows[:, 1], :2], texture=texture)


def _vertex_colors(path: Path, v: Array) -> Colors:
    """Colours of the lines ``v x y z r g b``, which follow an extension of the format."""
    colors = v[:, 3:6]
    if not (colors.min() >= 0 and colors.max() <= 1):
        found = f"colours {colors.min():g}..{colors.max():g} behind x y z"
        raise DataError(describe(path, "v", found, "colours in 0..1"))
    return np.rint(255 * colors).astype(np.uint8)


def _read_materials(path: Path, name: str) -> dict[str, tuple[Path, Material]]:
    """The materials of a library by name, each with the file it stands in."""
    library = find_file(path, "mtllib", name)
    found: dict[str, tuple[Path, Material]] = {}
    current: Material | None = None
    for number, key, rest in _lines(library):
        if key.lower() == "newmtl":
            current = {}
            found[rest] = (library, current)
        elif current is None:
            raise DataError(describe(library, f"line {number}", f"{key} {rest}"[:80], "newmtl first"))
        else:
            current[key.lower()] = rest
    return found


def _chosen(
    path: Path, name: str | None, materials: dict[str, tuple[Path, Material]]
) -> tuple[Path, str, Material] | None:
    """The material of a group of faces; faces that name none take the only one there is."""
    if name is None and len(materials) < 2:
        name = next(iter(materials), None)
    if name is None and not materials:
        return None
    if name not in materials:
        expected = f"one of {sorted(materials)}" if materials else "a mtllib that defines it"
        raise DataError(describe(path, "usemtl", name or "faces without one", expected))
    library, material = materials[name]
    return library, name, material


def _look(path: Path, name: str, material: Material) -> tuple[Colors | None, Colors | None]:
    """Colour ``[3]`` and texture of a material, None for what it does not state; the texture is times ``Kd``."""
    _refuse_unseen(path, name, material)
    color = _numbers(path, name, "kd", material["kd"]) if "kd" in material else None
    if "map_kd" not in material:
        return None if color is None else np.rint(255 * color).astype(np.uint8), None
    key = f"{name}: map_Kd"
    picture, rest = material["map_kd"], material["map_kd"]
    while option := _OPTION.match(rest):
        neutral = _NEUTRAL.get(option[1].lower(), "").split()
        if not neutral or any(map(_differ, option[2].split(), neutral)):
            raise DataError(describe(path, key, option[0].strip(), f"options as {_NEUTRAL}"))
        rest = rest[option.end() :]
    texture = read_texture(path, key, find_file(path, key, rest))
    if color is None:
        return None, texture
    if not color.any():
        raise DataError(
            describe(path, f"{name}: Kd", f"black, which blackens {picture}", "the texture's factor, 1 1 1")
        )
    return None, tinted(texture, to_linear(color))


def _differ(found: str, neutral: str) -> bool:
    try:
        return float(found) != float(neutral)
    except ValueError:
        return found.lower() != neutral


def _numbers(path: Path, name: str, key: str, text: str) -> Array:
    """A colour in 0..1, ``[3]``; one number stands for three."""
    try:
        values = np.array([float(word) for word in text.split()])
        color = np.broadcast_to(values, 3)
    except ValueError:
        color = np.full(3, np.nan)
    if not ((color >= 0) & (color <= 1)).all():
        raise DataError(describe(path, f"{name}: {key.title()}", text, "three numbers in 0..1"))
    return color


def _refuse_unseen(path: Path, name: str, material: Material) -> None:
    """Refuse what would be seen and is not drawn: transparency and light of its own."""
    for key, neutral in (("d", 1.0), ("tr", 0.0), ("ke", 0.0)):
        if key in material and (_numbers(path, name, key, material[key].removeprefix("-halo")) != neutral).any():
            found = f"{key.title()} {material[key]}"
            raise DataError(describe(path, f"{name}: {key}", found, f"{neutral:g}: objects are opaque and do not glow"))
    for key in ("map_d", "map_ke"):
        if key in material:
            raise DataError(describe(path, f"{name}: {key}", material[key], "none: objects are opaque and do not glow"))
