"""Surface codes of a folder of models: built, measured, written, and kept beside what else a recipe caches."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from posedistill.data.formats.bop_models import MESHES, load_models_info, mesh_ids, mesh_path
from posedistill.errors import DataError, describe
from posedistill.files import exclusive
from posedistill.geometry.cameras import Array
from posedistill.geometry.codes import (
    BITS,
    CodeTree,
    Quality,
    build_tree,
    half_turn,
    load_tree,
    measure,
    save_tree,
    surface_samples,
)
from posedistill.geometry.codes.published import published_codes, write_published
from posedistill.geometry.codes.quality import warnings
from posedistill.geometry.meshes import Mesh, diameter, load_mesh
from posedistill.geometry.symmetries import symmetry_transforms

_MEASURED = 100_000
"""Points of a surface by which its codes are measured."""
_FORM = 1
"""Of the kept files; another number, and they are made anew."""


@dataclass(frozen=True)
class CodesReport:
    """What was written of one object.

    Attributes:
        diameter: mm. folded: whether its half turn was. qualities: of each depth; none of published codes.
        seconds: that the codes took.
        warnings: what to know before trusting them, in words.
    """

    obj_id: int
    path: Path
    diameter: float
    folded: bool
    qualities: list[Quality]
    warnings: list[str]
    seconds: float


def code_path(folder: Path, obj_id: int) -> Path:
    """Where an object's codes lie in a folder of them."""
    return folder / f"obj_{obj_id:06d}.npz"


def kept_codes(mesh: Mesh, symmetries: Array, folder: Path, fold: bool = False) -> CodeTree:
    """The codes of a mesh, all ``BITS`` of them, built once and kept in ``folder``.

    A tree is data: another machine's arithmetic may cut a symmetric shape another way.

    Args:
        symmetries: ``[S, 4, 4]``. fold: cut through the axis of the half turn, where there is one.
    """
    turn = half_turn(symmetries) if fold else None
    about = f"{_FORM} {mesh.shape_digest()} {None if turn is None else turn.tolist()}"
    path = folder / f"codes-{hashlib.sha256(about.encode()).hexdigest()[:12]}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            save_tree(build_tree(mesh.vertices, mesh.faces, half_turn=turn), path)
    return load_tree(path)


def codes_digest(folder: Path) -> str:
    """A short hash of what a folder of codes holds."""
    files = sorted(folder.glob("obj_*.npz"))
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()[:12]


def not_folded(symmetries: Array) -> str | None:
    """Why ``--fold`` or ``fold: true`` changes nothing of an object of ``symmetries`` ``[S, 4, 4]``; None if it does.

    >>> not_folded(symmetry_transforms({}))
    'not folded: that takes a half turn as the only symmetry, and models_info.json states 0'
    """
    if half_turn(symmetries) is not None:
        return None
    stated = f"{len(symmetries) - 1}" + (" other" if len(symmetries) == 2 else "")
    return f"not folded: that takes a half turn as the only symmetry, and models_info.json states {stated}"


def write_codes(
    models: Path,
    out: Path,
    obj_ids: Sequence[int] = (),
    *,
    bits: int = BITS,
    fold: bool = False,
    faithful: bool = False,
    seed: int = 0,
    told: Callable[[CodesReport], None],
) -> None:
    """Write the codes of a folder's models, all of them by default, and report each.

    Args:
        models: folder of ``obj_XXXXXX`` meshes, with ``models_info.json`` where any is symmetric.
        out: ``obj_XXXXXX.npz``; ``faithful`` writes ZebraPose's files instead, made its way.

    Raises:
        DataError: no mesh, a damaged one, one without area; nothing of it is written. Published codes that are to be
            folded.
    """
    if fold and faithful:
        found = "--fold with --faithful"
        raise DataError(describe("codes", "options", found, "one of them: published codes cannot be folded"))
    chosen = list(obj_ids) or sorted(mesh_ids(models))
    if not chosen:
        raise DataError(describe(models, "meshes", "none", MESHES))
    info_path = models / "models_info.json"
    info = load_models_info(info_path) if info_path.exists() else {}
    out.mkdir(parents=True, exist_ok=True)
    for obj_id in chosen:
        path = mesh_path(models, obj_id)
        mesh = load_mesh(path, looks=False)
        symmetries = symmetry_transforms(info.get(obj_id, {}))
        turn = half_turn(symmetries) if fold else None
        try:
            samples = surface_samples(mesh.vertices, mesh.faces, _MEASURED, seed + 1)
            size = diameter(mesh.vertices)
            started = time.perf_counter()
            if faithful:
                write_published(published_codes(mesh.vertices, mesh.faces, bits, seed), out, obj_id)
                took = time.perf_counter() - started
                told(CodesReport(obj_id, out / f"Class_CorresPoint{obj_id:06d}.txt", size, False, [], [], took))
                continue
            tree = build_tree(mesh.vertices, mesh.faces, bits, seed=seed, half_turn=turn)
            took = time.perf_counter() - started
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        save_tree(tree, code_path(out, obj_id))
        qualities = measure(tree, samples)
        notes = warnings(qualities, mesh.vertices, mesh.faces, size)
        if fold and (note := not_folded(symmetries)):
            notes.append(note)
        told(CodesReport(obj_id, code_path(out, obj_id), size, turn is not None, qualities, notes, took))
