"""A recipe's teacher and the losses a student learns from it by: built, cached, and checked before anything trains."""

import hashlib
from collections import ChainMap
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from posedistill import __version__
from posedistill.data.loading.batch import Batch
from posedistill.data.loading.loader import Loader
from posedistill.distill import Distiller, build_distiller
from posedistill.errors import RecipeError, describe
from posedistill.estimators.base import Estimator
from posedistill.estimators.inherit import inherit
from posedistill.estimators.views import Votes, place_of_cells
from posedistill.geometry.meshes import box_mesh
from posedistill.geometry.objects import ObjectTable
from posedistill.recipe.data import TESTED
from posedistill.recipe.recipe import Recipe, fingerprint
from posedistill.recipe.stages import Stage, teacher_of
from posedistill.tasks.base import Task
from posedistill.training.networks import build_network, load_members
from posedistill.training.teaching.cache import CachedTeacher, cache_folder, views_of
from posedistill.training.teaching.crops import CropTeacher
from posedistill.training.teaching.repeated import FrozenMaps, RepeatedViews
from posedistill.training.teaching.teachers import (
    Autocast,
    EnsembleTeacher,
    LabelTeacher,
    NetworkTeacher,
    Teacher,
    networks_of,
)
from posedistill.training.teaching.teaching import Teaching
from posedistill.training.teaching.translate import as_keypoints, translated


def build_teacher(
    recipe: Recipe, objects: ObjectTable, device: torch.device, autocast: Autocast = nullcontext
) -> Teacher:
    """What the recipe's finished teacher is: a network, several, or the labels themselves.

    Raises:
        CheckpointError: weights that are missing, damaged, of another architecture or for other objects.
    """
    if recipe.teacher.csv is not None:
        return LabelTeacher()
    networks = [NetworkTeacher(net, device, autocast) for net in load_members(teacher_of(recipe), objects)]
    teacher: Teacher = EnsembleTeacher(networks) if recipe.teacher.ensemble else networks[0]
    size = recipe.data.input_size("crop")
    return CropTeacher(as_keypoints(teacher), size) if recipe.cuts_crops and isinstance(size, int) else teacher


def build_teaching(task: Task[Any], stage: Stage, student: Estimator, fabric: Fabric) -> Teaching:
    """The recipe's teacher, cached where it says so, with the losses by which the student learns."""
    recipe, settings, seed = stage.recipe, stage.schedule, stage.seed
    teacher = build_teacher(recipe, task.objects, fabric.device, fabric.autocast)
    for network in networks_of(teacher):
        student.check_teacher(network)
    teacher = translated(teacher, student, task.mesh)
    distillers = [build_distiller(spec, student.offers, teacher.offers) for spec in recipe.distill]
    if recipe.switch and fabric.world_size > 1:
        found = f"phase: first on {fabric.world_size} processes"
        raise RecipeError(describe("recipe", "distill", found, "one process: layers without gradients stop the others"))
    each_once = task.loader(
        task.training_set.train, seed=seed, device=fabric.device, batch_size=settings.batch_size, augment=False
    )
    # Of views that come again the answers are stored in any case.
    if recipe.teacher.cache or (settings.repeat_views and networks_of(teacher)):
        about = _about_outputs(task, stage, fabric)
        folder = cache_folder(recipe.cache_folder, about)
        if isinstance(recipe.teacher.cache, Path):
            part = f"-rank{fabric.global_rank}" if fabric.world_size > 1 else ""
            folder = recipe.teacher.cache / f"seed{seed}{part}"
        steps = min(settings.steps, settings.repeat_views * each_once.steps or settings.steps)
        views = views_of(distillers, teacher)
        teacher = CachedTeacher(teacher, folder, about, views, steps, recipe.teacher.cache_limit)
    return Teaching(
        teacher,
        distillers,
        lambda: each_once.prefetch(0, each_once.steps),
        len(each_once),
        origin=", ".join(map(str, teacher_of(recipe).files)),
        supervised=recipe.teacher.supervise,
        switch=recipe.switch,
    )


def repeated(
    loader: Loader, task: Task[Any], stage: Stage, network: Estimator, fabric: Fabric, teaching: Teaching | None
) -> RepeatedViews:
    """A stage's batches where its views come again, with the maps of what is frozen of its network."""
    settings, period = stage.schedule, stage.schedule.repeat_views * loader.steps
    compared = set().union(*(loss.needs for loss in teaching.distillers)) if teaching else set()
    part = None if compared & {"features", "embedding"} else network.frozen_part()  # views that are not stored
    maps = None
    if part is not None:
        about = _about_batches(task, stage, fabric) | {"layers": part.about, "code": __version__}
        folder = stage.recipe.cache_folder / f"maps-{fingerprint(about)}"
        steps = min(settings.steps, period)
        maps = FrozenMaps(part, folder, steps, settings.maps_limit, fabric.autocast)
    teacher = teaching.teacher if teaching else None
    taught = teacher.stored if isinstance(teacher, CachedTeacher) else lambda step: teacher is None
    return RepeatedViews(loader, period, fabric.device, maps, taught)


def _about_outputs(task: Task[Any], stage: Stage, fabric: Fabric) -> dict[str, Any]:
    """What the teacher's outputs on the steps of a training depend on."""
    recipe = stage.recipe
    weights = [hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in teacher_of(recipe).files]
    networks = [f"{net.family} {fingerprint(net.settings)}" for net in recipe.teacher.members or [recipe.teacher]]
    student = recipe.student  # in whose kind of votes a teacher of another family speaks
    spoken = {} if student.family == recipe.teacher.family else {"for": f"{student.family} {student.settings}"}
    return spoken | {
        "teacher": f"{' and '.join(networks)}, weights {', '.join(weights)}",
        **_about_batches(task, stage, fabric),
    }


