"""A CAD file of one's own as an object of a models folder: any name, any of the read formats, any unit of length."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.data.formats.bop_parse import load_json
from posedistill.errors import DataError, describe
from posedistill.files import write_file
from posedistill.geometry.meshes import READERS, load_mesh, model_info, save_ply

UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "in": 25.4}
"""Millimetres in one of each."""
SIZES = (5.0, 5000.0)
"""Diameters, mm, of things that a camera looks at: another one was read in the wrong unit."""
AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


def add_model(source: Path, folder: Path, obj_id: int = 1, unit: str = "mm", turns: str = "") -> dict[str, Any]:
    """Write a mesh as ``obj_XXXXXX.ply`` in mm, the middle of its box at the origin, and note it in models_info.json.

    Args:
        source: .ply, .obj, .glb or .stl. folder: made where absent; other objects in it stay.
        unit: one of ``UNITS``, of the file. turns: x, y or z, about which the part may be turned as one likes.

    Returns:
        Its entry of models_info.json.

    Raises:
        DataError: a file that is no mesh, an unknown unit or axis, or a size that no camera would look at.
    """
    if unit not in UNITS:
        raise DataError(describe("--unit", "unit", repr(unit), f"one of {', '.join(UNITS)}"))
    if turns and turns not in AXES:
        raise DataError(describe("--turns", "axis", repr(turns), f"one of {', '.join(AXES)}"))
    if source.suffix.lower() not in READERS:
        expected = f"{', '.join(READERS)} (export STEP and other CAD formats as .stl)"
        raise DataError(describe(source, "ending", repr(source.suffix), expected))
    mesh = load_mesh(source)
    vertices = UNITS[unit] * np.asarray(mesh.vertices)
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    mesh = replace(mesh, vertices=vertices - middle)
    info: dict[str, Any] = dict(model_info(mesh))
    if not SIZES[0] <= info["diameter"] <= SIZES[1]:
        fitting = [name for name, mm in UNITS.items() if SIZES[0] <= info["diameter"] / UNITS[unit] * mm <= SIZES[1]]
        expected = f"{SIZES[0]:g} to {SIZES[1]:g} mm: --unit {' or '.join(fitting) or 'of the file'}?"
        raise DataError(describe(source, "diameter", f"{info['diameter']:.3g} mm in {unit}", expected))
    if turns:
        info["symmetries_continuous"] = [{"axis": list(AXES[turns]), "offset": [0.0, 0.0, 0.0]}]
    folder.mkdir(parents=True, exist_ok=True)
    save_ply(mesh, folder / f"obj_{obj_id:06d}.ply")
    path = folder / "models_info.json"
    known = load_json(path) if path.exists() else {}
    write_file(path, json.dumps(known | {str(obj_id): info}, indent=1))
    return info
