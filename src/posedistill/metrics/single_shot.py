"""The figures that single-shot pose was published with, as its code computes them, beside the strict scores.

Tekin, Sinha and Fua, CVPR 2018, and Felix et al., IJCNN 2020. They differ from ``score_estimates`` in that thresholds
themselves still pass, symmetries count for nothing (ADD also of symmetric objects, poses compared with the one that is
annotated), and the angle is the arccosine of an unclipped trace, NaN next to the identity: such a pose fails 5 cm 5
degrees. The diameter is that of the mesh. The published truth is the pose that PnP gives of labels, which is the
annotated one as far as labels have digits.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.bop import BopDataset
from posedistill.geometry.cameras import Array, project
from posedistill.geometry.objects import box_corners, box_points
from posedistill.metrics.evaluation import Evaluation, Metric
from posedistill.metrics.matching import Candidates, find_candidates
from posedistill.metrics.models import ScoringModel, load_scoring_models
from posedistill.metrics.pair_errors import pair_diameters
from posedistill.metrics.pose_errors import add, add_s, reprojection, translation_error
from posedistill.poses import Poses

METRICS = {
    metric.name: metric
    for metric in (
        Metric("add_s_0.1d", "ADD-S 0.1 d", level="detail"),
        Metric("corner_px", "median corner error", "px", "median", "lower", "detail"),
        Metric("published_proj_5px", "2D proj. 5 px, published", level="detail"),
        Metric("published_add_0.1d", "ADD 0.1 d, published", level="detail"),
        Metric("published_cmdeg_5_5", "5 cm 5°, published", level="detail"),
        Metric("published_px", "mean pixel error, published", "px", "mean", "lower", "detail"),
        Metric("published_vertex_mm", "mean vertex error, published", "mm", "mean", "lower", "detail"),
        Metric("published_translation_mm", "mean translation error, published", "mm", "mean", "lower", "detail"),
        Metric("published_angle_deg", "mean angle error, published", "deg", "mean", "lower", "detail"),
    )
}
"""The first two know symmetries. There is no mean error where an instance is missed, or has a NaN for its angle."""
BOXES = Metric("published_corner_px", "mean corner error, published", "px", "mean", "lower", "detail")
"""Of what a network says itself, which no table of poses holds."""


def score_single_shot(
    estimates: Poses, dataset: BopDataset, models: Mapping[int, ScoringModel] | None = None
) -> Evaluation:
    """ADD-S, the error of the corners of boxes, and the published figures, of the same targets as ``score_estimates``.

    The corner error is that of the box of the estimated pose, centre and corners, in pixels of the image.
    """
    candidates = find_candidates(estimates, dataset)
    models = load_scoring_models(dataset) if models is None else models
    errors = published_errors(estimates, candidates, models)
    diameters, pairs = pair_diameters(candidates, models), candidates.nearest(errors["add"])
    close = np.maximum(errors["translation"] / 50, errors["rotation"] / 5)
    outcomes = {
        "add_s_0.1d": candidates.hits(errors["add_s"] / diameters, np.array([0.1]))[:, 0].astype(float),
        "corner_px": _of_instances(errors["corners"], candidates.nearest(errors["corners"])),
        "published_proj_5px": _passed(candidates, errors["reprojection"], 5.0),
        "published_add_0.1d": _passed(candidates, errors["add"] / diameters, 0.1),
        "published_cmdeg_5_5": _passed(candidates, close, 1.0),
        "published_px": _of_instances(errors["reprojection"], pairs),
        "published_vertex_mm": _of_instances(errors["add"], pairs),
        "published_translation_mm": _of_instances(errors["translation"], pairs),
        "published_angle_deg": _of_instances(errors["rotation"], pairs),
    }
    return Evaluation.of(
        {METRICS[name]: values for name, values in outcomes.items()}, candidates.truths.obj_id.tolist()
    )


def score_boxes(
    boxes: Mapping[tuple[int, int, int], Sequence[Array]],
    dataset: BopDataset,
    models: Mapping[int, ScoringModel] | None = None,
) -> Evaluation:
    """The published corner error, of the points of boxes that a network says itself, before PnP makes a pose of them.

    Args:
        boxes: of scene, image and object those that were found, ``[9, 2]`` pixels, the centre and the corners in the
            order of ``box_corners``. Each instance is compared with the nearest one; symmetries count for nothing.
    """
    truths = find_candidates(Poses.empty(), dataset).truths
    models = load_scoring_models(dataset) if models is None else models
    own = {obj_id: _box(models[obj_id].mesh.vertices) for obj_id in np.unique(truths.obj_id).tolist()}
    errors = np.full(len(truths), np.inf)
    for row, key in enumerate(zip(truths.scene_id, truths.im_id, truths.obj_id, strict=True)):
        true = project(own[key[2]], truths.R[row], truths.t[row], truths.K[row])
        errors[row] = min((np.linalg.norm(box - true, axis=1).mean() for box in boxes.get(key, ())), default=np.inf)
    return Evaluation.of({BOXES: errors}, truths.obj_id.tolist())


def published_errors(estimates: Poses, candidates: Candidates, models: Mapping[int, ScoringModel]) -> dict[str, Array]:
    """Of every pair, each ``[P]``: ``add``, ``add_s`` and ``translation`` in mm, ``reprojection`` and ``corners`` in
    pixels, ``rotation`` in degrees (infinite where the published arccosine is NaN).

    ``corners`` are compared with those of the nearest equivalent true pose, the rest with the annotated one.
    """
    names = ("add", "add_s", "translation", "rotation", "reprojection", "corners")
    errors = {name: np.full(len(candidates.gt), np.inf) for name in names}
    cameras = candidates.truths.K[candidates.gt]
    for obj_id, pairs, poses in candidates.by_object(estimates):
        model, K = models[obj_id], cameras[pairs]
        points = model.mesh.vertices
        errors["add"][pairs], errors["add_s"][pairs] = add(*poses, points), add_s(*poses, points)
        errors["translation"][pairs] = translation_error(poses[1], poses[3])
        errors["rotation"][pairs] = _unclipped_angle(poses[0], poses[2])
        errors["reprojection"][pairs] = reprojection(*poses, points, K)
        errors["corners"][pairs] = corner_errors(*poses, points, model.symmetries, K)
    return errors


def corner_errors(
    R_est: Array, t_est: Array, R_gt: Array, t_gt: Array, points: Array, symmetries: Array, K: Array
) -> Array:
    """``[N]`` mean distance of the projected centre and corners of the model's box in pixels; of all equivalent true
    poses the least. A pose with corners behind the camera has the error inf.

    >>> pose, K = (np.eye(3)[None], np.array([[0.0, 0.0, 1000.0]])), np.diag([500.0, 500.0, 1.0])[None]
    >>> moved = (pose[0], pose[1] + [2.0, 0.0, 0.0])
    >>> corner_errors(*moved, *pose, np.array([[-1.0, -1, 0], [1, 1, 0]]), np.eye(4)[None], K)
    array([1.])
    """
    box = _box(points)
    turned = box @ np.swapaxes(symmetries[:, :3, :3], 1, 2) + symmetries[:, None, :3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        estimated = project(box, R_est, t_est, K)
        true = project(turned, R_gt[:, None], t_gt[:, None], K[:, None])
        errors: Array = np.linalg.norm(true - estimated[:, None], axis=-1).mean(axis=-1).min(axis=-1)
    behind = (box @ R_est[:, 2, :, None] + t_est[:, None, 2:]).min(axis=(1, 2)) <= 0
    return np.where(behind, np.inf, errors)


def _box(points: Array) -> Array:
    """``[9, 3]`` centre and corners of the box around points."""
    return box_points(box_corners(points.min(axis=0), points.max(axis=0)))


def _unclipped_angle(R_est: Array, R_gt: Array) -> Array:
    with np.errstate(invalid="ignore"):
        angles = np.degrees(np.arccos((np.einsum("nij,nij->n", R_gt, R_est) - 1) / 2))
    return np.where(np.isnan(angles), np.inf, angles)


def _passed(candidates: Candidates, errors: Array, limit: float) -> Array:
    """``[M]`` 1 where an instance is found within the limit or on it."""
    return candidates.hits(errors, np.array([np.nextafter(limit, np.inf)]))[:, 0].astype(float)


def _of_instances(errors: Array, pairs: NDArray[np.int64]) -> Array:
    """``[M]`` error of the pair that stands for each instance, infinite for none (-1)."""
    return np.append(errors, np.inf)[pairs]
