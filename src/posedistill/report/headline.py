"""The result of a run in two sentences: what was reached, and how sure it is."""

import numpy as np

from posedistill.metrics.evaluation import Metric
from posedistill.metrics.statistics import Difference
from posedistill.report.evaluations import Group


def headline(group: Group) -> tuple[str, str]:
    """What was reached, as far as it was measured, and how certain it is.

    >>> headline(Group())
    ('Nothing was evaluated yet.', '')
    """
    names, metrics = group.names, group.headline
    if not metrics or not names:
        return "Nothing was evaluated yet.", ""
    best = next((name for name in ("distilled", "exported", "student", "teacher") if name in names), names[0])
    reached = [f"{metric.quantity(group.summary(best, metric).mean)} in {metric.label}" for metric in metrics]
    text = f"{_name(best)} reaches {' and '.join(reached)}"
    if best != "teacher" and "teacher" in names:
        ratio = group.cost("teacher", "megabytes") / group.cost(best, "megabytes")
        size = f", {ratio:.0f} times its size," if ratio >= 1.5 else ""
        text += f"; the teacher{size} {_scores(group, 'teacher', ' and ')}"
    baselines = "; ".join(f"{name} {_scores(group, name, ', ')}" for name in group.baselines)
    certainty = [*_gains(group), *([f"Naive baselines: {baselines}."] if baselines else [])]
    return f"{text}.", " ".join(certainty)


def _scores(group: Group, name: str, between: str) -> str:
    return between.join(metric.quantity(group.summary(name, metric).mean) for metric in group.headline)


def _name(stage: str) -> str:
    return "The distilled student" if stage == "distilled" else f"The {stage} model"


def _gains(group: Group) -> list[str]:
    """A sentence for each of the headline's metrics; how intervals were found is said once."""
    sentences, said = [], ""
    for metric in group.headline:
        difference = group.difference(metric, "distilled", "student")
        if difference is not None:
            basis = "" if difference.basis == said else difference.basis
            sentences.append(_gain(metric, difference, group.summary("student", metric).mean, basis))
            said = difference.basis
    return sentences


def _gain(metric: Metric, difference: Difference, baseline: float, basis: str) -> str:
    tie = metric.text(abs(difference.mean)) == metric.text(0.0)
    verb = "does not change" if tie else "improves" if metric.gain(difference.mean) > 0 else "worsens"
    text = f"Distillation {verb} the {metric.label} of the same student alone"
    text += "" if tie else f" by {_amount(metric, abs(difference.mean))}"
    if metric.lower_is_better and baseline > 0 and not tie:
        text += f", {100 * abs(difference.mean) / baseline:.0f} %"
    if np.isnan(difference.low):
        return f"{text}; with {difference.basis} and no single outcomes, chance cannot be ruled out."
    # The interval is of what the sentence says: of a decrease where an error is said to improve.
    low, high = sorted((-1 if difference.mean < 0 else 1) * end for end in (difference.low, difference.high))
    text += f" (95 % interval {metric.text(low)} to {_amount(metric, high)}{', ' if basis else ''}{basis})"
    return f"{text}{'' if difference.significant else '; the interval includes zero'}."


def _amount(metric: Metric, value: float) -> str:
    unit = metric.change_unit
    return metric.text(value) + (unit if unit == "°" else f" {unit}")
