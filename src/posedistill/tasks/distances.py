"""How much too far or too near a finished network sees its objects, and the factor that mends it.

A network that is not sure of its votes draws them together, and what looks smaller is taken for farther away. The
factor is estimated on the crops that the network has learned from, of which there are many, and used where it helps on
those held back, of which there are few but honest ones.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.estimators.base import Estimator
from posedistill.geometry.cameras import Array
from posedistill.tasks.base import Rows, Task
from posedistill.tasks.validation import Validation

CROPS = 512
"""That a calibration looks at, of those trained on and of those held back."""
FEWEST = 5
"""Crops of an object from which a median is taken."""


def calibrate_distances(task: Task[Any], estimator: Estimator, learned: Rows, held: Rows) -> tuple[dict[str, Any], str]:
    """The decoder's ``distance``: a factor a class, 1 where none helps; and a line about it.

    Args:
        learned, held: rows of the task's training instances that the network has and has not learned from.
    """
    rng, count = np.random.default_rng(0), len(estimator.objects)
    (errors, label), (held_errors, held_label) = (
        _errors(task, estimator, np.sort(rng.permutation(rows)[:CROPS])) for rows in (learned, held)
    )
    shifts = [helpful_shift(errors[label == index], held_errors[held_label == index]) for index in range(count)]
    after = held_errors - np.array(shifts)[held_label]
    objects = ", ".join(
        f"{np.exp(-shift):.3f} for object {obj_id}"
        for obj_id, shift in zip(estimator.objects.obj_ids, shifts, strict=True)
    )
    before, now = described(held_errors), described(after)
    told = f"distances times {objects}; on {len(after)} crops held back they were {before}, and are {now}"
    return {"distance": np.exp(-np.array(shifts)).tolist()}, told


def helpful_shift(errors: Array, held: Array) -> float:
    """The median error where taking it away brings the errors of the crops held back nearer to zero, else 0.

    Args:
        errors: logarithms of estimated over true distances, of crops learned from; ``held`` of others.

    >>> helpful_shift(np.full(9, 0.02), np.array([0.01, 0.03, 0.02, 0.0, 0.04]))
    0.02
    """
    if min(len(errors), len(held)) < FEWEST:
        return 0.0
    shift = float(np.median(errors))
    return shift if np.median(np.abs(held - shift)) < np.median(np.abs(held)) else 0.0


def described(errors: Array) -> str:
    """Bias and spread of distances in words.

    >>> described(np.array([0.01, 0.02, 0.03]))
    '+2.0 % off with a spread of 1.5 %'
    """
    if not len(errors):
        return "not seen"
    middle = float(np.median(errors))
    spread = 1.4826 * float(np.median(np.abs(errors - middle)))
    return f"{100 * middle:+.1f} % off with a spread of {100 * spread:.1f} %"


def _errors(task: Task[Any], estimator: Estimator, rows: Rows) -> tuple[Array, NDArray[np.int64]]:
    """Logarithms of estimated over true distances of the poses found, and their classes."""
    if not len(rows):
        return np.zeros(0), np.zeros(0, np.int64)
    device = next(estimator.parameters()).device
    loader = task.loader(rows, seed=0, device=device, batch_size=min(64, len(rows)), augment=False)
    crops = Validation(task, loader, lambda *_: {})
    found = crops.poses(estimator)
    t, label = (
        np.concatenate([getattr(batch, name).cpu().numpy() for batch in crops.batches]) for name in ("t", "label")
    )
    seen = found.found
    return np.log(np.linalg.norm(found.t[seen], axis=1) / np.linalg.norm(t[seen], axis=1)), label[seen]
