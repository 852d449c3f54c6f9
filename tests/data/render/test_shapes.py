import numpy as np
import pytest
from scipy.spatial import cKDTree

from posedistill.data.render.shapes import assemble, code_models_info, code_objects, distractors, superquadric, torus
from posedistill.geometry.meshes import Mesh


@pytest.fixture(scope="module")
def infos() -> dict[int, dict]:
    return code_models_info()


def volume(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


def mirror_error(mesh: Mesh, transform: np.ndarray) -> float:
    """Largest distance, mm or colour levels, between the mesh and its transformed self."""
    moved = mesh.vertices @ transform[:3, :3].T + transform[:3, 3]
    distance, index = cKDTree(mesh.vertices).query(moved)
    colors = mesh.colors.astype(int)
    return float(max(distance.max(), np.abs(colors[index] - colors).mean()))


@pytest.mark.parametrize("roundness", [(1.0, 1.0), (0.1, 1.0), (0.2, 0.2), (1.6, 0.25)])
def test_superquadric_is_closed_and_faces_outward(roundness: tuple[float, float]) -> None:
    vertices, faces = superquadric((10, 20, 30), roundness, 12)
    mesh = assemble([((vertices, faces), lambda p: np.full(p.shape, 0.5))])
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), axis=1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    assert (counts == 2).all()
    assert volume(mesh) > 0
    assert (np.einsum("vi,vi->v", mesh.normals, mesh.vertices) > 0).all()


def test_ellipsoid_and_torus_have_their_volumes() -> None:
    gray = lambda p: np.full(p.shape, 0.5)  # noqa: E731
    assert volume(assemble([(superquadric((10, 20, 30), cells=40), gray)])) == pytest.approx(
        4 / 3 * np.pi * 6000, rel=0.01
    )
    assert volume(assemble([(torus(30, 8, (96, 48)), gray)])) == pytest.approx(2 * np.pi**2 * 30 * 64, rel=0.01)


def test_code_objects_are_as_large_and_as_finely_coloured_as_promised(infos: dict[int, dict]) -> None:
    objects = code_objects()
    assert sorted(objects) == sorted(infos) == [1, 2, 3]
    for obj_id, mesh in objects.items():
        assert 80 < infos[obj_id]["diameter"] < 170
        assert len(np.unique(mesh.colors, axis=0)) >= 6
        edges = mesh.vertices[mesh.faces] - mesh.vertices[np.roll(mesh.faces, 1, axis=1)]
        assert np.median(np.linalg.norm(edges, axis=-1)) < 6
        np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-6)


def test_only_the_clamp_is_symmetric_and_exactly_so(infos: dict[int, dict]) -> None:
    half_turn = np.array(infos[3]["symmetries_discrete"][0]).reshape(4, 4)
    errors = {obj_id: mirror_error(mesh, half_turn) for obj_id, mesh in code_objects().items()}
    assert errors[3] < 1e-6
    assert min(errors[1], errors[2]) > 5
    assert "symmetries_discrete" not in infos[1]


def test_distractors_depend_on_the_seed_alone() -> None:
    first, again, other = distractors(3, 5), distractors(3, 5), distractors(3, 6)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.vertices, b.vertices)
        np.testing.assert_array_equal(a.colors, b.colors)
        assert a.vertices.shape != c.vertices.shape or not np.array_equal(a.vertices, c.vertices)
        assert np.isfinite(a.vertices).all()
        assert np.ptp(a.vertices, axis=0).max() < 800
