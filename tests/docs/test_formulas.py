"""Formulas of the pages: each becomes MathML in which nothing of its source is left."""

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

from tests.dev import dev_package

DOCS = Path(__file__).parents[2] / "docs"
FENCE = "```math\n"


def test_every_formula_becomes_mathml():
    dev_package("latex2mathml")
    hook = runpy.run_path(str(DOCS / "mathml.py"))["on_page_markdown"]
    formulas = []
    for page in DOCS.rglob("*.md"):
        made = hook(page.read_text(), page=None)
        assert FENCE not in made, page
        formulas += [(page, text) for text in re.findall(r'<div class="formula">(.*?)</div>', made)]
    assert len(formulas) > 20
    for page, text in formulas:
        assert not [part for part in ElementTree.fromstring(text).itertext() if "\\" in part or "&" in part], (
            page,
            text,
        )


def test_losses_state_formulas_as_formulas():
    """No block of a page on losses is a formula in plain letters."""
    for page in (DOCS / "losses").glob("*.md"):
        assert not re.findall(r"^ {4}.*(?:sum_|mean_|\^2|exp\().*$", page.read_text(), re.M), page
