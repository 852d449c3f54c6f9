"""What was measured: evaluations of models, and groups of them that may be compared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from posedistill.geometry.cameras import Array
from posedistill.metrics.statistics import Difference, Summary, paired_difference, summarise
from posedistill.report.metrics import HEADLINE_METRICS, Metric

STAGES = ("teacher", "student", "distilled", "exported")
"""The order in which a report names the models of a run; a model of another name comes after them."""
BASELINES = {
    "constant pose": "mean of the training poses",
    "nearest image": "retrieval by the teacher's features",
    "nearest position": "looks at the truth: a mark, no method",
}
"""Naive baselines that every table of cameras is read against, and what they are; they stand below the networks."""
BOXES = {"gt": "ground-truth boxes", "detector": "detector boxes"}
"""Words for the two sources of boxes."""


@dataclass(frozen=True)
class Places:
    """Where cameras stand and were thought to stand, metres in the world's frame.

    Attributes:
        truth, estimate: ``[N, 3]``, an image a row; an estimate that was not found is nan.
        train: ``[M, 3]`` of the training images, M may be 0.
        up: ``[3]`` where the upper edges of the images point in the mean; None where they point all about, or unknown.
    """

    truth: Array
    estimate: Array
    train: Array
    up: Array | None = None

    @property
    def errors(self) -> Array:
        """``[N]`` distances, metres; nan without an estimate."""
        distances: Array = np.linalg.norm(self.estimate - self.truth, axis=1)
        return distances


@dataclass(frozen=True)
class Evaluation:
    """One model, of one seed, measured on one data set with one source of boxes.

    Attributes:
        scores: metric name to a value in the unit that its name tells, else in 0..1.
        per_object: object id to its scores.
        curves: name to ``(x, y)``; for ``add``, x is the tolerated error as a fraction of the diameter, y the recall.
            Of errors in metres or degrees, x is the tolerated error.
        outcomes: metric name to one value a target, likewise; targets in the same order for every stage.
        parameters, megabytes, gmacs: what the model costs; None where unknown.
        places: of cameras, None for objects.
    """

    stage: str
    seed: int = 0
    boxes: str = ""
    dataset: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    per_object: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    outcomes: dict[str, list[float]] = field(default_factory=dict)
    parameters: float | None = None
    megabytes: float | None = None
    gmacs: float | None = None
    places: Places | None = None


@dataclass
class Group:
    """Evaluations on one data set with one source of boxes, of several models and seeds."""

    items: list[Evaluation] = field(default_factory=list)
    _differences: dict[tuple[str, str, str], Difference | None] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> list[str]:
        """Models in the order of a report, without the naive baselines."""
        return sorted({item.stage for item in self.items} - BASELINES.keys(), key=rank)

    @property
    def baselines(self) -> list[str]:
        """The naive baselines that were measured."""
        return [name for name in BASELINES if self.of(name)]

    @property
    def title(self) -> str:
        """On what was measured: data set and source of boxes."""
        if not self.items:
            return ""
        first = self.items[0]
        return ", ".join(part for part in (first.dataset, BOXES.get(first.boxes, first.boxes)) if part)

    @property
    def metrics(self) -> list[Metric]:
        """Every measured metric, the one to lead with first."""
        measured = dict.fromkeys(metric for item in self.items for metric in item.scores)
        detected = bool(self.items) and self.items[0].boxes == "detector"
        order = ("AR", *HEADLINE_METRICS) if detected else HEADLINE_METRICS
        lead = [metric for metric in order if metric in measured][:1]
        return [Metric(name) for name in dict.fromkeys([*lead, *measured])]

    @property
    def main_metrics(self) -> list[Metric]:
        """The usual metrics that were measured, in the order of a report, or whatever was."""
        names = [metric.name for metric in self.metrics]
        return [Metric(name) for name in HEADLINE_METRICS if name in names] or self.metrics

    @property
    def headline(self) -> list[Metric]:
        """What a page leads with: one metric, of cameras position and orientation."""
        first = self.metrics[:1]
        second = (
            [metric for metric in self.metrics if metric.lower_is_better] if first and first[0].lower_is_better else []
        )
        return second[:2] or first

    def of(self, name: str) -> list[Evaluation]:
        """A model's evaluations, a seed each."""
        return [item for item in self.items if item.stage == name]

    def scores(self, name: str, metric: Metric) -> list[float]:
        """Scores of a model, a seed each, as far as they were measured."""
        return [item.scores[metric.name] for item in self.of(name) if metric.name in item.scores]

    def summary(self, name: str, metric: Metric) -> Summary:
        """Mean and deviation of a model's scores over its seeds."""
        return summarise(self.scores(name, metric))

    def cost(self, name: str, number: str) -> float:
        """``parameters``, ``megabytes`` or ``gmacs`` of a model, the mean over seeds; nan where unknown."""
        values = [getattr(item, number) for item in self.of(name)]
        return summarise([value for value in values if value is not None]).mean

    def difference(self, metric: Metric, name: str, baseline: str) -> Difference | None:
        """``name - baseline`` over the seeds both were run with; None when they share no seed.

        The outcomes of single targets are used when both have them and their statistic is the score.
        """
        key = metric.name, name, baseline
        if key not in self._differences:  # tables, figures and the headline ask for the same
            self._differences[key] = self._difference(metric, name, baseline)
        return self._differences[key]

    def _difference(self, metric: Metric, name: str, baseline: str) -> Difference | None:
        runs = [{item.seed: item for item in self.of(one) if metric.name in item.scores} for one in (baseline, name)]
        seeds = sorted(runs[0].keys() & runs[1].keys())
        if not seeds:
            return None
        outcomes = [[run[seed].outcomes.get(metric.name, []) for seed in seeds] for run in runs]
        scores = [[run[seed].scores[metric.name] for seed in seeds] for run in runs]
        lengths = {len(row) for rows in outcomes for row in rows}
        if len(lengths) == 1 and lengths != {0}:
            expected = (np.median if metric.statistic == "median" else np.mean)(outcomes, axis=2)
            if np.allclose(expected, scores, atol=1e-3):
                return paired_difference(outcomes[0], outcomes[1], statistic=metric.statistic)
        return paired_difference(scores[0], scores[1])


