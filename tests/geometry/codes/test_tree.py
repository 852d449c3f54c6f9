"""Trees of planes: balanced, exact, nested, alike under motion; folded ones; what meshes of all kinds give."""

import numpy as np
import pytest

from posedistill.errors import DataError
from posedistill.geometry.cameras import Array
from posedistill.geometry.codes import build_tree, half_turn, load_tree, measure, save_tree, surface_samples
from posedistill.geometry.codes.quality import warnings
from posedistill.geometry.codes.tree import CodeTree
from posedistill.geometry.objects import box_corners
from posedistill.geometry.rotations import random_rotations

QUADS = np.array([(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)])
BOX_FACES = QUADS[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3)
ASIDE = np.array([1.0, -2.0, 0.0])


def box(x: float = 40.0, y: float = 30.0, z: float = 20.0) -> Array:
    return box_corners(-np.array([x, y, z]), np.array([x, y, z]))


@pytest.fixture(scope="module")
def tree() -> CodeTree:
    return build_tree(box(), BOX_FACES)


@pytest.fixture(scope="module")
def samples() -> Array:
    return surface_samples(box(), BOX_FACES, 50_000, seed=7)


def test_cells_have_equal_areas_and_hold_their_own_points(tree, samples):
    built_of = surface_samples(box(), BOX_FACES, 4 * 2**16, seed=0)
    counts = np.bincount(tree.encode(built_of), minlength=2**16)
    assert (counts == 4).mean() > 0.99
    shares = np.bincount(tree.cut(6).encode(samples), minlength=64) / len(samples)
    np.testing.assert_allclose(shares, 1 / 64, rtol=0.15)


def test_centroids_and_radii_are_those_of_the_surface(tree, samples):
    cells = tree.cut(6).encode(samples)
    for cell in (0, 17, 63):
        own = samples[cells == cell]
        place = tree.depth(6).start + cell
        np.testing.assert_allclose(own.mean(axis=0), tree.points[place], atol=0.6)
        spread = np.sqrt(np.square(own - tree.points[place]).sum(axis=1).mean())
        np.testing.assert_allclose(spread, tree.radii[place], rtol=0.05)


def test_first_bits_are_those_of_a_shallower_tree(tree, samples):
    deep = tree.encode(samples)
    np.testing.assert_array_equal(tree.cut(5).encode(samples), deep >> 11)
    np.testing.assert_array_equal(build_tree(box(), BOX_FACES, bits=5).encode(samples), deep >> 11)


def test_cells_get_half_as_wide_every_two_bits(tree, samples):
    means = [quality.mean for quality in measure(tree, samples)]
    assert all(1.7 < means[i] / means[i + 2] < 2.3 for i in range(4, 12))
    assert means[-1] / np.linalg.norm([80, 60, 40]) < 0.0035


def test_building_again_gives_the_same_tree_and_another_seed_another(tree):
    again, other = build_tree(box(), BOX_FACES), build_tree(box(), BOX_FACES, seed=1)
    np.testing.assert_array_equal(again.planes, tree.planes)
    assert not np.array_equal(other.planes, tree.planes)


def test_motion_of_the_mesh_leaves_cells_as_large(tree, samples):
    R, t = random_rotations(1, np.random.default_rng(3))[0], np.array([10.0, -20, 300])
    moved = build_tree(box() @ R.T + t, BOX_FACES)
    for ours, theirs in zip(measure(moved, samples @ R.T + t)[5::5], measure(tree, samples)[5::5], strict=True):
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=0.02)


def test_more_refinements_make_smaller_cells(samples):
    plain, refined = (measure(build_tree(box(), BOX_FACES, 9, refinements=n), samples)[8].mean for n in (0, 3))
    assert refined < 0.99 * plain


def test_twins_of_a_folded_tree_differ_in_the_first_bit_alone(samples):
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    turn[:3, 3] = 2.0, -4.0, 0.0  # about an axis beside the box's own
    moved, twins = samples + ASIDE, samples @ turn[:3, :3] + turn[:3, 3] - ASIDE
    folded = build_tree(box() + ASIDE, BOX_FACES, half_turn=turn)
    ours, theirs = folded.encode(moved), folded.encode(twins)
    assert (ours ^ theirs == 1 << 15).mean() > 0.999
    near = folded.points[folded.depth(10)][ours >> 6]
    np.testing.assert_allclose(np.linalg.norm(near - moved, axis=1).mean(), 1.6, atol=0.3)
    plain = build_tree(box() + ASIDE, BOX_FACES)
    assert (plain.encode(moved) ^ plain.encode(twins) == 1 << 15).mean() < 0.5


def test_only_a_single_half_turn_is_folded():
    turns = [np.diag([-1.0, -1.0, 1.0, 1.0]), np.diag([1.0, -1.0, -1.0, 1.0]), np.diag([-1.0, 1.0, -1.0, 1.0])]
    assert half_turn(np.stack([np.eye(4), turns[0]])) is not None
    assert half_turn(np.stack([np.eye(4), *turns])) is None
    quarter = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert half_turn(np.stack([np.eye(4), quarter])) is None


