"""The networks of a recipe: built, and loaded once they are finished."""

from pathlib import Path
from typing import Any

from posedistill.errors import CheckpointError, describe
from posedistill.estimators.base import Estimator
from posedistill.estimators.registry import FAMILIES, build_estimator
from posedistill.geometry.objects import ObjectTable
from posedistill.log import console
from posedistill.recipe.networks import NetworkSettings
from posedistill.recipe.recipe import Recipe
from posedistill.recipe.stages import Stage
from posedistill.tasks.base import SELECT, Task
from posedistill.training.checkpoints import load_strictly, load_tensors, save_tensors


def build_network(recipe: Recipe, network: NetworkSettings, objects: ObjectTable) -> Estimator:
    """The estimator of a recipe's section, on randomly initialised or pretrained weights, some of them frozen."""
    settings = dict(network.settings)
    if network.pretrained is not None:
        settings["pretrained"] = str(network.pretrained)
    size = recipe.data.input_size(FAMILIES[network.family].view)
    estimator = build_estimator(network.family, objects, settings, size)
    estimator.freeze(network.freeze)
    return estimator


def load_network(stage: Stage, objects: ObjectTable) -> tuple[Estimator, dict[str, Any]]:
    """The finished network of a stage with its metadata.

    Raises:
        CheckpointError: it is not there yet, damaged, or of another architecture.
    """
    return load_weights(stage.recipe, stage.section, stage.weights, objects)


def validation_score(stage: Stage) -> float:
    """The validation score, in 0..1, of the weights that a finished stage has kept."""
    return float(load_tensors(stage.weights, names=())[1]["scores"][SELECT])


def calibrate_network(task: Task[Any], stage: Stage) -> None:
    """Add to a stage's weights what the task finds out about the poses they give, for the decoder; says it in a line.

    The weights are those that validation has kept; what they are calibrated by is told with them.
    """
    estimator, metadata = load_network(stage, task.objects)
    if not estimator.calibrates:
        return
    estimator.calibration = {}
    calibration, told = task.calibration(estimator)
    console.print(f"{stage.title}: {told}")
    save_tensors(stage.weights, estimator.state_dict(), metadata | {"calibration": calibration})


def load_members(stage: Stage, objects: ObjectTable) -> list[Estimator]:
    """The networks of a finished stage: one, or a teacher's ensemble; none where the teacher is a csv."""
    recipe = stage.recipe
    if stage.is_network:
        return [load_network(stage, objects)[0]]
    if recipe.teacher.csv is not None:
        return []
    pairs = zip(recipe.teacher.members, stage.files, strict=True)
    return [load_weights(recipe, network, path, objects)[0] for network, path in pairs]


def load_weights(
    recipe: Recipe, network: NetworkSettings, path: Path, objects: ObjectTable
) -> tuple[Estimator, dict[str, Any]]:
    """The network of a section with the weights of a file, and the file's metadata (none of Darknet's).

    Raises:
        CheckpointError: missing, damaged, of another architecture, or trained for other objects.
    """
    estimator = build_network(recipe, network.model_copy(update={"pretrained": None}), objects)
    if estimator.load_darknet(path):
        return estimator.eval(), {}
    tensors, metadata = load_tensors(path)
    known, wanted = metadata.get("objects"), list(estimator.objects.obj_ids)
    if known is not None and known != wanted:  # their order is the order of the classes
        raise CheckpointError(describe(path, "objects", f"a network of objects {known}", f"{wanted}, as in the recipe"))
    load_strictly(estimator, tensors, path)
    estimator.calibration = metadata.get("calibration", {})
    estimator.categories = tuple(metadata.get("categories", ()))
    return estimator.eval(), metadata
