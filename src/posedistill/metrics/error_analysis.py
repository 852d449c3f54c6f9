"""ErrorAnalysis: in which way poses are off: along the line of sight, across it, and in rotation.

It stands beside the scores and judges nothing: each target is held against the one estimate that lies nearest to it
(``Candidates.nearest``), however far off that is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posedistill.geometry.cameras import Array
from posedistill.metrics.statistics import Interval

NORMAL = 1.4826
"""Standard deviations of a normal distribution in one median absolute deviation."""
_RESAMPLES = 1000
_BLOCK = 500_000
"""Drawn errors that are sorted at a time."""


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """Errors of the estimate matched with each of ``N`` targets, NaN where a target has none.

    Symmetric objects are compared with the nearest equivalent true pose.

    Attributes:
        depth: ``[N]`` along the ray to the true origin of the object, as a share of its distance; above 0 is too far.
        depth_mm: ``[N]`` the same, mm. lateral_mm: ``[N]`` across the ray, mm. rotation_deg: ``[N]``.
        visible: ``[N]`` share of the target's silhouette that is visible, 1 where nothing states it.
    """

    depth: Array
    depth_mm: Array
    lateral_mm: Array
    rotation_deg: Array
    visible: Array

    @classmethod
    def of_pairs(cls, errors: Mapping[str, Array], pairs: NDArray[np.int64], visible: Array) -> "ErrorAnalysis":
        """From the errors ``[P]`` of all pairs (``pair_errors``) and the pair ``[N]`` of each target, -1 for none."""
        depth, depth_mm, lateral, rotation = (
            np.append(errors[name], np.nan)[pairs] for name in ("depth", "depth_mm", "lateral", "rotation")
        )
        return cls(depth, depth_mm, lateral, rotation, visible)

    def __len__(self) -> int:
        return len(self.depth)

    @property
    def missed(self) -> int:
        """Targets without an estimate."""
        return int(np.isnan(self.depth).sum())

    def select(self, rows: NDArray) -> "ErrorAnalysis":
        """The targets named by a mask or an index array."""
        return ErrorAnalysis(*(getattr(self, column.name)[rows] for column in fields(self)))


def sight_errors(t_est: Array, t_true: Array) -> tuple[Array, Array, Array]:
    """Errors ``[N]`` of positions ``[N, 3]`` in the camera: depth as a share of the distance, depth and lateral in mm.

    Depth is the part of ``t_est - t_true`` along the ray to ``t_true``, lateral the length of the rest.

    >>> near, far = np.array([[300.0, 0.0, 400.0]]), np.array([[306.0, 0.0, 408.0]])
    >>> [value.round(9).tolist() for value in sight_errors(far, near)]
    [[0.02], [10.0], [0.0]]
    """
    distance = np.linalg.norm(t_true, axis=1)
    ray, off = t_true / distance[:, None], t_est - t_true
    depth = np.einsum("ni,ni->n", ray, off)
    lateral: Array = np.linalg.norm(off - depth[:, None] * ray, axis=1)
    return depth / distance, depth, lateral


def median_and_spread(errors: ArrayLike) -> tuple[float, float]:
    """Median, and robust spread: 1.4826 median absolute deviations from it; NaN are left out, and given of nothing.

    >>> median_and_spread([1.0, 2.0, 3.0, 1000.0, np.nan])
    (2.5, 1.4826)
    """
    median, spread = _medians_and_spreads(np.asarray(errors, dtype=np.float64)[None])
    return float(median[0]), float(spread[0])


def median_and_spread_intervals(errors: ArrayLike) -> tuple[Interval, Interval]:
    """Median and robust spread, means over seeds, each with its 95 % bootstrap interval.

    Targets are resampled, the same for all seeds, and seeds where there are several.

    Args:
        errors: ``[S, N]`` of each seed and target; NaN where a target was missed.
    """
    rows = np.asarray(errors, dtype=np.float64)
    rng, (seeds, count) = np.random.default_rng(0), rows.shape
    values = np.stack(_medians_and_spreads(rows)).mean(axis=1)
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), _RESAMPLES).T / seeds
    drawn = np.zeros((2, _RESAMPLES))
    step = max(1, _BLOCK // max(1, count))
    for start in range(0, _RESAMPLES if count else 0, step):
        block = slice(start, min(start + step, _RESAMPLES))
        targets = rng.integers(count, size=(block.stop - start, count))
        for row, weight in zip(rows, weights, strict=True):
            drawn[:, block] += weight[block] * np.stack(_medians_and_spreads(row[targets]))
    found = np.isfinite(drawn).all(axis=0) & np.isfinite(values).all()
    ends = np.percentile(drawn[:, found], [2.5, 97.5], axis=1).T if found.any() else np.full((2, 2), np.nan)
    median, spread = (Interval(float(value), *map(float, pair)) for value, pair in zip(values, ends, strict=True))
    return median, spread


def _medians_and_spreads(rows: Array) -> tuple[Array, Array]:
    """Of each row of ``[B, N]``."""
    medians = _medians(rows)
    return medians, NORMAL * _medians(np.abs(rows - medians[:, None]))


def _medians(rows: Array) -> Array:
    """``[B]`` medians of ``[B, N]`` without its NaN, which are sorted last."""
    if not rows.shape[1]:
        return np.full(len(rows), np.nan)
    rows, counts, every = np.sort(rows, axis=1), (~np.isnan(rows)).sum(axis=1), np.arange(len(rows))
    medians: Array = (rows[every, np.maximum(counts - 1, 0) // 2] + rows[every, counts // 2]) / 2
    return medians  # of NaN alone: NaN
