"""Packages of the dev extra that an older environment may lack."""

import importlib
import os
from typing import Any

import pytest


def dev_package(name: str) -> Any:
    """A package, without which the test is skipped; not where CI is set, whose environment is always new."""
    return importlib.import_module(name) if "CI" in os.environ else pytest.importorskip(name)
