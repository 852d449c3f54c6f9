"""The networks of a run: built, trained or taken up again, found by variant and seed in ``runs/<name>/``."""

import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from posedistill import __version__
from posedistill.errors import CheckpointError, RecipeError, TrainingError, describe
from posedistill.files import write_file
from posedistill.geometry.objects import ObjectTable
from posedistill.log import console
from posedistill.machine import processor
from posedistill.recipe.data import TESTED
from posedistill.recipe.recipe import Recipe, fingerprint, load_recipe
from posedistill.tasks.registry import task_of
from posedistill.training.checkpoints import load_tensors
from posedistill.training.loop import make_fabric, train
from posedistill.training.networks import VARIANTS as VARIANTS
from posedistill.training.networks import build_network as build_network
from posedistill.training.networks import load_network as load_network
from posedistill.training.networks import networks_of as networks_of
from posedistill.training.networks import seeds_of as seeds_of
from posedistill.training.networks import variant_folder as variant_folder
from posedistill.training.networks import weights_of as weights_of
from posedistill.training.teacher_build import build_distillers, build_teacher, check_losses
from posedistill.training.teacher_build import build_teaching as build_teaching
from posedistill.training.teachers import NetworkTeacher


def train_variant(recipe: Recipe, variant: str, seed: int) -> Path:
    """Train one network of the recipe, go on with it, or skip it where it is finished; returns its weights' path.

    Raises:
        RecipeError: student and teacher do not offer the views the recipe's losses need.
        CheckpointError: the folder holds the network of another recipe.
        TrainingError: NaN loss or a full disk; the last good checkpoint is kept.
    """
    network = recipe.teacher if variant == "teacher" else recipe.student
    if variant == "teacher" and recipe.teacher.files:
        return recipe.teacher.files[0]
    folder = variant_folder(recipe, variant, seed)
    model = folder / "model.safetensors"
    signature = signature_of(recipe, variant, seed)
    done = folder / "done.json"
    refuse_other_recipe(recipe, variant, seed)
    write_recipe(recipe)
    if done.exists() and model.exists():
        console.print(f"{variant} seed {seed}: finished before, skipped")
        return model
    settings = recipe.schedule(network)
    fabric = make_fabric(settings.precision)
    task = task_of(recipe)
    prepared = task.prepare(recipe)
    torch.manual_seed(seed)
    estimator = build_network(recipe, network, prepared.objects)
    task.begin(estimator, prepared)
    teaching = None
    if variant == "distilled":
        teaching = build_teaching(task, recipe, prepared, estimator, fabric, seed)
    batches = task.loader(
        recipe,
        prepared,
        prepared.train,
        seed=seed,
        device=fabric.device,
        batch_size=settings.batch_size,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    validate = task.validation(recipe, prepared, fabric.device, settings.validation_crops)
    started = time.perf_counter()
    train(
        fabric,
        estimator,
        batches,
        settings,
        folder,
        seed=seed,
        signature=signature,
        teaching=teaching,
        validate=validate,
        title=f"{variant} seed {seed}",
    )
    if fabric.is_global_zero:
        seconds = time.perf_counter() - started
        write_file(done, json.dumps({"signature": signature, "seconds": seconds}), TrainingError)
        write_environment(recipe.folder, {f"{variant} seed {seed}": seconds})
    fabric.barrier()  # the next stage of every process reads what the first has written
    return model


def check_networks(recipe: Recipe, objects: ObjectTable) -> None:
    """Refuse, before anything trains, a recipe whose networks and losses cannot be built or do not fit together.

    Raises:
        RecipeError: settings a family does not have, a loss that needs views that are not on offer, or views of both
            sides that the loss cannot compare, as votes for other keypoints.
        CheckpointError: the teacher's finished weights are missing, of another architecture or for other objects.
    """
    cpu = torch.device("cpu")
    student = build_network(recipe, recipe.student, objects)
    if recipe.teacher.files:
        teacher = build_teacher(recipe, objects, cpu)
    else:
        teacher = NetworkTeacher(build_network(recipe, recipe.teacher, objects), cpu)
    check_losses(build_distillers(recipe, student.offers, teacher.offers), student, teacher, recipe.data.side)


def recipe_of(folder: Path) -> Recipe:
    """The resolved recipe of a run folder, wherever that lies now."""
    path = folder / "recipe.yaml"
    if not path.exists():
        raise RecipeError(describe(path, "recipe", "no such file", "a run folder, as `posedistill run` makes it"))
    folder = folder.resolve()
    return load_recipe(path).model_copy(update={"runs": folder.parent, "name": folder.name})


def signature_of(recipe: Recipe, variant: str, seed: int) -> dict[str, Any]:
    """What a network depends on; a finished or interrupted stage is only taken up by the same signature."""
    network = recipe.teacher if variant == "teacher" else recipe.student
    signature = {
        "variant": variant,
        "seed": seed,
        "data": fingerprint(recipe.data.model_dump(mode="json", exclude=TESTED)),
        "network": fingerprint(
            network.model_dump(mode="json", exclude={"train", "checkpoint", "cache", "cache_limit"})
        ),
        "train": recipe.schedule(network).model_dump(
            mode="json", exclude={"log_every", "checkpoint_every", "validate_every", "validation_crops"}
        ),
    }
    if variant == "distilled":
        signature["distill"] = [spec.model_dump(mode="json") for spec in recipe.distill]
        if recipe.switch:
            signature["first_stage"] = recipe.first_stage
        signature["teacher"] = fingerprint(recipe.teacher.model_dump(mode="json", exclude={"cache", "cache_limit"}))
    return signature


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


def write_recipe(recipe: Recipe) -> None:
    """Note the resolved recipe; an equal one stays as old as it is, and what is newer need not be made again."""
    path, text = recipe.folder / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    if not path.exists() or path.read_text() != text:
        write_file(path, text, TrainingError)


def refuse_other_recipe(recipe: Recipe, variant: str, seed: int) -> None:
    """Refuse to touch a folder that holds, finished or begun, the network of another recipe."""
    folder, expected = variant_folder(recipe, variant, seed), signature_of(recipe, variant, seed)
    done, last = folder / "done.json", folder / "last.safetensors"
    if done.exists():
        path, found = done, json.loads(done.read_text()).get("signature", {})
    elif last.exists():
        path, found = last, load_tensors(last, names=())[1].get("signature", {})
    else:
        return
    if found != expected:
        keys = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        raise CheckpointError(
            describe(path, ", ".join(keys), "a network of another recipe", "the same recipe")
            + ". Give the run another name (name=...), or remove its folder."
        )


def _commit() -> str | None:
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return git.stdout.strip() or None
