"""Pictures of the documentation: there, small, and made again by their script."""

import importlib.util
import re
from pathlib import Path

import cv2

DOCS = Path(__file__).parents[2] / "docs"


def test_every_picture_that_a_page_shows_is_there_and_small():
    shown = {
        page.parent / name
        for page in DOCS.rglob("*.md")
        for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text())
    }
    assert {"renders.jpg", "poses.jpg"} <= {path.name for path in shown}
    assert all(path.stat().st_size < 300_000 for path in shown)


def test_the_script_draws_them(tmp_path):
    spec = importlib.util.spec_from_file_location("make_pictures", DOCS / "make_pictures.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    plain, drawn = (cv2.imread(str(path)) for path in script.main(tmp_path, count=1))
    assert plain.shape == drawn.shape and (plain.astype(int) - drawn).any()
