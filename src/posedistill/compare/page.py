"""comparison.html and comparison.md: everything a comparison found, in one page and in one table."""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from posedistill.files import write_file
from posedistill.report import plots
from posedistill.report.cells import Table
from posedistill.report.comparison import (
    TABLES,
    ComparisonResults,
    cost_table,
    describe_losses,
    gap_table,
    load_comparison,
    result_table,
    sweep_table,
)
from posedistill.report.error_tables import model_error_table
from posedistill.report.render import render
from posedistill.report.results import History


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
    tables += [*_error_tables(results), cost_table(results), sweep_table(results)]
    parts = [headline(results), *(table.to_markdown() for table in tables if table is not None)]
    parts += [f"- failed: {title}: {failure}" for title, failure in results.content["failures"].items()]
    return "\n\n".join(parts) + "\n"


def render_page(results: ComparisonResults) -> str:
    """The page as one HTML string that needs no other file. Every text that comes from a file is escaped."""
    return render(
        "comparison.html",
        title=str(results.content["name"]),
        headline=headline(results),
        results={name: result_table(results, name) for name in TABLES},
        intervals=_intervals(results),
        gaps=[gap_table(results, name) for name in TABLES],
        errors=_error_tables(results),
        costs=cost_table(results),
        sweep=sweep_table(results),
        curves=_curves(results),
        failures=[f"{name}: {failure}" for name, failure in results.content["failures"].items()],
        facts=_facts(results),
        missing=results.notes,
    )


def headline(results: ComparisonResults) -> str:
    """The outcome in one sentence: how many variants are ahead, behind and undecided in the first metric."""
    metrics = results.metrics()
    if not metrics or "equal_steps" not in results.groups:
        return "Nothing has been measured yet."
    others, about = results.others, metrics[0]
    found = {name: results.difference("equal_steps", name, about) for name in others}
    ahead = [name for name, item in found.items() if item and item.significant and about.gain(item.mean) > 0]
    behind = [name for name, item in found.items() if item and item.significant and about.gain(item.mean) < 0]
    undecided = sum(item is not None for item in found.values()) - len(ahead) - len(behind)
    text = f"At equal steps, in {about.label} against {results.baseline}: "
    counts = [f"{len(ahead)} ahead{_named(ahead)}", f"{len(behind)} behind{_named(behind)}"]
    missing = [f"{len(others) - len(ahead) - len(behind) - undecided} not measured"]
    return text + ", ".join([*counts, f"{undecided} undecided", *(missing if None in found.values() else [])]) + "."


def _error_tables(results: ComparisonResults) -> list[Table | None]:
    return [model_error_table(group, TABLES[name]) for name, group in results.groups.items()]


def _intervals(results: ComparisonResults) -> list[Markup | None]:
    kinds, figures = [name for name in TABLES if name in results.groups], []
    for metric in results.metrics():
        rows = {name: [results.difference(kind, name, metric) for kind in kinds] for name in results.others}
        figures.append(plots.interval_plot(metric, rows))
    return figures


def _curves(results: ComparisonResults) -> list[Markup | None]:
    """Three panels a variant: validation, the loss on labels, and the distillation terms."""
    baseline = list(results.histories.get(results.baseline, {}).values())
    own = {name for history in baseline for name in history if name.startswith("loss/")}
    panels = []
    for variant in results.others:
        seeds = list(results.histories.get(variant, {}).values())
        taught = {name for history in seeds for name in history if name.startswith("loss/")} - own
        for title, names in (("validation", {"val/score"}), ("loss on labels", own), ("distillation", taught)):
            sides = {
                name: [_sum(history, names) for history in side]
                for name, side in ((results.baseline, baseline), (variant, seeds))
            }
            colors = {results.baseline: "student", variant: "distilled"}
            panels.append(plots.history_panel(f"{variant}: {title}", sides, colors) if any(sides[variant]) else None)
    return panels


def _sum(history: History, names: set[str]) -> Mapping[int, float]:
    """Several quantities added, at the steps where all are known."""
    curves = [history.get(name, {}) for name in sorted(names)]
    steps = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    return {step: sum(curve[step] for curve in curves) for step in sorted(steps)}


def _facts(results: ComparisonResults) -> dict[str, object]:
    content = results.content
    tested = next(iter(results.groups.values()), None)
    facts: dict[str, object] = {
        "recipe": content["recipe"],
        "seeds": content["seeds"],
        "steps": content["steps"],
        "batch size": content["batch_size"],
        "test data": tested.title if tested else None,
        "baseline": results.baseline,
        **{f"losses of {name}": describe_losses(about["distill"]) for name, about in content["variants"].items()},
        **results.environment,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _named(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
