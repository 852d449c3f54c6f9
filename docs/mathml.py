"""Formulas on the site: blocks of ```math, which GitHub sets by itself, become MathML, which browsers set."""

import re
from typing import Any

from latex2mathml.converter import convert

BLOCK = re.compile(r"^```math\n(.+?)\n```$", re.M | re.S)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What mkdocs makes of each page before it reads it."""
    return BLOCK.sub(lambda found: f'<div class="formula">{convert(found[1], display="block")}</div>', markdown)
