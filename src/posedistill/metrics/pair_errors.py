"""The errors of all pairs of an estimate and a true instance that may belong together."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.bop import BopDataset, read_depth
from posedistill.data.formats.bop_parse import load_json
from posedistill.data.images import image_size
from posedistill.errors import DataError, describe
from posedistill.files import kept
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import angle_between
from posedistill.metrics.error_analysis import sight_errors
from posedistill.metrics.matching import Candidates
from posedistill.metrics.models import ScoringModel
from posedistill.metrics.pose_errors import add, add_s, mspd, nearest_equivalent, reprojection, translation_error
from posedistill.metrics.vsd import DELTA, TAUS, VisibleSurface
from posedistill.poses import Poses

ERRORS = ("add", "mssd", "mspd", "reprojection", "translation", "rotation", "depth", "depth_mm", "lateral")

_camera_json = kept(load_json)


def pair_errors(estimates: Poses, candidates: Candidates, models: Mapping[int, ScoringModel]) -> dict[str, Array]:
    """The ``ERRORS`` of every pair, each ``[P]``: mm, pixels, degrees, and ``depth`` as a share of the distance.

    ``add`` is ADD-S for symmetric objects. ``reprojection`` and what follows are to the nearest equivalent true pose.
    """
    errors, cameras = {name: np.full(len(candidates.gt), np.inf) for name in ERRORS}, candidates.truths.K[candidates.gt]
    for obj_id, pairs, poses in candidates.by_object(estimates):
        model, K, estimated = models[obj_id], cameras[pairs], poses[:2]
        points = model.mesh.vertices
        errors["add"][pairs] = (add_s if model.symmetric else add)(*poses, points)
        errors["mspd"][pairs] = mspd(*poses, points, model.symmetries, K)
        R, t, errors["mssd"][pairs] = nearest_equivalent(*poses, model.hull, model.symmetries)
        errors["reprojection"][pairs] = reprojection(*estimated, R, t, points, K)
        errors["translation"][pairs] = translation_error(estimated[1], t)
        errors["rotation"][pairs] = np.degrees(angle_between(estimated[0], R))
        errors["depth"][pairs], errors["depth_mm"][pairs], errors["lateral"][pairs] = sight_errors(estimated[1], t)
    return errors


def pair_diameters(candidates: Candidates, models: Mapping[int, ScoringModel]) -> Array:
    """``[P]`` diameter of the object of each pair, mm."""
    return np.array([models[obj_id].diameter for obj_id in candidates.truths.obj_id[candidates.gt].tolist()])


def vsd_errors(
    estimates: Poses, candidates: Candidates, models: Mapping[int, ScoringModel], delta: float = DELTA
) -> Array:
    """``[P, 10]`` VSD of every pair for each tau. Images are shared out among threads.

    Raises:
        DataError: a target's image without depth.
    """
    truths, est, gt = candidates.truths, candidates.est, candidates.gt
    errors, diameters = np.ones((len(est), len(TAUS))), pair_diameters(candidates, models)
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
            errors[pair] = surface.errors(guessed[int(est[pair])], true[int(gt[pair])], diameters[pair])

    with ThreadPoolExecutor() as pool:
        list(pool.map(measure, images))
    return errors


def image_widths(dataset: BopDataset, scene_ids: NDArray[np.int64]) -> Array:
    """``[N]`` width of the images of scenes in pixels: from ``camera.json``, else from each scene's first image.

    Raises:
        DataError: neither is there.
    """
    camera = dataset.root / "camera.json"
    if camera.exists():
        content = _camera_json(camera)
        if isinstance(content, dict) and isinstance(content.get("width"), int) and content["width"] > 0:
            return np.full(len(scene_ids), float(content["width"]))
        raise DataError(describe(camera, "width", content, "the images' width in pixels"))
    first = {frame.scene_id: frame for frame in reversed(dataset.frames)}
    widths = {scene_id: image_size(frame.rgb)[0] for scene_id, frame in first.items()}
    return np.array([widths[scene_id] for scene_id in scene_ids.tolist()], dtype=np.float64)
