"""A comparison's folder as tables: scores with paired differences, gaps closed, costs and the sweep."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.errors import DataError, describe
from posedistill.report.cells import Cell, Table
from posedistill.report.metrics import HEADLINE_METRICS, Metric, describe_units, percent
from posedistill.report.results import Evaluation, RunResults, evaluation_of, read_history, scores_of
from posedistill.report.statistics import Difference, gap_closed, summarise
from posedistill.report.tables import (
    compare,
    describe_changes,
    describe_difference,
    frames_note,
    plain,
    reference_rows,
    score_cell,
)

History = dict[str, dict[int, float]]
"""Quantity, step, value."""
TABLES = {"equal_steps": "Equal steps", "equal_time": "Equal wall-clock"}
"""The two ways of being fair, and their titles."""


@dataclass
class ComparisonResults:
    """What a comparison has found so far.

    Attributes:
        content: ``comparison.json``.
        evaluations: of ``equal_steps`` and ``equal_time``; an evaluation's variant is the comparison's.
        references: the trivial answers of cameras.
        histories: table, variant, seed, quantity, step, value.
    """

    folder: Path
    content: dict[str, Any]
    teacher: Evaluation | None = None
    references: list[Evaluation] = field(default_factory=list)
    evaluations: dict[str, list[Evaluation]] = field(default_factory=dict)
    histories: dict[str, dict[str, dict[str, History]]] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _found: dict[tuple[str, str, str], Difference | None] = field(default_factory=dict, repr=False)

    @property
    def baseline(self) -> str:
        """The variant that all others are compared with."""
        return str(self.content["baseline"])

    @property
    def variants(self) -> list[str]:
        """Names in the order of the rows."""
        return list(self.content["variants"])

    def metrics(self) -> list[str]:
        """The headline metrics that were measured, or whatever was."""
        measured = dict.fromkeys(
            metric for group in self.evaluations.values() for item in group for metric in item.scores
        )
        return [metric for metric in HEADLINE_METRICS if metric in measured] or list(measured)

    def difference(self, table: str, variant: str, metric: str) -> Difference | None:
        """``variant - baseline`` over the seeds that both have."""
        key = table, variant, metric
        if key not in self._found:  # tables, figures and the headline ask for the same
            self._found[key] = compare(self.evaluations.get(table, []), metric, self.baseline, variant)
        return self._found[key]


def load_comparison(folder: Path) -> ComparisonResults:
    """Read a comparison's folder; a network that is not there yet is left out.

    Raises:
        DataError: the folder holds no comparison.
    """
    path = folder / "comparison.json"
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        expected = "a folder that `posedistill compare` has made"
        raise DataError(describe(path, "comparison", type(error).__name__, expected)) from None
    found = ComparisonResults(folder, content)
    run = RunResults(folder)
    if content["teacher"]:
        found.teacher = _evaluation(folder / content["teacher"], "teacher", run)
    for record in content.get("references") or []:
        try:
            found.references.append(evaluation_of(record))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            run.notes.append(f"{path.name}: a reference was left out: {type(error).__name__} {error}")
    for table, rows in content["tables"].items():
        for variant, seeds in rows.items():
            for seed, place in seeds.items():
                evaluation = _evaluation(folder / place / "evaluation.json", variant, run)
                if evaluation is not None:
                    found.evaluations.setdefault(table, []).append(evaluation)
                log = folder / place / "metrics.jsonl"
                if log.exists():
                    history = read_history(run, log)
                    found.histories.setdefault(table, {}).setdefault(variant, {})[seed] = history
    environment = folder / "environment.json"
    found.environment = json.loads(environment.read_text()) if environment.exists() else {}
    found.notes = run.notes
    return found


def result_table(results: ComparisonResults, table: str) -> Table | None:
    """Mean ± standard deviation over seeds of each variant and metric, and the difference to the baseline below it."""
    group = results.evaluations.get(table, [])
    if not group:
        return None
    metrics = results.metrics()
    rows = []
    if results.teacher is not None:
        cells = [score_cell(metric, scores_of([results.teacher], "teacher", metric)) for metric in metrics]
        rows.append([Cell("teacher"), *cells])
    bases: set[str] = set()
    for variant in results.variants:
        row = [Cell(variant, _counts(results, table, variant))]
        for metric in metrics:
            difference = results.difference(table, variant, metric) if variant != results.baseline else None
            bases |= {difference.basis} if difference else set()
            scores, baseline = (scores_of(group, name, metric) for name in (variant, results.baseline))
            row.append(score_cell(metric, scores, _starred(metric, difference, summarise(baseline).mean)))
        rows.append(row)
    rows += reference_rows(results.references, metrics)
    return Table(
        TABLES[table],
        ["variant", *(Metric(metric).heading for metric in metrics)],
        rows,
        _notes(results, metrics, bases),
    )


def gap_table(results: ComparisonResults, table: str) -> Table | None:
    """How much of the way from the baseline to the teacher each variant goes."""
    group, teacher = results.evaluations.get(table, []), results.teacher
    if not group or teacher is None:
        return None
    metrics = results.metrics()
    rows = []
    for variant in [name for name in results.variants if name != results.baseline]:
        gaps = [_gap(group, teacher, results.baseline, variant, metric) for metric in metrics]
        rows.append([Cell(variant), *(_gap_cell(gap) for gap in gaps)])
    if not rows:
        return None
    notes = [
        f"100 % is the teacher's score, 0 % that of {results.baseline}. A dash: too little is measured, or the teacher "
        f"is not ahead of {results.baseline} beyond chance, so there is no gap to close."
    ]
    title = f"{TABLES[table]}: gap to the teacher closed, %"
    return Table(title, ["variant", *(Metric(metric).label for metric in metrics)], rows, notes)


def cost_table(results: ComparisonResults) -> Table:
    """What each variant costs: the student's size and work, and a training step's time and memory."""
    costs, everything = results.content.get("costs") or {}, results.evaluations.get("equal_steps", [])
    alone = (costs.get(results.content["alone"]) or {}).get("seconds_per_step")
    rows = []
    for variant in results.variants:
        item = next((item for item in everything if item.variant == variant), None)
        cost = costs.get(variant) or {}
        seconds = cost.get("seconds_per_step")
        numbers = [
            item.parameters / 1e6 if item and item.parameters else None,
            item.megabytes if item else None,
            item.gmacs if item else None,
            1e3 * seconds if seconds else None,
            seconds / alone if seconds and alone else None,
            cost.get("peak_memory_mb"),
        ]
        steps = [
            f"{results.content['steps']:,}",
            f"{cost['equal_time_steps']:,}" if "equal_time_steps" in cost else "–",
        ]
        name = Cell(variant, describe_losses(results.content["variants"][variant]["distill"]))
        rows.append([name, *(Cell(plain(value)) for value in numbers), *map(Cell, steps)])
    columns = ["variant", "params, M", "size, MB", "GMACs", "ms/step", "x alone", "peak memory, MB", "steps"]
    notes = [
        "Size and GMACs (one crop) are the student's, what is learned beside it in training is left behind. "
        "ms/step is the fastest of alternating rounds in one process, with data, teacher and losses. "
        "Peak memory is that of a process that trains a few steps."
    ]
    notes += [text for text in [results.content.get("timing_note")] if text]
    return Table("", [*columns, "steps at equal time"], rows, notes)


def sweep_table(results: ComparisonResults) -> Table | None:
    """Validation scores of each factor on a variant's weights; the chosen one is marked."""
    sweep = results.content.get("sweep")
    if not sweep or not sweep["scores"]:
        return None
    factors = ["0", *(f"{value:g}" for value in sweep["values"])]
    rows = []
    for variant, scores in sweep["scores"].items():
        about = results.content["variants"][variant]
        chosen = None if about["alone"] else f"{about['factor']:g}"
        cells = [Cell(_mark(scores.get(factor), factor == chosen), "") for factor in factors]
        rows.append([Cell(variant), *cells])
    notes = [
        f"Validation score, %, after {sweep['steps']:,} steps with seed {sweep['seed']}; no test frame was read. "
        "✓ marks the factor that the tables use on all of a variant's weights. Column 0 is the student alone. "
        "A dash: not trained (yet), or it failed."
    ]
    chosen_factors = {
        name: about["factor"] for name, about in results.content["variants"].items() if not about["alone"]
    }
    if ends := [name for name, factor in chosen_factors.items() if factor in _ends(sweep["scores"].get(name, {}))]:
        notes.append(f"At an end of the range, so that a wider one may hold a better factor: {', '.join(ends)}.")
    return Table("", ["variant", *(f"x {factor}" for factor in factors)], rows, notes)


