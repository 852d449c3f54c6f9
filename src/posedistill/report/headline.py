"""The result of a run in two sentences: what was reached, and how sure it is."""

from collections.abc import Sequence

import numpy as np

from posedistill.report.metrics import Metric
from posedistill.report.results import REFERENCES, Evaluation, RunResults, headline_metric, scores_of
from posedistill.report.statistics import Difference, summarise
from posedistill.report.tables import compare, mean_of, variants_of


def headline(run: RunResults) -> tuple[str, str]:
    """The result of the run in one sentence, as far as it was measured, and what says how certain it is."""
    group = run.main_group()
    metric = headline_metric(group)
    if metric is None or not variants_of(group):
        return "Nothing was evaluated yet.", ""
    means = {name: summarise(scores_of(group, name, metric)).mean for name in variants_of(group)}
    best = next((name for name in ("distilled", "exported", "student", "teacher") if name in means), next(iter(means)))
    lead = _errors_reached if Metric(metric).lower_is_better else _share_reached
    certainty = [*_gains(group), _references(group)]
    return f"{lead(group, metric, best, means)}.", " ".join(filter(None, certainty))


def headline_metrics(group: Sequence[Evaluation]) -> list[str]:
    """What a page leads with: one metric, of cameras position and orientation."""
    metric = headline_metric(list(group))
    both = ["position_m", "orientation_deg"]
    if metric == both[0] and any(both[1] in item.scores for item in group):
        return both
    return [] if metric is None else [metric]


def _share_reached(group: Sequence[Evaluation], metric: str, best: str, means: dict[str, float]) -> str:
    about = Metric(metric)
    label = about.label + ("" if metric.startswith("AR") or metric.endswith("auc") else " recall")
    if best == "teacher" or not means.get("teacher", 0) > 0:
        return f"{_name(best)} reaches {about.quantity(means[best])} in {label}"
    ratio = _teachers_size(group, best)
    size = f" at 1/{ratio:.0f} of its size" if ratio >= 1.5 else ""
    return f"{_name(best)} keeps {100 * means[best] / means['teacher']:.0f} % of the teacher's {label}{size}"


def _errors_reached(group: Sequence[Evaluation], metric: str, best: str, means: dict[str, float]) -> str:
    def errors(variant: str) -> str:
        scores = {name: scores_of(group, variant, name) for name in headline_metrics(group)}
        return " and ".join(Metric(name).quantity(summarise(values).mean) for name, values in scores.items())

    text = f"{_name(best)} is off by {errors(best)} in the median"
    if best == "teacher" or "teacher" not in means:
        return text
    ratio = _teachers_size(group, best)
    return f"{text}, the teacher{f', {ratio:.0f} times its size,' if ratio >= 1.5 else ''} by {errors('teacher')}"


def _teachers_size(group: Sequence[Evaluation], variant: str) -> float:
    """How many times as large the teacher is."""
    return mean_of(group, "teacher", _megabytes) / mean_of(group, variant, _megabytes)


def _megabytes(item: Evaluation) -> float | None:
    return item.megabytes


def _name(variant: str) -> str:
    return "The distilled student" if variant == "distilled" else f"The {variant} model"


def _gains(group: Sequence[Evaluation]) -> list[str]:
    """A sentence for each of the headline's metrics; how intervals were found is said once."""
    sentences, said = [], ""
    for metric in headline_metrics(group):
        difference = compare(group, metric, "student", "distilled")
        if difference is None:
            continue
        basis = "" if difference.basis == said else difference.basis
        if Metric(metric).lower_is_better:
            baseline = summarise(scores_of(group, "student", metric)).mean
            sentences.append(_change_of_error(metric, difference, baseline, basis))
        else:
            sentences.append(_gain_in_points(metric, difference, basis))
        said = difference.basis
    return sentences


def _gain_in_points(metric: str, difference: Difference, basis: str) -> str:
    points, about = 100 * difference.mean, Metric(metric)
    text = f"Distillation {'adds' if points >= 0 else 'costs'} {abs(points):.1f} points over the same student alone"
    return text + _certainty(difference, f"{about.change(difference.low)} to {about.change(difference.high)}", basis)


def _change_of_error(metric: str, difference: Difference, baseline: float, basis: str) -> str:
    about = Metric(metric)
    lowers = difference.mean <= 0
    text = f"Distillation {'lowers' if lowers else 'raises'} the {about.label} error of the same student alone by "
    text += about.quantity(abs(difference.mean))
    text += f", {100 * abs(difference.mean) / baseline:.0f} %" if baseline > 0 else ""
    # The interval is of what the sentence says, so of a decrease where it says "lowers".
    low, high = (-difference.high, -difference.low) if lowers else (difference.low, difference.high)
    return text + _certainty(difference, f"{about.text(low)} to {about.quantity(high)}", basis)


def _certainty(difference: Difference, interval: str, basis: str) -> str:
    if np.isnan(difference.low):
        return f"; with {difference.basis} and no single outcomes, chance cannot be ruled out."
    found = f" (95 % interval {interval}{', ' if basis else ''}{basis})"
    return f"{found}{'' if difference.significant else '; the interval includes zero'}."


def _references(group: Sequence[Evaluation]) -> str:
    """What costs nothing: the trivial answers in the headline's metrics."""
    parts = []
    for name in REFERENCES:
        values = [(one, scores_of(group, name, one)) for one in headline_metrics(group)]
        if all(scores for _, scores in values):
            parts.append(f"{name} {', '.join(Metric(one).quantity(summarise(scores).mean) for one, scores in values)}")
    return f"For comparison: {'; '.join(parts)}." if parts else ""
