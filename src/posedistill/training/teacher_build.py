"""A recipe's teacher and the losses a student learns from it by: built, cached, and checked before anything trains."""

import hashlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from posedistill.data.loading.batch import Batch
from posedistill.distill import Distiller, build_distiller
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Estimator
from posedistill.geometry.objects import ObjectTable
from posedistill.recipe.data import TESTED
from posedistill.recipe.recipe import NetworkSettings, Recipe, fingerprint
from posedistill.tasks.base import Prepared, Task
from posedistill.training.networks import load_weights, weights_of
from posedistill.training.teacher_cache import CachedTeacher, cache_folder, views_of
from posedistill.training.teachers import Autocast, EnsembleTeacher, LabelTeacher, NetworkTeacher, Teacher
from posedistill.training.teaching import Teaching


def build_teacher(
    recipe: Recipe, objects: ObjectTable, device: torch.device, autocast: Autocast = nullcontext
) -> Teacher:
    """What the recipe's finished teacher is: a network, several, or the labels themselves.

    Raises:
        CheckpointError: weights that are missing, damaged, of another architecture or for other objects.
    """
    if recipe.teacher.csv is not None:
        return LabelTeacher()
    networks = [NetworkTeacher(net, device, autocast) for net in load_members(recipe, objects)]
    return EnsembleTeacher(networks) if recipe.teacher.ensemble else networks[0]


def load_members(recipe: Recipe, objects: ObjectTable) -> list[Estimator]:
    """The networks of the recipe's finished teacher: one, or an ensemble's; none where it is a csv."""
    sections: list[NetworkSettings] = list(recipe.teacher.members) or [recipe.teacher]
    if recipe.teacher.csv is not None:
        return []
    pairs = zip(sections, _files(recipe), strict=True)
    return [load_weights(recipe, network, path, objects)[0] for network, path in pairs]


def build_teaching(
    task: Task[Any, Any], recipe: Recipe, prepared: Prepared, student: Estimator, fabric: Fabric, seed: int
) -> Teaching:
    """The recipe's teacher, cached where it says so, with the losses by which the student learns."""
    settings = recipe.schedule(recipe.student)
    teacher = build_teacher(recipe, prepared.objects, fabric.device, fabric.autocast)
    distillers = build_distillers(recipe, student.offers, teacher.offers)
    if recipe.switch and fabric.world_size > 1:
        found = f"stage: first on {fabric.world_size} processes"
        raise RecipeError(describe("recipe", "distill", found, "one process: layers without gradients stop the others"))
    if recipe.teacher.cache:
        about = _about_outputs(recipe, prepared, fabric, seed)
        root = recipe.cache_folder if recipe.teacher.cache is True else recipe.teacher.cache
        part = f"-rank{fabric.global_rank}" if fabric.world_size > 1 else ""
        folder = cache_folder(root, about) if recipe.teacher.cache is True else root / f"seed{seed}{part}"
        teacher = CachedTeacher(
            teacher, folder, about, views_of(distillers, teacher), settings.steps, recipe.teacher.cache_limit
        )
    gallery = task.loader(
        recipe,
        prepared,
        prepared.train,
        seed=seed,
        device=fabric.device,
        batch_size=settings.batch_size,
        augment=False,
    )
    return Teaching(
        teacher,
        distillers,
        lambda: gallery.prefetch(0, gallery.steps),
        len(gallery),
        origin=", ".join(map(str, _files(recipe))),
        supervised=recipe.teacher.supervise,
        switch=recipe.switch,
    )


def _about_outputs(recipe: Recipe, prepared: Prepared, fabric: Fabric, seed: int) -> dict[str, Any]:
    """What the teacher's outputs on the steps of a training depend on."""
    weights = [hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in _files(recipe)]
    with fabric.autocast():
        lowered = torch.is_autocast_enabled(fabric.device.type)
    networks = [f"{net.family} {fingerprint(net.settings)}" for net in recipe.teacher.members or [recipe.teacher]]
    return {
        "teacher": f"{' and '.join(networks)}, weights {', '.join(weights)}",
        "data": fingerprint(recipe.data.model_dump(mode="json", exclude=TESTED), recipe.seed),
        "frames": prepared.fingerprint,
        "seed": seed,
        "batch_size": recipe.schedule(recipe.student).batch_size,
        "process": f"{fabric.global_rank} of {fabric.world_size}",
        "precision": "bf16" if lowered else "float32",
        "device": fabric.device.type,
    }


def _files(recipe: Recipe) -> tuple[Path, ...]:
    """What the teacher consists of."""
    return recipe.teacher.files or (weights_of(recipe, "teacher", recipe.seed),)


def build_distillers(recipe: Recipe, offers_student: frozenset[str], offers_teacher: frozenset[str]) -> list[Distiller]:
    """The recipe's distillation losses."""
    return [build_distiller(spec, offers_student, offers_teacher) for spec in recipe.distill]


def check_losses(distillers: list[Distiller], student: Estimator, teacher: Teacher, size: int) -> None:
    """Let each loss that learns nothing itself compare both sides once, on pictures of noise.

    Raises:
        RecipeError: the two predictions do not fit together for a loss.
    """
    batch = noise_batch(student.objects, size)
    with torch.no_grad():
        ours, theirs = student.eval()(batch), teacher.predict(batch, step=-1)
        for distiller in distillers:
            if type(distiller).prepare is Distiller.prepare:
                distiller(ours, theirs, batch)


def noise_batch(objects: ObjectTable, size: int, count: int = 2) -> Batch:
    """Pictures of noise, one of each object as far as they go, or (without objects) of a scene.

    >>> from posedistill.geometry.objects import NO_OBJECTS
    >>> noise_batch(NO_OBJECTS, 32).images.shape
    torch.Size([2, 3, 32, 32])
    """
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    K = torch.tensor([[2.5 * size, 0.0, size / 2], [0.0, 2.5 * size, size / 2], [0.0, 0.0, 1.0]]).repeat(count, 1, 1)
    R, ids = torch.eye(3).repeat(count, 1, 1), torch.arange(count)
    if not len(objects):
        return Batch.single(images, K, R, torch.zeros(count, 3), ids)
    label = ids % len(objects)
    keypoints3d = torch.as_tensor(objects.keypoints, dtype=torch.float32)[label]
    diameters = torch.as_tensor(objects.diameters, dtype=torch.float32)[label]
    t = diameters[:, None] * torch.tensor([0.0, 0.0, 4.0])
    pixels = (keypoints3d + t[:, None]) @ K.transpose(1, 2)
    targets = {
        "masks": torch.ones(count, size, size, dtype=torch.bool),
        "keypoints3d": keypoints3d,
        "keypoints": pixels[..., :2] / pixels[..., 2:],
        "diameters": diameters,
    }
    return Batch.single(images, K, R, t, ids, label, **targets)
