"""A small BOP data set made in code: a block without symmetry, a bar with a half turn, three frames with depth."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh

from posedistill.geometry.meshes import Mesh, model_info, save_ply
from posedistill.geometry.rotations import random_rotations
from posedistill.metrics.vsd import DepthCaster
from posedistill.poses import Poses

K = np.array([[300.0, 0.0, 159.5], [0.0, 300.0, 119.5], [0.0, 0.0, 1.0]])
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])
WIDTH, HEIGHT = 320, 240


def as_mesh(shape):
    vertices, faces = np.array(shape.vertices), np.array(shape.faces)
    return Mesh(vertices, faces, None, None, None, np.array(shape.vertex_normals))


def block():
    parts = [trimesh.creation.box((60, 40, 20)), trimesh.creation.box((10, 10, 40))]
    parts[1].apply_translation([20, 10, 20])
    return as_mesh(trimesh.util.concatenate(parts).subdivide())


def bar():
    return as_mesh(trimesh.creation.box((80, 30, 20)).subdivide())


MESHES = {1: block(), 2: bar()}
INFOS = {
    1: model_info(MESHES[1]),
    2: {**model_info(MESHES[2]), "symmetries_discrete": [HALF_TURN.ravel().tolist()]},
}
CASTERS = {obj_id: DepthCaster(mesh.vertices, mesh.faces) for obj_id, mesh in MESHES.items()}


def render_depth(poses):
    depth = np.full((HEIGHT, WIDTH), 1500.0, np.float32)  # a wall
    for obj_id, R, t in poses:
        seen = CASTERS[obj_id].cast(R, t, K, (0, 0, WIDTH, HEIGHT))
        depth = np.where((seen > 0) & (seen < depth), seen, depth)
    return depth


def write_dataset(root: Path, frames: dict[int, list], *, targets=True, visib=None, depth=True, camera=True):
    """``frames``: image id -> list of (obj_id, R, t); ``visib``: (image id, position) -> visible share, default 1."""
    models = root / "models_eval"
    models.mkdir(parents=True)
    for obj_id, mesh in MESHES.items():
        save_ply(mesh, models / f"obj_{obj_id:06d}.ply")
    (models / "models_info.json").write_text(json.dumps(INFOS))
    scene = root / "test" / "000004"
    (scene / "rgb").mkdir(parents=True)
    (scene / "depth").mkdir()
    cameras, truths, infos, wanted = {}, {}, {}, []
    for im_id, poses in frames.items():
        cv2.imwrite(str(scene / "rgb" / f"{im_id:06d}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        if depth:
            cv2.imwrite(str(scene / "depth" / f"{im_id:06d}.png"), np.rint(render_depth(poses) * 10).astype(np.uint16))
        cameras[im_id] = {"cam_K": K.ravel().tolist(), "depth_scale": 0.1}
        truths[im_id] = [
            {"obj_id": obj_id, "cam_R_m2c": np.ravel(R).tolist(), "cam_t_m2c": np.ravel(t).tolist()}
            for obj_id, R, t in poses
        ]
        shares = [(visib or {}).get((im_id, i), 1.0) for i in range(len(poses))]
        box = [1, 1, 5, 5]
        infos[im_id] = [{"bbox_obj": box, "bbox_visib": box, "visib_fract": share} for share in shares]
        seen = [obj_id for (obj_id, *_), share in zip(poses, shares, strict=True) if share >= 0.1]
        for obj_id in sorted(set(seen)):
            wanted.append({"scene_id": 4, "im_id": im_id, "obj_id": obj_id, "inst_count": seen.count(obj_id)})
    for name, content in (("camera", cameras), ("gt", truths), ("gt_info", infos)):
        (scene / f"scene_{name}.json").write_text(json.dumps(content))
    if targets:
        (root / "test_targets_bop19.json").write_text(json.dumps(wanted))
    if camera:
        (root / "camera.json").write_text(json.dumps({"width": WIDTH, "height": HEIGHT}))
    return root


def estimates_of(rows):
    """A table from (im_id, obj_id, score, R, t) rows of scene 4."""
    rows = list(rows)
    ids, objects, scores, rotations, translations = zip(*rows, strict=True)
    times = np.array(ids, dtype=float)
    return Poses([4] * len(rows), ids, objects, scores, np.array(rotations), np.array(translations), times)


@pytest.fixture
def frames():
    """Three images, each with a block and a bar side by side."""
    rng = np.random.default_rng(0)
    rotations = random_rotations(6, rng)
    return {
        im_id: [
            (1, rotations[2 * i], np.array([-60.0, 5.0, 500.0])),
            (2, rotations[2 * i + 1], np.array([60.0, 0, 550.0])),
        ]
        for i, im_id in enumerate((3, 7, 20))
    }


@pytest.fixture
def perfect(frames):
    return estimates_of((im_id, o, 0.9, R, t) for im_id, poses in frames.items() for o, R, t in poses)
