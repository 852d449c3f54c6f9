"""Evaluation: what one model reached on one test set, the same for all families.

Shape: each ``Metric`` declares what its number is (name, unit, statistic, which way is better, how prominent it is).
``outcomes[metric.name]`` holds one value a target: an outcome in 0..1 of a ``%`` metric, else an error in the metric's
unit, infinite where nothing was found. ``scores[metric.name]`` is the metric's statistic of them. Whoever shows or
compares evaluations asks the metric and never needs to know the family::

    for metric in evaluation.metrics:                        # the most prominent first
        metric.quantity(evaluation.scores[metric.name])      # "93.4 %", "0.021 m"
        evaluation.interval(metric)                          # of 95 %
        evaluation.by_label(metric)                          # {"6": 0.9, ...}: of each object or category
        evaluation.curves.get(metric.name)                   # share of the targets within an error
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array
from posedistill.metrics.error_analysis import ErrorAnalysis
from posedistill.metrics.statistics import Interval, Statistic, interval, score

Level = Literal["headline", "main", "detail"]
"""Where a metric is shown: in every headline, in tables of the usual metrics too, or in full tables alone."""
_COSTS = ("parameters", "megabytes", "gmacs")
_ABOUT = ("seed", "dataset", "boxes", "baseline", "targets", "missed")
_DIGITS = {"%": 1, "m": 3, "units": 3, "mm": 1, "deg": 2, "px": 1}


@dataclass(frozen=True)
class Metric:
    """What a number is.

    Attributes:
        name: its key in ``evaluation.json``. label: what a reader calls it.
        unit: ``%`` for outcomes in 0..1, else that of errors: ``m``, ``mm``, ``deg``,
            ``px``, or ``units`` of a scene without metres.
        statistic: what makes one score of many outcomes.
        by_category: whether it is the mean over categories of each one's statistic.
    """

    name: str
    label: str
    unit: str = "%"
    statistic: Statistic = "mean"
    better: Literal["higher", "lower"] = "higher"
    level: Level = "main"
    by_category: bool = False

    @property
    def lower_is_better(self) -> bool:
        """Whether it is an error."""
        return self.better == "lower"

    @property
    def symbol(self) -> str:
        """The unit as a reader writes it."""
        return "°" if self.unit == "deg" else self.unit

    @property
    def change_unit(self) -> str:
        """Unit of a difference."""
        return "points" if self.unit == "%" else self.symbol

    @property
    def heading(self) -> str:
        """The label above a column: errors tell their unit, shares are % as a note below the table says."""
        return self.label if self.unit == "%" else self.axis

    @property
    def axis(self) -> str:
        """The label beside an axis."""
        return f"{self.label}, {self.symbol}"

    def scaled(self, value: float) -> float:
        """A value in the metric's unit."""
        return 100 * value if self.unit == "%" else value

    def text(self, value: float) -> str:
        """A value without its unit, a dash where there is none.

        >>> position = Metric("position_m", "median position", "m", "median", "lower")
        >>> position.text(0.25), Metric("AR", "AR").text(0.4567), Metric("AR", "AR").text(float("nan"))
        ('0.250', '45.7', '–')
        """
        return self._printed(value) if np.isfinite(value) else "–"

    def quantity(self, value: float) -> str:
        """A value with its unit.

        >>> Metric("AR", "AR").quantity(0.5), Metric("turn", "turn", "deg", "median", "lower").quantity(7.5)
        ('50.0 %', '7.50°')
        """
        return self.text(value) + ("" if self.unit == "deg" else " ") + self.symbol

    def change(self, value: float) -> str:
        """A signed difference without its unit.

        >>> Metric("AR", "AR").change(0.034), Metric("AR", "AR").change(-0.0001)
        ('+3.4', '+0.0')
        """
        return self._printed(value, "+") if np.isfinite(value) else "–"

    def gain(self, difference: float) -> float:
        """A difference, positive where it is for the better."""
        return -difference if self.lower_is_better else difference

    def _printed(self, value: float, sign: str = "") -> str:
        return f"{self.scaled(value):{sign}z.{_DIGITS.get(self.unit, 2)}f}"  # z: a zero has no minus


def describe_units(metrics: Iterable[Metric]) -> str:
    """In what the scores of a table are.

    >>> describe_units([Metric("AR", "AR"), Metric("turn", "turn", "deg", "median", "lower")])
    'Medians of errors in °, lower is better; other scores in %'
    """
    chosen = list(metrics)
    errors = dict.fromkeys(metric.symbol for metric in chosen if metric.lower_is_better)
    if not errors:
        return "Scores in %"
    shares = "; other scores in %" if any(metric.unit == "%" for metric in chosen) else ""
    return f"Medians of errors in {' and '.join(errors)}, lower is better{shares}"


