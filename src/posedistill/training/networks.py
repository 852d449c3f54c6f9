"""The networks of a run: built, found by variant and seed in ``runs/<name>/``, loaded."""

from pathlib import Path
from typing import Any

from posedistill.errors import CheckpointError, describe
from posedistill.estimators.base import Estimator
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.objects import ObjectTable
from posedistill.recipe.recipe import NetworkSettings, Recipe
from posedistill.tasks.object_sources import objects_of
from posedistill.training.checkpoints import load_strictly, load_tensors

VARIANTS = ("teacher", "student", "distilled")


def build_network(recipe: Recipe, network: NetworkSettings, objects: ObjectTable) -> Estimator:
    """The estimator of a recipe's section, on randomly initialised or pretrained weights."""
    settings = dict(network.settings)
    if network.pretrained is not None:
        settings["pretrained"] = str(network.pretrained)
    return build_estimator(network.family, objects, settings, recipe.data.side)


def load_network(recipe: Recipe, variant: str, seed: int) -> tuple[Estimator, dict[str, Any]]:
    """A finished network of the run with its metadata.

    Raises:
        CheckpointError: it is not there yet, damaged, or of another architecture.
    """
    network = recipe.teacher if variant == "teacher" else recipe.student
    return load_weights(recipe, network, weights_of(recipe, variant, seed), objects_of(recipe))


def load_weights(
    recipe: Recipe, network: NetworkSettings, path: Path, objects: ObjectTable
) -> tuple[Estimator, dict[str, Any]]:
    """The network of a section with the weights of a file, and the file's metadata.

    Raises:
        CheckpointError: missing, damaged, of another architecture, or trained for other objects.
    """
    tensors, metadata = load_tensors(path)
    estimator = build_network(recipe, network.model_copy(update={"pretrained": None}), objects)
    known, wanted = metadata.get("objects"), list(estimator.objects.obj_ids)
    if known is not None and known != wanted:  # their order is the order of the classes
        raise CheckpointError(describe(path, "objects", f"a network of objects {known}", f"{wanted}, as in the recipe"))
    load_strictly(estimator, tensors, path)
    return estimator.eval(), metadata


def seeds_of(recipe: Recipe) -> range:
    """The seeds of student and distilled."""
    return range(recipe.seed, recipe.seed + recipe.seeds)


def networks_of(recipe: Recipe) -> list[tuple[str, int]]:
    """Variant and seed of every network of a run."""
    students = [(variant, seed) for variant in VARIANTS[1:] for seed in seeds_of(recipe)]
    return [("teacher", recipe.seed), *students]


def variant_folder(recipe: Recipe, variant: str, seed: int) -> Path:
    """Where a network of the run lives."""
    return recipe.folder / variant / f"seed{seed}"


def weights_of(recipe: Recipe, variant: str, seed: int) -> Path:
    """The finished weights of a network: its own, or what the recipe names for the teacher (an ensemble's first)."""
    if variant == "teacher" and recipe.teacher.files:
        return recipe.teacher.files[0]
    return variant_folder(recipe, variant, seed) / "model.safetensors"
