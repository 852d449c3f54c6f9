"""Pose from 2D-3D matches: a seeded LO-RANSAC, then a kept refinement weighted by how sure each match is."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array

REFINEMENT_STEPS, MANY_STEPS = 2, 4
"""Of Gauss-Newton: after a RANSAC, and on matches that it has not seen."""
_MINIMUM_MATCHES = 4
_SMALLEST_SPREAD = 0.5
"""Pixels."""
_CONFIDENCE = 0.99
# poselib's own default of 1000 iterations at least costs 1.3 ms a pose and gains nothing at 40 % outliers; nor does
# a margin on the number of trials that the confidence asks for, not even at 80 %.
_RANSAC = {"min_iterations": 20, "max_iterations": 2000, "success_prob": _CONFIDENCE, "dyn_num_trials_mult": 1.0}


@dataclass(frozen=True)
class PnPResult:
    """A pose and what speaks for it.

    Attributes:
        R: ``[3, 3]`` object to camera. t: ``[3]``, in the unit of the points.
        score: in [0, 1], the weighted mean over all matches of ``1 - (error / threshold)^2``, 0 for outliers.
        inliers: ``[N]`` bool, reprojection error under the threshold and point in front of the camera.
        errors: ``[N]`` reprojection errors, pixels; infinite behind the camera and of matches that could not be used.
    """

    R: Array
    t: Array
    score: float
    inliers: NDArray[np.bool_]
    errors: Array


def solve_pnp(
    points2d: Array, points3d: Array, K: Array, weights: Array | None = None, threshold: float = 5.0, seed: int = 0
) -> PnPResult | None:
    """Pose of an object from matches of which many may be wrong; the same input always gives the same pose.

    poselib's LO-RANSAC (P3P and local optimisation; Larsson et al.), OpenCV's EPnP RANSAC where poselib is not
    installed; then ``REFINEMENT_STEPS`` Gauss-Newton steps on the weighted errors of the inliers.

    Args:
        points2d: ``[N, 2]`` pixels. points3d: ``[N, 3]``; the same point may occur many times.
        K: ``[3, 3]`` upper-triangular intrinsics, skew allowed.
        weights: ``[N]`` how much each match counts in refinement and score, 0 = ignored; default all 1.
        threshold: pixels, reprojection error that makes an outlier; where the two focal lengths differ, pixels of a
            camera with their geometric mean.
        seed: of the RANSAC.

    Returns:
        None where no pose is found: fewer than 4 finite matches of positive weight, all matches at one pixel, or fewer
        than 4 inliers.

    >>> corners = np.array([[x, y, z] for x in (-40.0, 40.0) for y in (-30.0, 30.0) for z in (-20.0, 20.0)])
    >>> K = np.array([[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]])
    >>> pixels = (corners + [0.0, 0.0, 800.0]) @ K.T
    >>> result = solve_pnp(pixels[:, :2] / pixels[:, 2:], corners, K)
    >>> result.t.round(3) + 0.0, int(result.inliers.sum())
    (array([  0.,   0., 800.]), 8)
    """
    points2d, points3d = np.asarray(points2d, dtype=np.float64), np.asarray(points3d, dtype=np.float64)
    weights = np.ones(len(points2d)) if weights is None else np.asarray(weights, dtype=np.float64)
    # One sum tells of the usual case, in which every match is usable: NaN and infinity would show in it.
    clean = np.isfinite(points2d.sum() + points3d.sum() + weights.sum()) and weights.min(initial=np.inf) > 0
    usable: slice | NDArray[np.bool_] = slice(None)
    if not clean:
        weights = np.maximum(np.nan_to_num(weights), 0.0)
        usable = np.isfinite(points2d).all(axis=1) & np.isfinite(points3d).all(axis=1) & (weights > 0)
    pixels, points, used_weights = points2d[usable], points3d[usable], weights[usable]
    if len(pixels) < _MINIMUM_MATCHES:
        return None
    # Pixels of a camera with square pixels and no skew: poselib then solves any K, and errors stay in pixels.
    focal = float(np.sqrt(K[0, 0] * K[1, 1]))
    pixels = _square_pixels(pixels, K, focal)
    spread = float((pixels.max(axis=0) - pixels.min(axis=0)).max())
    # Matches that all but coincide would put the object at the far end of the world.
    pose = _ransac(pixels, points, focal, threshold, seed) if spread > _SMALLEST_SPREAD else None
    if pose is None:
        return None
    refined = _refine(*pose, pixels, points, used_weights, focal, threshold)
    errors, refined_errors = (_errors(*found, pixels, points, focal) for found in (pose, refined))
    shares = used_weights / weights.sum()  # a match lost to a NaN still counts in the whole
    score, refined_score = (support(found, shares, threshold) for found in (errors, refined_errors))
    if refined_score >= score:  # else a degenerate set of inliers led Gauss-Newton astray
        pose, errors, score = refined, refined_errors, refined_score
    every = np.full(len(points2d), np.inf)
    every[usable] = errors
    inliers = every < threshold
    if inliers.sum() < _MINIMUM_MATCHES:
        return None
    return PnPResult(*pose, score, inliers, every)


def refine_on_all(
    found: PnPResult, points2d: Array, points3d: Array, K: Array, weights: Array, threshold: float
) -> PnPResult:
    """A pose that a part of many matches gave, refined on all of them; score and inliers are those of all.

    RANSAC costs by the number of its matches, refinement hardly: so thousands of them are best solved from the surest
    and then all used. Arguments as of :func:`solve_pnp`, all finite and no weight below 0.
    """
    focal = float(np.sqrt(K[0, 0] * K[1, 1]))
    pixels, shares = _square_pixels(points2d, K, focal), weights / weights.sum()
    refined = _refine(found.R, found.t, pixels, points3d, weights, focal, threshold, MANY_STEPS)
    poses = ((found.R, found.t), refined)
    errors = [_errors(*pose, pixels, points3d, focal) for pose in poses]
    scores = [support(each, shares, threshold) for each in errors]
    best = int(scores[1] >= scores[0])
    return PnPResult(*poses[best], scores[best], errors[best] < threshold, errors[best])


def support(errors: Array, shares: Array, threshold: float) -> float:
    """Mean of ``1 - (error / threshold)^2`` by the matches' shares of all weight, outliers counted as 0."""
    return float(np.maximum(1.0 - (errors / threshold) ** 2, 0.0) @ shares)


