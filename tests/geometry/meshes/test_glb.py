import json
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from posedistill.errors import DataError
from posedistill.geometry.meshes import load_mesh

POINTS = np.array([[0, 0, 0], [10, 0, 0], [10, 10, 0], [0, 10, 0]], np.float32)
INDICES = np.array([0, 1, 2, 0, 2, 3], np.uint16)
UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
KINDS = {"u1": 5121, "u2": 5123, "u4": 5125, "f4": 5126}


class Builder:
    """A .glb put together from arrays and json."""

    def __init__(self) -> None:
        self.binary = b""
        self.tree: dict[str, Any] = {"asset": {"version": "2.0"}, "accessors": [], "bufferViews": []}
        self.tree |= {"scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}], "meshes": [{"primitives": []}]}

    def view(self, data: bytes) -> int:
        self.tree["bufferViews"].append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)})
        self.binary += data + bytes(-len(data) % 4)
        return len(self.tree["bufferViews"]) - 1

    def values(self, array: np.ndarray, **options: Any) -> int:
        kind = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}[1 if array.ndim == 1 else array.shape[1]]
        entry = {"bufferView": self.view(array.tobytes()), "componentType": KINDS[array.dtype.str[1:]]}
        self.tree["accessors"].append(entry | {"count": len(array), "type": kind} | options)
        return len(self.tree["accessors"]) - 1

    def primitive(self, points=POINTS, indices=INDICES, colors=None, uv=None, **options: Any) -> dict[str, Any]:
        attributes = {"POSITION": self.values(points)}
        if colors is not None:
            attributes["COLOR_0"] = self.values(colors, normalized=colors.dtype.kind == "u")
        if uv is not None:
            attributes["TEXCOORD_0"] = self.values(uv)
        entry = {"attributes": attributes, **options}
        if indices is not None:
            entry["indices"] = self.values(indices)
        self.tree["meshes"][0]["primitives"].append(entry)
        return entry

    def picture(self, color=(255, 255, 255), mode="RGB", **sampler: int) -> dict[str, int]:
        data = BytesIO()
        Image.new(mode, (4, 4), color).save(data, "png")
        for key, entry in (
            ("images", {"bufferView": self.view(data.getvalue()), "mimeType": "image/png"}),
            ("samplers", sampler),
            ("textures", {"source": len(self.tree.get("images", [])), "sampler": len(self.tree.get("images", []))}),
        ):
            self.tree.setdefault(key, []).append(entry)
        return {"index": len(self.tree["textures"]) - 1}

    def material(self, texture=None, factor=None, **options: Any) -> int:
        base = {} if texture is None else {"baseColorTexture": texture}
        base |= {} if factor is None else {"baseColorFactor": factor}
        self.tree.setdefault("materials", []).append({"pbrMetallicRoughness": base, **options})
        return len(self.tree["materials"]) - 1

    def bytes(self) -> bytes:
        self.tree["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.tree).encode()
        text += b" " * (-len(text) % 4)
        size = 12 + 8 + len(text) + 8 + len(self.binary)
        head = struct.pack("<4sIIII", b"glTF", 2, size, len(text), 0x4E4F534A)
        return head + text + struct.pack("<II", len(self.binary), 0x004E4942) + self.binary


@pytest.fixture
def load(tmp_path):
    def make(builder, **options):
        (tmp_path / "m.glb").write_bytes(builder.bytes())
        return load_mesh(tmp_path / "m.glb", **options)

    return make


@pytest.fixture
def glb():
    return Builder()


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", ["f4", "u1", "u2"])
def test_colours_of_vertices_are_linear_with_and_without_a_material(glb, load, named, kind):
    scale = {"f4": 1, "u1": 255, "u2": 65535}[kind]
    colors = np.rint(np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0.2, 0.2, 0.2, 1]]) * scale * 5) / 5
    options = {"material": glb.material()} if named else {}
    glb.primitive(colors=colors.astype(kind), **options)
    # Linear 0.2 is 124 in sRGB.
    np.testing.assert_array_equal(load(glb).colors, [[255, 0, 0], [0, 255, 0], [0, 0, 255], [124, 124, 124]])


def test_the_factor_of_a_material_is_linear(glb, load):
    glb.primitive(material=glb.material(factor=[0.5, 0.0, 1.0, 1.0]))
    np.testing.assert_array_equal(load(glb).colors, [[188, 0, 255]] * 4)


def test_a_material_that_states_nothing_is_white_and_no_material_is_no_colour(glb, load):
    entry = glb.primitive(material=glb.material())
    np.testing.assert_array_equal(load(glb).colors, [[255, 255, 255]] * 4)
    del entry["material"]
    assert load(glb).colors is None


