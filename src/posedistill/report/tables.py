"""The tables of a report: results, objects and speed, for the page, the terminal and markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from posedistill.report.cells import Cell, Table
from posedistill.report.results import (
    HEADLINE_METRICS,
    Evaluation,
    RunResults,
    headline_metric,
    load_run,
    metric_label,
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

    The outcomes of single targets are used when both have them and they average to the score.
    """
    runs = [{item.seed: item for item in group if item.variant == name} for name in (first, second)]
    seeds = sorted(seed for seed in runs[0] if seed in runs[1] and _has(metric, runs[0][seed], runs[1][seed]))
    if not seeds:
        return None
    outcomes = [[run[seed].outcomes.get(metric, []) for seed in seeds] for run in runs]
    scores = [[run[seed].scores[metric] for seed in seeds] for run in runs]
    lengths = {len(row) for rows in outcomes for row in rows}
    if len(lengths) == 1 and lengths != {0} and np.allclose(np.mean(outcomes, axis=2), scores, atol=1e-3):
        return paired_difference(outcomes[0], outcomes[1])
    return paired_difference(scores[0], scores[1])


def result_tables(run: RunResults) -> list[Table]:
    """One table for each data set and source of boxes: a row a variant, mean ± std over seeds, and the costs."""
    return [_result_table(group, _metrics(group)) for group in run.groups().values()]


def per_object_table(group: Sequence[Evaluation], metric: str) -> Table | None:
    """Objects by variants in one metric, means over seeds; None when there is at most one object."""
    variants = _variants(group)
    objects = sorted({name for item in group for name in item.per_object}, key=lambda name: (len(name), name))
    if len(objects) < 2:
        return None
    rows = []
    for name in objects:
        means = [_mean(group, variant, _object_score(name, metric)) for variant in variants]
        rows.append([Cell(name), *(Cell(percent(mean), heat=None if np.isnan(mean) else mean) for mean in means)])
    return Table(f"{metric_label(metric)} by object, %", ["object", *variants], rows)


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
        rows.append([Cell(str(item["variant"]), where), *(Cell(_plain(item.get(key))) for key in numbers)])
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
    means = {name: 1e3 * _mean(group, name, lambda item: item.seconds_per_image) for name in _variants(group)}
    return {name: value for name, value in means.items() if value > 0}, "evaluation time an image"


def headline(run: RunResults) -> tuple[str, str]:
    """The result of the run in one sentence, as far as it was measured, and a second one with its certainty."""
    group = run.main_group()
    metric = headline_metric(group)
    if metric is None:
        return "Nothing was evaluated yet.", ""
    label = metric_label(metric) + ("" if metric.startswith("AR") or metric.endswith("auc") else " recall")
    means = {name: _mean(group, name, _score(metric)) for name in _variants(group)}
    best = next((name for name in ("distilled", "exported", "student", "teacher") if name in means), next(iter(means)))
    name = "The distilled student" if best == "distilled" else f"The {best} model"
    sentence = f"{name} reaches {percent(means[best])} % in {label}"
    if best != "teacher" and means.get("teacher", 0) > 0:
        sentence = f"{name} keeps {100 * means[best] / means['teacher']:.0f} % of the teacher's {label}"
        ratio = _mean(group, "teacher", lambda item: item.megabytes) / _mean(group, best, lambda item: item.megabytes)
        sentence += f" at 1/{ratio:.0f} of its size" if ratio >= 1.5 else ""
    difference = compare(group, metric, "student", "distilled")
    return f"{sentence}.", _gain_in_words(difference) if difference else ""


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


def percent(value: float) -> str:
    """0..1 as a percentage with one decimal, a dash where there is none.

    >>> percent(0.4567), percent(float("nan"))
    ('45.7', '–')
    """
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def describe_difference(difference: Difference) -> Cell:
    """A difference in points, with its interval where it has one.

    >>> str(describe_difference(Difference(0.034, 0.011, 0.057, "3 seeds")))
    '+3.4 [+1.1, +5.7]'
    """
    mean = _points(difference.mean)
    if np.isnan(difference.low):
        return Cell(mean)
    return Cell(mean, f"[{_points(difference.low)}, {_points(difference.high)}]")


def _has(metric: str, *items: Evaluation) -> bool:
    return all(metric in item.scores for item in items)


def _score(metric: str) -> Callable[[Evaluation], float | None]:
    return lambda item: item.scores.get(metric)


def _object_score(name: str, metric: str) -> Callable[[Evaluation], float | None]:
    return lambda item: item.per_object.get(name, {}).get(metric)


def _variants(group: Sequence[Evaluation]) -> list[str]:
    return sorted({item.variant for item in group}, key=variant_rank)


def _values(group: Sequence[Evaluation], variant: str, get: Callable[[Evaluation], float | None]) -> list[float]:
    values = [get(item) for item in group if item.variant == variant]
    return [value for value in values if value is not None]


def _mean(group: Sequence[Evaluation], variant: str, get: Callable[[Evaluation], float | None]) -> float:
    return summarise(_values(group, variant, get)).mean


def _points(share: float) -> str:
    """A signed difference in points; a zero has no minus."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _plain(value: object) -> str:
    """Three significant digits below 100, whole numbers above, a dash where there is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _score_cell(values: list[float]) -> Cell:
    summary = summarise(values)
    return Cell(percent(summary.mean) + ("" if np.isnan(summary.std) else f" ± {100 * summary.std:.1f}"))


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
    for variant in _variants(group):
        row = [Cell(variant)]
        row += [_score_cell(_values(group, variant, _score(metric))) for metric in metrics]
        row += [Cell(_plain(_mean(group, variant, get))) for get in costs.values()]
        rows.append(row)
    found = {metric: compare(group, metric, "student", "distilled") for metric in metrics}
    differences = {metric: difference for metric, difference in found.items() if difference is not None}
    if differences:
        cells = [describe_difference(differences[key]) if key in differences else Cell("–") for key in metrics]
        rows.append([Cell("distilled − student"), *cells, *(Cell("") for _ in costs)])
    return Table(
        describe_group(group), ["model", *map(metric_label, metrics), *costs], rows, _result_notes(group, differences)
    )


def _result_notes(group: list[Evaluation], differences: Mapping[str, Difference]) -> list[str]:
    counts = {name: len({item.seed for item in group if item.variant == name}) for name in _variants(group)}
    notes = ["Scores in %."]
    if max(counts.values()) > 1:
        seeds = ", ".join(f"{name} {count}" for name, count in counts.items())
        notes = [f"Scores in %, mean ± standard deviation over seeds ({seeds})."]
    bases: dict[str, list[str]] = {}
    for metric, difference in differences.items():
        bases.setdefault(difference.basis, []).append(metric_label(metric))
    if bases:
        over = "; ".join(f"{basis} ({', '.join(labels)})" for basis, labels in bases.items())
        notes.append(f"Differences in points, with 95 % intervals: {over}.")
    return notes


def _gain_in_words(difference: Difference) -> str:
    points = 100 * difference.mean
    text = f"Distillation {'adds' if points >= 0 else 'costs'} {abs(points):.1f} points over the same student alone"
    if np.isnan(difference.low):
        return f"{text}; with {difference.basis} and no single outcomes, chance cannot be ruled out."
    interval = f"95 % interval {_points(difference.low)} to {_points(difference.high)}, {difference.basis}"
    return f"{text} ({interval}){'' if difference.significant else '; the interval includes zero'}."
