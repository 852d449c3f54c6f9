"""How a report speaks of each metric: its name, unit and digits, its statistic, and which way is better."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from posedistill.metrics.statistics import Statistic

HEADLINE_METRICS = (
    "add_0.1d",
    "AR",
    "proj_5px",
    "cmdeg_5_5",
    "position_m",
    "orientation_deg",
    "recall_0.05m_5deg",
    "recall_0.25m_2deg",
    "recall_0.5m_5deg",
    "recall_5m_10deg",
)
"""The metric a report leads with is the first of these that was measured; with detector boxes ``AR`` comes first,
for there the score is a whole benchmark's and not one threshold's."""

_ERRORS = {"_m": ("m", 3), "_deg": ("°", 2)}
"""Ending of a metric that is the median of errors: unit and digits."""


@dataclass(frozen=True)
class Metric:
    """A metric by its name in ``evaluation.json``.

    Names that end in ``_m`` or ``_deg`` are medians of errors, in metres or degrees: the lower the better. All others
    are means of outcomes in 0..1, shown in %: the higher the better.
    """

    name: str

    @cached_property
    def unit(self) -> str:
        """``m``, ``°`` or ``%``."""
        return self._error[0] if self._error else "%"

    @property
    def lower_is_better(self) -> bool:
        """Whether it is an error."""
        return self._error is not None

    @property
    def statistic(self) -> Statistic:
        """What makes a score of the outcomes of single targets."""
        return "median" if self.lower_is_better else "mean"

    @property
    def change_unit(self) -> str:
        """Unit of a difference."""
        return self.unit if self.lower_is_better else "points"

    @property
    def label(self) -> str:
        """The name a reader knows it by.

        >>> [Metric(name).label for name in ("add_0.1d", "cmdeg_5_5", "position_m", "recall_0.05m_5deg", "mine")]
        ['ADD(-S) 0.1 d', '5 cm 5°', 'median position', 'within 0.05 m, 5°', 'mine']
        """
        name = self.name
        if self.lower_is_better:
            return f"median {name.rpartition('_')[0].replace('_', ' ')}"
        if name.startswith("add_") and name.endswith("d"):
            return f"ADD(-S) {name[4:-1]} d"
        if name.startswith("proj_") and name.endswith("px"):
            return f"2D proj. {name[5:-2]} px"
        if name.startswith("cmdeg_") and name.count("_") == 2:
            centimetres, degrees = name.split("_")[1:]
            return f"{centimetres} cm {degrees}°"
        if name.startswith("recall_") and name.endswith("deg") and name.count("m_") == 1:
            metres, degrees = name[7:-3].split("m_")
            return f"within {metres} m, {degrees}°"
        return {"add_auc": "ADD(-S) AUC"}.get(name, name.replace("AR_", "AR ") if name.startswith("AR_") else name)

    @property
    def heading(self) -> str:
        """The label above a column: errors tell their unit, shares are % as a note below the table says."""
        return f"{self.label}, {self.unit}" if self.lower_is_better else self.label

    @property
    def axis(self) -> str:
        """The label beside an axis."""
        return f"{self.label}, {self.unit}"

    def text(self, value: float) -> str:
        """A value without its unit, a dash where there is none.

        >>> Metric("position_m").text(0.25), Metric("AR").text(0.4567), Metric("AR").text(float("nan"))
        ('0.250', '45.7', '–')
        """
        return self._printed(value) if np.isfinite(value) else "–"

    def quantity(self, value: float) -> str:
        """A value with its unit.

        >>> Metric("position_m").quantity(0.25), Metric("orientation_deg").quantity(7.5), Metric("AR").quantity(0.5)
        ('0.250 m', '7.50°', '50.0 %')
        """
        return self.text(value) + ("" if self.unit == "°" else " ") + self.unit

    def change(self, value: float) -> str:
        """A signed difference without its unit.

        >>> Metric("AR").change(0.034), Metric("position_m").change(-0.0301), Metric("AR").change(-0.0001)
        ('+3.4', '-0.030', '+0.0')
        """
        return self._printed(value, "+") if np.isfinite(value) else "–"

    def scaled(self, value: float) -> float:
        """A value in the metric's unit."""
        return value if self.lower_is_better else 100 * value

    def gain(self, difference: float) -> float:
        """A difference, positive where it is for the better.

        >>> Metric("position_m").gain(-0.25), Metric("AR").gain(0.25)
        (0.25, 0.25)
        """
        return -difference if self.lower_is_better else difference

    @cached_property
    def _error(self) -> tuple[str, int] | None:
        return next((about for ending, about in _ERRORS.items() if self.name.endswith(ending)), None)

    def _printed(self, value: float, sign: str = "") -> str:
        digits = self._error[1] if self._error else 1
        return f"{round(self.scaled(value), digits) + 0.0:{sign}.{digits}f}"  # a zero has no minus


def percent(value: float) -> str:
    """0..1 as a percentage with one decimal, a dash where there is none.

    >>> percent(0.4567), percent(float("nan"))
    ('45.7', '–')
    """
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def describe_units(metrics: Sequence[Metric]) -> str:
    """In what the scores of a table are.

    >>> describe_units([Metric("AR")])
    'Scores in %'
    >>> describe_units([Metric("position_m"), Metric("recall_0.05m_5deg")])
    'Medians of errors in m, lower is better; shares of images in %'
    """
    units = list(dict.fromkeys(metric.unit for metric in metrics))
    errors = [unit for unit in units if unit != "%"]
    if not errors:
        return "Scores in %"
    shares = "; shares of images in %" if "%" in units else ""
    return f"Medians of errors in {' and '.join(errors)}, lower is better{shares}"
