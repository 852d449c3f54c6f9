"""report.html: everything a run found, in one file that needs nothing else."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from posedistill import __version__
from posedistill.files import write_file
from posedistill.report import gallery, plots, tables
from posedistill.report.cells import Cell, Table
from posedistill.report.results import VARIANTS, Evaluation, RunResults, headline_metric, load_run, metric_label
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
        _section("Results", "", _results(run)),
        _section("Accuracy over cost", "Up and to the left is better.", _cost_figures(run, group)),
        _section("By object", "", _objects(group)),
        _section("Best and worst cases", _CASES_LEAD if run.overlays else "", _cases(run)),
        _section("Speed", "", _bench(run)),
        _section("Training", _TRAINING_LEAD, _training(run)),
        _section("How it was obtained", "", _provenance(run)),
        _section("Not shown", "", _notes(run)),
    ]
    sentence, certainty = (escape(text) for text in tables.headline(run))
    style = resources.files("posedistill.report").joinpath("page.css").read_text(encoding="utf-8")
    name = escape(run.folder.resolve().name)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} · posedistill</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header><h1>posedistill · {name}</h1>\n<p class="headline">{sentence}</p>\n'
        f'<p class="certainty">{certainty}</p>\n'
        f"{_tiles(run, group)}</header>\n<main>\n{''.join(sections)}</main>\n"
        f'<footer class="note"><p>Made by posedistill {escape(__version__)}.</p></footer>\n</body>\n</html>\n'
    )


_TRAINING_LEAD = (
    "Seeds thin, their mean bold. The total of a distilled student holds the distillation terms too: "
    "compare models by single terms and by validation."
)
_CASES_LEAD = (
    f'<span class="key" style="border-color:rgb{gallery.TRUTH}; margin-left:0"></span>ground truth'
    f'<span class="key" style="border-color:rgb{gallery.GUESS}; border-top-width:2px"></span>prediction, '
    "with its axes. Ranked by pose error."
)


def _section(title: str, lead: str, body: str) -> str:
    """``lead`` is markup of ours; a section without a body is left out."""
    if not body:
        return ""
    lead = f'<p class="lead">{lead}</p>\n' if lead else ""
    return f"<section>\n<h2>{title}</h2>\n{lead}{body}\n</section>\n"


def _tiles(run: RunResults, group: Sequence[Evaluation]) -> str:
    metric = headline_metric(list(group))
    if metric is None:
        return ""
    tiles = []
    for name in [name for name in VARIANTS if any(item.variant == name for item in group)]:
        mean = summarise([item.scores[metric] for item in group if item.variant == name and metric in item.scores]).mean
        sizes = [item.megabytes for item in group if item.variant == name and item.megabytes is not None]
        size = f", {sizes[0]:.3g} MB" if sizes else ""
        tiles.append(f'<div><b style="color:var(--{name})">{tables.percent(mean)} %</b><span>{name}{size}</span></div>')
    note = f'<p class="note">{escape(metric_label(metric))}'
    where = tables.describe_group(group)
    return f'<div class="tiles">{"".join(tiles)}</div>\n{note}{escape(" on " + where if where else "")}</p>\n'


def _table(table: Table | None) -> str:
    if table is None:
        return ""
    head = "".join(f"<th>{_name(column)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>\n" for row in table.rows)
    notes = "".join(f'<p class="note">{escape(note)}</p>\n' for note in table.notes)
    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    return (
        f'<div class="scroll"><table>{caption}\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div>\n{notes}"
    )


def _cell(cell: Cell) -> str:
    if cell.heat is None:
        detail = f"<br><small>{escape(cell.detail)}</small>" if cell.detail else ""
        return f"<td>{_name(cell.text)}{detail}</td>"
    share = (
        float(np.clip(cell.heat, 0, 1)) ** 2 * 0.65
    )  # squared: the differences near the top are the ones of interest
    return f'<td class="heat" style="--share:{share:.2f}">{escape(cell.text)}</td>'


def _name(text: str) -> str:
    """A variant's name carries its colour, wherever it stands."""
    if text not in VARIANTS:
        return escape(text)
    return f'<span class="variant" style="--dot:var(--{text})">{text}</span>'


def _results(run: RunResults) -> str:
    return "\n".join(_table(table) for table in tables.result_tables(run))


def _figures(svgs: Sequence[str | None], layout: str = "figures") -> str:
    cards = "".join(f'<figure class="card">{svg}</figure>\n' for svg in svgs if svg)
    return f'<div class="{layout}">{cards}</div>' if cards else ""


def _cost_figures(run: RunResults, group: Sequence[Evaluation]) -> str:
    sizes = {item.variant: item.megabytes for item in group if item.megabytes}
    latency, measured = tables.latencies(run, group)
    return _figures(
        [
            plots.accuracy_over_cost(group, sizes, "model size, MB"),
            plots.accuracy_over_cost(group, latency, f"{measured}, ms"),
            plots.recall_curves(group),
        ]
    )


def _objects(group: Sequence[Evaluation]) -> str:
    wanted = dict.fromkeys([headline_metric(list(group)), "add_0.1d"])
    measured = {metric for item in group for metric in item.scores}
    return "\n".join(_table(tables.per_object_table(group, metric)) for metric in wanted if metric in measured)


def _bench(run: RunResults) -> str:
    return _table(tables.bench_table(run.bench))


def _training(run: RunResults) -> str:
    losses = plots.history_panels(run.histories, "loss")
    validation = plots.history_panels(run.histories, "val/")
    return _figures(losses + validation, "panels")


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
            parts.append(f'<h3>{_name(variant)}: {kind}</h3>\n<div class="cases">{pictures}</div>' if chosen else "")
    return "\n".join(parts)


def _provenance(run: RunResults) -> str:
    facts = _recipe_facts(run) | run.environment
    parts = [f'<div class="card">{_definitions(facts)}</div>'] if facts else []
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
            "objects": data.get("objects"),
            "training data": [_source(source) for source in data.get("train") or []],
            "validation": f"{data['validation']:.3g} of the training frames" if data.get("validation") else None,
            "test data": _source((data.get("test") or {}).get("source")),
            "distillation": [_source(spec) for spec in recipe.get("distill") or []],
        }
    except (yaml.YAMLError, AttributeError, TypeError, ValueError):
        return {}  # shown as it is, below
    return {key: value for key, value in facts.items() if value not in (None, "", [])}


def _source(section: Any) -> str:
    """One section of a recipe in a line, without its longer settings.

    >>> _source({"models": "code", "count": 600, "settings": {"width": 320}})
    'models code, count 600'
    """
    if not isinstance(section, Mapping):
        return "" if section is None else str(section)
    plain = {key: value for key, value in section.items() if value is not None and not isinstance(value, Mapping)}
    return ", ".join(f"{key} {value}" for key, value in plain.items())


def _definitions(mapping: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{_value(value)}</dd>\n" for key, value in mapping.items()
    )
    return f"<dl>{rows}</dl>"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return escape(", ".join(f"{key} {_text(item)}" for key, item in value.items()))
    if isinstance(value, list):
        items = [_text(item) for item in value]
        return escape(("; " if any(", " in item for item in items) else ", ").join(items))
    return escape(_text(value))


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _notes(run: RunResults) -> str:
    items = "".join(f"<li>{escape(note)}</li>\n" for note in run.notes)
    return f'<ul class="note">{items}</ul>' if items else ""
