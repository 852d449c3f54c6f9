"""Pieces of a page that is one file: sections, tables, figures, and the document around them."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from posedistill import __version__
from posedistill.report.cells import Cell, Table
from posedistill.report.results import VARIANTS


def document(title: str, header: str, sections: str) -> str:
    """The whole page. ``title`` is escaped here; ``header`` and ``sections`` are markup."""
    style = resources.files("posedistill.report").joinpath("page.css").read_text(encoding="utf-8")
    name = escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} · posedistill</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><h1>posedistill · {name}</h1>\n{header}</header>\n<main>\n{sections}</main>\n"
        f'<footer class="note"><p>Made by posedistill {escape(__version__)}.</p></footer>\n</body>\n</html>\n'
    )


def section(title: str, lead: str, body: str) -> str:
    """``lead`` is markup of ours; a section without a body is left out."""
    if not body:
        return ""
    lead = f'<p class="lead">{lead}</p>\n' if lead else ""
    return f"<section>\n<h2>{title}</h2>\n{lead}{body}\n</section>\n"


def table(table: Table | None) -> str:
    """A table with its title and notes; nothing where there is none."""
    if table is None:
        return ""
    head = "".join(f"<th>{variant_name(column)}</th>" for column in table.columns)
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
        return f"<td>{variant_name(cell.text)}{detail}</td>"
    share = (
        float(np.clip(cell.heat, 0, 1)) ** 2 * 0.65
    )  # squared: the differences near the top are the ones of interest
    return f'<td class="heat" style="--share:{share:.2f}">{escape(cell.text)}</td>'


def variant_name(text: str) -> str:
    """A variant's name carries its colour, wherever it stands."""
    if text not in VARIANTS:
        return escape(text)
    return f'<span class="variant" style="--dot:var(--{text})">{text}</span>'


def figures(svgs: Sequence[str | None], layout: str = "figures") -> str:
    """Cards of SVG figures, those that exist."""
    cards = "".join(f'<figure class="card">{svg}</figure>\n' for svg in svgs if svg)
    return f'<div class="{layout}">{cards}</div>' if cards else ""


def definitions(mapping: Mapping[str, Any]) -> str:
    """Names and values, one below the other."""
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
