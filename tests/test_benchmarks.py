"""The benchmarks take long and run by hand; that each still finds what it imports is seen here."""

import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_finds_what_it_imports(script: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(script.parent))
    defined = runpy.run_path(str(script), run_name="imported")
    assert "main" in defined or script.stem == "timing"