def test_factors_colours_and_textures_multiply(glb, load):
    colors = np.full((4, 3), 0.5, np.float32)
    glb.primitive(colors=colors, material=glb.material(factor=[0.5, 1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(load(glb).colors, [[137, 188, 0]] * 4)
    other = Builder()
    texture = other.picture((255, 100, 50))
    other.primitive(uv=UV, colors=np.ones((4, 3), np.float32), material=other.material(texture, [0.5, 1.0, 0.0, 1.0]))
    mesh = load(other)
    np.testing.assert_array_equal(mesh.texture, np.full((4, 4, 3), (188, 100, 0)))
    np.testing.assert_allclose(mesh.uv, UV * [1, -1] + [0, 1])


def test_nodes_place_and_mirror(glb, load):
    glb.primitive()
    glb.tree["nodes"] = [
        {"children": [1, 2], "translation": [0, 0, 5]},
        {"mesh": 0, "rotation": [0, 0, 2**-0.5, 2**-0.5], "scale": [2, 2, 2]},
        {"mesh": 0, "matrix": [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 2, 3, 1]},
    ]
    mesh = load(glb)
    np.testing.assert_allclose(mesh.vertices[1], [0, 20, 5], atol=1e-6)
    np.testing.assert_allclose(mesh.vertices[5], [-9, 2, 8], atol=1e-6)
    np.testing.assert_allclose(mesh.normals, [[0, 0, 1]] * 8, atol=1e-6)


@pytest.mark.parametrize(("mode", "order"), [(5, [0, 1, 3, 2]), (6, [0, 1, 2, 3])])
def test_strips_and_fans(glb, load, mode, order):
    glb.primitive(indices=np.array(order, np.uint16), mode=mode)
    mesh = load(glb)
    assert len(mesh.faces) == 2
    np.testing.assert_allclose(mesh.normals, [[0, 0, 1]] * 4, atol=1e-12)


def test_faces_without_indices(glb, load):
    glb.primitive(points=POINTS[:3], indices=None)
    np.testing.assert_array_equal(load(glb).faces, [[0, 1, 2]])


def refused() -> list[tuple[str, Any]]:
    def change(**entries):
        return lambda glb: glb.tree.update(entries)

    def textured(texture=None, uv=UV, **options):
        def build(glb):
            glb.tree["meshes"][0]["primitives"] = []
            glb.primitive(uv=uv, material=glb.material(glb.picture(**(texture or {})), **options))

        return build

    def clear_colors(glb):
        textured()(glb)
        primitive = glb.tree["meshes"][0]["primitives"][0]
        primitive["attributes"]["COLOR_0"] = glb.values(np.full((4, 3), 0.5, np.float32))

    def gone(glb):
        textured()(glb)
        glb.tree["images"][0] = {"uri": "a%20b.png"}

    def edit(key, **entries):
        return lambda glb: glb.tree[key][0].update(entries)

    return [
        ("'extensionsUsed': found ['KHR_texture_transform']", change(extensionsUsed=["KHR_texture_transform"])),
        ("'primitive mode': found 1", lambda glb: glb.tree["meshes"][0]["primitives"][0].update(mode=1)),
        ("'accessors[0]': found sparse values", edit("accessors", sparse={})),
        ("'nodes[0]': found a skin or morph weights", edit("nodes", skin=0)),
        ("'nodes[0]': found a skin or morph weights", edit("meshes", weights=[0.5])),
        ("'nodes[0]': found a node below itself", edit("nodes", children=[0])),
        ("a sampler that clamps or mirrors", textured({"wrapS": 33071}, uv=2 * UV)),
        ("partly transparent", textured({"mode": "RGBA", "color": (1, 2, 3, 99)}, alphaMode="MASK")),
        ("objects that are opaque", textured(factor=[1, 1, 1, 0.5], alphaMode="BLEND")),
        ("objects that are opaque and do not glow", textured(emissiveFactor=[1, 0, 0])),
        ("'materials[0]': found COLOR_0 beside a base colour texture", clear_colors),
        ("'images[0].uri': found a b.png, which does not exist", gone),
        ("'indices': found indices 0..3, expected indices 0..2", edit("accessors", count=3)),
        ("'accessors[0]': found 48 bytes, expected 60 bytes for 5 values", edit("accessors", count=5)),
        ("KeyError", lambda glb: glb.tree["meshes"][0].pop("primitives")),
    ]


@pytest.mark.parametrize(("message", "change"), refused())
def test_what_is_not_drawn_is_refused(glb, load, message, change):
    glb.primitive()
    change(glb)
    with pytest.raises(DataError) as error:
        load(glb)
    assert "m.glb: " in str(error.value) and message in str(error.value)


def test_what_does_no_harm_is_read(glb, load):
    texture = glb.picture((9, 8, 7, 99), "RGBA", wrapS=33071, wrapT=33648)
    glb.primitive(uv=UV, material=glb.material(texture))
    glb.tree["extensionsUsed"] = ["KHR_materials_unlit"]
    np.testing.assert_array_equal(load(glb).texture, np.full((4, 4, 3), (9, 8, 7)))
    glb.tree["images"][0] = {"uri": "gone.png"}
    assert load(glb, looks=False).texture is None
