"""Sources of a recipe's frames: BOP folders, these under a csv's poses, label folders, renders of CAD models."""

from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.bop_models import EVAL_FOLDERS, MESHES, load_models_info, mesh_ids, mesh_path
from posedistill.data.formats.labels.dataset import LabelDataset
from posedistill.data.render.backgrounds import Backgrounds
from posedistill.data.render.dataset import SPLIT, RenderReport, RenderSettings, origin, render_dataset
from posedistill.data.render.label import label_dataset
from posedistill.data.render.shapes import code_models_info, code_objects
from posedistill.errors import DataError, RecipeError, describe, expectation, key_of
from posedistill.files import exclusive, read_text
from posedistill.geometry.meshes import load_mesh
from posedistill.log import console, progress_bar, progress_of
from posedistill.recipe.data import BopSource, LabelSource, RenderSource
from posedistill.recipe.recipe import fingerprint

CODE = Path("code")
"""The ``models`` of a render source that stands for the objects made in code."""


def open_source(
    source: BopSource | LabelSource | RenderSource, objects: list[int], cache: Path, obj_ids: list[int] | None = None
) -> BopDataset:
    """A source as a BOP data set; a render source is rendered first, or found in the cache.

    What a source of labels does not state, and was measured or assumed instead, is told on the terminal.

    ``obj_ids`` keeps the annotations of these objects alone, as a test split wants it. In training all annotations
    stay: other objects are foreground that hides the learned ones.
    """
    if isinstance(source, BopSource) and source.poses is not None:
        return BopDataset(_labelled(source, source.poses, cache), split=source.split, obj_ids=obj_ids)
    if isinstance(source, BopSource):
        return BopDataset(source.bop, split=source.split, scenes=source.scenes, frames=source.frames, obj_ids=obj_ids)
    if isinstance(source, LabelSource):
        labelled = LabelDataset(source.labels, source.split, obj_ids, source.ids)
        for note in labelled.notes:
            _tell(note)
        return labelled
    rendered = source.objects or objects
    made_from = origin(_meshes(source, rendered), _models_info(source), source.settings, source.seed)
    root = cache / f"render-{fingerprint(source.model_dump(mode='json'), made_from)}"
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(root.with_name(f".{root.name}.lock")):  # networks trained at the same time wait for one of them
        if not (root / "complete").exists():
            report = render(source, rendered, root)
            console.print(f"rendered {report.images} images, {report.images_per_second_per_core:.1f} images/s per core")
            (root / "complete").touch()
    return BopDataset(root, split=SPLIT, obj_ids=obj_ids)


@once
def _tell(note: str) -> None:
    """Print a note, once in a process: a source may serve for training and for testing."""
    console.print(f"[yellow]{note}", highlight=False)


def _labelled(source: BopSource, csv: Path, cache: Path) -> Path:
    """The folder of a source's images under a csv's poses, made once."""
    names = [read_text(path) if path is not None and path.exists() else None for path in (csv, _listed(source))]
    models = [path for name in EVAL_FOLDERS for path in sorted((source.bop / name).glob("*"))]
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in models]
    root = cache / f"labels-{fingerprint(source.model_dump(mode='json'), names, stamps)}"
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(root.with_name(f".{root.name}.lock")):
        if not (root / "complete").exists():
            dataset = BopDataset(source.bop, split=source.split, scenes=source.scenes, frames=source.frames)
            with progress_of("label", str(root)) as progress:
                report = label_dataset(
                    dataset,
                    csv,
                    root,
                    min_score=source.min_score,
                    ignore_unknown=source.ignore_unknown,
                    progress=progress,
                )
            console.print(f"{csv}: {report}")
            (root / "complete").touch()
    return root


def _listed(source: BopSource) -> Path | None:
    """The list of frames, which may start from the BOP folder."""
    if source.frames is None or source.frames.exists():
        return source.frames
    return source.bop / source.frames


def render(source: RenderSource, objects: list[int], root: Path, workers: int | None = None) -> RenderReport:
    """Render a source into a BOP folder, going on with what an earlier call left there."""
    with progress_bar() as bar:
        task = bar.add_task("render", total=source.count, note=str(root))
        return render_dataset(
            _meshes(source, objects),
            _models_info(source),
            root,
            source.settings,
            source.count,
            source.seed,
            workers=workers,
            progress=lambda done, _: bar.update(task, completed=done),
        )


def render_folder(
    models: Path, out: Path, count: int, seed: int, objects: list[int] | None, overrides: list[str], workers: int | None
) -> RenderReport:
    """What ``posedistill data render`` does: settings come as ``key=value``, objects default to all meshes.

    Raises:
        RecipeError: a setting that does not exist or cannot be. DataError: a missing or damaged mesh.
    """
    settings: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise RecipeError(describe("--set", override, "no such setting", "key=value, e.g. distance=[400,900]"))
    known = RenderSettings.model_fields
    try:
        source = RenderSource(models=models, count=count, seed=seed, settings=RenderSettings(**settings))
    except ValidationError as error:
        faults = [(key_of(f["loc"]), f["input"], expectation(f, known)) for f in error.errors()]
        raise RecipeError("\n".join(describe("--set", *fault) for fault in faults)) from None
    found = code_objects().keys() if models == CODE else mesh_ids(models)
    if not found:
        raise DataError(describe(models, "meshes", "none", MESHES))
    return render(source, objects or sorted(found), out, workers)


def backdrops(folder: Path | None, count: int = 128, size: int = 384) -> np.ndarray:
    """``[count, size, size, 3]`` pictures to put behind and before objects; photographs where there is a folder."""
    backgrounds, rng = Backgrounds(folder), np.random.default_rng(0)
    return np.stack([backgrounds.picture(size, size, rng) for _ in range(count)])


def _meshes(source: RenderSource, objects: list[int]) -> dict[int, Any]:
    meshes = code_objects() if source.models == CODE else None
    if meshes is not None:
        missing = [obj_id for obj_id in objects if obj_id not in meshes]
        if missing:
            raise DataError(describe("code", "objects", missing, f"some of {sorted(meshes)}"))
        return {obj_id: meshes[obj_id] for obj_id in objects}
    paths = {obj_id: mesh_path(source.models, obj_id) for obj_id in objects}
    return {obj_id: load_mesh(path) for obj_id, path in paths.items()}


def _models_info(source: RenderSource) -> dict[int, dict[str, Any]] | None:
    """Diameters and symmetries as the models' folder states them; symmetries cannot be seen in a mesh."""
    if source.models == CODE:
        return code_models_info()
    path = source.models / "models_info.json"
    return load_models_info(path) if path.exists() else None
