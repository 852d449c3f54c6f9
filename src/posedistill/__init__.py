"""posedistill: large 6-DoF pose estimators made small enough for the device that needs them.

What is named in ``__all__`` is the Python interface (docs/python.md); a name is loaded when it is first used, so that
the runtime stays as light as it is.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Read when an OpenMP library loads, so it is set before torch can be imported. Threads that spin at every barrier take
# the cores of whatever else runs, and of each other: of two trainings side by side each kept 4 to 27 % of its speed.
# They sleep, but after some microseconds: falling asleep at once cost the smallest networks a quarter on idle cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if os.environ["OMP_WAIT_POLICY"].upper() == "PASSIVE":
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from posedistill.api import evaluate, read_image, run, score
    from posedistill.decode.base import Pose, Request
    from posedistill.errors import PoseDistillError
    from posedistill.metrics.evaluation import Evaluation
    from posedistill.poses import Poses
    from posedistill.recipe.recipe import Recipe, load_recipe
    from posedistill.runtime import Predictor, Record, Tracker, locate

_PLACES = {
    "Evaluation": "metrics.evaluation",
    "Pose": "decode.base",
    "PoseDistillError": "errors",
    "Poses": "poses",
    "Predictor": "runtime",
    "Recipe": "recipe.recipe",
    "Record": "runtime",
    "Request": "decode.base",
    "Tracker": "runtime",
    "evaluate": "api",
    "load_recipe": "recipe.recipe",
    "locate": "runtime",
    "read_image": "api",
    "run": "api",
    "score": "api",
}

__all__ = [
    "Evaluation",
    "Pose",
    "PoseDistillError",
    "Poses",
    "Predictor",
    "Recipe",
    "Record",
    "Request",
    "Tracker",
    "evaluate",
    "load_recipe",
    "locate",
    "read_image",
    "run",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'posedistill' has no attribute {name!r}")
    return getattr(importlib.import_module(f"posedistill.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
