"""Objects made in code: the quickstart's three coloured objects and the distractors of rendered scenes.

Every part is a superquadric (Barr 1981: boxes, cylinders, ellipsoids and what lies between) or a torus, tessellated
finely enough that a colour pattern fits into the vertex colours.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.meshes import Mesh, model_info
from posedistill.geometry.rotations import axis_angle

Points = NDArray[np.float64]
Faces = NDArray[np.int64]
Pattern = Callable[[Points], Points]
Part = tuple[Points, Faces]


def _grid_faces(rows: int, columns: int) -> Faces:
    """Two triangles for each cell of a ``rows x columns`` grid of vertices, ``[F, 3]``."""
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (corner.ravel() for corner in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def superquadric(radii: Sequence[float], roundness: tuple[float, float] = (1.0, 1.0), cells: int = 24) -> Part:
    """A superquadric centred on the origin: vertices ``[6 (cells + 1)^2, 3]`` and outward faces ``[F, 3]``.

    Args:
        radii: half sizes along x, y and z, mm.
        roundness: exponents (along z, in the xy plane): (1, 1) is an ellipsoid, (0.1, 1) a cylinder, (0.1, 0.1) a box.
        cells: cells along each edge of the cube that is projected onto the surface.

    >>> vertices, faces = superquadric((10, 20, 30), (0.1, 0.1), cells=4)
    >>> np.round(np.abs(vertices).max(axis=0)), len(faces)
    (array([10., 20., 30.]), 192)
    """
    ticks = np.linspace(-1.0, 1.0, cells + 1)
    u, v = (axis.ravel() for axis in np.meshgrid(ticks, ticks, indexing="ij"))
    sheet, face = np.stack([u, v, np.ones_like(u)], 1), _grid_faces(cells + 1, cells + 1)
    vertices: list[Points] = []
    faces: list[Faces] = []
    for axis in range(3):
        for sign in (1.0, -1.0):
            side = np.roll(sheet * [1.0, sign, sign], axis + 1, axis=1)
            faces.append(face[:, ::-1] + len(vertices) * len(sheet))
            vertices.append(side)
    cube = np.concatenate(vertices)
    e1, e2 = roundness
    x, y, z = np.abs(cube).T
    implicit = (x ** (2 / e2) + y ** (2 / e2)) ** (e2 / e1) + z ** (2 / e1)
    return cube * (implicit ** (-e1 / 2))[:, None] * np.asarray(radii, float), np.concatenate(faces)


def torus(major: float, minor: float, cells: tuple[int, int] = (48, 20)) -> Part:
    """A torus about the z axis: ring radius ``major``, tube radius ``minor``, mm."""
    a, b = np.meshgrid(*(np.linspace(0, 2 * np.pi, n + 1) for n in cells), indexing="ij")
    ring = major + minor * np.cos(b)
    vertices = np.stack([ring * np.cos(a), ring * np.sin(a), minor * np.sin(b)], -1).reshape(-1, 3)
    return vertices, _grid_faces(cells[0] + 1, cells[1] + 1)[:, ::-1]


def _at(part: Part, offset: Sequence[float], turn: Points | None = None) -> Part:
    """Turn a part by ``turn`` (3x3), then move it by ``offset``."""
    vertices = part[0] if turn is None else part[0] @ turn.T
    return vertices + np.asarray(offset, float), part[1]


def _axis_turn(axis: int, degrees: float) -> Points:
    """Rotation by an angle about a coordinate axis, 3x3."""
    return axis_angle(np.eye(3)[axis], np.radians(degrees))


def _weld(vertices: Points, faces: Faces) -> Part:
    """Merge vertices closer than a micrometre, so that normals are smooth across the seams; drop empty faces."""
    _, first, inverse = np.unique(np.round(vertices * 1e3), axis=0, return_index=True, return_inverse=True)
    faces = inverse.reshape(-1)[faces]
    alive = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return vertices[first], faces[alive]


def _vertex_normals(vertices: Points, faces: Faces) -> Points:
    """Unit vertex normals, the area-weighted mean over the faces, ``[V, 3]``; trimesh weighs by angle."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], face_normals)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def assemble(parts: Sequence[tuple[Part, Pattern]]) -> Mesh:
    """Join coloured parts (they may sink into each other) to one mesh with vertex colours and normals.

    A pattern maps ``[N, 3]`` points in mm, in the frame of the finished object, to ``[N, 3]`` colours in 0..1.
    """
    vertices, faces, colors, normals, count = [], [], [], [], 0
    for (part_vertices, part_faces), pattern in parts:
        points, triangles = _weld(part_vertices, part_faces)
        vertices.append(points)
        normals.append(_vertex_normals(points, triangles))
        colors.append(np.clip(np.round(pattern(points) * 255), 0, 255).astype(np.uint8))
        faces.append(triangles + count)
        count += len(points)
    points, triangles = np.concatenate(vertices), np.concatenate(faces)
    return Mesh(points, triangles, np.concatenate(colors), None, None, np.concatenate(normals))


