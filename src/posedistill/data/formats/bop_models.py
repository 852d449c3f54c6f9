"""The model folders of a BOP data set and their ``models_info.json``."""

from pathlib import Path
from typing import Any

import numpy as np

from posedistill.data.faults import FaultKind, OnFault, fault, raise_fault
from posedistill.data.formats.bop_parse import load_keyed_json, parse_numbers
from posedistill.errors import DataError, describe
from posedistill.geometry.meshes import READERS
from posedistill.geometry.objects import INFO_KEYS

EVAL_FOLDERS = ("models_eval", "models", "models_cad")
MESHES = "obj_XXXXXX.ply, .obj, .glb or .stl, XXXXXX the object's id: posedistill data model FILE FOLDER makes one"
"""What is expected of a folder of models."""
TRAIN_FOLDERS = ("models", "models_cad", "models_eval")


def find_models(root: Path, folders: tuple[str, ...]) -> Path | None:
    """The first of the folders that exists under ``root``."""
    return next((root / name for name in folders if (root / name).is_dir()), None)


def mesh_path(folder: Path, obj_id: int) -> Path:
    """The mesh file of an object.

    Raises:
        DataError: no such file.
    """
    paths = [folder / f"obj_{obj_id:06d}{suffix}" for suffix in READERS]
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        raise DataError(describe(paths[0], f"object {obj_id}", "no such file", f"a mesh ({', '.join(READERS)})"))
    return found


def mesh_ids(folder: Path) -> set[int]:
    """The objects that a folder has meshes of."""
    paths = [path for suffix in READERS for path in folder.glob(f"obj_??????{suffix}")]
    return {int(path.stem[4:]) for path in paths if path.stem[4:].isdecimal()}


def load_models_info(path: Path, on_fault: OnFault = raise_fault) -> dict[int, dict[str, Any]]:
    """Parse ``models_info.json``: object id -> diameter, box (mm) and symmetries as they stand in the file.

    Raises:
        DataError: no json, a missing key, a diameter or size that is not positive, a symmetry of a wrong shape.
    """
    content = load_keyed_json(path, on_fault)
    entries = [(str(obj_id), info) for obj_id, info in content.items()]
    columns = {key: parse_numbers(path, entries, key, 1, on_fault)[:, 0] for key in INFO_KEYS}
    valid = ~np.isnan(np.array(list(columns.values())).reshape(len(INFO_KEYS), -1)).any(axis=0)
    for key in ("diameter", "size_x", "size_y", "size_z"):
        lowest = 0.0 if key == "diameter" else -1e-9  # a flat card has one size of 0
        for row in np.flatnonzero(columns[key] <= lowest).tolist():
            name = f"{entries[row][0]}.{key}"
            on_fault(fault(FaultKind.WRONG_COUNT, path, name, columns[key][row], "a positive length in mm"))
            valid[row] = False
    for row in np.flatnonzero(valid).tolist():
        valid[row] = _symmetries_valid(path, *entries[row], on_fault)
    return {obj_id: info for (obj_id, info), keep in zip(content.items(), valid, strict=True) if keep}


def _symmetries_valid(path: Path, label: str, info: dict[str, Any], on_fault: OnFault) -> bool:
    lists = {key: info.get(key, []) for key in ("symmetries_discrete", "symmetries_continuous")}
    for key, value in lists.items():
        if not isinstance(value, list):
            on_fault(fault(FaultKind.JSON, path, f"{label}.{key}", type(value).__name__, "a list"))
            return False
    discrete, continuous = lists.values()
    turns = [(f"{label}[{i}]", {"symmetries_discrete": turn}) for i, turn in enumerate(discrete)]
    axes = [(f"{label}.symmetries_continuous[{i}]", axis) for i, axis in enumerate(continuous)]
    values = [parse_numbers(path, turns, "symmetries_discrete", 16, on_fault)]
    values += [parse_numbers(path, axes, key, 3, on_fault) for key in ("axis", "offset")]
    return not any(np.isnan(numbers).any() for numbers in values)


def require_objects(models_info: dict[int, dict[str, Any]], obj_ids: set[int], path: Path) -> None:
    """Raise ``DataError`` where an annotated object is absent from ``models_info.json``."""
    absent = sorted(obj_ids - models_info.keys())
    if absent:
        raise DataError(describe(path, ", ".join(map(str, absent)), "no such object", f"one of {sorted(models_info)}"))
