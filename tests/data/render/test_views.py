import numpy as np

from posedistill.data.formats.viewpoint.kinds import Kind
from posedistill.data.formats.viewpoint.renderings import read_renderings, view_angles
from posedistill.data.render.categories import DIAGONAL
from posedistill.data.render.views import render_views
from posedistill.geometry.meshes.parts import make_mesh


def wedge():
    """A block whose front is lower than its rear."""
    low, high = np.array([-0.2, -0.4, -0.2]), np.array([0.2, 0.4, 0.2])
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    vertices = np.where(corners == 1, high, low)
    vertices[(corners[:, 1] == 0) & (corners[:, 2] == 1), 2] = -0.1
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (1, 5, 7, 3), (0, 2, 6, 4)]
    faces = np.array([face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))])
    return make_mesh("wedge", DIAGONAL * vertices / np.linalg.norm(high - low), faces)


def test_what_is_written_can_be_read_and_shows_the_sides(tmp_path):
    angles, seen = view_angles(8, 2), []
    told = render_views(
        {("block", "01"): wedge()}, tmp_path, angles, 64, lambda done, total: seen.append((done, total))
    )
    assert told == 8 and seen[-1] == (8, 8)
    views = read_renderings(tmp_path, [Kind("block", "1")], angles, 64)[0].max(axis=3) > 30
    rows = views.any(axis=2).sum(axis=1)  # each is scaled to fill its picture
    assert rows[1] == rows[3] < rows[0] < 64  # from the side it is flatter than from the front
    # Azimuth 90 shows the front on the left: there the block is low, on the right it is high; from 270 the reverse.
    heights = views.sum(axis=1)
    assert heights[1, 8] < heights[1, 56] and heights[3, 8] > heights[3, 56]


def test_what_is_seen_from_its_edge_is_an_empty_view(tmp_path):
    plate = np.array([[-0.5, 0.0, -0.3], [0.5, 0.0, -0.3], [0.5, 0.0, 0.3], [-0.5, 0.0, 0.3]])
    needle = plate * [1e-7, 0, 1]
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    shapes = {
        ("flat", name): make_mesh(name, DIAGONAL * corners, faces) for name, corners in (("a", plate), ("b", needle))
    }
    angles = [(0, 0), (90, 0)]
    assert render_views(shapes, tmp_path, angles, 48) == 4
    kinds = [Kind("flat", "a"), Kind("flat", "b")]
    views = read_renderings(tmp_path, kinds, angles, 48)
    assert views.any(axis=(2, 3, 4)).tolist() == [[True, False], [False, False]]


def test_the_same_shape_gives_the_same_pictures(tmp_path):
    for folder in ("a", "b"):
        render_views({("block", "01"): wedge()}, tmp_path / folder, [(60, 30)], 48)
    first, second = (read_renderings(tmp_path / folder, [Kind("block", "01")], [(60, 30)], 48) for folder in ("a", "b"))
    np.testing.assert_array_equal(first, second)
