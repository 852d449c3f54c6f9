"""The scores of one evaluation as tables of the terminal: with intervals, by object, and how errors spread."""

from collections.abc import Mapping

import numpy as np

from posedistill.metrics.detection import DetectionScores
from posedistill.metrics.evaluation import Evaluation, Metric, describe_units
from posedistill.metrics.statistics import Interval
from posedistill.report.cells import Cell, Table
from posedistill.report.error_tables import error_tables

_PERCENTILES = (75, 90, 95)


def score_tables(evaluation: Evaluation, baselines: Mapping[str, Evaluation] | None = None) -> list[Table]:
    """Every score with its interval, beside naive baselines' ones; the usual ones by object; how errors spread."""
    tables = [_scores(evaluation, baselines or {}), _by_label(evaluation), _spread(evaluation)]
    tables += error_tables(evaluation)
    return [table for table in tables if table.rows]


def detection_tables(found: DetectionScores) -> list[Table]:
    """Average precision with intervals, and by object."""
    note = (
        f"{found.images} images, {found.instances} visible instances, {found.estimates} estimates; {found.left_out} "
        "others are left out (beyond the 100 surest of an image, of other images or objects). Intervals: images "
        "resampled. AP as BOP-24 has it passes over estimates of objects that an image does not show; AP everywhere "
        "counts them as false."
    )
    metrics, intervals = [Metric(name, name.replace("_", " ")) for name in found.scores], found.intervals()
    rows = [_with_interval(metric, intervals[metric.name]) for metric in metrics]
    tables = [Table("6D detection", ["metric", "score", "95 % interval"], rows, [note])]
    if len(found.objects) > 1:
        by_object = []
        for obj_id, scores in found.by_object().items():
            count = Cell(str(found.objects[obj_id].instances.sum()))
            by_object.append([Cell(str(obj_id)), count, *(Cell(m.text(scores[m.name])) for m in metrics)])
        tables.append(Table("", ["object", "instances", *(m.label for m in metrics)], by_object, ["Scores in %."]))
    return tables


def _scores(evaluation: Evaluation, baselines: Mapping[str, Evaluation]) -> Table:
    rows = []
    for metric in evaluation.metrics:
        others = [metric.quantity(other.scores.get(metric.name, np.nan)) for other in baselines.values()]
        rows.append([*_with_interval(metric, evaluation.interval(metric)), *map(Cell, others)])
    note = f"{evaluation.targets} targets, {evaluation.missed} of them without a pose. Intervals: targets resampled."
    return Table("", ["metric", "score", "95 % interval", *baselines], rows, [note])


def _with_interval(metric: Metric, found: Interval) -> list[Cell]:
    """Label, score and interval."""
    span = f"[{metric.text(found.low)}, {metric.text(found.high)}]"
    return [Cell(metric.label), Cell(metric.quantity(found.value)), Cell(span)]


def _by_label(evaluation: Evaluation) -> Table:
    """A row for each object or category, where there are several."""
    metrics = [metric for metric in evaluation.metrics if metric.level != "detail"]
    counts = {label: evaluation.labels.count(label) for label in dict.fromkeys(evaluation.labels)}
    scores = {metric: evaluation.by_label(metric) for metric in metrics}
    names = list(next(iter(scores.values()), {})) if len(counts) > 1 else []
    rows = [[Cell(n), Cell(str(counts[n])), *(Cell(m.text(scores[m][n])) for m in metrics)] for n in names]
    columns = ["object", "targets", *(metric.heading for metric in metrics)]
    return Table("", columns, rows, [f"{describe_units(metrics)}."])


def _spread(evaluation: Evaluation) -> Table:
    """Means and percentiles of errors: which error so many of the targets do not exceed."""
    metrics = [metric for metric in evaluation.metrics if metric.lower_is_better and metric.name in evaluation.outcomes]
    if not metrics:
        return Table("", [], [])

    def row(name: str, values: Mapping[Metric, float]) -> list[Cell]:
        return [Cell(name), *(Cell(metric.text(value)) for metric, value in values.items())]

    errors = {metric: evaluation.outcomes[metric.name] for metric in metrics}
    rows = [row("mean", {metric: float(values.mean()) for metric, values in errors.items()})]
    for percent in _PERCENTILES:
        # The nearest rank: no infinite neighbour is mixed in.
        ranked = {m: float(np.percentile(values, percent, method="inverted_cdf")) for m, values in errors.items()}
        rows.append(row(f"{percent} %", ranked))
    columns = [f"{metric.label.removeprefix('median ')}, {metric.symbol}" for metric in metrics]
    return Table("", ["errors", *columns], rows)
