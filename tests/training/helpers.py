"""One stage of a recipe, trained, measured or exported as the command line does it."""

from pathlib import Path
from typing import Any

from posedistill.estimators.base import Estimator
from posedistill.recipe.recipe import Recipe
from posedistill.recipe.stages import Stage
from posedistill.tasks.registry import open_task
from posedistill.training.evaluate import export_stage, measure_stage
from posedistill.training.networks import load_network
from posedistill.training.run import train_stage


def train(recipe: Recipe, name: str, seed: int = 0) -> Path:
    return train_stage(open_task(recipe), Stage(recipe, name, seed))


def load(recipe: Recipe, name: str, seed: int = 0) -> tuple[Estimator, dict[str, Any]]:
    return load_network(Stage(recipe, name, seed), open_task(recipe).objects)


def measure(recipe: Recipe, name: str, seed: int = 0) -> dict[str, Any]:
    return measure_stage(open_task(recipe), Stage(recipe, name, seed)).to_dict()


def export(recipe: Recipe, name: str, path: Path) -> dict[str, Any]:
    return export_stage(open_task(recipe), Stage(recipe, name, 0), path)
