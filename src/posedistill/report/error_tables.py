"""Error analysis as tables: depth, lateral and rotation errors of matched poses; by object, by visible share."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from posedistill.metrics.error_analysis import ErrorAnalysis, median_and_spread, median_and_spread_intervals
from posedistill.metrics.evaluation import Evaluation, Metric
from posedistill.metrics.statistics import Interval, summarise
from posedistill.report.cells import Cell, Table
from posedistill.report.evaluations import Group

QUANTITIES = (
    Metric("depth", "depth", "%", "median", "lower"),
    Metric("depth_mm", "depth", "mm", "median", "lower"),
    Metric("lateral_mm", "lateral", "mm", "median", "lower"),
    Metric("rotation_deg", "rotation", "deg", "median", "lower"),
)
"""Columns of an ``ErrorAnalysis`` and how they are printed; those of depth have a sign."""
_COLUMNS = ("depth %", "spread %", "depth mm", "spread mm", "lateral mm", "rotation °")
"""As short as 80 characters for a whole row ask."""
VISIBLE_EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Ends of the ranges of visible shares by which errors are told apart."""
DEFINITION = (
    "Each target is held against the nearest estimate by ADD(-S), the closest pairs first, each estimate once, without "
    "a threshold. Depth: along the ray to the object's origin, above 0 too far, % of its distance; lateral: across "
    "the ray; rotation: up to symmetry. Medians; spread: 1.4826 median absolute deviations."
)


def error_tables(evaluation: Evaluation) -> list[Table]:
    """Of one evaluation for the terminal: over all with intervals, by object, by visible share; none of cameras."""
    errors = evaluation.errors
    if errors is None or len(errors) == 0:
        return []
    objects = evaluation.rows_by_label()
    ranges = {f"{100 * low:.0f}–{100 * high:.0f} %": rows for low, high, rows in visible_ranges(errors.visible)}
    tables = [_overall(errors)]
    tables += [_by_rows("object", [errors], objects)] if len(objects) > 1 else []
    return tables + ([_by_rows("visible", [errors], ranges)] if len(ranges) > 1 else [])


def model_error_table(group: Group, title: str = "") -> Table | None:
    """A row a model: medians and spreads, means over seeds, with intervals; None where no errors were kept."""
    rows = []
    for name in group.names:
        seeds = _of_seeds(group, name)
        if not seeds:
            continue
        cells = [Cell(_missed(seeds))]
        for metric in QUANTITIES:
            median, spread = median_and_spread_intervals(np.stack([getattr(item, metric.name) for item in seeds]))
            cells.append(Cell(_text(metric, median.value), _ends(metric, median)))
            if _signed(metric):
                cells.append(Cell(metric.text(spread.value), _ends(metric, spread, signed=False)))
        rows.append([Cell(name), *cells])
    if not rows:
        return None
    note = f"{DEFINITION} In brackets 95 % intervals: targets and seeds resampled."
    return Table(f"{title or group.title}: error analysis", ["model", "missed", *_COLUMNS], rows, [note])


def object_error_tables(group: Group) -> list[Table]:
    """For each model its errors by object, means over seeds; none where there is but one object."""
    tables = []
    for name in group.names:
        seeds, objects = _of_seeds(group, name), group.of(name)[0].rows_by_label()
        if seeds and len(objects) > 1:
            tables.append(_by_rows("object", seeds, objects, f"{name}: error analysis"))
    return tables


def visible_ranges(visible: NDArray[np.float64]) -> Iterator[tuple[float, float, NDArray[np.bool_]]]:
    """Ends of each range of visible shares that holds any target, and the mask ``[N]`` of its targets."""
    place = np.clip(np.searchsorted(VISIBLE_EDGES, visible, side="right") - 1, 0, len(VISIBLE_EDGES) - 2)
    for index in np.unique(place).tolist():
        yield VISIBLE_EDGES[index], VISIBLE_EDGES[index + 1], place == index


def _of_seeds(group: Group, name: str) -> list[ErrorAnalysis]:
    """Of a model, as far as its seeds were measured on the same targets."""
    found = [item.errors for item in group.of(name) if item.errors]
    return [errors for errors in found if len(errors) == len(found[0])]


def _overall(errors: ErrorAnalysis) -> Table:
    rows = []
    for metric in QUANTITIES:
        median, spread = median_and_spread_intervals(getattr(errors, metric.name)[None])
        texts = [_text(metric, median.value), _ends(metric, median)]
        texts += [metric.text(spread.value), _ends(metric, spread, signed=False)]
        rows.append([Cell(metric.axis), *map(Cell, texts)])
    note = f"{len(errors) - errors.missed} of {len(errors)} targets have an estimate, {errors.missed} are missed."
    columns = ["error", "median", "95 % interval", "spread", "95 % interval"]
    return Table("Error analysis", columns, rows, [f"{note} {DEFINITION}"])


def _by_rows(
    heading: str, seeds: Sequence[ErrorAnalysis], groups: Mapping[str, NDArray[np.bool_]], title: str = ""
) -> Table:
    """A row for each group of targets: counts, medians and spreads, means over seeds."""
    rows = []
    for name, mask in groups.items():
        parts = [errors.select(mask) for errors in seeds]
        cells: list[Cell] = []
        for metric in QUANTITIES:
            found = np.mean([median_and_spread(getattr(part, metric.name)) for part in parts], axis=0)
            cells.append(Cell(_text(metric, found[0])))
            cells += [Cell(metric.text(found[1]))] if _signed(metric) else []
        rows.append([Cell(name), Cell(str(int(mask.sum()))), Cell(_missed(parts)), *cells])
    return Table(title, [heading, "targets", "missed", *_COLUMNS], rows)


def _missed(seeds: Sequence[ErrorAnalysis]) -> str:
    return f"{summarise([float(errors.missed) for errors in seeds]).mean:.3g}"


def _ends(metric: Metric, found: Interval, signed: bool = True) -> str:
    if not np.isfinite(found.low):
        return ""
    low, high = (_text(metric, end) if signed else metric.text(end) for end in (found.low, found.high))
    return f"[{low}, {high}]"


def _text(metric: Metric, value: float) -> str:
    return metric.change(value) if _signed(metric) else metric.text(value)


def _signed(metric: Metric) -> bool:
    return metric.name.startswith("depth")
