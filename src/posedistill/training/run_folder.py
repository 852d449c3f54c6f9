"""What a run's folder says of itself: the recipe, the environment, and whose networks lie there."""

import json
import platform
import subprocess
from pathlib import Path

import torch
import yaml

from posedistill import __version__
from posedistill.errors import CheckpointError, RecipeError, TrainingError, describe
from posedistill.files import write_file, write_if_changed
from posedistill.machine import processor
from posedistill.recipe.recipe import Recipe, load_recipe
from posedistill.recipe.stages import Stage
from posedistill.training.checkpoints import differing, load_tensors


def recipe_of(folder: Path) -> Recipe:
    """The resolved recipe of a run folder, wherever that lies now."""
    path = folder / "recipe.yaml"
    if not path.exists():
        raise RecipeError(describe(path, "recipe", "no such file", "a run folder, as `posedistill run` makes it"))
    folder = folder.resolve()
    return load_recipe(path).model_copy(update={"runs": folder.parent, "name": folder.name})


def write_recipe(recipe: Recipe) -> None:
    """Note the resolved recipe; an equal one stays as old as it is, and what is newer need not be made again."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    write_if_changed(recipe.folder / "recipe.yaml", text, TrainingError)


def refuse_other_recipe(stage: Stage) -> None:
    """Refuse to touch a folder that holds, finished or begun, the network of another recipe."""
    last = stage.folder / "last.safetensors"
    if stage.done.exists():
        path, found = stage.done, json.loads(stage.done.read_text()).get("signature", {})
    elif last.exists():
        path, found = last, load_tensors(last, names=())[1].get("signature", {})
    else:
        return
    if keys := differing(found, stage.signature):
        raise CheckpointError(
            describe(path, ", ".join(keys), "a network of another recipe", "the same recipe")
            + ". Give the run another name (name=...), or remove its folder."
        )


def write_environment(folder: Path, seconds: dict[str, float]) -> None:
    """Record hardware, versions and the seconds of stages in ``environment.json``."""
    path = folder / "environment.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    cuda = torch.cuda.is_available()
    environment = {
        "posedistill": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "commit": _commit(),
        "seconds": {**known.get("seconds", {}), **{name: round(value, 1) for name, value in seconds.items()}},
    }
    write_file(path, json.dumps(environment, indent=1), TrainingError)


def _commit() -> str | None:
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return git.stdout.strip() or None
