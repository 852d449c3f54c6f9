"""What the tests of both pages share; the made records of the report's tests serve here too."""

from pathlib import Path

import pytest

from posedistill.report.cells import Table
from posedistill.report.comparison import ComparisonResults, load_comparison

from ..report.conftest import (  # noqa: F401
    camera_evaluation_fixture,
    references_fixture,
)


@pytest.fixture
def results(folder: Path) -> ComparisonResults:
    """The comparison of the folder that a test's own module makes."""
    return load_comparison(folder)


def cells(table: Table, row: str) -> list[str]:
    """The texts of a row by its name."""
    return next([str(cell) for cell in line] for line in table.rows if line[0].text == row)
