"""Pages of the documentation agree with what they are made from."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_evidence_page_holds_every_difference_of_its_csv():
    evidence = runpy.run_path(str(ROOT / "benchmarks" / "evidence.py"))
    rows = evidence["read"](ROOT / "docs" / "evidence.csv")
    assert rows
    assert evidence["table"](rows) in (ROOT / "docs" / "evidence.md").read_text()
    assert all(row.low <= row.difference <= row.high for row in rows)
