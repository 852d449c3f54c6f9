"""The tables of a report: scores, objects and speed, for the page, the terminal and markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.metrics.evaluation import Metric, describe_units
from posedistill.metrics.statistics import Difference, summarise
from posedistill.report.cells import Cell, Table, plain
from posedistill.report.diagnosis import diagnose
from posedistill.report.evaluations import Group
from posedistill.report.results import RunResults, load_run

COSTS = {"params, M": ("parameters", 1e-6), "size, MB": ("megabytes", 1.0), "GMACs": ("gmacs", 1.0)}
"""Heading to a number of an evaluation, and its factor."""


def result_table(run_dir: str | Path) -> Table:
    """The main result of a run folder (an empty table, with a note, before evaluation), few metrics of all."""
    run = load_run(run_dir)
    group = run.main_group()
    if not group.items:
        return Table(run.folder.name, ["model"], [], run.notes)
    table = model_table(group.title, group, group.main_metrics[:3])
    table.notes += diagnose(run)
    return table


def result_tables(run: RunResults) -> list[Table]:
    """Everything that was measured: for each data set and source of boxes the usual metrics, then all others."""
    tables = []
    for group in run.groups():
        others = [metric for metric in group.metrics if metric not in group.main_metrics]
        tables.append(model_table(group.title, group, group.main_metrics))
        tables += [model_table(f"{group.title}: other metrics", group, others, costs=())] if others else []
    return tables + bit_tables(run)


def bit_tables(run: RunResults) -> list[Table]:
    """How often the bits of surface codes were wrong at the end of each training, by depth; none of other families."""
    rows, deepest = [], 0
    for stage, seeds in run.histories.items():
        last = [{name: values[max(values)] for name, values in seed.items() if values} for seed in seeds.values()]
        names = [f"bit_error/{depth}" for depth in range(1, 17) if any(f"bit_error/{depth}" in seed for seed in last)]
        if not names:
            continue
        deepest = max(deepest, len(names))
        effective = np.mean([seed["effective_bits"] for seed in last if "effective_bits" in seed])
        shares = [np.mean([seed[name] for seed in last if name in seed]) for name in names]
        rows.append([Cell(stage), Cell(f"{effective:.1f}"), *(Cell(f"{100 * share:.0f}") for share in shares)])
    if not rows:
        return []
    notes = ["Of training crops, running mean at the last step; effective: bits before the first wrong in over 40 %."]
    columns = ["model", "effective", *(f"bit {depth}" for depth in range(1, deepest + 1))]
    return [Table("Wrong bits, %", columns, [row + [Cell("")] * (len(columns) - len(row)) for row in rows], notes)]


def model_table(
    title: str,
    group: Group,
    metrics: Sequence[Metric],
    names: Sequence[str] | None = None,
    compared: Sequence[str] = ("distilled",),
    baseline: str = "student",
    details: Mapping[str, str] | None = None,
    costs: Sequence[str] = tuple(COSTS),
) -> Table:
    """A row a model: mean ± standard deviation over seeds, below it the difference to a baseline, and the costs.

    Args:
        names: the rows, by default all models; naive baselines stand below them.
        compared: models whose difference to ``baseline`` is told. details: model to a line below its name.
        costs: headings of ``COSTS``, shown where they are known.
    """
    names = group.names if names is None else names
    costs = [heading for heading in costs if np.isfinite([group.cost(name, COSTS[heading][0]) for name in names]).any()]
    rows = []
    for name in names:
        cells = [_score_cell(group, name, metric, baseline if name in compared else None) for metric in metrics]
        numbers = [Cell(plain(factor * group.cost(name, key))) for key, factor in (COSTS[heading] for heading in costs)]
        rows.append([Cell(name, (details or {}).get(name, "")), *cells, *numbers])
    for name, what in group.baselines.items():
        cells = [_score_cell(group, name, metric) for metric in metrics]
        rows.append([Cell(name, what), *cells, *(Cell("") for _ in costs)])
    columns = ["model", *(metric.heading for metric in metrics), *costs]
    return Table(title, columns, rows, _notes(group, metrics, names, compared, baseline))


def describe_difference(metric: Metric, difference: Difference, baseline: float = np.nan) -> str:
    """A difference with its interval where it has one; of errors, its share of the baseline's too.

    >>> describe_difference(Metric("AR", "AR"), Difference(0.034, 0.011, 0.057, "3 seeds"))
    '+3.4\\n[+1.1, +5.7] *'
    >>> position = Metric("position_m", "median position", "m", "median", "lower")
    >>> describe_difference(position, Difference(-0.04, -0.06, 0.01, "3 seeds"), 0.5)
    '-0.040 (-8 %)\\n[-0.060, +0.010]'
    >>> describe_difference(position, Difference(-0.001, np.nan, np.nan, "1 seed"), 0.5)
    '-0.001 (0 %)'
    """
    text = metric.change(difference.mean)
    if metric.lower_is_better and baseline > 0:
        share = round(100 * difference.mean / baseline)
        text += f" ({share:+d} %)" if share else " (0 %)"
    if not np.isnan(difference.low):
        text += f"\n[{metric.change(difference.low)}, {metric.change(difference.high)}]"
    return text + (" *" if difference.significant else "")


def label_table(group: Group, metric: Metric) -> Table | None:
    """Objects or categories by models in one metric, means over seeds; None when there is at most one."""
    found = {name: [item.by_label(metric) for item in group.of(name)] for name in group.names}
    labels = sorted({label for items in found.values() for item in items for label in item}, key=lambda x: (len(x), x))
    if len(labels) < 2:
        return None
    rows = []
    for label in labels:
        means = [summarise([item[label] for item in items if label in item]).mean for items in found.values()]
        rows.append(
            [Cell(label), *(Cell(metric.text(mean), heat=mean if metric.unit == "%" else None) for mean in means)]
        )
    return Table(metric.axis, ["category" if metric.by_category else "object", *found], rows)


def bench_table(bench: Sequence[Mapping[str, Any]]) -> Table | None:
    """Latency, memory and size of each benchmarked model; None when nothing was benchmarked."""
    if not bench:
        return None
    numbers = {
        "p50_ms": "p50, ms",
        "p90_ms": "p90, ms",
        "p99_ms": "p99, ms",
        "images_per_second": "images/s",
        "first_inference_ms": "first, ms",
        "peak_memory_mb": "peak memory, MiB",
        "megabytes": "file, MiB",
    }
    rows = []
    for item in bench:
        threads = {None: "", 0: "all threads", 1: "1 thread"}.get(item.get("threads"), f"{item.get('threads')} threads")
        where = ", ".join(str(part) for part in (item.get("runtime"), item.get("device"), threads) if part)
        rows.append([Cell(str(item["stage"]), where), *(Cell(plain(item.get(key))) for key in numbers)])
    return Table("", ["model", *numbers.values()], rows)


def _score_cell(group: Group, name: str, metric: Metric, baseline: str | None = None) -> Cell:
    """Mean ± standard deviation over seeds, and the difference to a baseline."""
    summary = group.summary(name, metric)
    text = metric.text(summary.mean) + ("" if np.isnan(summary.std) else f" ± {metric.text(summary.std)}")
    difference = group.difference(metric, name, baseline) if baseline else None
    if baseline is None or difference is None:
        return Cell(text)
    return Cell(text, describe_difference(metric, difference, group.summary(baseline, metric).mean))


def _notes(
    group: Group, metrics: Sequence[Metric], names: Sequence[str], compared: Sequence[str], baseline: str
) -> list[str]:
    units, counts = describe_units(metrics), {name: len(group.of(name)) for name in names}
    text = f"{units}."
    if max(counts.values(), default=0) > 1:
        seeds = ", ".join(f"{name} {count}" for name, count in counts.items())
        text = f"{units}{';' if ';' in units else ','} mean ± standard deviation over seeds ({seeds})."
    bases: dict[str, list[str]] = {}
    for metric in metrics:
        for difference in (group.difference(metric, name, baseline) for name in compared):
            labels = bases.setdefault(difference.basis, []) if difference else []
            labels += [] if metric.label in labels else [metric.label]
    if not bases:
        return [text]
    errors = any(metric.lower_is_better for metric in metrics)
    unit = "in the unit of each column (of shares: points)" if errors else "in points"
    over = "; ".join(basis if len(bases) == 1 else f"{basis} ({', '.join(labels)})" for basis, labels in bases.items())
    above = f"Below a score, its difference to {baseline} {unit} with its 95 % interval: {over}."
    star = "* marks an interval that excludes zero; it is not corrected for the number of comparisons."
    recording = "Neighbouring images of a recording err alike: over other recordings intervals would be wider."
    return [text, " ".join([above, star, *([recording] if errors else [])])]
