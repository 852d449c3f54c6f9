"""How likely a camera's pose is right, by the share of cells that agree with it: a logistic curve (Platt, 1999)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from posedistill.data.loading.batch import Batch
from posedistill.geometry.cameras import Array
from posedistill.metrics.relocalisation import orientation_errors, position_errors
from posedistill.poses import Poses

CALIBRATED = 200
"""Most photographs that a curve is fitted to."""
RIGHT = (0.1, 5.0)
"""Errors of a pose that is right: in spreads of the training cameras, and degrees."""
UNSEEN = 1.0
"""Wrong poses without any inlier that are added, as a share of the photographs: as many of elsewhere as of the scene.

A network may be right in all of its held-back photographs, and must still not claim to know a place it has never seen.
"""
_STEPS = 50


@dataclass(frozen=True)
class ScoreCurve:
    """``probability = 1 / (1 + exp(-(slope share + offset)))`` of a right pose, and what it was fitted to.

    Attributes:
        numbers: slope and offset. right, count: how many of the photographs had a right pose. near: within so much.
    """

    numbers: tuple[float, float]
    right: int
    count: int
    near: float

    def __str__(self) -> str:
        told = f"{self.right} of {self.count} held-back photographs are placed"
        return f"scores calibrated: {told} to {RIGHT[1]:g} degrees and {self.near:.3g}"


def fit_score_curve(found: Poses, batches: Sequence[Batch], spread: float) -> ScoreCurve:
    """The curve for poses with raw scores, a row an instance of the batches; ``spread`` of the training cameras."""
    R, t = (torch.cat([getattr(batch, name) for batch in batches]).double().cpu().numpy() for name in ("R", "t"))
    truth = Poses.of_cameras(R, t)
    near = RIGHT[0] * spread
    right = (position_errors(found, truth) <= near) & (orientation_errors(found, truth) <= RIGHT[1])
    numbers = logistic_curve(np.nan_to_num(found.score), right)
    return ScoreCurve(numbers, int(right.sum()), len(right), near)


def logistic_curve(shares: Array, right: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope (never negative) and offset of the likeliest curve, by Newton's method.

    Targets are drawn in from 0 and 1 as by Platt, so that the curve stays finite where the two kinds can be parted.

    >>> slope, offset = logistic_curve(np.array([0.1, 0.2, 0.7, 0.9]), np.array([False, False, True, True]))
    >>> slope > 0, slope * 0.1 + offset < 0 < slope * 0.9 + offset
    (True, True)
    """
    unseen = max(1, round(UNSEEN * len(shares)))
    shares = np.concatenate([shares, np.zeros(unseen)])
    right = np.concatenate([right, np.zeros(unseen, dtype=np.bool_)])
    hits = int(right.sum())
    targets = np.where(right, (hits + 1) / (hits + 2), 1 / (len(right) - hits + 2))
    columns = np.stack([shares, np.ones_like(shares)], axis=1)
    numbers = np.zeros(2)
    for _ in range(_STEPS):
        likely = 1 / (1 + np.exp(-np.clip(columns @ numbers, -50, 50)))
        curvature = columns.T @ (columns * (likely * (1 - likely))[:, None]) + 1e-6 * np.eye(2)
        numbers = numbers + np.clip(np.linalg.solve(curvature, columns.T @ (targets - likely)), -5, 5)
    if numbers[0] < 0:  # the shares tell nothing: all poses are as likely as any
        share = float(targets.mean())
        return 0.0, float(np.log(share / (1 - share)))
    return float(numbers[0]), float(numbers[1])
