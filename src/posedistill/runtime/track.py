"""Following an object from frame to frame: the last pose is the next box."""

import time
from dataclasses import replace

import numpy as np

from posedistill.decode.base import Pose
from posedistill.decode.objects import of_objects
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.search import box_of_pose, search


class Tracker:
    """Finds objects in the frames of a video: by their last pose while that goes well, else by a search.

    Args:
        predictor: of a model that looks at crops. threshold: a lower score means that an object was lost.
    """

    def __init__(self, predictor: Predictor, threshold: float) -> None:
        self.predictor, self.threshold = predictor, threshold
        self._last: dict[int, Pose] = {}

    def __call__(self, image: Image, K: Array, obj_id: int) -> Pose | None:
        """The pose of an object in the next frame, whatever its score; None where it is nowhere.

        Args:
            image: ``[H, W, 3]``. K: ``[3, 3]``.
        """
        start = time.perf_counter()
        found = self._near(image, K, obj_id)
        if found is None:
            found = search(self.predictor, image, K, obj_id)
        if found is None or not found.score >= self.threshold:
            self._last.pop(obj_id, None)
            return found
        self._last[obj_id] = found
        return replace(found, seconds=time.perf_counter() - start)

    def _near(self, image: Image, K: Array, obj_id: int) -> Pose | None:
        """The pose in the box of the last one, where it is sure enough."""
        last = self._last.get(obj_id)
        if last is None:
            return None
        objects = of_objects(self.predictor.decoder).objects
        box = box_of_pose(last.R, last.t, objects.keypoints[objects.index(obj_id)], K, image.shape)
        if box is None:
            return None
        poses = self.predictor.predict(image, K, np.array([box]), [obj_id])
        return next((pose for pose in poses if pose.score >= self.threshold), None)