def rank(stage: str) -> tuple[int, str]:
    """Sort key: teacher, student, distilled, exported, then the rest by name, the naive baselines last.

    >>> sorted(["nearest image", "constant pose", "zebra", "distilled", "teacher"], key=rank)
    ['teacher', 'distilled', 'zebra', 'constant pose', 'nearest image']
    """
    if stage in BASELINES:
        return (len(STAGES) + 1, stage)
    return (STAGES.index(stage) if stage in STAGES else len(STAGES), stage)


def _number(value: object) -> float | None:
    """A finite float, or None for everything that is none (null, NaN, text)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def numbers_of(mapping: Mapping[str, Any] | None) -> dict[str, float]:
    """The finite numbers of a record."""
    pairs = {str(key): _number(value) for key, value in (mapping or {}).items()}
    return {key: value for key, value in pairs.items() if value is not None}


def _points(xs: list[Any], ys: list[Any]) -> tuple[list[float], list[float]]:
    """The points of a curve whose both coordinates are numbers."""
    pairs = [(_number(x), _number(y)) for x, y in zip(xs, ys, strict=True)]
    points = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in points], [y for _, y in points]


def evaluation_of(item: dict[str, Any]) -> Evaluation:
    """A record of ``evaluation.json``.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is none.
    """
    curves = {str(name): _points(curve["x"], curve["y"]) for name, curve in (item.get("curves") or {}).items()}
    outcomes = item.get("outcomes") or {}
    if isinstance(outcomes, list):  # without a name, the outcomes are those of the usual threshold
        outcomes = {"add_0.1d": outcomes}
    return Evaluation(
        stage=str(item["variant"]),
        seed=int(item.get("seed") or 0),
        boxes=str(item.get("boxes") or ""),
        dataset=str(item.get("dataset") or ""),
        scores=numbers_of(item.get("scores")),
        per_object={str(key): numbers_of(value) for key, value in (item.get("per_object") or {}).items()},
        curves={name: curve for name, curve in curves.items() if curve[0]},
        outcomes={str(key): [_outcome(value) for value in values] for key, values in outcomes.items()},
        parameters=_number(item.get("parameters")),
        megabytes=_number(item.get("megabytes")),
        gmacs=_number(item.get("gmacs")),
        places=_places(item["places"]) if item.get("places") else None,
    )


def _outcome(value: float | None) -> float:
    """An outcome; json has no number for the error of a pose that was not found."""
    return math.inf if value is None else float(value)


def _places(item: dict[str, Any]) -> Places:
    truth, estimate = (np.array(item[key], dtype=np.float64) for key in ("truth", "estimate"))
    train = np.array(item.get("train") or np.zeros((0, 3)), dtype=np.float64)
    up = np.array(item.get("up") or np.zeros(3), dtype=np.float64)
    if truth.shape != estimate.shape or not all(array.ndim == 2 and array.shape[1] == 3 for array in (truth, train)):
        raise ValueError(f"places of shapes {truth.shape}, {estimate.shape}, {train.shape}, expected [N, 3]")
    return Places(truth, estimate, train, up if np.linalg.norm(up) > 0.5 else None)
