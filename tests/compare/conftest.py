"""The made records of the report's tests serve the comparison's page too."""

from ..report.conftest import (  # noqa: F401
    camera_evaluation_fixture,
    references_fixture,
)
