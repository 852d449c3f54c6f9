"""The commands of single-shot pose's repositories: their files become a recipe, which is written, told and run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from posedistill.training.published import train_sections, write_sections
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
        return train_sections(raw, "distilled", overrides, "distill")
    return train_sections(raw, "student", overrides, "train", "--network student")


def valid_published(datacfg: Path, modelcfg: Path, weights: Path, runs: Path = Path("runs")) -> list[Evaluation]:
    """Measure weights of a .cfg on each list ``valid`` of a .data file, and print the tables.

    Raises:
        PoseDistillError: whatever is wrong with the files.
    """
    return [_valid(datacfg, modelcfg, weights, runs, split) for split in valid_lists(datacfg)]


def _valid(datacfg: Path, modelcfg: Path, weights: Path, runs: Path, split: str) -> Evaluation:
    raw = validation_recipe(datacfg, modelcfg, weights, runs, split)
    _check(weights, modelcfg, len(raw["data"]["objects"]))
    path = write_sections(raw)
    console.print(f"recipe: {path}", highlight=False, soft_wrap=True)
    recipe = load_recipe(path)
    task: Task[Any] = open_task(recipe)
    write_recipe(recipe)
    found = measure_stage(task, Stage(recipe, "teacher", recipe.seed))
    console.print(*score_tables(found))
    return found


def _check(weights: Path, modelcfg: Path, objects: int) -> None:
    """Refuse weights that cannot be used before a recipe names them."""
    if weights.suffix == ".safetensors":
        load_tensors(weights, names=())
    else:
        require_whole(weights, modelcfg, objects)
