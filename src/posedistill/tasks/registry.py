"""Which task a recipe's data asks for: the one point where objects and cameras part."""

from typing import Any

from posedistill.recipe.recipe import Recipe, SceneSettings
from posedistill.tasks.base import Task
from posedistill.tasks.objects import ObjectTask
from posedistill.tasks.scene import CameraTask


def task_of(recipe: Recipe) -> Task[Any, Any]:
    """The recipe's task."""
    return CameraTask() if isinstance(recipe.data, SceneSettings) else ObjectTask()
