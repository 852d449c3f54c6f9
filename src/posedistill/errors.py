"""The errors a user can act on. Each message names the file, the key, what was found and what was expected."""

import difflib
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


_PLAIN = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "finite_number": "a finite number",
    "bool_type": "true or false", "bool_parsing": "true or false", "string_type": "a text",
    "path_type": "a path", "list_type": "a list", "tuple_type": "a list", "dict_type": "a section of keys",
    "model_type": "a section of keys", "model_attributes_type": "a section of keys", "missing": "a value",
    "greater_than": "more than {gt}", "greater_than_equal": "at least {ge}", "less_than": "less than {lt}",
    "less_than_equal": "at most {le}", "multiple_of": "a multiple of {multiple_of}", "literal_error": "{expected}",
    "too_short": "a list of at least {min_length}", "too_long": "a list of at most {max_length}",
    "string_pattern_mismatch": "letters, digits and the signs _ . -",
}  # fmt: skip
"""By what pydantic calls a fault: what was expected, in plain words."""


def key_of(place: Iterable[int | str]) -> str:
    """The dotted key of a fault that pydantic found, without the names that it gives to the types of a union.

    >>> key_of(("relate", "layers", "literal['all']"))
    'relate.layers'
    """
    return ".".join(str(part) for part in place if "[" not in str(part))


def expectation(fault: Mapping[str, Any], known: Iterable[str] = ()) -> str:
    """What was expected instead of a fault that pydantic found in settings whose keys are ``known``.

    >>> expectation({"type": "extra_forbidden", "loc": ("haed",), "msg": "not permitted"}, ["width", "head"])
    "one of head, width: did you mean 'head'?"
    >>> expectation({"type": "greater_than", "ctx": {"gt": 0}, "msg": "Input should be greater than 0"})
    'more than 0'
    """
    if fault["type"] == "extra_forbidden":
        key, keys = str(fault["loc"][-1]), sorted(known)
        near = difflib.get_close_matches(key, keys, n=1)
        return f"one of {', '.join(keys)}" + (f": did you mean {near[0]!r}?" if near else "")
    if fault["type"] == "value_error":  # of a check of ours
        return str(fault["ctx"]["error"])
    words = _PLAIN.get(fault["type"])
    return str(fault["msg"]) if words is None else words.format(**fault.get("ctx", {}))