def _plain(r: float, g: float, b: float) -> Pattern:
    return lambda points: np.broadcast_to(np.array([r, g, b]), points.shape)


def _pick(choice: Callable[[Points], NDArray[Any]], *colors: Sequence[float]) -> Pattern:
    """A pattern that colours a point with ``colors[choice(point) % len(colors)]``."""
    table = np.array(colors, float)
    return lambda points: table[choice(points).astype(int) % len(table)]


def _rover() -> Mesh:
    """A wagon: striped body, cabin off centre, a mast with a ball, four wheels. No symmetry in shape or colour."""
    stripes = _pick(lambda p: np.floor((p[:, 0] + 100) / 17), (0.86, 0.12, 0.10), (0.95, 0.80, 0.15))
    cabin = _pick(lambda p: p[:, 1] > 4, (0.10, 0.35, 0.75), (0.93, 0.93, 0.90))
    ball = _pick(lambda p: p[:, 2] > 52, (0.95, 0.45, 0.05), (0.15, 0.60, 0.25))
    parts = [
        (superquadric((55, 32, 18), (0.2, 0.2), 32), stripes),
        (_at(superquadric((20, 24, 20), (0.25, 0.25)), (24, 4, 30)), cabin),
        (_at(superquadric((4, 4, 18), (0.1, 1.0), 10), (-36, -14, 30)), _plain(0.2, 0.2, 0.22)),
        (_at(superquadric((13, 13, 13), cells=16), (-36, -14, 53)), ball),
    ]
    wheel = _pick(lambda p: np.hypot(np.abs(p[:, 0]) - 32, p[:, 2] + 16) < 7, (0.12, 0.12, 0.13), (0.75, 0.75, 0.78))
    for x, y in ((-32, -32), (-32, 32), (32, -32), (32, 32)):
        parts.append((_at(superquadric((14, 14, 6), (0.15, 1.0), 16), (x, y, -16), _axis_turn(0, 90)), wheel))
    return assemble(parts)


def _jug() -> Mesh:
    """A jug: two-coloured chequered body, a handle on one side, a spout a third of a turn further. No symmetry."""

    def cells(p: Points) -> NDArray[Any]:
        quarter = np.floor(np.degrees(np.arctan2(p[:, 1], p[:, 0])) / 60 + 20)
        return quarter + np.floor((p[:, 2] + 200) / 28)

    body = _pick(cells, (0.08, 0.30, 0.62), (0.35, 0.78, 0.80), (0.92, 0.90, 0.82))
    spout_turn = _axis_turn(2, 120) @ _axis_turn(1, 45)
    return assemble(
        [
            (superquadric((34, 34, 52), (0.35, 1.0), 36), body),
            (_at(torus(27, 7), (-38, 0, 6), _axis_turn(0, 90)), _plain(0.85, 0.20, 0.35)),
            (_at(superquadric((8, 11, 30), (0.3, 0.8), 16), (-18, 31, 34), spout_turn), _plain(0.95, 0.70, 0.10)),
            (_at(superquadric((15, 15, 9), (0.5, 1.0), 14), (6, 0, 54)), _plain(0.35, 0.12, 0.45)),
        ]
    )


def _clamp() -> Mesh:
    """A block with two bosses and two ears: a half turn about z maps it, colours included, onto itself."""

    def quarters(p: Points) -> NDArray[Any]:
        return (p[:, 0] * p[:, 1] > 0) + 2 * (p[:, 2] > 6)

    block = _pick(quarters, (0.20, 0.55, 0.22), (0.90, 0.88, 0.80), (0.14, 0.36, 0.16), (0.55, 0.78, 0.30))
    boss = _pick(lambda p: np.floor((p[:, 2] + 100) / 9), (0.80, 0.25, 0.10), (0.98, 0.85, 0.55))
    half_turn = _axis_turn(2, 180)
    side: list[tuple[Part, Pattern]] = [
        (_at(superquadric((13, 13, 20), (0.2, 1.0), 18), (34, 12, 28)), boss),
        (_at(superquadric((20, 9, 9), (0.6, 0.6), 14), (56, -14, 0)), _plain(0.45, 0.18, 0.55)),
    ]
    other = [((part[0] @ half_turn.T, part[1]), pattern) for part, pattern in side]
    return assemble([(superquadric((55, 30, 22), (0.2, 0.2), 32), block), *side, *other])


