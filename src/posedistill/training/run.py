"""A whole run: data -> teacher -> student -> distilled -> evaluate -> export -> bench -> report.

Like make, a finished stage is skipped and an interrupted one goes on; each leaves its results in ``runs/<name>/``.
"""

import json
import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from posedistill.errors import RecipeError, TrainingError, describe
from posedistill.estimators.base import Estimator
from posedistill.estimators.inherit import inherit
from posedistill.files import occupied, write_file
from posedistill.geometry.objects import ObjectTable
from posedistill.interrupts import sigterm_interrupts, told
from posedistill.log import console
from posedistill.recipe.recipe import Recipe
from posedistill.recipe.stages import Stage, stages_of, students_of, teacher_of
from posedistill.report.page import build_report
from posedistill.report.tables import result_table
from posedistill.tasks.base import Batches, Task
from posedistill.tasks.registry import open_task
from posedistill.training.evaluate import bench_run, draw_cases, evaluate_run, export_run
from posedistill.training.forecast import tell_forecast
from posedistill.training.jobs import run_trials
from posedistill.training.loop import goes_on, train
from posedistill.training.networks import build_network, calibrate_network, load_members, load_network, load_weights
from posedistill.training.run_folder import refuse_other_recipe, write_environment, write_recipe
from posedistill.training.step import make_fabric
from posedistill.training.teaching.build import build_teaching, check_networks, repeated
from posedistill.training.teaching.teaching import Teaching
from posedistill.training.trial import Trial


def run(recipe: Recipe, jobs: int = 1) -> None:
    """Walk all stages of a recipe and print the result table and the path of the report.

    Raises:
        TrainingError: another process is at work in the run's folder, or it cannot be written to.
    """
    started = time.perf_counter()
    with told(lambda: "stopped; the same command goes on: what is finished is kept"):
        for stage in stages_of(recipe):
            refuse_other_recipe(stage)
        task = open_task(recipe)
        check_networks(recipe, task.stand_ins)
        with alone(recipe):
            _walk(task, jobs, started)


def train_one(recipe: Recipe, name: str, seed: int) -> None:
    """Train one network of a recipe, once all of its networks and losses are known to be right.

    Raises:
        RecipeError: the recipe says nothing of such a network: it has no losses, or no use of a teacher.
    """
    if name not in {stage.name for stage in stages_of(recipe)}:
        raise RecipeError(describe("recipe", "distill", "no losses", f"some: without them no {name} network"))
    task = open_task(recipe)
    check_networks(recipe, task.stand_ins)
    with alone(recipe):
        train_stage(task, Stage(recipe, name, seed))


def alone(recipe: Recipe) -> AbstractContextManager[None]:
    """Keep other processes out of the run's folder; of the processes of torchrun the first does."""
    return nullcontext() if int(os.environ.get("RANK", 0)) else occupied(recipe.folder, TrainingError)


def _walk(task: Task[Any], jobs: int, started: float) -> None:
    recipe = task.recipe
    task.check()
    check_given_teacher(task)
    write_recipe(recipe)
    if "RANK" not in os.environ:  # processes of torchrun would have to be timed together
        tell_forecast(task, jobs)
    train_all(task, jobs)
    if int(os.environ.get("RANK", 0)):
        return  # of the processes of torchrun the first does the rest
    evaluate_run(task)
    export_run(task)
    bench_run(task)
    draw_cases(task)
    write_environment(recipe.folder, {"run": time.perf_counter() - started})
    page = build_report(recipe.folder)
    console.print(result_table(recipe.folder))
    print(f"report: {page}")


def train_all(task: Task[Any], jobs: int) -> None:
    """Train the teacher, if there is one, then every seed of student and distilled, ``jobs`` at a time.

    Raises:
        TrainingError: some of those trained at the same time failed; the others have been trained.
    """
    if task.recipe.has_teacher:
        train_stage(task, teacher_of(task.recipe))
    students = students_of(task.recipe)
    if jobs == 1 or "RANK" in os.environ:  # processes of torchrun train each network together
        for stage in students:
            train_stage(task, stage)
        return
    failures: list[str] = []

    def ended(trial: Trial, failure: str | None) -> None:
        if failure is not None:
            failures.append(f"{trial.title}: {failure}")

    with sigterm_interrupts():
        run_trials([Trial(stage.title, stage, tested=False) for stage in students], jobs, ended)
    if failures:
        raise TrainingError("training stopped:\n  " + "\n  ".join(failures))


