"""BOP-19 average recall (Hodan et al., BOP Challenge 2019/2020): MSSD, MSPD and VSD, exactly as defined there."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.bop import BopDataset, read_depth, read_image
from posedistill.data.formats.bop_parse import load_json
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.metrics.matching import Candidates
from posedistill.metrics.models import ScoringModel
from posedistill.metrics.pose_errors import mspd, mssd
from posedistill.metrics.vsd import DELTA, TAUS, VisibleSurface
from posedistill.poses import Poses

MSSD_THRESHOLDS: Array = np.linspace(0.05, 0.5, 10)
"""Fractions of the diameter."""
MSPD_THRESHOLDS: Array = np.linspace(5.0, 50.0, 10)
"""Pixels of an image ``REFERENCE_WIDTH`` wide."""
VSD_THRESHOLDS: Array = np.linspace(0.05, 0.5, 10)
"""Shares of the visible pixels (theta); each is crossed with the tolerances ``TAUS``."""
REFERENCE_WIDTH = 640


def mssd_hits(estimates: Poses, candidates: Candidates, models: Mapping[int, ScoringModel]) -> NDArray[np.bool_]:
    """``[M, 10]`` which true instances are found under each threshold of MSSD."""
    truths, est, gt = candidates.truths, candidates.est, candidates.gt
    errors = np.full(len(est), np.inf)
    for obj_id, pairs in pairs_by_object(candidates).items():
        model, e, g = models[obj_id], est[pairs], gt[pairs]
        poses = (estimates.R[e], estimates.t[e], truths.R[g], truths.t[g])
        errors[pairs] = mssd(*poses, model.hull, model.symmetries) / model.diameter
    return candidates.hits(errors, MSSD_THRESHOLDS)


def mspd_hits(
    estimates: Poses, candidates: Candidates, models: Mapping[int, ScoringModel], widths: Mapping[int, int]
) -> NDArray[np.bool_]:
    """``[M, 10]`` which true instances are found under each threshold of MSPD; ``widths`` of images by scene."""
    truths, est, gt = candidates.truths, candidates.est, candidates.gt
    errors = np.full(len(est), np.inf)
    for obj_id, pairs in pairs_by_object(candidates).items():
        model, e, g = models[obj_id], est[pairs], gt[pairs]
        poses = (estimates.R[e], estimates.t[e], truths.R[g], truths.t[g])
        errors[pairs] = mspd(*poses, model.mesh.vertices, model.symmetries, truths.K[g])
    scale = np.array([REFERENCE_WIDTH / widths[scene_id] for scene_id in truths.scene_id[gt].tolist()])
    return candidates.hits(errors * scale, MSPD_THRESHOLDS)


def vsd_hits(
    estimates: Poses, candidates: Candidates, models: Mapping[int, ScoringModel], delta: float = DELTA
) -> NDArray[np.bool_]:
    """``[M, 100]`` which true instances are found under each pair of tau (slow axis) and theta of VSD.

    Raises:
        DataError: a target's image without depth.
    """
    errors = vsd_errors(estimates, candidates, models, delta)
    thresholds = np.broadcast_to(np.tile(VSD_THRESHOLDS, len(TAUS)), (len(errors), len(TAUS) * len(VSD_THRESHOLDS)))
    matched = candidates.match(np.repeat(errors, len(VSD_THRESHOLDS), axis=1), thresholds)
    return matched >= 0


def vsd_errors(
    estimates: Poses, candidates: Candidates, models: Mapping[int, ScoringModel], delta: float = DELTA
) -> Array:
    """``[P, 10]`` VSD of each candidate pair for each tau. Images are shared out among threads."""
    truths, est, gt = candidates.truths, candidates.est, candidates.gt
    errors = np.ones((len(est), len(TAUS)))
    casters = {obj_id: models[obj_id].caster for obj_id in np.unique(truths.obj_id[gt]).tolist()}
    order = np.argsort(truths.frame[gt], kind="stable")
    images = np.split(order, np.flatnonzero(np.diff(truths.frame[gt][order])) + 1) if len(order) else []

    def measure(pairs: NDArray[np.int64]) -> None:
        frame = truths.frames[truths.frame[gt[pairs[0]]]]
        surface = VisibleSurface(read_depth(frame), frame.K, casters, delta)
        # Several estimates may meet one true instance and the other way round: each is rendered once.
        true = {g: surface.render(int(truths.obj_id[g]), truths.R[g], truths.t[g]) for g in set(gt[pairs].tolist())}
        guessed = {
            e: surface.render(int(estimates.obj_id[e]), estimates.R[e], estimates.t[e])
            for e in set(est[pairs].tolist())
        }
        for pair in pairs.tolist():
            diameter = models[int(truths.obj_id[gt[pair]])].diameter
            errors[pair] = surface.errors(guessed[int(est[pair])], true[int(gt[pair])], diameter)

    with ThreadPoolExecutor() as pool:
        list(pool.map(measure, images))
    return errors


def image_widths(dataset: BopDataset) -> dict[int, int]:
    """Width of the images of each scene in pixels: from ``camera.json``, else from the scene's first image.

    Raises:
        DataError: neither is there.
    """
    camera = dataset.root / "camera.json"
    if camera.exists():
        content = load_json(camera)
        if isinstance(content, dict) and isinstance(content.get("width"), int) and content["width"] > 0:
            return {scene.scene_id: content["width"] for scene in dataset.scenes}
        raise DataError(describe(camera, "width", content, "the images' width in pixels"))
    first = {frame.scene_id: frame for frame in reversed(dataset.frames)}
    return {scene_id: read_image(frame.rgb).shape[1] for scene_id, frame in first.items()}


def pairs_by_object(candidates: Candidates) -> dict[int, NDArray[np.int64]]:
    """Object id -> the candidate pairs of that object."""
    obj_ids = candidates.truths.obj_id[candidates.gt]
    return {obj_id: np.flatnonzero(obj_ids == obj_id) for obj_id in np.unique(obj_ids).tolist()}
