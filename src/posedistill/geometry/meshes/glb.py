"""Reading .glb, the binary form of glTF 2.0, by its specification.

By hand, because trimesh loses colours beside a material, the factor beside a texture, how a texture repeats, pictures
that are missing, and primitives of kinds that it does not know, all without a word.
"""

import json
import struct
from base64 import b64decode
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes import parts as mesh_parts
from posedistill.geometry.meshes.parts import Colors, Faces, Mesh, tinted, to_srgb
from posedistill.geometry.rotations import quaternion_to_matrix

_KINDS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_JSON, _BIN = 0x4E4F534A, 0x004E4942
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_REPEAT = 10497
_EXTENSIONS = {"KHR_mesh_quantization", "KHR_materials_unlit", "KHR_materials_ior", "KHR_materials_specular"}
_EXTENSIONS |= {"KHR_materials_clearcoat", "KHR_materials_sheen", "KHR_lights_punctual", "KHR_xmp_json_ld"}
"""Extensions of glTF that change no shape and no colour, or that are read."""


def read_glb(path: Path, looks: bool) -> list[Mesh]:
    """The meshes of a .glb file, one for each primitive; ``looks`` asks for their colours or textures."""
    glb = _Glb(path)
    unknown = sorted(set(glb.tree.get("extensionsUsed" if looks else "extensionsRequired", ())) - _EXTENSIONS)
    if unknown:
        raise DataError(describe(path, "extensionsUsed", unknown, f"none, or some of {sorted(_EXTENSIONS)}"))
    nodes, scenes = glb.tree.get("nodes", []), glb.tree.get("scenes")
    inner = {child for node in nodes for child in node.get("children", ())}
    roots = [index for index in range(len(nodes)) if index not in inner]
    if scenes:
        roots = scenes[glb.tree.get("scene", 0)].get("nodes", [])
    parts = []
    todo = [(root, np.eye(4), 0) for root in roots]
    while todo:
        index, outer, depth = todo.pop(0)
        if depth > len(nodes):
            raise DataError(describe(path, f"nodes[{index}]", "a node below itself", "a tree"))
        node = nodes[index]
        matrix = outer @ _matrix(node)
        todo += [(child, matrix, depth + 1) for child in node.get("children", ())]
        if "mesh" in node:
            mesh = glb.tree["meshes"][node["mesh"]]
            if "skin" in node or any(node.get("weights", mesh.get("weights", ()))):
                raise DataError(describe(path, f"nodes[{index}]", "a skin or morph weights", "a rigid mesh"))
            parts += [glb.part(primitive, matrix, looks) for primitive in mesh["primitives"]]
    return parts