def train_stage(task: Task[Any], stage: Stage) -> Path:
    """Train one network of the recipe, go on with it, or skip it where it is finished; returns its weights' path.

    Raises:
        RecipeError: student and teacher do not offer the views the recipe's losses need.
        CheckpointError: the folder holds the network of another recipe.
        TrainingError: NaN loss or a full disk; the last good checkpoint is kept.
    """
    if stage.given:
        return stage.weights
    recipe = stage.recipe
    refuse_other_recipe(stage)
    write_recipe(recipe)
    if stage.done.exists() and stage.weights.exists():
        console.print(f"{stage.title}: finished before, skipped")
        return stage.weights
    fabric = make_fabric(stage.schedule.precision)
    with told(lambda: goes_on(stage.title, stage.folder / "last.safetensors")):
        started = _train(task, stage, fabric)
    if fabric.is_global_zero:
        calibrate_network(task, stage)
        seconds = time.perf_counter() - started
        write_file(stage.done, json.dumps({"signature": stage.signature, "seconds": seconds}), TrainingError)
        write_environment(recipe.folder, {stage.title: seconds})
    fabric.barrier()  # the next stage of every process reads what the first has written
    return stage.weights


def _train(task: Task[Any], stage: Stage, fabric: Fabric) -> float:
    """Train what :func:`train_stage` is asked for; returns the clock when everything was set up.

    When it returns, networks and pictures of the training are given back: what calibrates needs the room for its own.
    """
    settings = stage.schedule
    estimator, teaching, batches = set_up(task, stage, fabric)
    if stage.inherits and not (stage.folder / "last.safetensors").exists():
        begin_with_teacher(stage, estimator, task.objects)
    started = time.perf_counter()
    train(
        fabric,
        estimator,
        batches,
        settings,
        stage.folder,
        seed=stage.seed,
        signature=stage.signature,
        teaching=teaching,
        validate=task.validation(fabric.device, settings.validation_crops),
        title=stage.title,
    )
    return started


def begin_with_teacher(stage: Stage, student: Estimator, objects: ObjectTable) -> None:
    """Give an untrained student the layers of its finished teacher, and note which in ``inherited.json``."""
    teacher, _ = load_network(teacher_of(stage.recipe), objects)
    taken = inherit(student, teacher, stage.recipe.student.inherit == "narrowed_teacher")
    console.print(f"{stage.title}: begins with layers of its teacher: {taken}", highlight=False)
    taken.write(stage.folder / "inherited.json")


def check_given_teacher(task: Task[Any]) -> None:
    """Refuse, before anything trains, a finished teacher whose answers mean nothing to the student."""
    stage = teacher_of(task.recipe)
    for teacher in load_members(stage, task.objects) if stage.given else ():
        first_network(task, students_of(task.recipe)[0]).check_teacher(teacher)


def first_network(task: Task[Any], stage: Stage) -> Estimator:
    """What a stage trains, before its first step: new, or with the weights that its section says to start from.

    Raises:
        CheckpointError: these are missing, damaged, or of another architecture.
    """
    start, data = stage.section.start, task.training_set
    if start is not None:
        estimator = load_weights(stage.recipe, stage.section, start, task.objects)[0]
        estimator.categories = tuple(sorted({*estimator.categories, *task.categories}))
        return estimator
    estimator = build_network(stage.recipe, stage.section, task.objects)
    estimator.categories = task.categories
    estimator.fit_targets(data.poses.R, data.poses.t)
    estimator.fit_shapes(task.mesh, stage.recipe.cache_folder)
    return estimator


def set_up(task: Task[Any], stage: Stage, fabric: Fabric) -> tuple[Estimator, Teaching | None, Batches]:
    """What trains: the stage's network, untrained, its teacher with the losses where it is distilled, and its batches.

    Of the task only the data are used, so variants of one recipe can share it.
    """
    data = task.training_set
    torch.manual_seed(stage.seed)
    estimator = first_network(task, stage)
    teaching = build_teaching(task, stage, estimator, fabric) if stage.name == "distilled" else None
    loader = task.loader(
        data.train,
        seed=stage.seed,
        device=fabric.device,
        batch_size=stage.schedule.batch_size,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        targets=estimator.targets,
    )
    batches = repeated(loader, task, stage, estimator, fabric, teaching) if stage.schedule.repeat_views else loader
    return estimator, teaching, batches
