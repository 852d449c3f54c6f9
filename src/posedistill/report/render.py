"""Pages that are one file: jinja2 templates filled in; every text that comes from a file is escaped."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from posedistill import __version__
from posedistill.report.evaluations import STAGES


def render(template: str, **content: Any) -> str:
    """A template of ``report/templates`` as one HTML string. Figures are ``Markup``, all other text is escaped."""
    environment = Environment(
        loader=PackageLoader("posedistill.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals |= {"stages": STAGES, "version": __version__}
    environment.filters |= {"base64": _base64, "in_words": in_words, "whole_words": whole_words}
    return environment.get_template(template).render(**content)


def in_words(value: object) -> str:
    """A value of a recipe or an environment in a line.

    >>> in_words({"cpu": "2 cores", "memory": 7.65432}), in_words([1, 2]), in_words(["a, b", "c"])
    ('cpu 2 cores, memory 7.654', '1, 2', 'a, b; c')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_number(item)}" for key, item in value.items())
    if isinstance(value, list):
        items = [_number(item) for item in value]
        return ("; " if any(", " in item for item in items) else ", ").join(items)
    return _number(value)


def whole_words(text: str) -> Markup:
    """Escaped text whose words stay whole, where a browser would break them at a hyphen.

    >>> whole_words("15.1 % in ADD(-S)")
    Markup('15.1 % in <span class="word">ADD(-S)</span>')
    """
    return Markup(re.sub(r"\S+-\S+", r'<span class="word">\g<0></span>', str(escape(text))))


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
