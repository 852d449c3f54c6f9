"""Which task a recipe's data asks for: the one point where objects and scenes part."""

from typing import Any

from posedistill.recipe.recipe import Recipe
from posedistill.tasks.base import Task
from posedistill.tasks.objects import ObjectsTask
from posedistill.tasks.scene import SceneTask

TASKS: dict[str, type[Task[Any]]] = {"objects": ObjectsTask, "scene": SceneTask}
"""The tasks by the name that the settings of their data, and the families that learn them, have for them."""


def open_task(recipe: Recipe) -> Task[Any]:
    """The recipe's task. Make it once in a process and hand it down: it keeps what it has read."""
    return TASKS[recipe.data.task](recipe)