def _about_batches(task: Task[Any], stage: Stage, fabric: Fabric) -> dict[str, Any]:
    """What the pictures of a training depend on, and how networks compute on them."""
    recipe = stage.recipe
    with fabric.autocast():
        lowered = torch.is_autocast_enabled(fabric.device.type)
    return {
        "data": fingerprint(recipe.data.model_dump(mode="json", exclude=TESTED), recipe.seed),
        "frames": task.training_set.fingerprint,
        "seed": stage.seed,
        "batch_size": stage.schedule.batch_size,
        "process": f"{fabric.global_rank} of {fabric.world_size}",
        "precision": "bf16" if lowered else "float32",
        "device": fabric.device.type,
    }


def teacher_so_far(recipe: Recipe, objects: ObjectTable, device: torch.device | None = None) -> Teacher:
    """The recipe's teacher before anything trains: finished where the recipe names its files, else on random weights.

    Raises:
        CheckpointError: the finished weights are missing, of another architecture or for other objects.
    """
    device = device or torch.device("cpu")
    if recipe.teacher.files:
        return build_teacher(recipe, objects, device)
    return NetworkTeacher(build_network(recipe, recipe.teacher, objects), device)


def check_networks(recipe: Recipe, objects: ObjectTable, teacher: Teacher | None = None) -> list[Distiller]:
    """Refuse, before anything trains, a recipe whose networks and losses cannot be built or do not fit together.

    Args:
        teacher: as :func:`teacher_so_far` builds it, where that is done.

    Returns:
        The losses.

    Raises:
        RecipeError: settings a family does not have, a loss that needs views that are not on offer, views of both
            sides that the loss cannot compare, as votes for other keypoints or by other codes, or a student that has
            nothing to inherit.
        CheckpointError: as :func:`teacher_so_far`.
    """
    student = build_network(recipe, recipe.student, objects)
    if not recipe.has_teacher:
        return []
    teacher = teacher or teacher_so_far(recipe, objects)
    for network in networks_of(teacher):
        student.check_teacher(network)
    if isinstance(teacher, NetworkTeacher) and recipe.student.inherit is not None:
        inherit(student, teacher.estimator, recipe.student.inherit == "narrowed_teacher")
    boxes = {obj_id: box_mesh(corners) for obj_id, corners in zip(objects.obj_ids, objects.keypoints, strict=True)}
    teacher = translated(teacher, student, boxes.__getitem__)
    distillers = [build_distiller(spec, student.offers, teacher.offers) for spec in recipe.distill]
    check_losses(distillers, student, teacher, recipe.input_size)
    return distillers


def check_losses(
    distillers: list[Distiller], student: Estimator, teacher: Teacher, size: int | tuple[int, int]
) -> None:
    """Let each loss that learns nothing itself compare both sides once, on pictures of noise.

    Raises:
        RecipeError: the two predictions do not fit together for a loss.
    """
    batch = noise_batch(student.objects, size, networks=[student, *networks_of(teacher)])
    with torch.no_grad():
        ours, theirs = student.eval()(batch), teacher.predict(batch, step=-1)
        for distiller in distillers:
            if "cells" in distiller.needs:
                _require_shared_cells(distiller.name, ours.cells, theirs.cells)
            if type(distiller).prepare is Distiller.prepare:
                distiller(ours, theirs, batch)


def _require_shared_cells(loss: str, ours: Votes | None, theirs: Votes | None) -> None:
    """Refuse two grids without a cell in common, of which a comparison cell by cell would be 0 for ever."""
    ids = [side.cells for side in (ours, theirs) if side is not None and side.cells is not None]
    if len(ids) == 2 and not torch.isin(*ids).any():
        found, expected = (sorted(set(place_of_cells(side)[0].flatten().tolist())) for side in ids)
        message = f"those of its teacher, of stride {' or '.join(map(str, expected))}"
        raise RecipeError(describe("recipe", f"distill.{loss}", f"cells of a student of stride {found[0]}", message))


def noise_batch(
    objects: ObjectTable, size: int | tuple[int, int], count: int = 2, networks: Sequence[Estimator] = ()
) -> Batch:
    """Pictures of noise, one of each object as far as they go, or (without objects) of a scene or a category.

    Args:
        size: a side, or height and width. networks: that are tried on it, and may ask for targets of their own.

    >>> from posedistill.geometry.objects import NO_OBJECTS
    >>> noise_batch(NO_OBJECTS, 32).images.shape
    torch.Size([2, 3, 32, 32])
    """
    height, width = (size, size) if isinstance(size, int) else size
    images, focal = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0)), 2.5 * width
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]).repeat(count, 1, 1)
    R, ids = torch.eye(3).repeat(count, 1, 1), torch.arange(count)
    if not len(objects):
        shapes = [network.noise_targets(count) for network in networks]
        return Batch.single(images, K, R, torch.zeros(count, 3), ids, **dict(ChainMap(*shapes)))
    label = ids % len(objects)
    keypoints3d = torch.as_tensor(objects.keypoints, dtype=torch.float32)[label]
    diameters = torch.as_tensor(objects.diameters, dtype=torch.float32)[label]
    t = diameters[:, None] * torch.tensor([0.0, 0.0, 4.0])
    pixels = (keypoints3d + t[:, None]) @ K.transpose(1, 2)
    targets = {
        "masks": torch.ones(count, height, width, dtype=torch.bool),
        "keypoints3d": keypoints3d,
        "keypoints": pixels[..., :2] / pixels[..., 2:],
        "diameters": diameters,
    }
    return Batch.single(images, K, R, t, ids, label, **targets)
