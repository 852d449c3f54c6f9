"""Finding one object in an image without a detector."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from posedistill.decode.base import Pose
from posedistill.decode.objects import of_objects
from posedistill.geometry.cameras import Array, project
from posedistill.geometry.draw.poses import Image
from posedistill.runtime.predictor import Predictor


def locate(
    predictor: Predictor, image: Image, K: Array, obj_id: int, rounds: int = 2, keep: int = 4, threshold: float = 0.0
) -> Pose | None:
    """Scan square windows for an object, then zoom in where the network is surest.

    The boxes of the ``keep`` best poses become the windows of the next round; the surest pose of the last round is
    returned. Meant for a first look: a detector is faster and misses less.

    Returns:
        None where no window's pose scores above ``threshold`` or projects into the image.
    """
    start, decoder = time.perf_counter(), of_objects(predictor.decoder)
    boxes = decoder.windows(image.shape[1], image.shape[0])
    best: Pose | None = None
    for _ in range(rounds + 1):
        poses = predictor.predict(image, K, boxes, [obj_id] * len(boxes))
        poses = sorted((pose for pose in poses if pose.score > threshold), key=lambda pose: -pose.score)[:keep]
        corners = decoder.objects.keypoints[decoder.objects.index(obj_id)]
        found = [(pose, box_of_pose(pose.R, pose.t, corners, K, image.shape)) for pose in poses]
        found = [(pose, box) for pose, box in found if box is not None]
        if not found:
            break
        best = found[0][0]
        boxes = np.array([box for _, box in found])
    return None if best is None else replace(best, seconds=time.perf_counter() - start)


def search(predictor: Predictor, image: Image, K: Array, obj_id: int) -> Pose | None:
    """The surest pose of an object anywhere in an image, whatever its score; None where there is none at all.

    A network that looks at whole pictures is asked once, any other by ``locate``.
    """
    if not of_objects(predictor.decoder).whole_pictures:
        return locate(predictor, image, K, obj_id)
    poses = [pose for pose in predictor.predict(image, K) if pose.label == obj_id]
    return max(poses, key=lambda pose: pose.score, default=None)


def box_of_pose(R: Array, t: Array, corners: Array, K: Array, shape: Sequence[int]) -> Array | None:
    """(x, y, w, h) of a pose's projected corners ``[8, 3]``; None where they lie behind the camera or off the image."""
    if (corners @ R[2] + t[2]).min() <= 0:
        return None
    pixels = project(corners, R, t, K)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    inside = (high > 0).all() and low[0] < shape[1] and low[1] < shape[0]
    sensible = 4 < (high - low).max() < 2 * max(shape[:2])
    return np.concatenate([low, high - low]) if inside and sensible else None