def code_objects() -> dict[int, Mesh]:
    """The quickstart's objects, 100 to 160 mm: 1 a rover and 2 a jug without symmetry, 3 a clamp with a half turn.

    >>> sorted(code_objects())
    [1, 2, 3]
    """
    return {1: _rover(), 2: _jug(), 3: _clamp()}


def code_models_info() -> dict[int, dict[str, Any]]:
    """``models_info`` of `code_objects` in BOP's keys, with the clamp's ``symmetries_discrete``.

    >>> code_models_info()[3]["symmetries_discrete"][0][:4]
    [-1.0, 0.0, 0.0, 0.0]
    """
    infos: dict[int, dict[str, Any]] = {obj_id: dict(model_info(mesh)) for obj_id, mesh in code_objects().items()}
    half_turn = np.diag([-1.0, -1.0, 1.0, 1.0]).ravel()
    infos[3]["symmetries_discrete"] = [[float(value) + 0.0 for value in half_turn]]
    return infos


def _random_pattern(rng: np.random.Generator) -> Pattern:
    """Plain, striped, chequered, two-faced or marbled, in saturated, pale or grey colours."""
    colors = rng.uniform(0.03, 0.97, (int(rng.integers(2, 5)), 3))
    if rng.random() < 0.35:
        colors = colors.mean(axis=1, keepdims=True) + rng.uniform(-0.06, 0.06, colors.shape)
    axis = rng.normal(size=(3, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    pitch, kind = rng.uniform(8, 50), int(rng.integers(5))
    choices: list[Callable[[Points], NDArray[Any]]] = [
        lambda p: np.zeros(len(p)),
        lambda p: np.floor(p @ axis[0] / pitch),
        lambda p: np.floor(p @ axis.T / pitch).sum(axis=1),
        lambda p: p @ axis[0] > 0,
        lambda p: np.floor(2 * np.sin(p @ axis.T / pitch * 2).sum(axis=1)),
    ]
    return _pick(choices[kind], *np.clip(colors, 0.02, 0.98))


def _random_part(size: float, rng: np.random.Generator) -> Part:
    """One random superquadric or torus of about ``size`` mm, tapered and dented at random."""
    if rng.random() < 0.15:
        return torus(size * 0.36, size * rng.uniform(0.06, 0.14), (36, 14))
    radii = size * 0.5 * rng.uniform(0.25, 1.0, 3)
    roundness = tuple(rng.choice([0.1, 0.25, 0.6, 1.0, 1.6], 2))
    vertices, faces = superquadric(radii.tolist(), (float(roundness[0]), float(roundness[1])), 14)
    vertices = vertices * (1 + rng.uniform(-0.4, 0.4) * vertices[:, 2:] / radii[2])
    if rng.random() < 0.4:
        waves = np.sin(vertices @ rng.normal(size=(3, 3)) * (rng.uniform(2, 7) / size)).sum(axis=1, keepdims=True)
        vertices = vertices * (1 + rng.uniform(0.02, 0.1) * waves)
    return vertices, faces


def distractors(count: int, seed: int) -> list[Mesh]:
    """Random coloured things of one to four parts, roughly 30 to 170 mm large; the same for the same seed.

    >>> len(distractors(2, seed=0))
    2
    """
    meshes = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        size = float(np.exp(rng.uniform(*np.log((30.0, 170.0)))))
        parts: list[tuple[Part, Pattern]] = []
        for number in range(int(rng.integers(1, 5))):
            part = _random_part(size * (1.0 if number == 0 else rng.uniform(0.3, 0.7)), rng)
            turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
            turn[:, 0] *= np.sign(np.linalg.det(turn))
            offset = rng.uniform(-0.35, 0.35, 3) * size * (number > 0)
            parts.append((_at(part, offset.tolist(), turn), _random_pattern(rng)))
        meshes.append(assemble(parts))
    return meshes
