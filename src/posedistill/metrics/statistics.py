"""Scores of many outcomes, means over seeds, and paired differences of scores, with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posedistill.geometry.cameras import Array

Statistic = Literal["mean", "median"]
"""What makes one score of the outcomes of many targets."""

_RESAMPLES = 4000
"""Of paired differences."""
_BLOCK = 250
"""Resamples at a time: more would take much memory."""


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation; ``std`` is nan below two values."""

    mean: float
    std: float


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A paired difference with its 95 % interval; ``low`` and ``high`` are nan where there is none.

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


def score(outcomes: Array, statistic: Statistic, groups: Sequence[str] = ()) -> float:
    """One score of ``[N]`` outcomes; with ``groups`` (the category of each) the mean over categories of each one's.

    >>> score(np.array([1.0, 0.0, 1.0]), "mean", ["cup", "mug", "mug"])
    0.75
    """
    of = np.median if statistic == "median" else np.mean
    return float(np.mean([of(outcomes[rows]) for rows in _rows(groups, len(outcomes))]))


def interval(
    outcomes: Array, statistic: Statistic, groups: Sequence[str] = (), resamples: int = 2000, seed: int = 0
) -> Interval:
    """The score of ``[N]`` outcomes and its 95 % bootstrap interval over the targets (percentiles).

    Neighbouring frames of a sequence err alike, so the interval of another recording would be wider still.

    >>> interval(np.array([1.0, 1.0, 1.0]), "median")
    Interval(value=1.0, low=1.0, high=1.0)
    """
    resampled = _resampled([outcomes[None]], statistic, resamples, seed, groups)[0]
    low, high = np.percentile(resampled, [2.5, 97.5], method="inverted_cdf")  # interpolates no infinite medians
    return Interval(score(outcomes, statistic, groups), float(low), float(high))


