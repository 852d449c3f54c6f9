"""A comparison's folder as tables: scores with paired differences, gaps closed, costs and the sweep."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.errors import DataError, describe
from posedistill.metrics.evaluation import Evaluation, Metric
from posedistill.metrics.statistics import Difference, gap_closed
from posedistill.report.cells import Cell, Table, plain
from posedistill.report.evaluations import Group
from posedistill.report.results import History, RunResults, read_history
from posedistill.report.tables import COSTS, model_table

TABLES = {"equal_steps": "Equal steps", "equal_time": "Equal wall-clock"}
"""The two ways of being fair, and their titles."""


@dataclass
class ComparisonResults:
    """What a comparison has found so far.

    Attributes:
        content: ``comparison.json``.
        groups: of ``equal_steps`` and ``equal_time``, where there is one; each holds teacher and naive baselines too.
        histories: of equal steps: variant, seed, quantity, step, value.
    """

    folder: Path
    content: dict[str, Any]
    groups: dict[str, Group] = field(default_factory=dict)
    histories: dict[str, dict[str, History]] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def baseline(self) -> str:
        """The variant that all others are compared with."""
        return str(self.content["baseline"])

    @property
    def variants(self) -> list[str]:
        """Names in the order of the rows."""
        return list(self.content["variants"])

    @property
    def others(self) -> list[str]:
        """All variants but the baseline."""
        return [name for name in self.variants if name != self.baseline]

    def metrics(self) -> list[Metric]:
        """The headline metrics that were measured, or whatever was."""
        return next((group.main_metrics for group in self.groups.values()), [])

    def difference(self, table: str, variant: str, metric: Metric) -> Difference | None:
        """``variant - baseline`` over the seeds that both have."""
        group = self.groups.get(table)
        return group.difference(metric, variant, self.baseline) if group else None


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
    found, run = ComparisonResults(folder, content), RunResults(folder)
    teacher = _evaluation(folder / content["teacher"], "teacher", run) if content["teacher"] else []
    baselines = run.read("comparison.json", content.get("baselines") or [])
    for table, rows in content["tables"].items():
        measured = []
        for variant, seeds in rows.items():
            for seed, place in seeds.items():
                measured += _evaluation(folder / place / "evaluation.json", variant, run)
                log = folder / place / "metrics.jsonl"
                if log.exists() and table == "equal_steps":
                    found.histories.setdefault(variant, {})[seed] = read_history(run, log)
        if measured:
            found.groups[table] = Group([*teacher, *measured, *baselines])
    environment = folder / "environment.json"
    found.environment = json.loads(environment.read_text()) if environment.exists() else {}
    found.notes = run.notes
    return found


def result_table(results: ComparisonResults, table: str) -> Table | None:
    """Mean ± standard deviation over seeds of each variant and metric, and the difference to the baseline below it."""
    group = results.groups.get(table)
    if group is None:
        return None
    seeds = len(results.content["seeds"])
    counts = {name: len(group.of(name)) for name in results.variants}
    details = {name: f"{count} of {seeds} seeds" for name, count in counts.items() if count != seeds}
    names = [*(["teacher"] if group.of("teacher") else []), *results.variants]
    made = model_table(
        TABLES[table], group, results.metrics(), names, results.others, results.baseline, details, costs=()
    )
    made.columns[0] = "variant"
    most = max(counts.values())  # the wall-clock's may not be trained yet
    if most == 1:
        made.notes.append("One seed: the intervals tell of another test set, not of another training.")
    elif 1 < most < 10:
        share = 100 * (1 - np.sqrt((most - 1) / most))
        made.notes.append(f"A bootstrap of {most} seeds takes their spread for {share:.0f} % smaller than it is.")
    return made


def gap_table(results: ComparisonResults, table: str) -> Table | None:
    """How much of the way from the baseline to the teacher each variant goes."""
    group, metrics = results.groups.get(table), results.metrics()
    if group is None or not group.of("teacher") or not results.others:
        return None
    rows = [
        [Cell(variant), *(_gap_cell(_gap(group, results.baseline, variant, metric)) for metric in metrics)]
        for variant in results.others
    ]
    notes = [
        f"100 % is the teacher's score, 0 % that of {results.baseline}. A dash: too little is measured, or the teacher "
        f"is not ahead of {results.baseline} beyond chance, so there is no gap to close."
    ]
    title = f"{TABLES[table]}: gap to the teacher closed, %"
    return Table(title, ["variant", *(metric.label for metric in metrics)], rows, notes)


def cost_table(results: ComparisonResults) -> Table:
    """What each variant costs: the student's size and work, and a training step's time and memory."""
    costs, group = results.content.get("costs") or {}, results.groups.get("equal_steps", Group())
    alone = (costs.get(results.content["alone"]) or {}).get("seconds_per_step")
    rows = []
    for variant in results.variants:
        cost = costs.get(variant) or {}
        seconds = cost.get("seconds_per_step")
        numbers = [
            *(factor * group.cost(variant, number) for number, factor in COSTS.values()),
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
    columns = ["variant", *COSTS, "ms/step", "x alone", "peak memory, MB", "steps"]
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
        rows.append([Cell(variant), *(Cell(_mark(scores.get(factor), factor == chosen)) for factor in factors)])
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


def _evaluation(path: Path, variant: str, run: RunResults) -> list[Evaluation]:
    """What a variant's file holds, under the variant's name; nothing where it is missing or damaged."""
    name = str(path.relative_to(run.folder))
    try:
        return run.read(name, [{**json.loads(path.read_text()), "stage": variant}])
    except FileNotFoundError:
        return []
    except (OSError, TypeError, ValueError) as error:
        run.notes.append(f"{name} was left out: {type(error).__name__} {error}")
        return []


def _gap(group: Group, baseline: str, variant: str, metric: Metric) -> Difference | None:
    seeds, teacher = group.seeds(metric, baseline, variant), group.of("teacher")[0].outcomes.get(metric.name)
    if not seeds or teacher is None:
        return None
    before, after = (group.outcomes(metric, name, seeds) for name in (baseline, variant))
    if not before.size or not before.shape == after.shape == (len(seeds), len(teacher)):
        return None
    return gap_closed(
        before,
        after,
        teacher,
        statistic=metric.statistic,
        lower_is_better=metric.lower_is_better,
        groups=group.categories(metric),
    )


def _gap_cell(gap: Difference | None) -> Cell:
    if gap is None:
        return Cell("–")
    ends = f"[{100 * gap.low:z.0f}, {100 * gap.high:z.0f}]"
    return Cell(f"{100 * gap.mean:z.0f}", "" if np.isnan(gap.low) else ends)


def _ends(scores: Mapping[str, float | None]) -> set[float]:
    """The smallest and the largest factor that was trained, of three or more; of fewer, all would be ends."""
    trained = [float(factor) for factor, score in scores.items() if score is not None]
    return {min(trained), max(trained)} if len(trained) > 2 else set()


def _mark(score: float | None, chosen: bool) -> str:
    return "–" if score is None else f"{100 * score:.1f}" + (" ✓" if chosen else "")
