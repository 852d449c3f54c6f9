"""Which task a recipe asks for: the one point where crops, whole pictures, scenes and categories part."""

from typing import Any

from posedistill.recipe.recipe import Recipe
from posedistill.tasks.base import Task
from posedistill.tasks.categories import CategoriesTask
from posedistill.tasks.objects import ObjectsTask
from posedistill.tasks.pictures import PicturesTask
from posedistill.tasks.scene import SceneTask

TASKS: dict[str, type[Task[Any]]] = {
    "crop": ObjectsTask,
    "picture": PicturesTask,
    "scene": SceneTask,
    "category": CategoriesTask,
}
"""The tasks by what the families that learn them look at (``Estimator.view``)."""


def open_task(recipe: Recipe) -> Task[Any]:
    """The recipe's task. Make it once in a process and hand it down: it keeps what it has read."""
    return TASKS[recipe.view](recipe)
