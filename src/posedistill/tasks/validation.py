"""Validation on frames carved from the training data: what chooses the weights that are kept.

A network is scored by areas under recall curves over thresholds that are evenly spread on a logarithmic axis. They tell
networks apart that do not get a single pose right yet, as the short trainings of a sweep must be, and are smooth enough
for the few frames there are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from posedistill.data.loading.batch import Batch
from posedistill.data.loading.loader import Loader
from posedistill.decode import Decoder, Pose, Prepared
from posedistill.decode.base import Arrays
from posedistill.deploy.export import torch_run
from posedistill.estimators.base import Estimator
from posedistill.geometry.cameras import Array
from posedistill.geometry.objects import ObjectTable
from posedistill.metrics.relocalisation import orientation_errors, position_errors
from posedistill.metrics.viewpoint import viewpoint_errors
from posedistill.poses import Poses
from posedistill.tasks.base import SELECT, Task

THRESHOLD = 0.1
"""Keypoint error of a correct pose, in diameters."""
KEYPOINTS = (0.01, 10.0)
"""Keypoint errors between which the score falls from 1 to 0, in diameters."""
POSITION = (0.01, 10.0)
"""Likewise of a position, in spreads of the training positions."""
ORIENTATION = (0.1, 180.0)
"""Likewise of a rotation, degrees."""
VIEWPOINT = (1.0, 180.0)
"""Likewise of a category's rotation, which nobody annotates to a degree."""


Assign = Callable[[Sequence[Pose], Batch], Sequence[int]]
"""Which instance of a batch each of the poses found there is of; -1 for none."""
Answer = tuple[Arrays, Prepared]
"""A network's outputs for a batch, and what they are outputs for, as a decoder takes them."""


def one_a_picture(poses: Sequence[Pose], batch: Batch) -> list[int]:
    """Pictures have one instance each, and poses are of it."""
    return [pose.row for pose in poses]


class Validation:
    """Scores the poses that a network gives of fixed pictures, which are not varied.

    Args:
        loader: of the held-out instances, without augmentation.
        score: of the poses found, a row an instance (NaN where none was), against those of the batches.
        assign: which instance a pose is of.
    """

    def __init__(
        self,
        task: Task[Any],
        loader: Loader,
        score: Callable[[Poses, Sequence[Batch]], dict[str, float]],
        assign: Assign = one_a_picture,
    ) -> None:
        self.task, self.score, self.assign = task, score, assign
        self.batches = [loader.batch(step) for step in range(loader.steps)]

    def __call__(self, estimator: Estimator) -> dict[str, float]:
        """Score the estimator's weights as they are."""
        return self.score(poses_of(self.task, estimator, self.batches, self.assign), self.batches)


def poses_of(task: Task[Any], estimator: Estimator, batches: Sequence[Batch], assign: Assign = one_a_picture) -> Poses:
    """The poses that the estimator's weights give, a row an instance of the batches (NaN where none was found)."""
    decoder = task.decoder(estimator)
    return decoded(decoder, answers_of(estimator, decoder, batches), batches, assign)


def answers_of(estimator: Estimator, decoder: Decoder, batches: Iterable[Batch]) -> Iterator[Answer]:
    """What the estimator's network says of each batch."""
    ids = estimator.objects.obj_ids
    run = torch_run(estimator.network, decoder, next(estimator.parameters()).device)  # pictures are prepared
    for batch in batches:
        known = {"images": batch.images, "classes": batch.label, **batch.targets}
        inputs = {name: known[name].cpu().numpy() for name in decoder.inputs}
        sought = np.array(ids)[batch.label.cpu().numpy()] if ids else None
        yield run(inputs), Prepared.of_pictures(inputs, _numpy(batch.K), sought, batch.picture.cpu().numpy())


def decoded(decoder: Decoder, answers: Iterable[Answer], batches: Sequence[Batch], assign: Assign) -> Poses:
    """The poses that a decoder reads out of the answers to batches, as rows of :func:`poses_of`."""
    count, start = sum(map(len, batches)), 0
    R, t, score = np.full((count, 3, 3), np.nan), np.full((count, 3), np.nan), np.full(count, np.nan)
    for batch, answer in zip(batches, answers, strict=True):
        poses = decoder.decode(*answer)
        for row, pose in zip(assign(poses, batch), poses, strict=True):
            if row >= 0:
                R[start + row], t[start + row], score[start + row] = pose.R, pose.t, pose.score
        start += len(batch)
    return Poses.of_cameras(R, t, score=score)