def describe_losses(losses: Sequence[Mapping[str, Any]]) -> str:
    """The losses of a variant in a line.

    >>> describe_losses([{"name": "align", "weight": 0.3, "trust": {"by": "score"}, "options": {"solver": "faithful"}}])
    '0.3 align (solver faithful, trust score)'
    """
    parts = []
    for loss in losses:
        options = [f"{key} {value}" for key, value in (loss.get("options") or {}).items()]
        trust = (loss.get("trust") or {}).get("by", "none")
        options += [f"trust {trust}"] if trust != "none" else []
        options += [f"stage {loss['stage']}"] if loss.get("stage", "whole") != "whole" else []
        parts.append(f"{loss['weight']:g} {loss['name']}" + (f" ({', '.join(options)})" if options else ""))
    return " + ".join(parts) or "no distillation"


def _evaluation(path: Path, variant: str, run: RunResults) -> Evaluation | None:
    try:
        return evaluation_of({**json.loads(path.read_text()), "variant": variant})
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        run.notes.append(f"{path.relative_to(run.folder)} was left out: {type(error).__name__} {error}")
        return None


def _gap(
    group: Sequence[Evaluation], teacher: Evaluation, baseline: str, variant: str, metric: str
) -> Difference | None:
    runs = [
        {item.seed: item.outcomes.get(metric, []) for item in group if item.variant == n} for n in (baseline, variant)
    ]
    seeds = sorted(runs[0].keys() & runs[1].keys())
    best = teacher.outcomes.get(metric, [])
    outcomes = [[run[seed] for seed in seeds] for run in runs]
    if not seeds or not best or any(len(row) != len(best) for rows in outcomes for row in rows):
        return None
    is_error = Metric(metric).lower_is_better
    return gap_closed(outcomes[0], outcomes[1], best, statistic=Metric(metric).statistic, lower_is_better=is_error)