def _matrix(node: dict[str, Any]) -> Array:
    """Node to parent, ``[4, 4]``."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0.0, 0.0, 0.0, 1.0))
    matrix = np.eye(4)
    matrix[:3, :3] = quaternion_to_matrix(np.array([w, x, y, z])) * node.get("scale", (1.0, 1.0, 1.0))
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix


def _triangles(indices: Faces, mode: int) -> Faces:
    """Triangles ``[F, 3]`` of a list, a strip (every other one turned) or a fan of vertices."""
    if mode == _TRIANGLES:
        return indices.reshape(-1, 3)
    if mode == _FAN:
        return np.stack([np.full(len(indices) - 2, indices[0]), indices[1:-1], indices[2:]], axis=1)
    faces = np.stack([indices[:-2], indices[1:-1], indices[2:]], axis=1)
    faces[1::2] = faces[1::2, [1, 0, 2]]
    return faces


class _Glb:
    """The json and the buffers of a file."""

    def __init__(self, path: Path) -> None:
        self.path, data = path, path.read_bytes()
        magic, version, _, size, kind = struct.unpack_from("<4sIIII", data)
        if magic != b"glTF" or version != 2 or kind != _JSON:
            raise DataError(describe(path, "header", f"{magic!r} {version}", "b'glTF' 2 and a json chunk"))
        try:
            self.tree = json.loads(data[20 : 20 + size].decode())
        except ValueError as error:
            raise DataError(describe(path, "json", error, "a json chunk that is whole")) from None
        start, self.binary = 20 + size, b""
        if start + 8 <= len(data):
            size, kind = struct.unpack_from("<II", data, start)
            self.binary = data[start + 8 : start + 8 + size] if kind == _BIN else b""
        self._buffer, self._texture = cache(self._read_buffer), cache(self._read_base_color)

    def _read_buffer(self, index: int) -> bytes:
        entry = self.tree["buffers"][index]
        content = self._linked(f"buffers[{index}].uri", entry["uri"]) if "uri" in entry else self.binary
        if len(content) < entry["byteLength"]:
            raise DataError(
                describe(self.path, f"buffers[{index}]", f"{len(content)} bytes", f"{entry['byteLength']} bytes")
            )
        return content

    def _linked(self, key: str, uri: str) -> bytes:
        """What a uri stands for: a file, or the data in itself."""
        if uri.startswith("data:"):
            return b64decode(uri.partition("base64,")[2])
        return mesh_parts.find_file(self.path, key, unquote(uri)).read_bytes()

    def rows(self, index: int) -> Array:
        """An accessor's values ``[N, k]``, integers scaled to 0..1 or -1..1 where it says so."""
        entry = self.tree["accessors"][index]
        key = f"accessors[{index}]"
        if "sparse" in entry or "bufferView" not in entry:
            raise DataError(describe(self.path, key, "sparse values", "values in a buffer view"))
        view = self.tree["bufferViews"][entry["bufferView"]]
        kind, width = np.dtype(_KINDS[entry["componentType"]]), _WIDTHS[entry["type"]]
        start, count = entry.get("byteOffset", 0), entry["count"]
        stride = view.get("byteStride", kind.itemsize * width)
        first = view.get("byteOffset", 0)
        window = self._buffer(view["buffer"])[first : first + view["byteLength"]]
        needed = start + stride * (count - 1) + kind.itemsize * width
        if start < 0 or stride < 0 or count < 1 or needed > len(window):
            raise DataError(describe(self.path, key, f"{len(window)} bytes", f"{needed} bytes for {count} values"))
        values = np.ndarray((count, width), kind, window, start, (stride, kind.itemsize)).astype(np.float64)
        return np.maximum(values / np.iinfo(kind).max, -1.0) if entry.get("normalized") else values

    def part(self, primitive: dict[str, Any], matrix: Array, looks: bool) -> Mesh:
        """A primitive under a node's transform."""
        attributes, mode = primitive["attributes"], primitive.get("mode", _TRIANGLES)
        if mode not in (_TRIANGLES, _STRIP, _FAN):
            raise DataError(describe(self.path, "primitive mode", mode, "triangles (4), a strip (5) or a fan (6)"))
        points = self.rows(attributes["POSITION"])
        vertices = points @ matrix[:3, :3].T + matrix[:3, 3]
        indices = self.rows(primitive["indices"])[:, 0] if "indices" in primitive else np.arange(len(points))
        faces = _triangles(indices.astype(np.int64), mode)
        mesh_parts.check_indices(self.path, "indices", faces, len(points))
        if np.linalg.det(matrix[:3, :3]) < 0:  # a mirror turns faces over
            faces = faces[:, ::-1].copy()
        colors, uv, texture = self._look(primitive, len(points)) if looks else (None, None, None)
        for key, values in (("COLOR_0", colors), ("TEXCOORD", uv)):
            if values is not None and len(values) != len(points):
                raise DataError(describe(self.path, key, f"{len(values)} values", f"{len(points)} as POSITION has"))
        return mesh_parts.make_mesh(self.path, vertices, faces, colors, uv, texture)

    def _look(self, primitive: dict[str, Any], count: int) -> tuple[Colors | None, Array | None, Colors | None]:
        """Colours, or coordinates and a texture: vertex colours, the material's factor and its texture multiplied."""
        attributes, number = primitive["attributes"], primitive.get("material")
        colors = self.rows(attributes["COLOR_0"]) if "COLOR_0" in attributes else None
        if number is None:
            return None if colors is None else to_srgb(colors[:, :3]), None, None
        material, key = self.tree["materials"][number], f"materials[{number}]"
        base = material.get("pbrMetallicRoughness", {})
        factor = np.array(base.get("baseColorFactor", (1.0, 1.0, 1.0, 1.0)), dtype=np.float64)
        transparent = material.get("alphaMode", "OPAQUE") != "OPAQUE"
        if any(material.get("emissiveFactor", ())) or (transparent and factor[3] < 1):
            stated = {name: material.get(name) for name in ("emissiveFactor", "alphaMode")}
            raise DataError(describe(self.path, key, stated, "objects that are opaque and do not glow"))
        if "baseColorTexture" not in base:
            colors = np.ones((count, 3)) if colors is None else colors[:, :3]
            return to_srgb(colors * factor[:3]), None, None
        if colors is not None and (colors < 1).any():
            found = "COLOR_0 beside a base colour texture"
            raise DataError(describe(self.path, key, found, "either, or COLOR_0 of ones"))
        info = base["baseColorTexture"]
        uv = self.rows(attributes[f"TEXCOORD_{info.get('texCoord', 0)}"])[:, :2]
        texture, repeats = self._texture(info["index"], transparent)
        if not repeats and (uv.min() < -1e-4 or uv.max() > 1 + 1e-4):
            found = "a sampler that clamps or mirrors, with coordinates outside of 0..1"
            raise DataError(describe(self.path, key, found, f"wrapS and wrapT {_REPEAT}"))
        return None, uv * [1, -1] + [0, 1], tinted(texture, factor[:3])

    def _read_base_color(self, index: int, transparent: bool) -> tuple[Colors, bool]:
        """A texture, and whether it repeats."""
        texture = self.tree["textures"][index]
        key, image = f"images[{texture['source']}]", self.tree["images"][texture["source"]]
        if "uri" in image:
            content = self._linked(f"{key}.uri", image["uri"])
        else:
            view = self.tree["bufferViews"][image["bufferView"]]
            start = view.get("byteOffset", 0)
            content = self._buffer(view["buffer"])[start : start + view["byteLength"]]
        sampler = self.tree["samplers"][texture["sampler"]] if "sampler" in texture else {}
        repeats = all(sampler.get(name, _REPEAT) == _REPEAT for name in ("wrapS", "wrapT"))
        return mesh_parts.read_texture(self.path, key, content, opaque=transparent), repeats
