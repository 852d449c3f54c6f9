"""comparison.html and comparison.md: everything a comparison found, in one page and in one table."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from posedistill.compare import plots as compare_plots
from posedistill.files import write_file
from posedistill.report import markup
from posedistill.report.comparison import (
    TABLES,
    ComparisonResults,
    History,
    cost_table,
    describe_losses,
    gap_table,
    load_comparison,
    result_table,
    sweep_table,
)
from posedistill.report.metrics import Metric


def build_comparison(folder: str | Path) -> Path:
    """Write ``comparison.html`` and ``comparison.md`` into a comparison's folder from what is there so far.

    Returns:
        The page's path.

    Raises:
        DataError: the folder holds no comparison.
    """
    results = load_comparison(Path(folder))
    path = results.folder / "comparison.html"
    write_file(results.folder / "comparison.md", render_markdown(results))
    write_file(path, render_page(results))
    return path


def render_markdown(results: ComparisonResults) -> str:
    """The same tables for a README or a paper's appendix."""
    tables = [*(result_table(results, name) for name in TABLES), *(gap_table(results, name) for name in TABLES)]
    tables += [cost_table(results), sweep_table(results)]
    parts = [headline(results), *(table.to_markdown() for table in tables if table is not None)]
    parts += [f"- failed: {title}: {failure}" for title, failure in results.content["failures"].items()]
    return "\n\n".join(parts) + "\n"


def render_page(results: ComparisonResults) -> str:
    """The page as one HTML string that needs no other file. Every text that comes from a file is escaped."""
    results_of = {name: markup.table(result_table(results, name)) for name in TABLES}
    gaps = "\n".join(markup.table(gap_table(results, name)) for name in TABLES)
    sections = [
        markup.section("Equal steps", _STEPS_LEAD, results_of["equal_steps"]),
        markup.section("Equal wall-clock", _TIME_LEAD, results_of["equal_time"]),
        markup.section("Differences", _PLOTS_LEAD, _intervals(results)),
        markup.section("Gap to the teacher", "", gaps),
        markup.section("Costs", "", markup.table(cost_table(results))),
        markup.section("Weights", _SWEEP_LEAD, markup.table(sweep_table(results))),
        markup.section("Training", _CURVES_LEAD, _curves(results)),
        markup.section("Failed", "", _listed([f"{name}: {why}" for name, why in results.content["failures"].items()])),
        markup.section("How it was obtained", "", f'<div class="card">{markup.definitions(_facts(results))}</div>'),
        markup.section("Not shown", "", _listed(results.notes)),
    ]
    header = f'<p class="headline">{escape(headline(results))}</p>\n'
    return markup.document(str(results.content["name"]), header, "".join(sections))


def headline(results: ComparisonResults) -> str:
    """The outcome in one sentence: how many variants are ahead, behind and undecided in the first metric."""
    metrics = results.metrics()
    if not metrics or not results.evaluations.get("equal_steps"):
        return "Nothing has been measured yet."
    others = [name for name in results.variants if name != results.baseline]
    found = {name: results.difference("equal_steps", name, metrics[0]) for name in others}
    about = Metric(metrics[0])
    ahead = [name for name, item in found.items() if item and item.significant and about.gain(item.mean) > 0]
    behind = [name for name, item in found.items() if item and item.significant and about.gain(item.mean) < 0]
    undecided = sum(item is not None for item in found.values()) - len(ahead) - len(behind)
    text = f"At equal steps, in {about.label} against {results.baseline}: "
    counts = [f"{len(ahead)} ahead{_named(ahead)}", f"{len(behind)} behind{_named(behind)}"]
    missing = [f"{len(others) - len(ahead) - len(behind) - undecided} not measured"]
    return text + ", ".join([*counts, f"{undecided} undecided", *(missing if None in found.values() else [])]) + "."


_STEPS_LEAD = "Every variant saw the same batches in the same order, seed by seed, and made the same number of steps."
_TIME_LEAD = (
    "Every variant had the time that the student alone needs for its steps, so dearer losses made fewer of them. "
    "The teacher's own training is not counted."
)
_PLOTS_LEAD = (
    "Difference to the baseline with its 95 % interval, over seeds and targets. In colour where the interval excludes "
    "zero. Filled: equal steps; hollow: equal wall-clock."
)
_SWEEP_LEAD = "Each variant's weights were tuned on the validation split before anything was trained for the tables."
_CURVES_LEAD = (
    "At equal steps, each variant beside the baseline: the validation score that chooses the weights, the loss on "
    "labels (without distillation), and the distillation terms, weighted."
)


def _intervals(results: ComparisonResults) -> str:
    kinds = [name for name in TABLES if results.evaluations.get(name)]
    others = [name for name in results.variants if name != results.baseline]
    figures = []
    for metric in results.metrics():
        rows = {name: [results.difference(kind, name, metric) for kind in kinds] for name in others}
        figures.append(compare_plots.interval_plot(metric, rows))
    return markup.figures(figures)


def _curves(results: ComparisonResults) -> str:
    histories = results.histories.get("equal_steps", {})
    baseline = list(histories.get(results.baseline, {}).values())
    own = {name for history in baseline for name in history if name.startswith("loss/")}
    panels = []
    for variant in [name for name in results.variants if name != results.baseline]:
        seeds = list(histories.get(variant, {}).values())
        taught = {name for history in seeds for name in history if name.startswith("loss/")} - own
        for title, names in (("validation", {"val/score"}), ("loss on labels", own), ("distillation", taught)):
            sides = [[_sum(history, names) for history in side] for side in (baseline, seeds)]
            panels.append(
                compare_plots.curve_panel(f"{variant}: {title}", (results.baseline, sides[0]), (variant, sides[1]))
            )
    return markup.figures(panels, "panels")


def _sum(history: History, names: set[str]) -> Mapping[int, float]:
    """Several quantities added, at the steps where all are known."""
    curves = [history.get(name, {}) for name in sorted(names)]
    steps = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    return {step: sum(curve[step] for curve in curves) for step in sorted(steps)}


def _facts(results: ComparisonResults) -> dict[str, object]:
    content = results.content
    tested = results.teacher or next(iter(results.evaluations.get("equal_steps", [])), None)
    facts: dict[str, object] = {
        "recipe": content["recipe"],
        "seeds": content["seeds"],
        "steps": content["steps"],
        "batch size": content["batch_size"],
        "test data": tested.dataset + (f", {tested.boxes} boxes" if tested.boxes else "") if tested else None,
        "baseline": results.baseline,
        **{f"losses of {name}": describe_losses(about["distill"]) for name, about in content["variants"].items()},
        **results.environment,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _named(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _listed(items: list[str]) -> str:
    rows = "".join(f"<li>{escape(item)}</li>\n" for item in items)
    return f'<ul class="note">{rows}</ul>' if rows else ""
