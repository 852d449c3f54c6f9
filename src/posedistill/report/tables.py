"""The tables of a report: results, objects and speed, for the page, the terminal and markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from posedistill.report.cells import Cell, Table
from posedistill.report.metrics import HEADLINE_METRICS, Metric, describe_units, percent
from posedistill.report.results import (
    REFERENCES,
    Evaluation,
    RunResults,
    headline_metric,
    load_run,
    scores_of,
    variant_rank,
)
from posedistill.report.statistics import Difference, paired_difference, summarise

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table as RichTable


BOXES = {"gt": "ground-truth boxes", "detector": "detector boxes"}
"""Words for the two sources of boxes."""


def compare(group: Sequence[Evaluation], metric: str, first: str, second: str) -> Difference | None:
    """``second - first`` in ``metric`` over the seeds both were run with; None when they share no seed.

    The outcomes of single targets are used when both have them and their statistic is the score.
    """
    runs = [{item.seed: item for item in group if item.variant == name} for name in (first, second)]
    seeds = sorted(seed for seed in runs[0] if seed in runs[1] and _has(metric, runs[0][seed], runs[1][seed]))
    if not seeds:
        return None
    outcomes = [[run[seed].outcomes.get(metric, []) for seed in seeds] for run in runs]
    scores = [[run[seed].scores[metric] for seed in seeds] for run in runs]
    lengths = {len(row) for rows in outcomes for row in rows}
    statistic = Metric(metric).statistic
    if len(lengths) == 1 and lengths != {0}:
        expected = (np.median if statistic == "median" else np.mean)(outcomes, axis=2)
        if np.allclose(expected, scores, atol=1e-3):
            return paired_difference(outcomes[0], outcomes[1], statistic=statistic)
    return paired_difference(scores[0], scores[1])


def result_tables(run: RunResults) -> list[Table]:
    """One table for each data set and source of boxes: a row a variant, mean ± std over seeds, and the costs."""
    return [_result_table(group, _metrics(group)) for group in run.groups().values()]


def per_object_table(group: Sequence[Evaluation], metric: str) -> Table | None:
    """Objects by variants in one metric, means over seeds; None when there is at most one object."""
    variants = variants_of(group)
    objects = sorted({name for item in group for name in item.per_object}, key=lambda name: (len(name), name))
    if len(objects) < 2:
        return None
    rows = []
    for name in objects:
        means = [mean_of(group, variant, _object_score(name, metric)) for variant in variants]
        rows.append([Cell(name), *(Cell(percent(mean), heat=None if np.isnan(mean) else mean) for mean in means)])
    return Table(f"{Metric(metric).label} by object, %", ["object", *variants], rows)


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
        rows.append([Cell(str(item["variant"]), where), *(Cell(plain(item.get(key))) for key in numbers)])
    return Table("", ["model", *numbers.values()], rows)


def latencies(run: RunResults, group: Sequence[Evaluation]) -> tuple[dict[str, float], str]:
    """Milliseconds an image for each variant, and what was timed.

    The bench (p50) where it covers two variants or more, else the time evaluation took; the two are never mixed,
    for they time different things.
    """
    bench = {str(item["variant"]): item.get("p50_ms") for item in reversed(run.bench)}
    timed = {name: float(value) for name, value in bench.items() if isinstance(value, int | float) and value > 0}
    if len(timed.keys() & {item.variant for item in group}) >= 2:
        return timed, "latency p50"
    means = {name: 1e3 * mean_of(group, name, lambda item: item.seconds_per_image) for name in variants_of(group)}
    return {name: value for name, value in means.items() if value > 0}, "evaluation time an image"


def result_table(run_dir: "str | Path") -> "RichTable":
    """The main result of a run folder as a table for the terminal (an empty one, with a note, before evaluation)."""
    return _main_table(run_dir).to_rich()


def result_markdown(run_dir: "str | Path") -> str:
    """The main result of a run folder as a markdown table."""
    return _main_table(run_dir).to_markdown()


def describe_group(group: Sequence[Evaluation]) -> str:
    """On what the evaluations of a group were made: data set and source of boxes."""
    boxes = BOXES.get(group[0].boxes, group[0].boxes)
    return ", ".join(part for part in (group[0].dataset, boxes) if part)


def score_cell(metric: str, values: Sequence[float], detail: str = "") -> Cell:
    """Mean ± standard deviation over seeds.

    >>> str(score_cell("position_m", [0.3, 0.5, 0.4]))
    '0.400 ± 0.100'
    """
    summary, about = summarise(values), Metric(metric)
    return Cell(about.text(summary.mean) + ("" if np.isnan(summary.std) else f" ± {about.text(summary.std)}"), detail)


def describe_difference(metric: str, difference: Difference, baseline: float = np.nan) -> Cell:
    """A difference with its interval where it has one; of errors, its share of the baseline's too.

    >>> str(describe_difference("AR", Difference(0.034, 0.011, 0.057, "3 seeds")))
    '+3.4 [+1.1, +5.7]'
    >>> str(describe_difference("position_m", Difference(-0.04, -0.06, -0.01, "3 seeds"), 0.5))
    '-0.040 (-8 %) [-0.060, -0.010]'
    """
    about = Metric(metric)
    mean = about.change(difference.mean)
    if about.lower_is_better and baseline > 0:
        mean += f" ({round(100 * difference.mean / baseline) + 0:+d} %)"
    if np.isnan(difference.low):
        return Cell(mean)
    return Cell(mean, f"[{about.change(difference.low)}, {about.change(difference.high)}]")


def reference_rows(group: Sequence[Evaluation], metrics: Sequence[str], blank: int = 0) -> list[list[Cell]]:
    """Rows of the trivial answers that were measured, with so many empty cells behind the scores."""
    rows = []
    for name in [name for name in REFERENCES if any(item.variant == name for item in group)]:
        cells = [score_cell(metric, scores_of(group, name, metric)) for metric in metrics]
        rows.append([Cell(name, REFERENCES[name]), *cells, *(Cell("") for _ in range(blank))])
    return rows


def _has(metric: str, *items: Evaluation) -> bool:
    return all(metric in item.scores for item in items)


def _object_score(name: str, metric: str) -> Callable[[Evaluation], float | None]:
    return lambda item: item.per_object.get(name, {}).get(metric)


def variants_of(group: Sequence[Evaluation]) -> list[str]:
    """Networks in the order of a report, without the trivial answers."""
    return sorted({item.variant for item in group} - REFERENCES.keys(), key=variant_rank)


def _values(group: Sequence[Evaluation], variant: str, get: Callable[[Evaluation], float | None]) -> list[float]:
    values = [get(item) for item in group if item.variant == variant]
    return [value for value in values if value is not None]


def mean_of(group: Sequence[Evaluation], variant: str, get: Callable[[Evaluation], float | None]) -> float:
    """Mean of a number over the seeds of a variant that have it, nan where none has."""
    return summarise(_values(group, variant, get)).mean


def plain(value: object) -> str:
    """Three significant digits below 100, whole numbers above, a dash where there is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _main_table(run_dir: "str | Path") -> Table:
    run = load_run(run_dir)
    group = run.main_group()
    if not group:
        return Table(run.folder.name, ["model"], [], run.notes)
    few = [metric for metric in _metrics(group) if metric in HEADLINE_METRICS]
    # Three metrics and three costs fit a terminal of 80 columns.
    return _result_table(group, (few or _metrics(group))[:3], ("params, M", "size, MB", "ms/image"))