def keypoint_scores(found: Poses, batches: Sequence[Batch], objects: ObjectTable) -> dict[str, float]:
    """By the mean keypoint error in diameters, of symmetric objects to the best of their equivalent poses."""
    R, t = (_joined(batches, name) for name in ("R", "t"))
    labels = torch.cat([batch.label for batch in batches]).tolist()
    errors = np.full(len(found), np.inf)
    for row in np.flatnonzero(found.found).tolist():
        errors[row] = keypoint_error(found.R[row], found.t[row], R[row], t[row], objects, labels[row])
    return {
        SELECT: float(np.mean(log_area(errors, *KEYPOINTS))),
        "val/keypoints_0.1d": float(np.mean(errors < THRESHOLD)),
        "val/median_error": float(np.median(np.minimum(errors, 10.0))),
    }


def keypoint_error(R: Array, t: Array, R_gt: Array, t_gt: Array, objects: ObjectTable, label: int) -> float:
    """Mean distance of an object's keypoints under two poses in diameters, the least of all equivalent true poses."""
    keypoints, symmetries = objects.keypoints[label], objects.symmetries[label]
    turned = keypoints @ np.swapaxes(symmetries[:, :3, :3], 1, 2) + symmetries[:, None, :3, 3]
    distances = np.linalg.norm(turned @ R_gt.T + t_gt - (keypoints @ R.T + t), axis=-1)
    return float(distances.mean(axis=-1).min() / objects.diameters[label])


def assign_in_pictures(poses: Sequence[Pose], batch: Batch, objects: ObjectTable) -> list[int]:
    """Which instance of a batch each pose is of: of its picture and object, by the least sum of keypoint errors.

    Of an object no more poses of a picture are looked at than there are instances of it, the best-scored ones.
    """
    rows = np.full(len(poses), -1)
    instances: dict[tuple[int, int], list[int]] = {}
    for row, place in enumerate(zip(batch.picture.tolist(), batch.label.tolist(), strict=True)):
        instances.setdefault(place, []).append(row)
    R, t = _numpy(batch.R), _numpy(batch.t)
    for (picture, label), truths in instances.items():
        found = [i for i, pose in enumerate(poses) if (pose.row, pose.label) == (picture, objects.obj_ids[label])]
        best = sorted(found, key=lambda i: -poses[i].score)[: len(truths)]
        pairs = [(poses[i], truth) for i in best for truth in truths]
        errors = [keypoint_error(pose.R, pose.t, R[row], t[row], objects, label) for pose, row in pairs]
        chosen = linear_sum_assignment(np.reshape(errors, (len(best), len(truths))))
        rows[np.array(best, dtype=np.int64)[chosen[0]]] = np.array(truths)[chosen[1]]
    return rows.tolist()


def camera_scores(found: Poses, batches: Sequence[Batch], spread: float) -> dict[str, float]:
    """By the errors of position and orientation: the mean of their areas.

    ``spread`` of the training positions, metres.
    """
    truth = Poses.of_cameras(_joined(batches, "R"), _joined(batches, "t"))
    metres, degrees = position_errors(found, truth), orientation_errors(found, truth)
    scores = log_area(metres / max(spread, 1e-6), *POSITION) + log_area(degrees, *ORIENTATION)
    return {
        SELECT: float(scores.mean() / 2),
        "val/median_position": float(np.median(metres)),
        "val/median_orientation": float(np.median(degrees)),
    }


def viewpoint_scores(found: Poses, batches: Sequence[Batch], orders: NDArray[np.int64]) -> dict[str, float]:
    """By the angle to the nearest equivalent pose; ``orders`` ``[S]`` of each label: see ``nearest_equivalent``."""
    labels = torch.cat([batch.label for batch in batches]).cpu().numpy()
    degrees = viewpoint_errors(found, _joined(batches, "R"), orders[labels])
    return {
        SELECT: float(log_area(degrees, *VIEWPOINT).mean()),
        "val/acc_30": float(np.mean(degrees <= 30)),
        "val/median_error": float(np.median(degrees)),
    }


def log_area(errors: Array, best: float, worst: float) -> Array:
    """Share of the thresholds from ``best`` to ``worst``, evenly spread on a logarithmic axis, that each error meets.

    >>> log_area(np.array([0.001, 0.1, 1.0, np.inf]), 0.01, 10.0).round(3).tolist()
    [1.0, 0.667, 0.333, 0.0]
    """
    scores: Array = np.log(worst / np.clip(errors, best, worst)) / np.log(worst / best)
    return scores


def _joined(batches: Sequence[Batch], name: str) -> Array:
    return np.concatenate([_numpy(getattr(batch, name)) for batch in batches])


def _numpy(value: torch.Tensor) -> Array:
    return value.double().cpu().numpy()
