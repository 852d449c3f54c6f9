import numpy as np
import pytest

from posedistill.deploy.shapes import coarse_shape
from posedistill.geometry.draw.poses import Shape, silhouette


def sphere(rings: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a sphere of radius 50 mm."""
    theta, phi = np.meshgrid(np.linspace(0, np.pi, rings), np.linspace(0, 2 * np.pi, 2 * rings), indexing="ij")
    points = 50 * np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)
    index = np.arange(theta.size).reshape(theta.shape)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    return points.reshape(-1, 3), np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])


def test_a_coarse_sphere_has_the_same_silhouette():
    vertices, faces = sphere()
    coarse = coarse_shape(vertices, faces)
    assert len(coarse.faces) < 0.5 * len(faces) and coarse.faces.max() < len(coarse.vertices)
    K = np.array([[600.0, 0.0, 160.0], [0.0, 600.0, 120.0], [0.0, 0.0, 1.0]])
    shapes = (Shape(vertices, faces), coarse)
    fine, rough = (silhouette(shape, np.eye(3), np.array([0.0, 0.0, 500.0]), K, (240, 320)) for shape in shapes)
    assert (fine & rough).sum() / (fine | rough).sum() > 0.97


@pytest.mark.parametrize("cells", [1, 8, 1000])
def test_every_face_has_three_vertices(cells):
    shape = coarse_shape(*sphere(12), cells=cells)
    assert all(len(set(face)) == 3 for face in shape.faces.tolist())
