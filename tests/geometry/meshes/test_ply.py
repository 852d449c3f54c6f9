import numpy as np
import pytest
from PIL import Image

from posedistill.errors import DataError
from posedistill.geometry.meshes import load_mesh

CORNERS = [(x, y, z) for x in (-50, 50) for y in (-30, 30) for z in (-20, 20)]
TRIANGLES = [(0, 1, 3), (4, 6, 7), (0, 4, 5), (2, 3, 7), (0, 2, 6), (1, 5, 7)]
TRIANGLES += [(0, 3, 2), (4, 7, 5), (0, 5, 1), (2, 7, 6), (0, 6, 4), (1, 7, 3)]


def write(path, vertex=(), face=(), vertex_rows=CORNERS, face_rows=TRIANGLES, comments=()):
    """A text .ply; properties and rows beyond positions and indices as they are given."""
    lines = ["ply", "format ascii 1.0", *(f"comment {text}" for text in comments), f"element vertex {len(vertex_rows)}"]
    lines += [f"property float {axis}" for axis in "xyz"] + [f"property {text}" for text in vertex]
    lines += [f"element face {len(face_rows)}", "property list uchar int vertex_indices"]
    lines += [f"property {text}" for text in face] + ["end_header"]
    lines += [" ".join(map(str, row)) for row in vertex_rows]
    lines += [f"{3} " + " ".join(map(str, row)) for row in face_rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def coloured(rows, values):
    return [(*row, *value) for row, value in zip(rows, values, strict=True)]


def face_colors(mesh):
    """The colours of each face, one of them where its corners agree."""
    return [{tuple(color) for color in mesh.colors[face].tolist()} for face in mesh.faces]


def test_each_face_has_its_own_colour(tmp_path):
    colors = [(255, 0, 0)] * 6 + [(0, 0, 255)] * 6
    names = [f"uchar {name}" for name in ("red", "green", "blue")]
    mesh = load_mesh(write(tmp_path / "box.ply", face=names, face_rows=coloured(TRIANGLES, colors)))
    plain = load_mesh(write(tmp_path / "plain.ply"))
    assert face_colors(mesh) == [{color} for color in colors]
    np.testing.assert_array_equal(mesh.vertices[mesh.faces], plain.vertices[plain.faces])
    np.testing.assert_array_equal(mesh.normals[mesh.faces], plain.normals[plain.faces])


@pytest.mark.parametrize(
    ("properties", "value"),
    [
        (["uchar red", "uchar green", "uchar blue"], (255, 128, 0)),
        (["uchar diffuse_red", "uchar diffuse_green", "uchar diffuse_blue"], (255, 128, 0)),
        (["uchar r", "uchar g", "uchar b", "uchar alpha"], (255, 128, 0, 255)),
        (["float red", "float green", "float blue"], (1.0, 0.5019608, 0.0)),
        (["ushort red", "ushort green", "ushort blue"], (65535, 32896, 0)),
    ],
)
def test_colours_of_any_name_and_type(tmp_path, properties, value):
    rows = coloured(CORNERS, [value] * 8)
    mesh = load_mesh(write(tmp_path / "box.ply", vertex=properties, vertex_rows=rows))
    np.testing.assert_array_equal(mesh.colors, [[255, 128, 0]] * 8)


def test_float_colours_beyond_one_are_refused(tmp_path):
    names = ["float red", "float green", "float blue"]
    path = write(tmp_path / "box.ply", vertex=names, vertex_rows=coloured(CORNERS, [(255, 128, 0)] * 8))
    with pytest.raises(DataError, match=r"box.ply: 'red, green, blue': found vertex colours of float32 beyond 0..1"):
        load_mesh(path)


def pieces(order):
    """A hexagonal prism: two faces of six corners, six of four."""
    angles = np.arange(6) * np.pi / 3
    ring = np.column_stack([30 * np.cos(angles), 30 * np.sin(angles)])
    points = np.concatenate([np.column_stack([ring, np.full(6, z)]) for z in (-10.0, 10.0)])
    polygons = [[5, 4, 3, 2, 1, 0], [6, 7, 8, 9, 10, 11]] + [[i, (i + 1) % 6, (i + 1) % 6 + 6, i + 6] for i in range(6)]
    name = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
    header = f"ply\nformat {name} 1.0\nelement vertex 12\nproperty float x\nproperty float y\nproperty float z\n"
    header += "element face 8\nproperty list uchar int vertex_index\nend_header\n"
    body = b"".join(bytes([len(p)]) + np.array(p, order + "i4").tobytes() for p in polygons)
    return header.encode() + points.astype(order + "f4").tobytes() + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_binary_polygons_of_several_sizes(tmp_path, order):
    (tmp_path / "prism.ply").write_bytes(pieces(order))
    mesh = load_mesh(tmp_path / "prism.ply")
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    assert len(mesh.faces) == 2 * 4 + 6 * 2
    volume = np.einsum("fi,fi->", a, np.cross(b, c)) / 6
    assert volume == pytest.approx(6 * np.sqrt(3) / 4 * 30**2 * 20, rel=1e-6)


def textured(tmp_path, name, comments, **options):
    (tmp_path / "Sub").mkdir(exist_ok=True)
    Image.new("RGB", (4, 4), (220, 30, 30)).save(tmp_path / name)
    rows = coloured(CORNERS, [(y > 0, x > 0) for x, y, _ in CORNERS])
    names = ["float texture_u", "float texture_v"]
    return write(
        tmp_path / "box.ply", vertex=names, vertex_rows=[tuple(map(float, r)) for r in rows], comments=comments
    )


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("box.png", "box.png"),
        ("box.png", "BOX.PNG"),
        ("Sub/box.png", "sub\\Box.png"),
        ("my box.png", "my box.png"),
        ("box.png", "C:\\Users\\me\\textures\\box.png"),
    ],
)
def test_a_texture_is_found_where_there_is_one_way(tmp_path, name, named):
    mesh = load_mesh(textured(tmp_path, name, [f"TextureFile {named}"]))
    np.testing.assert_array_equal(mesh.texture, np.full((4, 4, 3), (220, 30, 30)))


