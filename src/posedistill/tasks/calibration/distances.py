"""How much too far or too near a finished network sees its objects, and the factor that mends it.

A network that is not sure of its votes draws them together, and what looks smaller is taken for farther away; one that
was trained on pictures in which objects were larger on average (zoom makes them so) takes them for nearer. The
factor is estimated on the crops that the network has learned from, of which there are many, and used where it helps on
those held back, of which there are few but honest ones.

How far is too far depends on how sure the network is: of rendered crops, in which objects are small and hidden, it was
11 % in the unsurest third and 2 to 4 % in the surest, against 2 % in photographs. The factor of all of them is right
for none, and that of the surest third carries over to photographs. So renders are calibrated by their surest third.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.estimators.base import Estimator
from posedistill.geometry.cameras import Array
from posedistill.tasks.base import Rows, Task
from posedistill.tasks.validation import Assign, one_a_picture, poses_of

CROPS = 512
"""Times the number of objects: how many a calibration looks at, of those trained on and of those held back."""
FEWEST = 5
"""Crops of an object from which anything is estimated."""
ALL, SUREST = 1.0, 1 / 3
"""Shares of the crops by whose errors photographs and renders are calibrated."""
TOLERANCE = 0.1
"""Error of a distance that is right, in diameters."""


@dataclass(frozen=True)
class Distances:
    """How far ``n`` poses are from where they should be, along the line of sight.

    Attributes:
        errors: ``[n]`` logarithms of estimated over true distances.
        tolerance: ``[n]`` those of a right distance.
        score: ``[n]`` of the poses. label: ``[n]`` class indices.
    """

    errors: Array
    tolerance: Array
    score: Array
    label: NDArray[np.int64]

    def surest(self, index: int, share: float) -> "Distances":
        """Of one object that share with the highest scores."""
        own = self.label == index
        own &= self.score >= np.quantile(self.score[own], 1 - share) if own.any() else False
        return Distances(self.errors[own], self.tolerance[own], self.score[own], self.label[own])

    def right(self, shift: float = 0.0) -> float:
        """How many are right once a shift is taken away, 0..1, counted softly: a Gaussian of the error's tolerance."""
        return float(np.exp(-(((self.errors - shift) / self.tolerance) ** 2) / 2).mean()) if len(self.errors) else 0.0


def calibrate_distances(
    task: Task[Any],
    estimator: Estimator,
    learned: Rows,
    held: Rows,
    share: float = ALL,
    assign: Assign = one_a_picture,
) -> tuple[dict[str, Any], str]:
    """The decoder's ``distance``: a factor a class, 1 where none helps; and a line about it.

    Args:
        learned, held: rows of the task's training instances that the network has and has not learned from.
        share: of the crops of each, the surest, that count. assign: which instance a pose is of.
    """
    rng, shifts, told = np.random.default_rng(0), [], []
    count = CROPS * len(estimator.objects.obj_ids)
    drawn = (np.sort(rng.permutation(rows)[:count]) for rows in (learned, held))
    ours, others = (_distances(task, estimator, rows, assign) for rows in drawn)
    for index, obj_id in enumerate(estimator.objects.obj_ids):
        own, check = ours.surest(index, share), others.surest(index, share)
        shifts.append(helpful_shift(own, check))
        helps = (
            f"{100 * check.right():.0f} to {100 * check.right(shifts[-1]):.0f} % right on {len(check.errors)} held back"
        )
        told.append(f"x {np.exp(-shifts[-1]):.3f} for object {obj_id} ({helps if shifts[-1] else 'no shift helps'})")
    return {"distance": np.exp(-np.array(shifts)).tolist()}, f"distances {', '.join(told)}"


def helpful_shift(learned: Distances, held: Distances) -> float:
    """The median error of what was learned, where more of the distances held back are right without it; else 0.

    >>> crops = Distances(np.full(9, 0.02), np.full(9, 0.015), np.linspace(0.5, 0.6, 9), np.zeros(9, int))
    >>> helpful_shift(crops, crops)
    0.02
    """
    if min(len(learned.errors), len(held.errors)) < FEWEST:
        return 0.0
    shift = float(np.median(learned.errors))
    return shift if held.right(shift) > held.right() else 0.0


def _distances(task: Task[Any], estimator: Estimator, rows: Rows, assign: Assign) -> Distances:
    """Of the poses found of some training instances, as they are."""
    if not len(rows):
        return Distances(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    device = next(estimator.parameters()).device
    loader = task.loader(rows, seed=0, device=device, batch_size=64, augment=False)
    batches = [loader.batch(step) for step in range(loader.steps)]
    found = poses_of(task, estimator, batches, assign)
    t = np.concatenate([batch.t.double().cpu().numpy() for batch in batches])[found.found]
    label = np.concatenate([batch.label.cpu().numpy() for batch in batches])[found.found]
    truth, distance = (np.linalg.norm(entry, axis=1) for entry in (t, found.t[found.found]))
    tolerance = TOLERANCE * estimator.objects.diameters[label] / truth
    return Distances(np.log(distance / truth), tolerance, found.score[found.found], label)
