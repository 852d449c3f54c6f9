import numpy as np
import pytest
from PIL import Image

from posedistill.errors import DataError
from posedistill.geometry.meshes import load_mesh

SQUARE = "v 0 0 0\nv 10 0 0\nv 10 10 0\nv 0 10 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
FACE = "f 1/1 2/2 3/3 4/4\n"


@pytest.fixture
def write(tmp_path):
    """``write(faces, materials, head)``: an .obj of a square with a red and a green picture beside it."""
    Image.new("RGB", (4, 4), (200, 0, 0)).save(tmp_path / "red.png")
    Image.new("RGB", (4, 4), (0, 200, 0)).save(tmp_path / "green.png")

    def make(faces, materials="newmtl a\nmap_Kd green.png\n", head="mtllib m.mtl\n" + SQUARE):
        (tmp_path / "m.mtl").write_text(materials)
        (tmp_path / "o.obj").write_text(head + faces)
        return tmp_path / "o.obj"

    return make


def sampled(mesh, face, weights=(0.4, 0.35, 0.25)):
    """The colour of the texture at a point of a face, as the renderer looks it up."""
    u, v = np.array(weights) @ mesh.uv[mesh.faces[face]]
    rows, columns, _ = mesh.texture.shape
    return tuple(mesh.texture[int((1 - v) % 1 * rows), int(u % 1 * columns)].tolist())


@pytest.mark.parametrize(
    "named",
    [
        "green.png",
        "GREEN.png",
        ".\\green.png",
        "-s 1 1 1 green.png",
        "-blendu on -o 0 0 green.png",
        "-mm 0 1 green.png",
    ],
)
def test_a_texture_is_found(write, named):
    mesh = load_mesh(write("usemtl a\n" + FACE, f"newmtl a\nmap_Kd {named}\n"))
    np.testing.assert_array_equal(mesh.texture, np.full((4, 4, 3), (0, 200, 0)))


def test_the_only_material_needs_no_usemtl(write):
    assert load_mesh(write(FACE)).texture[0, 0].tolist() == [0, 200, 0]
    two = "newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 1 0\n"
    with pytest.raises(DataError, match=r"'usemtl': found faces without one, expected one of \['a', 'b'\]"):
        load_mesh(write(FACE, two))


@pytest.mark.parametrize(
    ("faces", "materials", "head", "message"),
    [
        ("usemtl a\n", "newmtl a\nmap_Kd gone.png\n", None, "m.mtl: 'a: map_Kd': found gone.png, which does not exist"),
        ("usemtl a\n", "newmtl a\nmap_Kd -s 2 2 1 green.png\n", None, "'a: map_Kd': found -s 2 2 1, expected options"),
        ("usemtl a\n", "newmtl a\nmap_Kd -x 2 green.png\n", None, "'a: map_Kd': found"),
        ("usemtl b\n", "newmtl a\nKd 1 0 0\n", None, "o.obj: 'usemtl': found b, expected one of ['a']"),
        ("usemtl a\n", "", SQUARE, "o.obj: 'usemtl': found a, expected a mtllib that defines it"),
        ("usemtl a\n", "", "mtllib gone.mtl\n" + SQUARE, "o.obj: 'mtllib': found gone.mtl, which does not exist"),
        ("usemtl a\n", "newmtl a\nKd 0 0 0\nmap_Kd green.png\n", None, "'a: Kd': found black"),
        ("usemtl a\n", "newmtl a\nKd 1 0 2\n", None, "'a: Kd': found 1 0 2, expected three numbers in 0..1"),
        ("usemtl a\n", "newmtl a\nKd 1 0 0\nd 0.5\n", None, "'a: d': found 0.5"),
        ("usemtl a\n", "newmtl a\nKe 1 0 0\n", None, "'a: ke': found 1 0 0"),
        ("usemtl a\n", "Kd 1 0 0\n", None, "m.mtl: 'line 1': found Kd 1 0 0, expected newmtl first"),
    ],
)
def test_looks_that_cannot_be_drawn_are_named(write, faces, materials, head, message):
    path = write(faces + FACE, materials, head or "mtllib m.mtl\n" + SQUARE)
    with pytest.raises(DataError) as error:
        load_mesh(path)
    assert message in str(error.value)
    assert len(load_mesh(path, looks=False).faces) == 2


def test_several_libraries_and_materials(write, tmp_path):
    (tmp_path / "n.mtl").write_text("newmtl b\nmap_Kd red.png\nnewmtl c\nKd 0.2 0.4 0.6\n")
    two = "v 0 0 9\nv 10 0 9\nv 0 10 9\nusemtl b\nf 5/1 6/2 7/4\nusemtl c\nf 1 2 3\n"
    mesh = load_mesh(write("usemtl a\n" + FACE + two, head="mtllib m.mtl n.mtl\n" + SQUARE))
    assert [sampled(mesh, face) for face in range(4)] == [(0, 200, 0)] * 2 + [(200, 0, 0), (51, 102, 153)]


def test_what_exporters_write_in_passing(write, tmp_path):
    """A byte-order mark, ``Tr 1`` for opaque, texture coordinates with and without a third number."""
    path = write("usemtl a\n" + FACE, "newmtl a\nTr 1.0\nmap_Kd green.png\n")
    path.write_text("\ufeff# made by hand\n" + path.read_text().replace("vt 1 1\n", "vt 1 1 0\n"))
    assert load_mesh(path).texture[0, 0].tolist() == [0, 200, 0]