def test_a_texture_that_is_missing_is_named(tmp_path):
    path = textured(tmp_path, "other.png", ["TextureFile box.png"])
    with pytest.raises(
        DataError, match=r"box.ply: 'TextureFile': found box.png, which does not exist, expected a file in"
    ):
        load_mesh(path)
    assert load_mesh(path, looks=False).texture is None


def test_a_texture_that_may_be_several_is_named(tmp_path):
    path = textured(tmp_path, "Box.png", ["TextureFile BOX.png"])
    Image.new("RGB", (4, 4)).save(tmp_path / "box.png")
    with pytest.raises(DataError, match=r"found BOX.png, which may be Box.png or box.png"):
        load_mesh(path)


def test_a_texture_that_is_no_picture_is_named(tmp_path):
    path = textured(tmp_path, "box.png", ["TextureFile box.png"])
    (tmp_path / "box.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"box.ply: 'TextureFile': found .*box.png: cannot identify"):
        load_mesh(path)
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(tmp_path / "box.png")
    with pytest.raises(DataError, match=r"of mode I;16, expected 8 bits a channel"):
        load_mesh(path)


def test_a_texture_without_coordinates_and_two_textures_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="'TextureFile': found a texture without texture coordinates"):
        load_mesh(write(tmp_path / "box.ply", comments=["TextureFile a.png"]))
    with pytest.raises(DataError, match=r"'TextureFile': found \['a.png', 'b.png'\], expected one texture"):
        load_mesh(textured(tmp_path, "a.png", ["TextureFile a.png", "TextureFile b.png"]))


def test_a_texture_goes_before_colours_and_without_coordinates_colours_count(tmp_path):
    """Decimated models of public data sets keep the name of a texture that they no longer use."""
    names = ["uchar red", "uchar green", "uchar blue"]
    rows = coloured(CORNERS, [(9, 8, 7)] * 8)
    mesh = load_mesh(write(tmp_path / "a.ply", vertex=names, vertex_rows=rows, comments=["TextureFile gone.png"]))
    np.testing.assert_array_equal(mesh.colors, [[9, 8, 7]] * 8)
    names, rows = [*names, "float s", "float t"], coloured(rows, [(0.5, 0.5)] * 8)
    Image.new("RGB", (2, 2)).save(tmp_path / "b.png")
    both = load_mesh(write(tmp_path / "b.ply", vertex=names, vertex_rows=rows, comments=["TextureFile b.png"]))
    assert both.colors is None and both.texture is not None


def test_texture_coordinates_of_corners(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    uv = [(i / 10, 0.0, 1.0, i / 10, 0.5, 0.5) for i in range(6)]
    rows = [(*triangle, 6, *values) for triangle, values in zip(TRIANGLES, [*uv, *uv], strict=True)]
    path = write(
        tmp_path / "box.ply", face=["list uchar float texcoord"], face_rows=rows, comments=["TextureFile a.png"]
    )
    mesh = load_mesh(path)
    np.testing.assert_allclose(mesh.uv[mesh.faces].reshape(12, 6), [*uv, *uv], atol=1e-6)
    np.testing.assert_array_equal(mesh.vertices[mesh.faces], np.array(CORNERS)[TRIANGLES])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-50 -30 -20\n", "-50 -30\n", "box.ply: 'body': found values beyond the rows"),
        ("element vertex 8", "element vertex 9", "box.ply: 'element face': found"),
        ("element vertex 8", "element vertex 7", "box.ply: "),
        ("element vertex 8", "element vertex 999999999999", "'element vertex': found the end of the file"),
        ("element face 12", "element face 11", "'body': found values beyond the rows"),
        ("property float y\n", "property flat y\n", "'header': found property flat y"),
        ("element face", "element tristrips", "'element face': found [], expected property list vertex_indices"),
        ("3 0 1 3\n", "2 0 1\n", "'faces': found a face of 2 corners"),
        ("3 0 1 3\n", "3 0 1 3.5\n", "'element face': found a number that is no i4"),
        ("-50 -30 20", "-50 x 20", "'body': found could not convert string to float"),
        ("end_header", "end", "'file': found no header"),
    ],
)
def test_damage_is_named(tmp_path, old, new, message):
    path = write(tmp_path / "box.ply")
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError) as error:
        load_mesh(path)
    assert message in str(error.value)