@dataclass(frozen=True)
class Curve:
    """Share of the targets within an error: ``label`` names the error and its unit, ``x`` is in it, ``y`` in 0..1."""

    label: str
    x: list[float]
    y: list[float]
    log: bool = False
    """Whether x belongs on a logarithmic axis."""

    @classmethod
    def of_errors(cls, label: str, errors: Array, limits: Array, log: bool = True) -> "Curve":
        """Share of the errors ``[N]`` within each limit, inclusive.

        >>> Curve.of_errors("error, mm", np.array([2.0, 1.0, np.inf, 3.0]), np.array([1.0, 2.5])).y
        [0.25, 0.5]
        """
        shares = np.searchsorted(np.sort(errors), limits, side="right") / len(errors)
        return cls(label, [float(f"{limit:.4g}") for limit in limits], shares.round(6).tolist(), log)


@dataclass(frozen=True, eq=False)
class Places:
    """Where cameras stand and were thought to stand, metres in the world's frame.

    Attributes:
        truth, estimate: ``[N, 3]``, an image a row; an estimate that was not found is NaN.
        train: ``[M, 3]`` of the training images, M may be 0.
        up: ``[3]`` where the upper edges of the images point in the mean; None where they point all about, or unknown.
    """

    truth: Array
    estimate: Array
    train: Array = field(default_factory=lambda: np.zeros((0, 3)))
    up: Array | None = None

    def __post_init__(self) -> None:
        """Refuse places that do not fit together (``ValueError``)."""
        shapes = self.truth.shape, self.estimate.shape
        if shapes[0] != shapes[1] or not all(array.shape[1:] == (3,) for array in (self.truth, self.train)):
            raise ValueError(f"places of shapes {shapes[0]}, {shapes[1]}, {self.train.shape}, expected [N, 3]")
        if self.up is not None and not np.linalg.norm(self.up) > 0.5:
            object.__setattr__(self, "up", None)

    @property
    def errors(self) -> Array:
        """``[N]`` distances, metres; NaN without an estimate."""
        distances: Array = np.linalg.norm(self.estimate - self.truth, axis=1)
        return distances


