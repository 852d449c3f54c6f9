"""Errors of camera poses, their medians and recalls, and the trivial answers that every table is read against."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import angle_between, mean_rotation
from posedistill.poses import Poses

THRESHOLDS = ((0.05, 5.0), (0.25, 2.0), (0.5, 5.0), (5.0, 10.0))
"""Metres and degrees of the recalls: 7-Scenes' own, and the three of long-term visual localisation."""
_PERCENTILES = (75, 90, 95)
_CURVE_METRES, _CURVE_DEGREES = np.geomspace(0.001, 100.0, 151), np.geomspace(0.1, 180.0, 99)


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RelocalisationScores:
    """Scores of one split; each median, mean and percentile is taken over its own errors (as the field does).

    Attributes:
        position: median distance of camera centres, metres. orientation: median angle, degrees.
        recall: share of the images within each pair of ``THRESHOLDS``, both at once.
        mean, percentiles: (metres, degrees) and the same for 75, 90 and 95.
        count: images; missing: of these, without a pose (their errors are infinite).
    """

    position: Interval
    orientation: Interval
    recall: dict[tuple[float, float], float]
    mean: tuple[float, float]
    percentiles: dict[int, tuple[float, float]]
    count: int
    missing: int
    position_errors: Array = field(repr=False)
    orientation_errors: Array = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain json types; names tell units. What is infinite is None, for json has no such number."""
        pairs = {"mean": self.mean} | {str(percent): pair for percent, pair in self.percentiles.items()}
        shown = {name: {"m": _finite(m), "deg": _finite(deg)} for name, (m, deg) in pairs.items()}
        return {
            "position_m": {name: _finite(value) for name, value in self.position._asdict().items()},
            "orientation_deg": {name: _finite(value) for name, value in self.orientation._asdict().items()},
            "recall": {f"{m:g} m, {deg:g} deg": share for (m, deg), share in self.recall.items()},
            "mean": shown.pop("mean"),
            "percentiles": shown,
            "count": self.count,
            "missing": self.missing,
        }

    def to_record(self) -> dict[str, Any]:
        """The scores as a record of ``evaluation.json``, which the report reads.

        ``scores`` by metric: ``position_m`` and ``orientation_deg`` (medians), ``recall_0.05m_5deg`` ... (shares).
        ``outcomes``: of each image, its errors and whether it lies within the limits. ``curves``: the share of images
        within an error. What is infinite is None, for json has no such number.
        """
        errors = {"position_m": self.position_errors, "orientation_deg": self.orientation_errors}
        within = {
            f"recall_{m:g}m_{deg:g}deg": (self.position_errors <= m) & (self.orientation_errors <= deg)
            for m, deg in self.recall
        }
        medians = {"position_m": self.position.value, "orientation_deg": self.orientation.value}
        limits = {"position_m": _CURVE_METRES, "orientation_deg": _CURVE_DEGREES}
        return {
            "scores": {name: _finite(value) for name, value in medians.items()}
            | {name: float(hits.mean()) for name, hits in within.items()},
            "outcomes": {name: [_finite(round(value, 6)) for value in row.tolist()] for name, row in errors.items()}
            | {name: hits.astype(float).tolist() for name, hits in within.items()},
            "curves": {name: _cumulative(errors[name], limits[name]) for name in errors},
        }


def position_errors(estimates: Poses, truth: Poses) -> Array:
    """``[N]`` distances of the camera centres, metres; inf where there is no pose.

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


def recall(position: Array, orientation: Array, metres: float, degrees: float) -> float:
    """Share of images whose errors both lie within the limits.

    >>> recall(np.array([0.01, 0.04, 0.2]), np.array([1.0, 9.0, 1.0]), 0.05, 5.0)
    0.3333333333333333
    """
    return float(((position <= metres) & (orientation <= degrees)).mean())


def score_cameras(estimates: Poses, truth: Poses, resamples: int = 2000, seed: int = 0) -> RelocalisationScores:
    """All scores of a split.

    Args:
        resamples: of the bootstrap that gives the medians their intervals.

    Raises:
        DataError: the two have different numbers of images, or none.
    """
    count = len(truth.R)
    if len(estimates.R) != count or count == 0:
        raise DataError(describe("estimates", "images", len(estimates.R), f"{count}, at least one"))
    position, orientation = position_errors(estimates, truth), orientation_errors(estimates, truth)
    percentiles = {p: (_percentile(position, p), _percentile(orientation, p)) for p in _PERCENTILES}
    return RelocalisationScores(
        position=median_interval(position, resamples, seed),
        orientation=median_interval(orientation, resamples, seed),
        recall={limits: recall(position, orientation, *limits) for limits in THRESHOLDS},
        mean=(float(position.mean()), float(orientation.mean())),
        percentiles=percentiles,
        count=count,
        missing=int(np.isinf(position).sum()),
        position_errors=position,
        orientation_errors=orientation,
    )


def median_interval(errors: Array, resamples: int = 2000, seed: int = 0) -> Interval:
    """Median of ``[N]`` errors and its 95 % bootstrap interval over the images (percentiles).

    Neighbouring frames of a sequence err alike, so the interval of another recording would be wider still.

    >>> median_interval(np.array([1.0, 1.0, 1.0]))
    Interval(value=1.0, low=1.0, high=1.0)
    """
    rng = np.random.default_rng(seed)
    medians: list[Array] = []
    for start in range(0, resamples, 250):
        rows = rng.integers(len(errors), size=(min(250, resamples - start), len(errors)))
        medians.append(_median(errors[rows]))
    low, high = _sorted_at(np.concatenate(medians), (0.025, 0.975))
    return Interval(float(_median(errors)), low, high)


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


def _median(errors: Array) -> Array:
    """Median over the last axis; infinite errors are larger than all others and spoil no arithmetic."""
    ordered, count = np.sort(errors, axis=-1), errors.shape[-1]
    low, high = ordered[..., (count - 1) // 2], ordered[..., count // 2]
    return np.where(low == high, low, (low + high) / 2)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _cumulative(errors: Array, limits: Array) -> dict[str, list[float]]:
    """Share of the errors within each limit."""
    shares = np.searchsorted(np.sort(errors), limits, side="right") / len(errors)
    return {"x": [float(f"{limit:.4g}") for limit in limits], "y": [round(share, 6) for share in shares.tolist()]}


def _percentile(errors: Array, percent: int) -> float:
    return _sorted_at(errors, (percent / 100,))[0]


def _sorted_at(values: Array, shares: Sequence[float]) -> list[float]:
    """Values at shares of the sorted list, the nearest rank: an infinite neighbour turns nothing into nan."""
    ordered = np.sort(values)
    return [float(ordered[min(int(share * len(ordered)), len(ordered) - 1)]) for share in shares]