def test_saved_trees_are_read_back(tree, tmp_path):
    save_tree(tree, tmp_path / "codes.npz")
    again = load_tree(tmp_path / "codes.npz")
    for name in ("planes", "points", "radii"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tree, name))


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "shape", "nan"])
def test_damaged_files_are_refused(tree, tmp_path, damage):
    path = tmp_path / "codes.npz"
    small = tree.cut(3)
    if damage == "text":
        path.write_text("no codes")
    elif damage == "cut":
        save_tree(small, path)
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "shape":
        save_tree(CodeTree(small.planes, small.points[:-1], small.radii), path)
    elif damage == "nan":
        save_tree(CodeTree(small.planes, small.points * np.nan, small.radii), path)
    with pytest.raises(DataError, match=r"codes\.npz"):
        load_tree(path)


def two_boxes(gap: float, size: float) -> tuple[Array, np.ndarray]:
    return np.concatenate([box(), box(size, size, size) + np.array([gap, 0, 0])]), np.concatenate(
        [BOX_FACES, BOX_FACES + 8]
    )


def test_one_triangle_an_open_surface_and_many_parts_have_sound_trees():
    triangle = np.array([[0.0, 0, 0], [50, 0, 0], [0, 30, 0]]), np.array([[0, 1, 2]])
    for vertices, faces in (triangle, (box(), BOX_FACES[:6]), two_boxes(300.0, 20.0)):
        built = build_tree(vertices, faces, bits=10)
        points = surface_samples(vertices, faces, 20_000, seed=2)
        assert np.isfinite(built.points).all() and np.isfinite(built.planes).all()
        low, high = vertices.min(axis=0) - 1e-3, vertices.max(axis=0) + 1e-3
        assert (built.points >= low).all() and (built.points <= high).all()
        assert measure(built, points)[9].mean < 0.03 * np.linalg.norm(np.ptp(vertices, axis=0))


def test_faces_without_area_change_nothing(tree):
    faces = np.concatenate([BOX_FACES, [[0, 0, 1], [3, 3, 3]]])
    np.testing.assert_array_equal(build_tree(box(), faces, bits=6).planes, tree.cut(6).planes)


def test_winding_of_the_faces_changes_only_which_points_are_drawn(samples):
    flipped = build_tree(box(), BOX_FACES[:, ::-1], bits=8)
    mean, plain = (measure(one, samples)[7].mean for one in (flipped, build_tree(box(), BOX_FACES, bits=8)))
    np.testing.assert_allclose(mean, plain, rtol=0.02)


@pytest.mark.parametrize("faces", [np.array([[0, 0, 1], [2, 2, 2]]), np.empty((0, 3), int)])
def test_a_mesh_without_area_is_refused(faces):
    with pytest.raises(DataError, match="area"):
        build_tree(box(), faces)


def test_an_area_that_is_not_finite_is_refused():
    with pytest.raises(DataError, match="area"):
        build_tree(box() * 1e200, BOX_FACES)


@pytest.mark.parametrize("bits", [0, 17])
def test_depths_that_cannot_be_are_refused(tree, bits):
    with pytest.raises(DataError, match="1 to 16"):
        build_tree(box(), BOX_FACES, bits=bits)
    with pytest.raises(DataError, match="1 to 16"):
        tree.cut(bits)


def told(vertices: Array, faces: np.ndarray) -> str:
    built, points = build_tree(vertices, faces, bits=12), surface_samples(vertices, faces, 20_000, seed=2)
    return " ".join(warnings(measure(built, points), vertices, faces, float(np.linalg.norm(np.ptp(vertices, axis=0)))))


def test_gaps_thin_plates_and_odd_units_are_told():
    assert told(box(), BOX_FACES) == ""
    assert "millimetres" in told(box() / 1000, BOX_FACES)
    assert "millimetres" in told(box() * 1000, BOX_FACES)
    assert "front and back" in told(box(z=0.05), BOX_FACES)


def test_a_cell_that_spans_parts_of_very_different_size_is_told():
    vertices, faces = box(40.0, 40.0, 40.0), BOX_FACES
    small = box(*[40 / 11**0.5] * 3) + np.array([300.0, 0, 0])
    found = told(np.concatenate([vertices, small]), np.concatenate([faces, faces + 8]))
    assert "12.5% of the cells of 3 bits reach over a gap in the surface" in found


def test_how_many_vertices_a_sphere_has_changes_nothing():
    from trimesh.creation import icosphere

    means = []
    for subdivisions in (4, 6):
        sphere = icosphere(subdivisions, 50.0)
        vertices, faces = np.asarray(sphere.vertices), np.asarray(sphere.faces)
        built = build_tree(vertices, faces, bits=10)
        means.append(measure(built, surface_samples(vertices, faces, 50_000, seed=2))[9].mean)
    np.testing.assert_allclose(means[1], means[0], rtol=0.02)


def tray(wall: float) -> tuple[Array, np.ndarray]:
    """An open box with walls, without the rim."""
    outer, inner = box(50.0, 50.0, 30.0), box(50 - wall, 50 - wall, 30.0) + np.array([0, 0, wall])
    return np.concatenate([outer, inner]), np.concatenate([BOX_FACES, BOX_FACES[:, ::-1] + 8])


@pytest.mark.parametrize("winding", ["as it is", "mixed"])
def test_thin_walls_are_told_and_thick_ones_are_not(winding):
    for wall, thin in ((0.5, True), (15.0, False)):
        vertices, faces = tray(wall)
        if winding == "mixed":
            faces[::2] = faces[::2, ::-1]
        assert ("front and back share cells down to 10 bits" in told(vertices, faces)) == thin