def _square_pixels(points2d: Array, K: Array, focal: float) -> Array:
    """``[N, 2]`` pixels of the camera ``diag(focal, focal, 1)`` that sees the same rays."""
    y = (points2d[:, 1] - K[1, 2]) / K[1, 1]
    x = (points2d[:, 0] - K[0, 2] - K[0, 1] * y) / K[0, 0]
    return np.stack([x, y], axis=1) * focal


def _ransac(pixels: Array, points: Array, focal: float, threshold: float, seed: int) -> tuple[Array, Array] | None:
    """A pose of most inliers, by poselib where it is installed and by OpenCV where it is not."""
    poselib = _poselib()
    if poselib is None:
        return _ransac_opencv(pixels, points, focal, threshold, seed)
    camera = {"model": "SIMPLE_PINHOLE", "width": 0, "height": 0, "params": [focal, 0.0, 0.0]}
    options = {**_RANSAC, "max_reproj_error": threshold, "seed": seed}
    # No bundle adjustment at the end: ours follows, and knows the weights.
    pose, info = poselib.estimate_absolute_pose(pixels, points, camera, options, {"max_iterations": 0})
    if info["num_inliers"] < _MINIMUM_MATCHES:
        return None
    return np.asarray(pose.R), np.asarray(pose.t)


def _poselib() -> Any:
    """The poselib module, or None; asked for lazily because not every small device has a wheel of it."""
    try:
        import poselib
    except ImportError:
        return None
    return poselib


def _ransac_opencv(
    pixels: Array, points: Array, focal: float, threshold: float, seed: int
) -> tuple[Array, Array] | None:
    """OpenCV's RANSAC over EPnP."""
    cv2.setRNGSeed(seed)
    camera = np.diag([focal, focal, 1.0])
    try:
        found, rotation, translation, inliers = cv2.solvePnPRansac(
            points, pixels, camera, None, reprojectionError=threshold, confidence=_CONFIDENCE, flags=cv2.SOLVEPNP_EPNP
        )
    except cv2.error:  # degenerate points, such as all of them equal
        return None
    if not found or inliers is None or len(inliers) < _MINIMUM_MATCHES:
        return None
    return cv2.Rodrigues(rotation)[0], translation[:, 0]


def _errors(R: Array, t: Array, pixels: Array, points: Array, focal: float) -> Array:
    """``[N]`` reprojection errors in pixels; inf for points behind the camera."""
    x, y, z = R @ points.T + t[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.hypot(focal * x / z - pixels[:, 0], focal * y / z - pixels[:, 1])
    return np.where(z > 0, errors, np.inf)


def _refine(
    R: Array,
    t: Array,
    pixels: Array,
    points: Array,
    weights: Array,
    focal: float,
    threshold: float,
    steps: int = REFINEMENT_STEPS,
) -> tuple[Array, Array]:
    """Gauss-Newton on the weighted squared errors under the threshold, the objective that ``support`` states.

    The parameters are a translation and a small rotation from the left; a handful of flat array operations a step, as
    the whole call costs less than the overhead of a general solver.
    """
    jacobian = np.zeros((6, 2, len(points)))
    for _ in range(steps):
        rotated = R @ points.T
        px, py, pz = rotated
        x, y, z = rotated + t[:, None]
        inverse = 1.0 / z
        x, y, inverse = x * inverse, y * inverse, focal * inverse
        residual = np.stack([pixels[:, 0] - focal * x, pixels[:, 1] - focal * y])
        # A point moves by dt + dw x (R p); u = f X / Z then gives the rows below.
        jacobian[0, 0] = jacobian[1, 1] = inverse
        jacobian[2, 0], jacobian[2, 1] = -inverse * x, -inverse * y
        jacobian[3, 0], jacobian[3, 1] = -inverse * x * py, -inverse * (pz + y * py)
        jacobian[4, 0], jacobian[4, 1] = inverse * (pz + x * px), inverse * y * px
        jacobian[5, 0], jacobian[5, 1] = -inverse * py, inverse * px
        kept = weights * ((residual * residual).sum(axis=0) < threshold**2)
        rows = jacobian.reshape(6, -1)
        weighted = (jacobian * kept).reshape(6, -1)
        try:
            step = np.linalg.solve(weighted @ rows.T, weighted @ residual.ravel())
        except np.linalg.LinAlgError:  # all inliers on one line, say: keep what RANSAC found
            break
        R, t = cv2.Rodrigues(step[3:])[0] @ R, t + step[:3]
    return R, t
