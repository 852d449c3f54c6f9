"""report.html: everything a run found, in one file that needs nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from posedistill.files import write_file
from posedistill.report import cases, error_tables, plots, tables, trajectory
from posedistill.report.diagnosis import diagnose
from posedistill.report.evaluations import STAGES, Group
from posedistill.report.headline import headline
from posedistill.report.render import in_words, render
from posedistill.report.results import Overlay, RunResults, load_run
from posedistill.report.viewpoint import figures


def build_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into a run folder from whatever its stages have left there so far.

    What is missing is named at the end of the page; a run that has only just begun gives a short page, not an error.

    Returns:
        The page's path.
    """
    run = load_run(run_dir)
    path = run.folder / "report.html"
    write_file(path, render_page(run))
    return path


def render_page(run: RunResults) -> str:
    """The page as one HTML string. Every text that comes from a file is escaped."""
    group = run.main_group()
    sentence, certainty = headline(group)
    return render(
        "report.html",
        title=run.folder.resolve().name,
        headline=sentence,
        certainty=" ".join(filter(None, [certainty, *diagnose(run)])),
        tiles=_tiles(group),
        measured=" on ".join(filter(None, [" and ".join(metric.label for metric in group.headline), group.title])),
        results=tables.result_tables(run),
        cost_lead=_cost_lead(group),
        costs=_cost_figures(run, group),
        errors=error_tables.model_error_table(group),
        error_figures=[plots.depth_by_visibility(group)],
        errors_by_object=error_tables.object_error_tables(group),
        labels=[tables.label_table(group, metric) for metric in group.headline],
        maps=trajectory.maps(group),
        turns=figures.figures(group),
        cases=_cases(run),
        truth=cases.TRUTH,
        guess=cases.GUESS,
        bench=tables.bench_table(run.bench),
        histories=[*plots.history_panels(run.histories, "loss"), *plots.history_panels(run.histories, "val/")],
        facts=_recipe_facts(run) | run.environment,
        recipe=run.recipe,
        missing=run.notes,
    )


def _tiles(group: Group) -> list[dict[str, str]]:
    """The headline's scores and the size of each stage."""
    tiles = []
    for name in [name for name in group.names if name in STAGES and group.headline]:
        means = [metric.quantity(group.summary(name, metric).mean) for metric in group.headline]
        scores = ", ".join(mean.replace(" ", "\N{NO-BREAK SPACE}") for mean in means)
        size = group.cost(name, "megabytes")
        tiles.append({"stage": name, "scores": scores, "size": f", {size:.3g} MB" if size > 0 else ""})
    return tiles


def _cost_lead(group: Group) -> str:
    if not any(metric.lower_is_better for metric in group.headline):
        return "Up and to the left is better."
    return "Down and to the left is better; of the curves, up and to the left. Grey: the naive baselines."


def _cost_figures(run: RunResults, group: Group) -> list[Markup | None]:
    sizes = {name: group.cost(name, "megabytes") for name in group.names}
    timed = {str(item["stage"]): item.get("p50_ms") for item in reversed(run.bench)}
    latencies = {name: float(value) for name, value in timed.items() if isinstance(value, int | float)}
    figures = []
    for metric in group.headline:
        figures += [
            plots.accuracy_over_cost(group, metric, sizes, "model size, MB"),
            plots.accuracy_over_cost(group, metric, latencies, "latency p50, ms"),
            plots.error_curves(group, metric),
        ]
    return figures


def _cases(run: RunResults) -> dict[tuple[str, str], list[Overlay]]:
    """The best and the worst cases of each stage, in this order."""
    chosen: dict[tuple[str, str], list[Overlay]] = {}
    for overlay in run.overlays:
        chosen.setdefault((overlay.stage, overlay.kind), []).append(overlay)
    return chosen


def _recipe_facts(run: RunResults) -> dict[str, Any]:
    """What a reader asks first of a recipe: how to run it again, with which seeds, on which data."""
    try:
        recipe = yaml.safe_load(run.recipe)
        data = recipe.get("data") or {}
        facts = {
            "command": f"posedistill run {run.folder / 'recipe.yaml'}",
            "expected": recipe.get("expected"),
            "seed": recipe.get("seed"),
            "seeds": recipe.get("seeds"),
            "data": _in_a_line({key: value for key, value in data.items() if key not in ("train", "test")}),
            "training data": [_in_a_line(source) for source in data.get("train") or []],
            "test data": _in_a_line(data.get("test")),
            "distillation": [_in_a_line(loss) for loss in recipe.get("distill") or []],
        }
    except (yaml.YAMLError, AttributeError, TypeError, ValueError):
        return {}  # shown as it is, below
    return {key: value for key, value in facts.items() if value not in (None, "", [])}


def _in_a_line(section: Any) -> str:
    """A section of a recipe in a line, without its longer settings.

    >>> _in_a_line({"source": {"models": "code", "count": 600, "settings": {"width": 320}}, "boxes": "gt"})
    'models code, count 600, boxes gt'
    """
    if not isinstance(section, Mapping):
        return "" if section is None else in_words(section)
    parts = [
        _in_a_line(value) if key == "source" else f"{key} {in_words(value)}"
        for key, value in section.items()
        if key == "source" or not (value is None or isinstance(value, Mapping))
    ]
    return ", ".join(parts)
