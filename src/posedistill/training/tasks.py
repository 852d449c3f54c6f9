"""Which task a recipe's data asks for: the one point where objects and cameras part."""

from typing import Any

from posedistill.training.camera_task import CameraTask
from posedistill.training.object_task import ObjectTask
from posedistill.training.recipe import Recipe, SceneSettings
from posedistill.training.task import Task


def task_of(recipe: Recipe) -> Task[Any, Any]:
    """The recipe's task."""
    return CameraTask() if isinstance(recipe.data, SceneSettings) else ObjectTask()
