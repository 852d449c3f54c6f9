"""A scanned mesh, the ape of LINEMOD: how fine its cells are, and the poses that perfect codes of it give."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posedistill.decode import ZebraPoseDecoder
from posedistill.decode.zebrapose import ZebraPoseDecoding
from posedistill.geometry.cameras import Array
from posedistill.geometry.codes import CodeTree, build_tree, measure, surface_samples
from posedistill.geometry.meshes import Mesh, diameter, load_mesh
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.geometry.rotations import random_rotations
from posedistill.geometry.surfaces import Surfaces

SIDE, VIEWS = 128, 12
K = np.array([[600.0, 0, 63.5], [0, 600.0, 63.5], [0, 0, 1]])
ASIDE = np.array([[0.0, 0, 1], [0, 0, 1], [0, 0, 0]])


@pytest.fixture(scope="module")
def ape(real_data: Path) -> Mesh:
    return load_mesh(real_data / "lmo/models_eval/obj_000001.ply", looks=False)


@pytest.fixture(scope="module")
def tree(ape: Mesh) -> CodeTree:
    return build_tree(ape.vertices, ape.faces)


def test_cells_are_as_fine_as_they_were(ape: Mesh, tree: CodeTree) -> None:
    """Mean distance of the surface from the centres of its cells, % of the diameter."""
    qualities = measure(tree, surface_samples(ape.vertices, ape.faces, 100_000, seed=1))
    found = [100 * qualities[bits - 1].mean / diameter(ape.vertices) for bits in (8, 10, 12, 16)]
    np.testing.assert_allclose(found, [3.41, 1.70, 0.86, 0.25], rtol=0.03)


def test_motion_leaves_radii_as_they_are(ape: Mesh, tree: CodeTree) -> None:
    R, t = random_rotations(1, np.random.default_rng(3))[0], np.array([10.0, -20, 300])
    moved = build_tree(ape.vertices @ R.T + t, ape.faces)
    for bits in (8, 10, 12, 16):
        ours, theirs = (built.radii[built.depth(bits)].mean() for built in (moved, tree))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.fixture(scope="module")
def views(ape: Mesh) -> tuple[Array, Array, Array]:
    """Rotations, positions, and ``[VIEWS, SIDE, SIDE, 3]`` what is seen: the ape fills two thirds of each crop."""
    R = random_rotations(VIEWS, np.random.default_rng(0))
    t = np.tile([0, 0, 600 * diameter(ape.vertices) / 85], (VIEWS, 1))
    surfaces, label = Surfaces([1], lambda _: ape), np.zeros(VIEWS, np.int64)
    return R, t, surfaces.seen(label, np.tile(K, (VIEWS, 1, 1)), R, t, SIDE, 1)


@pytest.mark.parametrize(("bits", "limit"), [(12, 0.8), (16, 0.25)])
def test_perfect_codes_give_the_pose(
    ape: Mesh, tree: CodeTree, views: tuple[Array, Array, Array], bits: int, limit: float
) -> None:
    """Of 512 cells, all bits read; median ADD in % of the diameter. Centres half a pixel off make it worse."""
    own, size = tree.cut(bits), diameter(ape.vertices)
    corners = box_corners(ape.vertices.min(axis=0), ape.vertices.max(axis=0))
    objects = ObjectTable((1,), corners[None], np.array([size]), (np.eye(4)[None],))
    tables = {"points": own.points[None], "radii": own.radii[None]}
    decoder = ZebraPoseDecoder(objects=objects, crop_size=SIDE, grid=SIDE, **tables)
    decoder = replace(decoder, decoding=ZebraPoseDecoding(confidence=0.0))
    errors: dict[float, list[float]] = {0.0: [], 0.5: []}
    for R, t, points in zip(*views, strict=True):
        ids = own.encode(np.nan_to_num(points).reshape(-1, 3)).reshape(SIDE, SIDE)
        mask = np.where(np.isfinite(points[..., 0]), 4.0, -4.0)[None]
        code = np.where(ids >> np.arange(bits)[::-1, None, None] & 1, 6.0, -6.0)
        for shift, found in errors.items():
            pose = decoder.decode_crop({"mask": mask, "code": code}, K + shift * ASIDE, 0)
            assert pose is not None
            found.append(np.linalg.norm(ape.vertices @ (pose.R - R).T + pose.t - t, axis=1).mean() / size)
    exact, shifted = (100 * np.median(found) for found in errors.values())
    assert exact < limit and shifted > exact
