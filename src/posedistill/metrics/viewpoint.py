"""Errors of viewpoints, accuracies within angles, medians, and the naive baselines that every table is read against.

Every number is the mean over categories of each category's own, as the field reports them (Xiang et al., ECCV 2016;
Xiao et al., BMVC 2019): a category with many pictures counts as much as one with few.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import angle_between, random_rotations
from posedistill.geometry.viewpoint import nearest_equivalent, rotation_viewpoint
from posedistill.metrics.evaluation import Curve, Evaluation, Metric, Turns
from posedistill.poses import Poses

ACCURACIES = (30, 10, 5)
"""Degrees within which a viewpoint counts as right, inclusive; 30 is the field's Acc pi/6."""
OPPOSITE = Metric("opposite", "opposite view", better="lower", level="detail", by_category=True)
"""One end of a thing was taken for the other: an error of more than ``TURNED`` degrees."""
TURNED = 150
MEDIAN = Metric("median_deg", "MedErr", "deg", "median", "lower", level="headline", by_category=True)


def viewpoint_errors(estimates: Poses, truth: Array, orders: NDArray[np.int64] | None = None) -> Array:
    """``[N]`` degrees between rotations, 0..180; inf where there is no pose.

    Args:
        truth: ``[N, 3, 3]``. orders: ``[N]`` how many turns about the upright axis look the same (0: all); the error is
            then that to the nearest of them.

    >>> viewpoint_errors(Poses.of_cameras(np.eye(3)[None]), np.diag([-1.0, -1.0, 1.0])[None])
    array([180.])
    """
    R = estimates.R if orders is None else nearest_equivalent(estimates.R, truth, orders)
    errors = np.rad2deg(angle_between(R, truth))
    return np.where(np.isnan(errors), np.inf, errors)


def score_viewpoints(
    estimates: Poses,
    truth: Array,
    categories: Sequence[str],
    orders: NDArray[np.int64] | None = None,
    **about: Any,
) -> Evaluation:
    """All scores of a test set, up to the symmetries where any are stated; then those without them stand beside.

    Args:
        truth: ``[N, 3, 3]``. categories: of each target. orders: ``[N]`` as for :func:`viewpoint_errors`.
        about: further fields of the ``Evaluation``.

    Raises:
        DataError: the two have different numbers of pictures, or none.
    """
    if len(estimates) != len(truth) or not len(truth):
        raise DataError(describe("estimates", "pictures", len(estimates), f"{len(truth)}, at least one"))
    orders = None if orders is None or (orders == 1).all() else orders
    errors = viewpoint_errors(estimates, truth, orders)
    outcomes = {_accuracy(ACCURACIES[0], "headline"): _within(errors, ACCURACIES[0]), MEDIAN: errors}
    outcomes |= {_accuracy(degrees): _within(errors, degrees) for degrees in ACCURACIES[1:]}
    outcomes[OPPOSITE] = (errors > TURNED).astype(np.float64)
    if orders is not None:
        name = f"acc_{ACCURACIES[0]}_unforgiven"
        plain = Metric(name, f"Acc{ACCURACIES[0]}, symmetry ignored", level="detail", by_category=True)
        outcomes[plain] = _within(viewpoint_errors(estimates, truth), ACCURACIES[0])
    curve = Curve.of_errors("viewpoint error, °", errors, np.arange(0.0, 181.0), log=False)
    turns = Turns(rotation_viewpoint(truth), rotation_viewpoint(estimates.R))
    return Evaluation.of(
        outcomes, categories, curves={MEDIAN.name: curve}, turns=turns, missed=int(np.isinf(errors).sum()), **about
    )


def most_frequent_viewpoint(R: Array, weights: Array | None = None) -> Array:
    """``[3, 3]`` the training viewpoint with the most others near it: what a network that sees nothing should say.

    Near is by a Gaussian of 15 degrees; of many, 2,000 evenly spread rows are asked.

    Args:
        R: ``[M, 3, 3]``. weights: ``[M]`` of each row, such as 1 over the size of its category.
    """
    R = np.asarray(R)[:: -(-len(R) // 2000)]
    weights = np.ones(len(R)) if weights is None else weights[:: -(-len(weights) // 2000)]
    density = np.array([(weights * np.exp(-((angle_between(one, R) / np.deg2rad(15)) ** 2) / 2)).sum() for one in R])
    return np.asarray(R[density.argmax()])


def random_viewpoints(count: int, seed: int = 0) -> Poses:
    """Rotations drawn uniformly: 0.75 % of them are within 30 degrees of any truth, whatever the data.

    >>> errors = viewpoint_errors(random_viewpoints(20000), np.tile(np.eye(3), (20000, 1, 1)))
    >>> abs(float((errors <= 30).mean()) - (np.pi / 6 - 1 / 2) / np.pi) < 0.002
    True
    """
    return Poses.of_cameras(random_rotations(count, np.random.default_rng(seed)))


def _accuracy(degrees: int, level: Any = "main") -> Metric:
    return Metric(f"acc_{degrees}", f"Acc{degrees}", level=level, by_category=True)


def _within(errors: Array, degrees: float) -> Array:
    return (errors <= degrees + 1e-9).astype(np.float64)
