"""The networks of a run: built, trained or taken up again, found by variant and seed in ``runs/<name>/``."""

import hashlib
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric

from posedistill import __version__
from posedistill.data.pack_build import read_fingerprint
from posedistill.distill import Distiller, build_distiller
from posedistill.errors import CheckpointError, RecipeError, TrainingError, describe
from posedistill.estimators import build_estimator
from posedistill.estimators.base import Estimator
from posedistill.files import write_file
from posedistill.geometry.objects import ObjectTable
from posedistill.machine import processor
from posedistill.training import sources
from posedistill.training.checkpoints import load_strictly, load_tensors
from posedistill.training.log import console
from posedistill.training.loop import Teaching, make_fabric, train
from posedistill.training.recipe import NetworkSettings, Recipe, fingerprint, load_recipe
from posedistill.training.teacher_cache import CachedTeacher, cache_folder, views_of
from posedistill.training.teachers import NetworkTeacher, Teacher
from posedistill.training.validation import Validation

VARIANTS = ("teacher", "student", "distilled")


def train_variant(recipe: Recipe, variant: str, seed: int) -> Path:
    """Train one network of the recipe, go on with it, or skip it where it is finished; returns its weights' path.

    Raises:
        RecipeError: student and teacher do not offer the views the recipe's losses need.
        CheckpointError: the folder holds the network of another recipe.
        TrainingError: NaN loss or a full disk; the last good checkpoint is kept.
    """
    network = recipe.teacher if variant == "teacher" else recipe.student
    if network.checkpoint is not None and variant == "teacher":
        return network.checkpoint
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
    prepared = sources.prepare(recipe)
    torch.manual_seed(seed)
    estimator = build_network(recipe, network, prepared.objects)
    teaching = None
    if variant == "distilled":
        teaching = build_teaching(recipe, prepared, estimator, fabric, seed)
    batches = sources.loader(
        recipe,
        prepared,
        prepared.train,
        seed=seed,
        device=fabric.device,
        batch_size=settings.batch_size,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    validate = Validation(recipe, prepared, fabric.device, settings.validation_crops)
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


def build_teaching(
    recipe: Recipe, prepared: sources.TrainingData, student: Estimator, fabric: Fabric, seed: int
) -> Teaching:
    """The recipe's teacher, cached where it says so, with the losses a student learns by."""
    settings = recipe.schedule(recipe.student)
    network, _ = load_network(recipe, "teacher", recipe.seed)
    distillers = build_distillers(recipe, student, network)
    teacher: Teacher = NetworkTeacher(network, fabric.device, fabric.autocast)
    if recipe.teacher.cache:
        about = _about_outputs(recipe, prepared, fabric, seed)
        root = recipe.cache_folder if recipe.teacher.cache is True else recipe.teacher.cache
        folder = cache_folder(root, about) if recipe.teacher.cache is True else root / f"seed{seed}"
        teacher = CachedTeacher(teacher, folder, about, views_of(distillers, teacher), settings.steps)
    gallery = sources.loader(
        recipe,
        prepared,
        prepared.train,
        seed=seed,
        device=fabric.device,
        batch_size=settings.batch_size,
        augment=False,
    )
    return Teaching(teacher, distillers, lambda: gallery.prefetch(0, gallery.steps), len(gallery))


def _about_outputs(recipe: Recipe, prepared: sources.TrainingData, fabric: Fabric, seed: int) -> dict[str, Any]:
    """What the teacher's outputs on the steps of a training depend on."""
    weights = hashlib.sha256(weights_of(recipe, "teacher", recipe.seed).read_bytes()).hexdigest()[:12]
    with fabric.autocast():
        lowered = torch.is_autocast_enabled(fabric.device.type)
    packs = [read_fingerprint(pack.folder) for pack in prepared.packs]
    return {
        "teacher": f"{recipe.teacher.family} {fingerprint(recipe.teacher.settings)}, weights {weights}",
        "data": fingerprint(recipe.data.model_dump(mode="json", exclude={"test"}), recipe.seed),
        "frames": fingerprint(packs, prepared.train.tolist()),
        "seed": seed,
        "batch_size": recipe.schedule(recipe.student).batch_size,
        "process": f"{fabric.global_rank} of {fabric.world_size}",
        "precision": "bf16" if lowered else "float32",
        "device": fabric.device.type,
    }


def check_networks(recipe: Recipe, objects: ObjectTable) -> None:
    """Refuse, before anything trains, a recipe whose networks and losses cannot be built or do not fit together.

    Raises:
        RecipeError: settings a family does not have, or a loss that needs views that are not on offer.
        CheckpointError: the teacher's finished weights are missing or of another architecture.
    """
    student = build_network(recipe, recipe.student, objects)
    if recipe.teacher.checkpoint is not None:
        teacher, _ = load_network(recipe, "teacher", recipe.seed)
    else:
        teacher = build_network(recipe, recipe.teacher, objects)
    build_distillers(recipe, student, teacher)


def build_distillers(recipe: Recipe, student: Estimator, teacher: Estimator) -> list[Distiller]:
    """The recipe's distillation losses."""
    return [build_distiller(spec, student.offers, teacher.offers) for spec in recipe.distill]


def build_network(recipe: Recipe, network: NetworkSettings, objects: ObjectTable) -> Estimator:
    """The estimator of a recipe's section, on randomly initialised or pretrained weights."""
    settings = dict(network.settings)
    if network.pretrained is not None:
        settings["pretrained"] = str(network.pretrained)
    return build_estimator(network.family, objects, settings, recipe.data.crop_size)


def load_network(recipe: Recipe, variant: str, seed: int) -> tuple[Estimator, dict[str, Any]]:
    """A finished network of the run with its metadata.

    Raises:
        CheckpointError: it is not there yet, damaged, or of another architecture.
    """
    network = recipe.teacher if variant == "teacher" else recipe.student
    path = weights_of(recipe, variant, seed)
    tensors, metadata = load_tensors(path)
    estimator = build_network(recipe, network.model_copy(update={"pretrained": None}), sources.objects_of(recipe))
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
    """The finished weights of a network: its own, or those the recipe names for the teacher."""
    if variant == "teacher" and recipe.teacher.checkpoint is not None:
        return recipe.teacher.checkpoint
    return variant_folder(recipe, variant, seed) / "model.safetensors"


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
        "data": fingerprint(recipe.data.model_dump(mode="json", exclude={"test"})),
        "network": fingerprint(network.model_dump(mode="json", exclude={"train", "checkpoint"})),
        "train": recipe.schedule(network).model_dump(
            mode="json", exclude={"log_every", "checkpoint_every", "validate_every", "validation_crops"}
        ),
    }
    if variant == "distilled":
        signature["distill"] = [spec.model_dump(mode="json") for spec in recipe.distill]
        signature["teacher"] = fingerprint(recipe.teacher.model_dump(mode="json", exclude={"cache"}))
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