def _metrics(group: list[Evaluation]) -> list[str]:
    """Every measured metric, the headline's first."""
    measured = [metric for item in group for metric in item.scores]
    return [metric for metric in dict.fromkeys([headline_metric(group), *measured]) if metric is not None]


def _result_table(group: list[Evaluation], metrics: list[str], shown: Sequence[str] | None = None) -> Table:
    costs: dict[str, Callable[[Evaluation], float | None]] = {
        "params, M": lambda item: None if item.parameters is None else item.parameters / 1e6,
        "size, MB": lambda item: item.megabytes,
        "GMACs": lambda item: item.gmacs,
        "ms/image": lambda item: None if item.seconds_per_image is None else 1e3 * item.seconds_per_image,
    }
    costs = {name: get for name, get in costs.items() if shown is None or name in shown}
    costs = {name: get for name, get in costs.items() if any(get(item) is not None for item in group)}
    rows = []
    for variant in variants_of(group):
        row = [Cell(variant)]
        row += [score_cell(metric, scores_of(group, variant, metric)) for metric in metrics]
        row += [Cell(plain(mean_of(group, variant, get))) for get in costs.values()]
        rows.append(row)
    found = {metric: compare(group, metric, "student", "distilled") for metric in metrics}
    differences = {metric: difference for metric, difference in found.items() if difference is not None}
    if differences:
        cells = [_difference_cell(group, differences, metric) for metric in metrics]
        rows.append([Cell("distilled − student"), *cells, *(Cell("") for _ in costs)])
    rows += reference_rows(group, metrics, len(costs))
    headings = [Metric(metric).heading for metric in metrics]
    return Table(describe_group(group), ["model", *headings, *costs], rows, _result_notes(group, metrics, differences))


def _difference_cell(group: list[Evaluation], differences: Mapping[str, Difference], metric: str) -> Cell:
    if metric not in differences:
        return Cell("–")
    return describe_difference(metric, differences[metric], summarise(scores_of(group, "student", metric)).mean)


def _result_notes(group: list[Evaluation], metrics: Sequence[str], differences: Mapping[str, Difference]) -> list[str]:
    counts = {name: len({item.seed for item in group if item.variant == name}) for name in variants_of(group)}
    units = describe_units(metrics)
    notes = [f"{units}."]
    if max(counts.values(), default=0) > 1:
        seeds = ", ".join(f"{name} {count}" for name, count in counts.items())
        notes = [f"{units}{';' if ';' in units else ','} mean ± standard deviation over seeds ({seeds})."]
    bases: dict[str, list[str]] = {}
    for metric, difference in differences.items():
        bases.setdefault(difference.basis, []).append(Metric(metric).label)
    if bases:
        over = "; ".join(f"{basis} ({', '.join(labels)})" for basis, labels in bases.items())
        notes.append(f"Differences {describe_changes(metrics)}, with 95 % intervals: {over}.{frames_note(metrics)}")
    return notes


def describe_changes(metrics: Sequence[str]) -> str:
    """In what the differences of a table are.

    >>> describe_changes(["AR"]), describe_changes(["position_m", "recall_0.05m_5deg"])
    ('in points', 'in the unit of each column (of shares: points)')
    """
    if not any(Metric(metric).lower_is_better for metric in metrics):
        return "in points"
    return "in the unit of each column (of shares: points)"


def frames_note(metrics: Sequence[str]) -> str:
    """What intervals over the images of a recording leave out; empty where there are none."""
    if not any(Metric(metric).lower_is_better for metric in metrics):
        return ""
    return " Neighbouring images of a recording err alike: over other recordings intervals would be wider."