def summarise(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation over seeds.

    >>> summarise([0.25, 0.75, 0.5])
    Summary(mean=0.5, std=0.25)
    """
    if not values:
        return Summary(np.nan, np.nan)
    return Summary(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else np.nan)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    resamples: int = _RESAMPLES,
    seed: int = 0,
    statistic: Statistic = "mean",
    groups: Sequence[str] = (),
) -> Difference:
    """``second - first``, each the mean over seeds of a statistic over targets, with an interval of 95 %.

    Pairs are kept together: seed ``i`` of one is compared with seed ``i`` of the other, target ``j`` with target
    ``j``. With targets, seeds and targets are both resampled (a two-way cluster bootstrap, percentiles), so the
    interval covers another test set as well as another training. With seeds alone it is Student's t of the paired
    differences: a bootstrap of three numbers has 10 distinct resamples and would be far too narrow.

    Args:
        first, second: ``[S]`` a score for each seed, or ``[S, T]`` an outcome for each seed and target.
        statistic: what makes a seed's score of its outcomes. The difference of two medians is not the median
            difference. Infinite outcomes are larger than all others; where so many are that a median may be
            infinite, there is no interval.
        groups: ``[T]`` category of each target, where scores are means over categories; resampled within each.

    Raises:
        ValueError: when the shapes differ or nothing is given.

    >>> paired_difference([0.5, 0.5, 0.5], [0.6, 0.6, 0.6])
    Difference(mean=0.1, low=0.1, high=0.1, basis="Student's t, 3 seeds")
    >>> paired_difference([[3, 1, 9]], [[2, 1, 9]], statistic="median").mean
    -1.0
    """
    before, after = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if before.shape != after.shape or before.size == 0 or before.ndim > 2:
        raise ValueError(f"paired samples: found shapes {before.shape} and {after.shape}, expected [S] or [S, T]")
    seeds = f"{len(before)} seed{'s' * (len(before) > 1)}"
    if before.ndim == 1:
        difference = after - before
        mean = float(np.round(difference.mean(), 12))
        if len(before) < 2:
            return Difference(mean, np.nan, np.nan, seeds)
        from scipy.special import stdtrit

        half = float(stdtrit(len(before) - 1, 0.975) * difference.std(ddof=1) / np.sqrt(len(before)))
        return Difference(mean, round(mean - half, 12), round(mean + half, 12), f"Student's t, {seeds}")
    mean = float(np.round(_score(after, statistic, groups) - _score(before, statistic, groups), 12))
    if before.size < 2:
        return Difference(mean, np.nan, np.nan, seeds)
    resampled = _resampled([before, after], statistic, resamples, seed, groups)
    return Difference(mean, *_interval(resampled[1] - resampled[0]), _basis(before, statistic))


def gap_closed(
    baseline: ArrayLike,
    variant: ArrayLike,
    teacher: ArrayLike,
    statistic: Statistic = "mean",
    lower_is_better: bool = False,
    groups: Sequence[str] = (),
) -> Difference | None:
    """Share of the baseline's distance to the teacher that a variant closes, with an interval of 95 %.

    ``(variant - baseline) / (teacher - baseline)`` of scores as in ``paired_difference``: 1 is the teacher's score,
    below 0 the variant is worse than the baseline. The interval resamples seeds and targets for both distances at once.

    Args:
        baseline, variant: ``[S, T]`` an outcome for each seed and target. teacher: ``[T]``.

    Returns:
        None where the teacher is not ahead of the baseline beyond chance: then there is no gap to close.

    >>> gap_closed([[0, 0, 0, 0]], [[1, 0, 1, 0]], [1, 1, 1, 1]).mean
    0.5
    """
    ours, theirs = np.asarray(variant, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    best = np.broadcast_to(np.asarray(teacher, dtype=np.float64), theirs.shape)
    sign = -1.0 if lower_is_better else 1.0
    gap = paired_difference(theirs, best, statistic=statistic, groups=groups)
    if not min(sign * gap.low, sign * gap.high) > 0:
        return None
    of_baseline, of_variant, of_teacher = _resampled([theirs, ours, best], statistic, _RESAMPLES, 0, groups)
    missing = np.maximum(sign * (of_teacher - of_baseline), 1e-12)
    closed = _score(ours, statistic, groups) - _score(theirs, statistic, groups)
    mean = float(np.round(closed / gap.mean, 12) + 0.0)
    return Difference(mean, *_interval(sign * (of_variant - of_baseline) / missing), _basis(theirs, statistic))


def _score(outcomes: Array, statistic: Statistic, groups: Sequence[str]) -> float:
    """Mean over seeds of the scores of ``[S, T]`` outcomes."""
    return float(np.mean([score(row, statistic, groups) for row in outcomes]))


def _rows(groups: Sequence[str], count: int) -> list[NDArray[np.int64]]:
    """The rows of each category, or all ``count`` of them."""
    if not len(groups):
        return [np.arange(count)]
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    return [np.flatnonzero(place == index) for index in range(len(names))]


def _basis(outcomes: Array, statistic: Statistic) -> str:
    seeds, targets = outcomes.shape
    name = "paired bootstrap of medians" if statistic == "median" else "paired bootstrap"
    return f"{name}, {seeds} seed{'s' * (seeds > 1)} x {targets} targets"


def _interval(resampled: Array) -> tuple[float, float]:
    if not np.isfinite(resampled).all():
        return np.nan, np.nan
    low, high = np.round(np.percentile(resampled, [2.5, 97.5]), 12) + 0.0  # a zero has no minus
    return float(low), float(high)


def _resampled(
    samples: Sequence[Array], statistic: Statistic, resamples: int, seed: int, groups: Sequence[str]
) -> Array:
    """``[len(samples), resamples]`` scores of several ``[S, T]``, rows and columns drawn with replacement.

    All see the same draws, so what is paired stays paired. Columns are drawn within their category.
    """
    rows = _rows(groups, samples[0].shape[1])
    seed_weights, counts = _draws(len(samples[0]), tuple(map(len, rows)), resamples, seed)
    of = _weighted_medians if statistic == "median" else _weighted_means
    scores: list[Array] = []
    for start in range(0, resamples, _BLOCK):
        block = slice(start, start + _BLOCK)
        with np.errstate(invalid="ignore"):  # nan from infinite medians leaves no interval
            parts = [
                np.mean([of(sample[:, group], drawn[block]) for group, drawn in zip(rows, counts, strict=True)], axis=0)
                for sample in samples
            ]
            scores.append(np.stack([(seed_weights[block] * part).sum(axis=1) for part in parts]))
    return np.concatenate(scores, axis=1)


@lru_cache(maxsize=2)
def _draws(seeds: int, targets: tuple[int, ...], resamples: int, seed: int) -> tuple[Array, list[NDArray[np.int32]]]:
    """How much each seed ``[N, S]`` weighs in each resample, and how often each target ``[N, T]`` was drawn.

    Kept, for a page asks for the same draws for each of its metrics and variants, and drawing takes longest.

    Args:
        targets: number of targets of each category, each drawn by itself.
    """
    rng = np.random.default_rng(seed)
    weights, counts = np.empty((resamples, seeds)), [np.empty((resamples, count), dtype=np.int32) for count in targets]
    for start in range(0, resamples, _BLOCK):
        block = slice(start, min(start + _BLOCK, resamples))
        size = block.stop - block.start
        weights[block] = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size) / seeds
        for drawn in counts:
            drawn[block] = rng.multinomial(drawn.shape[1], np.full(drawn.shape[1], 1 / drawn.shape[1]), size)
    return weights, counts


def _weighted_means(outcomes: Array, counts: NDArray[np.integer]) -> Array:
    """``[N, S]`` means of ``outcomes [S, T]`` of which target ``j`` was drawn ``counts[n, j]`` times."""
    means: Array = counts @ outcomes.T / counts.sum(axis=1, keepdims=True)
    return means


def _weighted_medians(outcomes: Array, counts: NDArray[np.integer]) -> Array:
    """Likewise medians: the mean of the two middle outcomes, found by counting along the sorted ones."""
    middle = (counts[0].sum() - 1) // 2, counts[0].sum() // 2
    medians = []
    for row in outcomes:
        order = np.argsort(row)
        reached = counts[:, order].cumsum(axis=1, dtype=np.int32)
        low, high = (row[order][(reached <= place).sum(axis=1)] for place in middle)
        medians.append(np.where(low == high, low, (low + high) / 2))
    return np.stack(medians, axis=1)
