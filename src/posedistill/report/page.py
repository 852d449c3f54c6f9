"""report.html: everything a run found, in one file that needs nothing else."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from posedistill.files import write_file
from posedistill.report import gallery, markup, plots, tables, trajectory
from posedistill.report.headline import headline, headline_metrics
from posedistill.report.metrics import Metric
from posedistill.report.results import VARIANTS, Evaluation, RunResults, headline_metric, load_run, scores_of
from posedistill.report.statistics import summarise


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
    sections = [
        markup.section("Results", "", _results(run)),
        markup.section("Accuracy over cost", _cost_lead(group), _cost_figures(run, group)),
        markup.section("By object", "", _objects(group)),
        markup.section("Where the cameras stood", _PLACES_LEAD, trajectory.render_places(group)),
        markup.section("Best and worst cases", _CASES_LEAD if run.overlays else "", _cases(run)),
        markup.section("Speed", "", _bench(run)),
        markup.section("Training", _TRAINING_LEAD, _training(run)),
        markup.section("How it was obtained", "", _provenance(run)),
        markup.section("Not shown", "", _notes(run)),
    ]
    sentence, certainty = (escape(text) for text in headline(run))
    header = f'<p class="headline">{sentence}</p>\n<p class="certainty">{certainty}</p>\n{_tiles(run, group)}'
    return markup.document(run.folder.resolve().name, header, "".join(sections))


_TRAINING_LEAD = (
    "Seeds thin, their mean bold. The total of a distilled student holds the distillation terms too: "
    "compare models by single terms and by validation."
)
_CASES_LEAD = (
    f'<span class="key" style="border-color:rgb{gallery.TRUTH}; margin-left:0"></span>ground truth'
    f'<span class="key" style="border-color:rgb{gallery.GUESS}; border-top-width:2px"></span>prediction, '
    "with its axes. Ranked by pose error."
)
_PLACES_LEAD = (
    "Test images, first seed. Coloured dots: the estimated places, by their error; a line leads to each from its true "
    "place, a small dot on the way of the camera. Pale: the training images. All figures have the same colours."
)


def _tiles(run: RunResults, group: Sequence[Evaluation]) -> str:
    metrics = headline_metrics(group)
    if not metrics:
        return ""
    tiles = []
    for name in [name for name in VARIANTS if any(item.variant == name for item in group)]:
        means = [(metric, summarise(scores_of(group, name, metric)).mean) for metric in metrics]
        score = ", ".join(Metric(metric).quantity(mean).replace(" ", "&nbsp;") for metric, mean in means)
        sizes = [item.megabytes for item in group if item.variant == name and item.megabytes is not None]
        size = f", {sizes[0]:.3g} MB" if sizes else ""
        tiles.append(f'<div><b style="color:var(--{name})">{score}</b><span>{name}{size}</span></div>')
    note = f'<p class="note">{escape(" and ".join(Metric(metric).label for metric in metrics))}'
    where = tables.describe_group(group)
    return f'<div class="tiles">{"".join(tiles)}</div>\n{note}{escape(" on " + where if where else "")}</p>\n'


def _results(run: RunResults) -> str:
    return "\n".join(markup.table(table) for table in tables.result_tables(run))


def _cost_lead(group: Sequence[Evaluation]) -> str:
    metric = headline_metric(list(group))
    if metric is None or not Metric(metric).lower_is_better:
        return "Up and to the left is better."
    return "Down and to the left is better; of the curves, up and to the left. Grey: the trivial answers."


def _cost_figures(run: RunResults, group: Sequence[Evaluation]) -> str:
    sizes = {item.variant: item.megabytes for item in group if item.megabytes}
    latency, measured = tables.latencies(run, group)
    figures = []
    for metric in headline_metrics(group):
        figures += [
            plots.accuracy_over_cost(group, metric, sizes, "model size, MB"),
            plots.accuracy_over_cost(group, metric, latency, f"{measured}, ms"),
            plots.error_curves(group, metric) if Metric(metric).lower_is_better else plots.recall_curves(group),
        ]
    return markup.figures(figures)


def _objects(group: Sequence[Evaluation]) -> str:
    wanted = dict.fromkeys([headline_metric(list(group)), "add_0.1d"])
    measured = {metric for item in group for metric in item.scores}
    return "\n".join(markup.table(tables.per_object_table(group, metric)) for metric in wanted if metric in measured)


def _bench(run: RunResults) -> str:
    return markup.table(tables.bench_table(run.bench))


def _training(run: RunResults) -> str:
    losses = plots.history_panels(run.histories, "loss")
    validation = plots.history_panels(run.histories, "val/")
    return markup.figures(losses + validation, "panels")


def _cases(run: RunResults) -> str:
    parts = []
    for variant in dict.fromkeys(overlay.variant for overlay in run.overlays):
        for kind in ("best", "worst"):
            chosen = [item for item in run.overlays if (item.variant, item.kind) == (variant, kind)]
            pictures = "".join(
                f'<figure><img loading="lazy" alt="{escape(item.caption)}" src="data:image/jpeg;base64,'
                f'{base64.b64encode(item.image.read_bytes()).decode()}"><figcaption>{escape(item.caption)}</figcaption></figure>\n'
                for item in chosen
            )
            parts.append(
                f'<h3>{markup.variant_name(variant)}: {kind}</h3>\n<div class="cases">{pictures}</div>'
                if chosen
                else ""
            )
    return "\n".join(parts)


def _provenance(run: RunResults) -> str:
    facts = _recipe_facts(run) | run.environment
    parts = [f'<div class="card">{markup.definitions(facts)}</div>'] if facts else []
    if run.recipe:
        parts.append(f"<details><summary>Resolved recipe</summary>\n<pre>{escape(run.recipe)}</pre></details>")
    return "\n".join(parts)


def _recipe_facts(run: RunResults) -> dict[str, Any]:
    """What a reader asks first of a recipe: how to run it again, with which seeds, on which splits."""
    try:
        recipe = yaml.safe_load(run.recipe)
        data = recipe.get("data") or {}
        facts = {
            "command": f"posedistill run {run.folder / 'recipe.yaml'}",
            "expected": recipe.get("expected"),
            "seed": recipe.get("seed"),
            "seeds": recipe.get("seeds"),
            **(_scene_facts(data) if "scene" in data else _object_facts(data)),
            "distillation": [_source(spec) for spec in recipe.get("distill") or []],
        }
    except (yaml.YAMLError, AttributeError, TypeError, ValueError):
        return {}  # shown as it is, below
    return {key: value for key, value in facts.items() if value not in (None, "", [])}


def _object_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "objects": data.get("objects"),
        "training data": [_source(source) for source in data.get("train") or []],
        "validation": f"{data['validation']:.3g} of the training frames" if data.get("validation") else None,
        "test data": _source((data.get("test") or {}).get("source")),
    }


def _scene_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    share = f"{data['validation']:.3g} of the training images, in unbroken blocks" if data.get("validation") else None
    scaled = "squeezed to 455x256" if data.get("squeeze") else f"shorter side {data.get('short_side')} px"
    crop = data.get("crop")
    sides = f", crop {crop if isinstance(crop, int) else 'x'.join(map(str, crop))} px" if crop else ""
    return {
        "training data": data["scene"],
        "pictures": scaled + sides + (", mean image subtracted" if data.get("mean_image") else ""),
        "validation": share,
        "test data": data.get("test") or "the test split of the same scene",
    }


def _source(section: Any) -> str:
    """One section of a recipe in a line, without its longer settings.

    >>> _source({"models": "code", "count": 600, "settings": {"width": 320}})
    'models code, count 600'
    """
    if not isinstance(section, Mapping):
        return "" if section is None else str(section)
    plain = {key: value for key, value in section.items() if value is not None and not isinstance(value, Mapping)}
    return ", ".join(f"{key} {value}" for key, value in plain.items())


def _notes(run: RunResults) -> str:
    items = "".join(f"<li>{escape(note)}</li>\n" for note in run.notes)
    return f'<ul class="note">{items}</ul>' if items else ""
