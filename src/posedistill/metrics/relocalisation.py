"""Errors of camera poses, their medians and recalls, and the naive baselines that every table is read against."""

from typing import Any

import numpy as np

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import angle_between, mean_rotation
from posedistill.metrics.evaluation import Curve, Evaluation, Metric
from posedistill.poses import Poses

THRESHOLDS = ((0.05, 5.0), (0.25, 2.0), (0.5, 5.0), (5.0, 10.0))
"""Metres and degrees of the recalls: 7-Scenes' own, and the three of long-term visual localisation."""
ORIENTATION = Metric("orientation_deg", "median orientation", "deg", "median", "lower", level="headline")


def position_metric(unit: str = "m") -> Metric:
    """The median position error of a scene in metres, or in units of its own."""
    return Metric("position_m", "median position", unit, "median", "lower", level="headline")


def position_errors(estimates: Poses, truth: Poses) -> Array:
    """``[N]`` distances of the camera centres, metres or the scene's own units; inf where there is no pose.

    >>> still = Poses.of_cameras(np.eye(3)[None], np.zeros((1, 3)))
    >>> position_errors(Poses.of_cameras(still.R, np.array([[0.0, 3.0, 4.0]])), still)
    array([5.])
    """
    errors: Array = np.linalg.norm(estimates.centers - truth.centers, axis=1)
    return np.where(np.isnan(errors), np.inf, errors)


def orientation_errors(estimates: Poses, truth: Poses) -> Array:
    """``[N]`` angles between the rotations, degrees in 0 .. 180; inf where there is no pose."""
    errors = np.rad2deg(angle_between(estimates.R, truth.R))
    return np.where(np.isnan(errors), np.inf, errors)


def score_cameras(estimates: Poses, truth: Poses, unit: str = "m", **about: Any) -> Evaluation:
    """All scores of a split; each median is taken over its own errors, as the field does.

    Args:
        unit: of positions, see ``CameraDataset.unit``. about: further fields of the ``Evaluation``.

    Raises:
        DataError: the two have different numbers of images, or none.
    """
    if len(estimates) != len(truth) or not len(truth):
        raise DataError(describe("estimates", "images", len(estimates), f"{len(truth)}, at least one"))
    position, orientation = position_errors(estimates, truth), orientation_errors(estimates, truth)
    placed = position_metric(unit)
    outcomes = {placed: position, ORIENTATION: orientation}
    for m, deg in THRESHOLDS:
        within = (position <= m) & (orientation <= deg)
        outcomes[Metric(f"recall_{m:g}m_{deg:g}deg", f"within {m:g} {unit}, {deg:g}°")] = within.astype(np.float64)
    return Evaluation.of(
        outcomes,
        curves={
            placed.name: Curve.of_errors(f"position error, {unit}", position, np.geomspace(0.001, 100.0, 151)),
            ORIENTATION.name: Curve.of_errors("orientation error, °", orientation, np.geomspace(0.1, 180.0, 99)),
        },
        missed=int((~estimates.found).sum()),
        **about,
    )


def constant_pose(train: Poses, count: int) -> Poses:
    """The mean position and mean rotation of the training images, for each of ``count`` images.

    A network that is not clearly better has learned nothing.
    """
    R = mean_rotation(train.R)
    t = -R @ train.centers.mean(axis=0)
    return Poses.of_cameras(np.tile(R, (count, 1, 1)), np.tile(t, (count, 1)))


def nearest_training_pose(embeddings: Array, train_embeddings: Array, train: Poses) -> Poses:
    """For each image the pose of the training image that looks most alike: retrieval.

    Args:
        embeddings: ``[N, D]``. train_embeddings: ``[M, D]``; alike is a large cosine.
    """
    similarity = _unit(embeddings) @ _unit(train_embeddings).T
    return train.select(similarity.argmax(axis=1))


def nearest_position(truth: Poses, train: Poses) -> Poses:
    """For each image the pose of the training image that stands nearest: no retrieval can do better in position.

    It looks at the truth, so it is a mark to read tables by and no method.
    """
    distances = np.linalg.norm(truth.centers[:, None] - train.centers, axis=2)
    return train.select(distances.argmin(axis=1))


def _unit(vectors: Array) -> Array:
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
