import numpy as np
import pytest

from posedistill.data.formats.viewpoint.clouds import ShapeFolder, read_cloud, read_shape
from posedistill.errors import DataError

CUBE = np.array([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 2.0) for z in (0.0, 4.0)])
FACES = np.array([[0, 1, 3], [0, 3, 2], [4, 5, 7], [4, 7, 6]])  # the sides at x = 0 and x = 1


def ply_of_points(path, points):
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
    header += "".join(f"property double {axis}\n" for axis in "xyz")
    header += "element face 0\nproperty list uchar int vertex_indices\nend_header\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode() + points.astype("<f8").tobytes())
    return path


def test_published_clouds_are_read(tmp_path):
    points = np.random.default_rng(0).normal(size=(5000, 3)) * [1, 2, 3] + 7
    cloud = read_cloud(ply_of_points(tmp_path / "compressed.ply", points))
    assert cloud.shape == (5000, 3)
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    assert np.linalg.norm(high - low) == pytest.approx(1) and np.abs(low + high).max() < 1e-12
    np.testing.assert_array_equal(read_shape(tmp_path / "compressed.ply"), points)


@pytest.mark.parametrize("count", [50, 300])
def test_clouds_of_other_sizes_are_thinned_or_repeated(tmp_path, count):
    points = np.random.default_rng(0).normal(size=(100, 3))
    np.save(tmp_path / "a.npy", points)
    first = read_cloud(tmp_path / "a.npy", count, seed=1)
    assert first.shape == (count, 3)
    np.testing.assert_array_equal(first, read_cloud(tmp_path / "a.npy", count, seed=1))
    assert not np.array_equal(first, read_cloud(tmp_path / "a.npy", count, seed=2))
    assert len(np.unique(first, axis=0)) == min(count, 100)


def test_meshes_are_covered_evenly(tmp_path):
    np.savez(tmp_path / "cube.npz", vertices=CUBE, faces=FACES)
    cloud = read_cloud(tmp_path / "cube.npz", 4000)
    inside = np.linalg.norm(CUBE.max(axis=0))
    assert set((cloud[:, 0] * inside).round(2)) == {-0.5, 0.5}
    for axis, half in ((1, 1.0), (2, 2.0)):
        values = cloud[:, axis] * inside / half
        assert abs(values.mean()) < 0.05 and values.std() == pytest.approx(1 / 3**0.5, abs=0.02)


def test_obj_meshes(tmp_path):
    lines = [f"v {x} {y} {z}" for x, y, z in CUBE] + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in FACES]
    (tmp_path / "m.obj").write_text("\n".join(lines) + "\n")
    assert read_cloud(tmp_path / "m.obj", 10).shape == (10, 3)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.npy", lambda path: np.save(path, np.zeros((5, 2))), r"points.*shape \[5, 2\]"),
        ("a.npy", lambda path: np.save(path, np.zeros((5, 3))), r"box of diagonal 0"),
        ("a.npy", lambda path: np.save(path, np.full((5, 3), np.nan)), r"box of diagonal nan"),
        ("a.npy", lambda path: path.write_bytes(b"no array"), r"a\.npy"),
        ("a.npz", lambda path: np.savez(path, vertices=CUBE), r"faces"),
        ("a.npz", lambda path: np.savez(path, vertices=CUBE, faces=np.zeros((0, 3), int)), r"at least one"),
        ("a.npz", lambda path: np.savez(path, vertices=CUBE, faces=FACES + 5), r"vertex 12.*0 to 7"),
        ("a.npz", lambda path: np.savez(path, vertices=CUBE, faces=FACES * 0), r"'faces': found an area of 0"),
        ("a.npz", lambda path: np.savez(path, vertices=CUBE * np.nan, faces=FACES), r"found an area of nan"),
        ("a.npz", lambda path: np.savez(path, vertices=CUBE * 1e200, faces=FACES), r"found an area of inf"),
        ("a.obj", lambda path: path.write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n"), r"found an area of 0"),
        ("a.obj", lambda path: path.write_text("v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n"), r"a\.obj"),
        ("a.obj", lambda path: path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n"), r"a\.obj"),
        ("a.ply", lambda path: ply_of_points(path, CUBE).write_bytes(b"ply\nend_header\n"), r"a\.ply"),
        ("a.off", lambda path: path.write_text("OFF"), r"found \.off, expected one of \.ply"),
        ("a.ply", lambda path: None, r"no such file"),
    ],
)
def test_shapes_that_cannot_be_are_refused(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(DataError, match=message):
        read_cloud(tmp_path / name)


def test_shapes_are_found_where_data_sets_keep_them(tmp_path):
    published = ply_of_points(tmp_path / "car" / "03" / "compressed.ply", CUBE)
    flat, own = tmp_path / "bus01.npy", tmp_path / "mug" / "blue.npy"
    own.parent.mkdir()
    for path in (flat, own, tmp_path / "bus02.npy"):
        np.save(path, CUBE)
    shapes = ShapeFolder(tmp_path)
    assert shapes.find("car", "3") == published
    assert shapes.find("bus", "1") == shapes.find("bus", "01") == flat
    assert shapes.find("mug", "blue") == shapes.find("mug", "blue.obj") == own
    assert shapes.find("car", "4") is None and shapes.find("car", "") is None
    assert shapes.of_category("bus") == ["01", "02"]
    assert shapes.of_category("car") == ["03"] and shapes.of_category("mug") == ["blue"]
    assert shapes.of_category("train") == []


def test_real_models(real_data):
    shapes = ShapeFolder(real_data / "pascal3d_cad")
    cloud = read_cloud(shapes.find("car", "1"))
    extent = np.ptp(cloud, axis=0)
    assert extent.argmax() == 1 and extent.argmin() == 2  # long from front to rear, and not as high as wide