@dataclass(frozen=True, eq=False)
class Turns:
    """How things are turned and were thought to be turned: azimuth, elevation, in-plane rotation, degrees.

    Attributes:
        truth, estimate: ``[N, 3]``, a target a row; an estimate that was not found is NaN.
        pca, tsne: ``[M, 2]`` maps of the embeddings of some targets, M may be 0.
        rows: ``[M]`` which targets these are.
    """

    truth: Array
    estimate: Array
    pca: Array = field(default_factory=lambda: np.zeros((0, 2)))
    tsne: Array = field(default_factory=lambda: np.zeros((0, 2)))
    rows: Array = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit together (``ValueError``)."""
        shapes = [self.truth.shape, self.estimate.shape, self.pca.shape, self.tsne.shape, self.rows.shape]
        count, mapped = len(self.truth), len(self.rows)
        if shapes != [(count, 3), (count, 3), (mapped, 2), (mapped, 2), (mapped,)]:
            raise ValueError(f"turns of shapes {shapes}, expected [N, 3] twice, [M, 2] twice, [M]")

    @property
    def mapped(self) -> NDArray[np.int64]:
        """``rows`` as numbers of targets."""
        return self.rows.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model, of one seed, measured on one test set.

    Attributes:
        metrics: the most prominent first. scores: of each metric that has a finite one.
        outcomes: metric name to ``[N]``, targets in the same order for every model.
        labels: of each target its object or category; empty where there is but one.
        curves: by the name of the metric that they show more of.
        targets, missed: number of targets, and of those for which no pose was given.
        notes: what was left out and why.
        stage: the model, as teacher, student, distilled or exported. boxes: where crops came from.
        baseline: what a naive baseline does, in a few words; empty for all others.
        parameters, megabytes, gmacs: what it costs; None where unknown.
        places: of cameras. turns: of things of categories. errors: of objects, in which way their poses are off.
    """

    metrics: tuple[Metric, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, Array] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    curves: dict[str, Curve] = field(default_factory=dict)
    targets: int = 0
    missed: int = 0
    notes: tuple[str, ...] = ()
    stage: str = ""
    seed: int = 0
    dataset: str = ""
    boxes: str = ""
    baseline: str = ""
    parameters: float | None = None
    megabytes: float | None = None
    gmacs: float | None = None
    places: Places | None = None
    turns: Turns | None = None
    errors: ErrorAnalysis | None = None

    @classmethod
    def of(cls, outcomes: Mapping[Metric, Array], labels: Iterable[object] = (), **about: Any) -> "Evaluation":
        """Score the outcomes of every metric.

        >>> hits = Metric("hits", "hits")
        >>> Evaluation.of({hits: np.array([1.0, 0.0, 1.0, 1.0])}).scores
        {'hits': 0.75}
        """
        names = tuple(map(str, labels))
        scores = {
            metric.name: score(values, metric.statistic, names if metric.by_category else ())
            for metric, values in outcomes.items()
        }
        named = {metric.name: values for metric, values in outcomes.items()}
        targets = max((len(values) for values in named.values()), default=0)
        finite = {name: value for name, value in scores.items() if np.isfinite(value)}
        return cls(tuple(outcomes), finite, named, names, targets=targets, **about)

    def beside(self, other: "Evaluation") -> "Evaluation":
        """The same with the metrics of another one, of the same poses and targets, after its own."""
        return replace(
            self,
            metrics=(*self.metrics, *other.metrics),
            scores=self.scores | other.scores,
            outcomes=self.outcomes | other.outcomes,
        )

    def led_by(self, name: str) -> "Evaluation":
        """The same with one metric as the headline, as ``AR`` with the boxes of a detector."""
        led = [replace(m, level="main") if m.level == "headline" else m for m in self.metrics if m.name != name]
        first = [replace(metric, level="headline") for metric in self.metrics if metric.name == name]
        return replace(self, metrics=(*first, *led))

    def groups(self, metric: Metric) -> tuple[str, ...]:
        """The category of each target, where the metric is a mean over categories."""
        return self.labels if metric.by_category else ()

    def interval(self, metric: Metric) -> Interval:
        """The score with its 95 % bootstrap interval over the targets."""
        return interval(self.outcomes[metric.name], metric.statistic, self.groups(metric))

    def intervals(self) -> dict[str, list[float | None]]:
        """Low and high end for each metric, as plain json."""
        found = {metric.name: self.interval(metric) for metric in self.metrics}
        return {name: _plain(np.array([ends.low, ends.high]), 6) for name, ends in found.items()}

    def rows_by_label(self) -> dict[str, NDArray[np.bool_]]:
        """The mask ``[N]`` of each object's or category's targets; empty where there is but one."""
        labels = np.array(self.labels)
        return {name: labels == name for name in sorted(set(self.labels), key=lambda name: (len(name), name))}

    def by_label(self, metric: Metric) -> dict[str, float]:
        """The score of each object or category; empty where there is but one."""
        values = self.outcomes.get(metric.name, np.zeros(0))
        rows = self.rows_by_label() if len(values) else {}
        return {name: score(values[mask], metric.statistic) for name, mask in rows.items()}

    def to_dict(self) -> dict[str, Any]:
        """A record of ``evaluation.json``: plain values, outcomes to six digits; what is not finite is None."""
        costs = {name: getattr(self, name) for name in _COSTS if getattr(self, name) is not None}
        places = vars(self.places) if self.places else {}
        turns = vars(self.turns) if self.turns else {}
        errors = vars(self.errors) if self.errors else {}
        return {
            "stage": self.stage,
            **{name: getattr(self, name) for name in _ABOUT},
            **costs,
            "scores": self.scores,
            "notes": list(self.notes),
            "metrics": [asdict(metric) for metric in self.metrics],
            "labels": list(self.labels),
            "outcomes": {name: _plain(values, 6) for name, values in self.outcomes.items()},
            "curves": {name: asdict(curve) for name, curve in self.curves.items()},
            "places": {name: _plain(array, 3) for name, array in places.items() if array is not None and len(array)},
            "turns": {name: _plain(array, 3) for name, array in turns.items() if len(array)},
            "errors": {name: _plain(array, 6) for name, array in errors.items()},
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Evaluation":
        """A record of ``evaluation.json``.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is not one, or one of before metrics were declared.
        """
        outcomes = {name: np.array(values, dtype=np.float64) for name, values in record["outcomes"].items()}
        places = {name: np.array(values, dtype=np.float64) for name, values in record["places"].items()}
        turns = {name: np.array(values, dtype=np.float64) for name, values in (record.get("turns") or {}).items()}
        errors = {name: np.array(values, dtype=np.float64) for name, values in (record.get("errors") or {}).items()}
        costs: dict[str, Any] = {name: record.get(name) for name in _COSTS}
        return cls(
            metrics=tuple(Metric(**metric) for metric in record["metrics"]),
            scores={name: float(value) for name, value in record["scores"].items()},
            outcomes={name: np.where(np.isnan(values), np.inf, values) for name, values in outcomes.items()},
            labels=tuple(record["labels"]),
            curves={name: Curve(**curve) for name, curve in record["curves"].items()},
            notes=tuple(record["notes"]),
            stage=record["stage"],
            **{name: record[name] for name in _ABOUT},
            **costs,
            places=Places(**places) if places else None,
            turns=Turns(**turns) if turns else None,
            errors=ErrorAnalysis(**errors) if errors else None,
        )


def _plain(values: Array, digits: int) -> Any:
    """Nested lists with None in place of what is not finite, which json does not know."""
    plain = values.round(digits).astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()
