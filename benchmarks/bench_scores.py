"""Vectorised BOP-19 scores against the same definitions one pose at a time, both in one process.

    python benchmarks/bench_scores.py [--images 190] [--loop-images 10]

The data set is made here, of LM-O's size: 8 objects of about 7,000 vertices (two of them symmetric) in every image of
640 x 480 with depth, about 1,450 targets. The loop, as the reference toolkit, projects every vertex for each pose and
symmetry and renders whole images; it runs on some of the images and its time is scaled up. Aims: 1 s for MSSD and MSPD,
10 s with VSD.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from posedistill.data.formats.bop import BopDataset, read_depth
from posedistill.data.formats.bop_writer import BopWriter, write_models
from posedistill.data.render.shapes import superquadric
from posedistill.geometry.cameras import Array, project
from posedistill.geometry.meshes import Mesh, model_info
from posedistill.geometry.rotations import axis_angle, random_rotations
from posedistill.metrics import ScoringModel, load_scoring_models
from posedistill.metrics.matching import Candidates, find_candidates
from posedistill.metrics.object_scores import MSPD_THRESHOLDS, MSSD_THRESHOLDS, VSD_THRESHOLDS
from posedistill.metrics.pair_errors import pair_diameters, vsd_errors
from posedistill.metrics.pose_errors import mspd, mssd
from posedistill.metrics.vsd import DELTA, TAUS, DepthCaster
from posedistill.poses import Poses

K = np.array([[572.4114, 0.0, 325.2611], [0.0, 573.57043, 242.04899], [0.0, 0.0, 1.0]])
WIDTH, HEIGHT = 640, 480
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])
WHOLE = (0, 0, WIDTH, HEIGHT)


def make_models() -> tuple[dict[int, Mesh], dict[int, dict]]:
    """8 rounded shapes, of which 7 and 8 have a half turn."""
    rng = np.random.default_rng(0)
    meshes, infos = {}, {}
    for obj_id in range(1, 9):
        vertices, faces = superquadric(rng.uniform(30, 90, 3), tuple(rng.uniform(0.3, 1.2, 2)), cells=33)
        if obj_id <= 6:
            vertices = vertices * (1.0 + 0.2 * np.sin(vertices[:, [1, 2, 0]] / 15.0))
        meshes[obj_id] = Mesh(vertices, faces, None, None, None, vertices / np.linalg.norm(vertices, axis=1)[:, None])
        infos[obj_id] = {**model_info(meshes[obj_id])}
        if obj_id > 6:
            infos[obj_id]["symmetries_discrete"] = [HALF_TURN.ravel().tolist()]
    return meshes, infos


def make_dataset(root: Path, images: int) -> None:
    """Images of 8 objects each, on the scale of LM-O, with their depth."""
    meshes, infos = make_models()
    write_models(root, meshes, infos=infos)
    casters = {obj_id: DepthCaster(mesh.vertices, mesh.faces) for obj_id, mesh in meshes.items()}
    writer, rng = BopWriter(root, "test"), np.random.default_rng(1)
    for im_id in range(images):
        poses = [(o, random_rotations(1, rng)[0], rng.uniform([-300, -200, 700], [300, 200, 1300])) for o in meshes]
        layers = np.stack([casters[obj_id].cast(R, t, K, WHOLE) for obj_id, R, t in poses])
        layers[layers == 0] = np.inf
        depth = np.where(np.isfinite(layers.min(axis=0)), layers.min(axis=0), 0.0).astype(np.float32)
        whole = list(np.isfinite(layers))
        visible = [mask & (layer == layers.min(axis=0)) for mask, layer in zip(whole, layers, strict=True)]
        writer.add_frame(1, im_id, np.zeros((HEIGHT, WIDTH, 3), np.uint8), K, poses, depth, whole, visible)
    writer.finish_scene(1)


def guesses(dataset: BopDataset) -> Poses:
    """The true poses, disturbed as a good estimator would."""
    truths, rng = find_candidates(Poses.empty(), dataset).truths, np.random.default_rng(2)
    count = len(truths)
    turns = axis_angle(rng.normal(size=(count, 3)), rng.exponential(0.08, count))
    t = truths.t + rng.normal(size=(count, 3)) * [3.0, 3.0, 15.0]
    ids = (truths.scene_id, truths.im_id, truths.obj_id)
    return Poses(*ids, rng.uniform(size=count), truths.R @ turns, t, np.full(count, -1.0))


def our_mssd_mspd(estimates: Poses, candidates: Candidates, models: dict[int, ScoringModel]) -> Array:
    """``[P, 2]`` MSSD and MSPD, all pairs of an object at once."""
    errors, truths = np.empty((len(candidates.est), 2)), candidates.truths
    obj_ids = truths.obj_id[candidates.gt]
    for obj_id, model in models.items():
        pairs = np.flatnonzero(obj_ids == obj_id)
        e, g = candidates.est[pairs], candidates.gt[pairs]
        poses = estimates.R[e], estimates.t[e], truths.R[g], truths.t[g]
        errors[pairs, 0] = mssd(*poses, model.hull, model.symmetries)
        errors[pairs, 1] = mspd(*poses, model.mesh.vertices, model.symmetries, truths.K[g])
    return errors


def loop_mssd_mspd(estimates: Poses, candidates: Candidates, models: dict[int, ScoringModel]) -> Array:
    """``[P, 2]`` MSSD and MSPD by their definition."""
    errors, truths = [], candidates.truths
    for e, g in zip(candidates.est, candidates.gt, strict=True):
        model = models[int(truths.obj_id[g])]
        points = model.mesh.vertices
        estimated, pixels = (
            points @ estimates.R[e].T + estimates.t[e],
            project(points, estimates.R[e], estimates.t[e], K),
        )
        pairs = []
        for S in model.symmetries:
            R, t = truths.R[g] @ S[:3, :3], truths.R[g] @ S[:3, 3] + truths.t[g]
            distances = np.linalg.norm(estimated - (points @ R.T + t), axis=1)
            pairs.append((distances.max(), np.linalg.norm(pixels - project(points, R, t, K), axis=1).max()))
        errors.append(np.min(pairs, axis=0))
    return np.array(errors)


def loop_vsd(estimates: Poses, candidates: Candidates, models: dict[int, ScoringModel]) -> Array:
    """``[P, 10]`` VSD by its definition, on whole images."""
    errors, truths = [], candidates.truths
    grid = np.stack([*np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), np.ones((HEIGHT, WIDTH))], axis=-1)
    length = np.linalg.norm(grid @ np.linalg.inv(K).T, axis=-1)
    for e, g in zip(candidates.est, candidates.gt, strict=True):
        model = models[int(truths.obj_id[g])]
        test = read_depth(truths.frames[truths.frame[g]]) * length
        gt = model.caster.cast(truths.R[g], truths.t[g], K, WHOLE) * length
        est = model.caster.cast(estimates.R[e], estimates.t[e], K, WHOLE) * length
        visib_gt = (gt > 0) & ((gt - test <= DELTA) | (test == 0))
        visib_est = ((est > 0) & ((est - test <= DELTA) | (test == 0))) | (visib_gt & (est > 0))
        both, union = visib_gt & visib_est, visib_gt | visib_est
        apart, single = np.abs(gt - est)[both] / model.diameter, np.count_nonzero(union & ~both)
        pixels = np.count_nonzero(union)
        errors.append([(np.count_nonzero(apart >= tau) + single) / pixels if pixels else 1.0 for tau in TAUS])
    return np.array(errors)


def compare(dataset: BopDataset, loop_images: int) -> None:
    estimates, models = guesses(dataset), load_scoring_models(dataset)
    for model in models.values():
        _ = model.hull, model.caster  # "models loaded"

    start, cpu = time.perf_counter(), time.process_time()
    candidates = find_candidates(estimates, dataset)
    distances, pixels = our_mssd_mspd(estimates, candidates, models).T
    distances /= pair_diameters(candidates, models)
    hits = [candidates.hits(distances, MSSD_THRESHOLDS), candidates.hits(pixels, MSPD_THRESHOLDS)]
    two = time.perf_counter() - start
    visible = np.repeat(vsd_errors(estimates, candidates, models), len(VSD_THRESHOLDS), axis=1)
    hits.append(candidates.hits(visible, np.tile(VSD_THRESHOLDS, len(TAUS))))
    three, cpu = time.perf_counter() - start, time.process_time() - cpu

    some = estimates.select(estimates.im_id < loop_images)
    few = find_candidates(some, dataset)
    scale = len(candidates.est) / len(few.est)
    start = time.perf_counter()
    errors = loop_mssd_mspd(some, few, models)
    loop_two = (time.perf_counter() - start) * scale
    vsd = loop_vsd(some, few, models)
    loop_three = (time.perf_counter() - start) * scale

    diameters = np.array([models[obj_id].diameter for obj_id in few.truths.obj_id[few.gt].tolist()])
    expected = [
        (errors[:, 0] / diameters)[:, None] < MSSD_THRESHOLDS,
        errors[:, 1:] < MSPD_THRESHOLDS,
        (vsd[:, :, None] < VSD_THRESHOLDS).reshape(len(vsd), -1),
    ]
    print(
        f"{len(candidates.truths)} targets, {len(models[1].mesh.vertices)} vertices, {len(models[1].hull)} on the hull"
    )
    for name, ours, loop in zip(("MSSD", "MSPD", "VSD"), hits, expected, strict=True):
        print(f"AR_{name:5s} {ours.mean():.4f}   hits that differ from the loop's: {(ours[few.gt] != loop).sum()}")
    print(f"MSSD, MSPD       ours {two:6.2f} s   loop {loop_two:7.2f} s   ratio {loop_two / two:6.1f} x")
    print(f"MSSD, MSPD, VSD  ours {three:6.2f} s   loop {loop_three:7.2f} s   ratio {loop_three / three:6.1f} x")
    print(f"(ours took {cpu:.2f} s of processor time; {platform.machine()}, {os.cpu_count()} cores, no accelerator)")
    print(f"(the loop was timed on {loop_images} images)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=190)
    parser.add_argument("--loop-images", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder), options.images)
        compare(BopDataset(folder), options.loop_images)


if __name__ == "__main__":
    main()
