"""Means over seeds, and paired differences with their intervals: pure functions on numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from posedistill.geometry.cameras import Array


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation of ``count`` values; ``std`` is nan below two values."""

    mean: float
    std: float
    count: int


@dataclass(frozen=True)
class Difference:
    """A paired difference with its 95 % interval; ``low`` and ``high`` are nan where nothing can vary.

    ``basis`` says in words how the interval was found, and over what.
    """

    mean: float
    low: float
    high: float
    basis: str

    @property
    def significant(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return bool(self.low > 0 or self.high < 0)


def summarise(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation over seeds.

    >>> summarise([0.25, 0.75, 0.5])
    Summary(mean=0.5, std=0.25, count=3)
    """
    if not values:
        return Summary(np.nan, np.nan, 0)
    std = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    return Summary(float(np.mean(values)), std, len(values))


def paired_difference(first: ArrayLike, second: ArrayLike, resamples: int = 4000, seed: int = 0) -> Difference:
    """Mean of ``second - first`` with an interval of 95 %.

    Pairs are kept together: seed ``i`` of one is compared with seed ``i`` of the other, target ``j`` with target
    ``j``. With targets, seeds and targets are both resampled (a two-way cluster bootstrap, percentiles), so the
    interval covers another test set as well as another training. With seeds alone it is Student's t of the paired
    differences: a bootstrap of three numbers has 10 distinct resamples and would be far too narrow.

    Args:
        first, second: ``[S]`` a score for each seed, or ``[S, T]`` an outcome for each seed and target.

    Raises:
        ValueError: when the shapes differ or nothing is given.

    >>> paired_difference([0.5, 0.5, 0.5], [0.6, 0.6, 0.6])
    Difference(mean=0.1, low=0.1, high=0.1, basis="Student's t, 3 seeds")
    """
    difference = np.asarray(second, dtype=np.float64) - _same_shape(first, second)
    seeds = f"{len(difference)} seed{'s' * (len(difference) > 1)}"
    mean = float(np.round(difference.mean(), 12))
    if difference.size < 2:
        return Difference(mean, np.nan, np.nan, seeds)
    if difference.ndim == 1:
        half = float(stdtrit(len(difference) - 1, 0.975) * difference.std(ddof=1) / np.sqrt(len(difference)))
        return Difference(mean, round(mean - half, 12), round(mean + half, 12), f"Student's t, {seeds}")
    low, high = np.round(np.percentile(_resampled_means(difference, resamples, seed), [2.5, 97.5]), 12)
    return Difference(mean, float(low), float(high), f"paired bootstrap, {seeds} x {difference.shape[1]} targets")


def gap_closed(
    baseline: ArrayLike, variant: ArrayLike, teacher: ArrayLike, resamples: int = 4000, seed: int = 0
) -> Difference | None:
    """Share of the baseline's distance to the teacher that a variant closes, with an interval of 95 %.

    ``(variant - baseline) / (teacher - baseline)`` of means over seeds and targets: 1 is the teacher's score, below 0
    the variant is worse than the baseline. The interval resamples seeds and targets for both distances at once.

    Args:
        baseline, variant: ``[S, T]`` an outcome for each seed and target. teacher: ``[T]``.

    Returns:
        None where the teacher is not ahead of the baseline beyond chance: then there is no gap to close.

    >>> gap_closed([[0, 0, 0, 0]], [[1, 0, 1, 0]], [1, 1, 1, 1]).mean
    0.5
    """
    ours, theirs = np.asarray(variant, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    best = np.broadcast_to(np.asarray(teacher, dtype=np.float64), theirs.shape)
    gap = paired_difference(theirs, best, resamples, seed)
    if not gap.low > 0:
        return None
    # The same seed draws the same seeds and targets for both.
    gained, missing = (_resampled_means(difference, resamples, seed) for difference in (ours - theirs, best - theirs))
    low, high = np.round(np.percentile(gained / np.maximum(missing, 1e-12), [2.5, 97.5]), 12)
    mean = float(np.round((ours - theirs).mean() / gap.mean, 12))
    seeds, targets = theirs.shape
    basis = f"paired bootstrap, {seeds} seed{'s' * (seeds > 1)} x {targets} targets"
    return Difference(mean, float(low), float(high), basis)


def _resampled_means(difference: Array, resamples: int, seed: int) -> Array:
    """``[resamples]`` means of ``difference [S, T]`` with rows and columns drawn with replacement."""
    seeds, targets = difference.shape
    rng = np.random.default_rng(seed)
    means: list[Array] = []
    for start in range(0, resamples, 250):  # a block at a time: the counts take resamples x targets numbers
        block = min(250, resamples - start)
        seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), block) / seeds
        target_weights = rng.multinomial(targets, np.full(targets, 1 / targets), block) / targets
        means.append(((seed_weights @ difference) * target_weights).sum(axis=1))
    return np.concatenate(means)


def _same_shape(first: ArrayLike, second: ArrayLike) -> Array:
    array = np.asarray(first, dtype=np.float64)
    if array.shape != np.shape(second) or array.size == 0 or array.ndim > 2:
        raise ValueError(f"paired samples: found shapes {array.shape} and {np.shape(second)}, expected [S] or [S, T]")
    return array
