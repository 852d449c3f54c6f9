"""Checks of the models of a BOP data set: meshes, units, and ``models_info.json`` against the meshes."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from posedistill.data.faults import FaultKind, OnFault, fault, reported
from posedistill.data.formats.bop_models import EVAL_FOLDERS, load_models_info, mesh_path
from posedistill.errors import DataError
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes import Mesh, hull_corners, load_mesh, model_info
from posedistill.geometry.objects import INFO_KEYS

SMALLEST, LARGEST = 2.0, 20_000.0
"""mm; a diameter outside is a model in metres, or in micrometres."""
INFO_TOLERANCE = 0.03
"""Share of the diameter that ``models_info.json`` may differ by from the mesh (evaluation models are resampled)."""


@dataclass(frozen=True)
class CheckedModel:
    """An object's mesh with the vertices of its convex hull ``[H, 3]`` mm: their projected box is the mesh's."""

    mesh: Mesh
    hull: Array
    diameter: float


@dataclass(frozen=True)
class CheckedModels:
    """The sound models, and the ids ``models_info.json`` lists (None where no models exist at all)."""

    models: dict[int, CheckedModel]
    listed: frozenset[int] | None
    info_path: Path


def check_models(root: Path, on_fault: OnFault) -> CheckedModels:
    """Check every model folder; the models of the evaluation folder are the ones returned, where it has them."""
    models: dict[int, CheckedModel] = {}
    listed: frozenset[int] | None = None
    folders = [root / name for name in EVAL_FOLDERS if (root / name).is_dir()]
    for folder in folders:
        infos = load_models_info(folder / "models_info.json", on_fault)
        listed = frozenset(infos) if listed is None else listed
        for obj_id, info in infos.items():
            model = _check_model(folder, obj_id, info, on_fault)
            if model is not None:
                models.setdefault(obj_id, model)
    return CheckedModels(models, listed, (folders[0] if folders else root / "models_eval") / "models_info.json")


def _check_model(folder: Path, obj_id: int, info: dict[str, float], on_fault: OnFault) -> CheckedModel | None:
    mesh = _load(folder, obj_id, on_fault)
    if mesh is None:
        return None
    path, info_path = mesh_path(folder, obj_id), folder / "models_info.json"
    measured = model_info(mesh)
    diameter = measured["diameter"]
    if not SMALLEST <= diameter <= LARGEST:
        expected = f"{SMALLEST:g} to {LARGEST:g} (millimetres)"
        on_fault(fault(FaultKind.MODEL_UNITS, path, "diameter", f"{diameter:.4g}", expected))
        return None
    worst = max(INFO_KEYS, key=lambda key: abs(measured[key] - info[key]))
    if abs(measured[worst] - info[worst]) > INFO_TOLERANCE * diameter:
        found, expected = f"{info[worst]:.4g}", f"{measured[worst]:.4g} as the mesh {path.name} has"
        on_fault(fault(FaultKind.MODEL_INFO, info_path, f"{obj_id}.{worst}", found, expected))
    return CheckedModel(mesh, hull_corners(mesh.vertices), diameter)


def _load(folder: Path, obj_id: int, on_fault: OnFault) -> Mesh | None:
    """An object's mesh, without its looks where only these are at fault; None where there is none to check poses by."""
    with reported(on_fault, FaultKind.MODEL_FILE, folder):
        return load_mesh(mesh_path(folder, obj_id))
    with suppress(DataError):
        return load_mesh(mesh_path(folder, obj_id), looks=False)
    return None