def _gap_cell(gap: Difference | None) -> Cell:
    return Cell("–") if gap is None else Cell(f"{100 * gap.mean:.0f}", f"[{100 * gap.low:.0f}, {100 * gap.high:.0f}]")


def _starred(metric: str, difference: Difference | None, baseline: float) -> str:
    if difference is None:
        return ""
    return str(describe_difference(metric, difference, baseline)) + (" *" if difference.significant else "")


def _counts(results: ComparisonResults, table: str, variant: str) -> str:
    done = sum(item.variant == variant for item in results.evaluations.get(table, []))
    wanted = len(results.content["seeds"])
    return "" if done == wanted else f"{done} of {wanted} seeds"


def _notes(results: ComparisonResults, metrics: Sequence[str], bases: set[str]) -> list[str]:
    units = describe_units(metrics)
    notes = [
        f"{units}{';' if ';' in units else ','} mean ± standard deviation over seeds; below, the difference to "
        f"{results.baseline} {describe_changes(metrics)} with its 95 % interval "
        f"({'; '.join(sorted(bases)) or 'nothing to pair yet'}). "
        "* marks an interval that excludes zero; it is not corrected for the number of comparisons."
        f"{frames_note(metrics)}"
    ]
    seeds = len(results.content["seeds"])
    if seeds == 1:
        notes.append("One seed: the intervals tell of another test set, not of another training.")
    elif seeds < 10:
        share = 100 * (1 - np.sqrt((seeds - 1) / seeds))
        notes.append(f"A bootstrap of {seeds} seeds takes their spread for {share:.0f} % smaller than it is.")
    return notes


def _ends(scores: Mapping[str, float | None]) -> set[float]:
    """The smallest and the largest factor that was trained, of three or more; of fewer, all would be ends."""
    trained = [float(factor) for factor, score in scores.items() if score is not None]
    return {min(trained), max(trained)} if len(trained) > 2 else set()


def _mark(score: float | None, chosen: bool) -> str:
    return "–" if score is None else percent(score) + (" ✓" if chosen else "")
