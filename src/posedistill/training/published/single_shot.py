"""The commands of single-shot pose's repositories: their files become a recipe, which is written, told and run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from posedistill.files import write_file
from posedistill.log import console
from posedistill.metrics.evaluation import Evaluation
from posedistill.recipe.published import (
    network_section,
    require_whole,
    training_recipe,
    unused_keys,
    valid_lists,
    validation_recipe,
)
from posedistill.recipe.recipe import load_recipe
from posedistill.recipe.stages import Stage
from posedistill.report.score_table import score_tables
from posedistill.tasks.base import Task
from posedistill.tasks.registry import open_task
from posedistill.training.checkpoints import load_tensors
from posedistill.training.evaluate import measure_stage
from posedistill.training.run import alone, train_stage
from posedistill.training.run_folder import write_recipe


def train_published(
    datacfg: Path,
    modelcfg: Path,
    init: Path | None,
    *,
    teacher: tuple[Path, Path] | None = None,
    overrides: Sequence[str] = (),
    **options: Any,
) -> Path:
    """Train a network of a .cfg on the labels of a .data file; returns the weights.

    Args:
        teacher: .cfg and weights of a finished network, under which the student learns besides.
        overrides: ``key=value`` for any field of the recipe. options: see ``training_recipe``.

    Raises:
        PoseDistillError: whatever is wrong with the files, the recipe or the training.
    """
    raw = training_recipe(datacfg, modelcfg, init, taught=teacher is not None, **options)
    if unused := unused_keys(modelcfg, bool(options.get("faithful"))):
        console.print(f"{modelcfg}: not used: {unused}", highlight=False, soft_wrap=True, markup=False)
    if teacher is not None:
        raw["teacher"] |= network_section(teacher[0]) | {"checkpoint": str(teacher[1])}
        _check(teacher[1], teacher[0], len(raw["data"]["objects"]))
    path = _write(raw)
    recipe, name = load_recipe(path, overrides), "student" if teacher is None else "distilled"
    words = " ".join(
        ["distill" if teacher else "train", str(path), *overrides, *([] if teacher else ["--network student"])]
    )
    console.print(f"recipe: {path}; the same: posedistill {words}", highlight=False, soft_wrap=True)
    task = open_task(recipe)
    with alone(recipe):
        weights = train_stage(task, Stage(recipe, name, recipe.seed))
    console.print(f"weights: {weights}", highlight=False, soft_wrap=True)
    return weights


def valid_published(datacfg: Path, modelcfg: Path, weights: Path, runs: Path = Path("runs")) -> list[Evaluation]:
    """Measure weights of a .cfg on each list ``valid`` of a .data file, and print the tables.

    Raises:
        PoseDistillError: whatever is wrong with the files.
    """
    return [_valid(datacfg, modelcfg, weights, runs, split) for split in valid_lists(datacfg)]


def _valid(datacfg: Path, modelcfg: Path, weights: Path, runs: Path, split: str) -> Evaluation:
    raw = validation_recipe(datacfg, modelcfg, weights, runs, split)
    _check(weights, modelcfg, len(raw["data"]["objects"]))
    path = _write(raw)
    console.print(f"recipe: {path}", highlight=False, soft_wrap=True)
    recipe = load_recipe(path)
    task: Task[Any] = open_task(recipe)
    write_recipe(recipe)
    found = measure_stage(task, Stage(recipe, "teacher", recipe.seed))
    console.print(*score_tables(found))
    return found


def _write(raw: dict[str, Any]) -> Path:
    """The recipe as a file beside the runs."""
    path = Path(raw["runs"]) / f"{raw['name']}.yaml"
    write_file(path, yaml.safe_dump(raw, sort_keys=False))
    return path


def _check(weights: Path, modelcfg: Path, objects: int) -> None:
    """Refuse weights that cannot be used before a recipe names them."""
    if weights.suffix == ".safetensors":
        load_tensors(weights, names=())
    else:
        require_whole(weights, modelcfg, objects)
