import cv2
import numpy as np
import pytest
import trimesh
from scipy.spatial.distance import pdist

from posedistill.errors import DataError
from posedistill.geometry.meshes import Mesh, diameter, load_mesh, model_info, save_ply

HEADER = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
TRIANGLE = HEADER + "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"


def sphere(colors=None, uv=None, texture=None):
    shape = trimesh.creation.icosphere(subdivisions=2, radius=50.0)
    normals = np.array(shape.vertex_normals)
    return Mesh(np.array(shape.vertices), np.array(shape.faces), colors, uv, texture, normals)


def assert_same_shape(mesh, other):
    np.testing.assert_allclose(mesh.vertices, other.vertices, atol=1e-4)
    np.testing.assert_array_equal(mesh.faces, other.faces)
    np.testing.assert_allclose(mesh.normals, other.normals, atol=1e-6)


def test_ply_round_trip_with_colors(tmp_path):
    colors = np.random.default_rng(0).integers(0, 256, (162, 3)).astype(np.uint8)
    mesh = sphere(colors)
    save_ply(mesh, tmp_path / "obj.ply")
    back = load_mesh(tmp_path / "obj.ply")
    assert_same_shape(back, mesh)
    np.testing.assert_array_equal(back.colors, colors)
    assert back.uv is None and back.texture is None


def test_ply_round_trip_with_texture(tmp_path):
    rng = np.random.default_rng(1)
    uv, texture = rng.uniform(size=(162, 2)), rng.integers(0, 256, (8, 16, 3)).astype(np.uint8)
    mesh = sphere(uv=uv, texture=texture)
    save_ply(mesh, tmp_path / "obj.ply")
    back = load_mesh(tmp_path / "obj.ply")
    assert_same_shape(back, mesh)
    np.testing.assert_allclose(back.uv, uv, atol=1e-6)
    np.testing.assert_array_equal(back.texture, texture)
    assert back.colors is None


def test_plain_ply(tmp_path):
    save_ply(sphere(), tmp_path / "obj.ply")
    back = load_mesh(tmp_path / "obj.ply")
    assert_same_shape(back, sphere())
    assert back.colors is None and back.texture is None


def test_textured_obj(tmp_path):
    texture = np.zeros((4, 4, 3), np.uint8)
    texture[:2] = [255, 0, 0]
    cv2.imwrite(str(tmp_path / "skin.png"), texture[..., ::-1])
    (tmp_path / "skin.mtl").write_text("newmtl skin\nKd 1 1 1\nmap_Kd skin.png\n")
    (tmp_path / "obj.obj").write_text(
        "mtllib skin.mtl\nv 0 0 0\nv 10 0 0\nv 0 10 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl skin\nf 1/1 2/2 3/3\n"
    )
    mesh = load_mesh(tmp_path / "obj.obj")
    np.testing.assert_array_equal(mesh.texture, texture)
    assert mesh.uv.shape == (3, 2) and mesh.faces.shape == (1, 3)


def test_obj_with_one_color(tmp_path):
    (tmp_path / "skin.mtl").write_text("newmtl skin\nKd 1 0 0\n")
    (tmp_path / "obj.obj").write_text(
        "mtllib skin.mtl\nv 0 0 0\nv 10 0 0\nv 0 10 0\nvt 0 0\nusemtl skin\nf 1/1 2/1 3/1\n"
    )
    mesh = load_mesh(tmp_path / "obj.obj")
    assert mesh.texture is None
    np.testing.assert_array_equal(mesh.colors, np.tile([255, 0, 0], (3, 1)))


def test_glb_scene_is_joined(tmp_path):
    scene = trimesh.Scene([trimesh.creation.box((2, 2, 2)), trimesh.creation.icosphere(subdivisions=1)])
    scene.export(tmp_path / "scene.glb")
    mesh = load_mesh(tmp_path / "scene.glb")
    assert len(mesh.faces) == 12 + 80
    assert mesh.normals.shape == mesh.vertices.shape


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("points.ply", TRIANGLE.replace("face 1", "face 0").replace("3 0 1 2\n", ""), "'faces': found no face"),
        ("points.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "points.obj"),
        ("cut.ply", TRIANGLE[:90], "'file': found"),
        ("nan.ply", TRIANGLE.replace("1 0 0", "nan 0 0"), "'vertices': found NaN or inf"),
        (
            "index.ply",
            TRIANGLE.replace("3 0 1 2", "3 0 1 7"),
            r"'faces': found indices 0\.\.7, expected indices 0\.\.2",
        ),
        ("mesh.xyz9", "hello", "'file': found"),
        ("empty.ply", "", "'file': found"),
    ],
)
def test_damaged_meshes_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        load_mesh(path)
    assert name in str(error.value)


def test_a_missing_mesh_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.ply"):
        load_mesh(tmp_path / "nowhere.ply")


def test_a_truncated_binary_ply_is_named(tmp_path):
    save_ply(sphere(), tmp_path / "obj.ply")
    whole = (tmp_path / "obj.ply").read_bytes()
    for keep in (len(whole) // 3, len(whole) - 100):
        (tmp_path / "obj.ply").write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"obj\.ply"):
            load_mesh(tmp_path / "obj.ply")


def test_diameter_is_exact():
    rng = np.random.default_rng(0)
    for points in (rng.normal(size=(400, 3)), rng.normal(size=(300, 3)) * [1, 1, 0], rng.normal(size=(2, 3))):
        assert diameter(points) == pytest.approx(pdist(points).max(), rel=1e-12)
    assert diameter(np.ones((5, 3))) == 0.0


def test_model_info():
    info = model_info(sphere())
    assert info["diameter"] == pytest.approx(100.0)
    assert list(info) == ["diameter", "min_x", "min_y", "min_z", "size_x", "size_y", "size_z"]
    assert info["min_x"] == pytest.approx(-50.0) and info["size_z"] == pytest.approx(100.0)
