"""The commands of published repositories, a module each: what they are given becomes a recipe, and is run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from posedistill.files import write_file
from posedistill.log import console
from posedistill.recipe.recipe import load_recipe
from posedistill.recipe.stages import Stage
from posedistill.tasks.registry import open_task
from posedistill.training.run import alone, train_stage


def write_sections(raw: dict[str, Any]) -> Path:
    """The sections of a recipe as a file beside the runs."""
    path = Path(raw["runs"]) / f"{raw['name']}.yaml"
    write_file(path, yaml.safe_dump(raw, sort_keys=False))
    return path


def train_sections(raw: dict[str, Any], name: str, overrides: Sequence[str], *command: str) -> Path:
    """Write a recipe, say which, and train one stage of it; returns the weights.

    Args:
        overrides: ``key=value`` for any field of the recipe. command: that does the same, and its options.

    Raises:
        PoseDistillError: whatever is wrong with the data, the recipe or the training.
    """
    path = write_sections(raw)
    recipe = load_recipe(path, overrides)
    words = " ".join([command[0], str(path), *overrides, *command[1:]])
    console.print(f"recipe: {path}; the same: posedistill {words}", highlight=False, soft_wrap=True)
    task = open_task(recipe)
    with alone(recipe):
        weights = train_stage(task, Stage(recipe, name, recipe.seed))
    console.print(f"weights: {weights}", highlight=False, soft_wrap=True)
    return weights