def test_textures_repeat_beside_others(write, tmp_path):
    """Coordinates 0..3 and -5..-4 of a striped picture, with another material in the same file."""
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, :4], stripes[:, 4:] = (255, 0, 0), (0, 255, 0)
    Image.fromarray(stripes).save(tmp_path / "red.png")
    head = "mtllib m.mtl\nv 0 0 0\nv 30 0 0\nv 0 30 0\nvt 0 0\nvt 3 0\nvt 0 3\nvt -5 -5\nvt -4 -5\nvt -5 -4\n"
    faces = "usemtl a\nf 1/1 2/2 3/3\nf 1/4 2/5 3/6\nusemtl b\nf 1/1 2/2 3/3\n"
    mesh = load_mesh(write(faces, "newmtl a\nmap_Kd red.png\nnewmtl b\nmap_Kd green.png\n", head))
    alone = load_mesh(write(faces[: faces.index("usemtl b")], "newmtl a\nmap_Kd red.png\n", head))
    rng = np.random.default_rng(0)
    for face in (0, 1):
        seen = set()
        for weights in rng.dirichlet([1, 1, 1], 60):
            assert sampled(mesh, face, weights) == sampled(alone, face, weights)
            seen.add(sampled(mesh, face, weights))
        assert seen == {(255, 0, 0), (0, 255, 0)}
    assert sampled(mesh, 2) == (0, 200, 0)


def test_the_colour_of_a_material_is_a_factor_of_its_texture(write):
    texture = load_mesh(write("usemtl a\n" + FACE, "newmtl a\nKd 1 0.5 1\nmap_Kd green.png\n")).texture
    linear = ((200 / 255 + 0.055) / 1.055) ** 2.4 * ((0.5 + 0.055) / 1.055) ** 2.4
    assert texture[0, 0].tolist() == [0, round(255 * (1.055 * linear ** (1 / 2.4) - 0.055)), 0]


def test_colours_of_vertices(write):
    head = "v 0 0 0 1 0 0\nv 1 0 0 0 0.5 0\nv 0 1 0 0 0 1\n"
    mesh = load_mesh(write("f 1 2 3\n", head=head))
    np.testing.assert_array_equal(mesh.colors, [[255, 0, 0], [0, 128, 0], [0, 0, 255]])
    with pytest.raises(DataError, match=r"'v': found colours 0..255 behind x y z, expected colours in 0..1"):
        load_mesh(write("f 1 2 3\n", head=head.replace("0 1 0 0 0 1", "0 1 0 0 0 255")))


def test_faces_counted_from_the_end(write):
    late = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\nv 5 5 5\nv 6 5 5\nv 5 6 5\nf -3 -2 -1\n"
    mesh = load_mesh(write("", head=late))
    np.testing.assert_array_equal(mesh.vertices[mesh.faces][:, 0], [[0, 0, 0], [5, 5, 5]])


def test_continued_lines_comments_and_names_with_blanks(write, tmp_path):
    (tmp_path / "green.png").rename(tmp_path / "my green.png")
    path = write("usemtl my a\nf 1/1 2/2 \\\n 3/3 4/4 # all\n", "newmtl my a\nmap_Kd my green.png\n")
    assert load_mesh(path).texture[0, 0].tolist() == [0, 200, 0]


def test_hard_edges_follow_vn(write):
    """A ridge whose two sides share positions and no normals is lit as two planes."""
    head = "v 0 0 0\nv 10 0 0\nv 0 10 5\nv 0 -10 5\nvn 0 -1 1\nvn 0 1 1\n"
    mesh = load_mesh(write("f 1//1 2//1 3//1\nf 1//2 4//2 2//2\n", head=head))
    assert len(mesh.vertices) == 6
    sides = mesh.normals[mesh.faces]
    np.testing.assert_allclose(sides, np.repeat(sides[:, :1], 3, axis=1), atol=1e-12)
    assert len(load_mesh(write("f 1 2 3\nf 1 4 2\n", head=head)).vertices) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 0 0 0\nv 1 0\nv 0 1 0\nf 1 2 3\n", "'line 2': found v 1 0, expected"),
        ("v 0 0 0\nv 1\nv 0 1 0\nf 1 2 3\n", "'line 2': found v 1, expected"),
        ("v 0 0 0\nv 1 0 0 1 1 1\nv 0 1 0\nf 1 2 3\n", "'v': found lines of 3 and 6 numbers"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "'f: v': found indices 0..3, expected indices 0..2"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1/1 2/1 3/1\n", "'f: vt': found indices 0..0"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", "'line 4': found f 0 1 2"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2\n", "'line 4': found f 1 2, expected"),
        ("v 0 0 0\nv 1 0 nan\nv 0 1 0\nf 1 2 3\n", "'vertices': found NaN or inf"),
        ("v 0 0 0\ncurv 0 1 1 2\n", "'line 2': found curv 0 1 1 2"),
        ("v 0 0 0\n", "'faces': found no face"),
    ],
)
def test_damage_is_named(write, text, message):
    with pytest.raises(DataError) as error:
        load_mesh(write("", head=text))
    assert f"o.obj: {message}" in str(error.value)
