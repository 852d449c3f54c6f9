"""The errors a user can act on. Each message names the file, the key, what was found and what was expected."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class PoseDistillError(Exception):
    """Anything the user can mend; the command line prints its message without a traceback."""


class DataError(PoseDistillError):
    """A data set, mesh, image, csv or detection file is damaged or incomplete."""


class RecipeError(PoseDistillError):
    """A recipe holds an unknown key, a bad value, or asks for something that is not on offer."""


class CheckpointError(PoseDistillError):
    """A checkpoint or exported model is damaged or belongs to another architecture."""


class TrainingError(PoseDistillError):
    """Training cannot go on (a NaN loss, a full disk); the last good checkpoint is kept."""


def describe(file: str | Path, key: str, found: object, expected: object) -> str:
    """Word a fault the way every message of the project does.

    >>> describe("scene_gt.json", "cam_R_m2c", "8 numbers", "9 numbers")
    "scene_gt.json: 'cam_R_m2c': found 8 numbers, expected 9 numbers"
    """
    return f"{file}: '{key}': found {found}, expected {expected}"


def expectation(fault: Mapping[str, Any], known: Iterable[str]) -> str:
    """What was expected instead of a fault that pydantic found in settings whose keys are ``known``.

    >>> expectation({"type": "extra_forbidden", "msg": "Extra inputs are not permitted"}, ["width", "head"])
    'one of head, width'
    """
    return f"one of {', '.join(sorted(known))}" if fault["type"] == "extra_forbidden" else str(fault["msg"])
