"""ZebraPose's own codes: balanced classes, their files written and read, and files that cannot be."""

import numpy as np
import pytest

from posedistill.errors import DataError
from posedistill.geometry.codes.published import published_codes, read_table, write_published
from posedistill.geometry.meshes import load_mesh
from posedistill.geometry.objects import box_corners

BOX = box_corners(np.array([-40.0, -30, -20]), np.array([40.0, 30, 20]))
FACES = np.array([(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1), (2, 3, 7), (2, 7, 6), (0, 2, 6)])


@pytest.fixture(scope="module")
def codes():
    return published_codes(BOX, FACES, bits=6)


def test_meshes_are_subdivided_and_classes_are_compact(codes):
    assert len(codes.vertices) > 64
    assert set(np.unique(codes.codes)) <= set(range(64))
    corners = codes.vertices[codes.faces].mean(axis=1)
    filled = np.unique(codes.codes)
    np.testing.assert_allclose(
        codes.points[filled], [corners[codes.codes == code].mean(axis=0) for code in filled], atol=1e-9
    )
    assert np.linalg.norm(corners - codes.points[codes.codes], axis=1).mean() < 12  # of a diameter of 108
    assert np.isnan(codes.points[np.setdiff1d(np.arange(64), filled)]).all()


def test_halves_differ_by_one_vertex_at_most():
    from posedistill.geometry.codes.published import _halves

    vertices = np.random.default_rng(0).normal(size=(101, 3)) * [30, 10, 5]
    lower, upper = _halves(vertices, np.arange(101))
    assert sorted((len(lower), len(upper))) == [50, 51]
    assert len(np.union1d(lower, upper)) == 101


def test_files_are_those_of_its_programs(codes, tmp_path):
    write_published(codes, tmp_path, 5)
    table = tmp_path / "Class_CorresPoint000005.txt"
    assert table.read_text().startswith("64 2 6\n0 ")
    np.testing.assert_allclose(read_table(table), codes.points, rtol=1e-5, atol=1e-5)
    colored = load_mesh(tmp_path / "obj_000005.ply")
    red, green, blue = colored.colors[colored.faces[:, 0]].astype(int).T
    np.testing.assert_array_equal(red + 256 * green + 65536 * blue, codes.codes)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "lines"),
        ("4 2 2\n0 1 2\n", "lines"),
        ("4 2 2\n0 a 2 3\n", "lines"),
        ("5 2 2\n", "line 1"),
        ("4 4 1\n", "line 1"),
        ("2 2 1\n0 1 2 3\n0 1 2 3\n", "1 missing"),
        ("2 2 1\n0 1 2 3\n", "1 missing, such as 1"),
    ],
)
def test_tables_that_cannot_be_are_refused(tmp_path, text, found):
    path = tmp_path / "Class_CorresPoint000001.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=found):
        read_table(path)


def test_codes_without_faces_stay_without_points(tmp_path):
    path = tmp_path / "Class_CorresPoint000001.txt"
    path.write_text("2 2 1\n1 nan nan nan\n0 1 2 3\n")
    points = read_table(path)
    assert points[0].tolist() == [1, 2, 3] and np.isnan(points[1]).all()
