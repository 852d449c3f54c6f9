"""How long the trainings of a recipe will take on this machine, by some timed steps of each network."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from posedistill.estimators.base import FROZEN_MAPS
from posedistill.log import console
from posedistill.machine import cores, load_average
from posedistill.recipe.stages import Stage, stages_of
from posedistill.tasks.base import Task
from posedistill.training.networks import build_network
from posedistill.training.step import TrainingStep, make_fabric
from posedistill.training.teaching.build import teacher_so_far
from posedistill.training.trial import Trial

STEPS, PATIENCE = 3, 20.0
"""Steps that are timed, after one that is not; no further step begins after so many seconds."""


def forecast(task: Task[Any]) -> dict[str, float]:
    """Seconds that each training which is not finished will take, by title; nothing is trained or written.

    A distilled step is taken for one of the student alone and a forward pass of the teacher. Validation and
    evaluation are not in it.
    """
    recipe = task.recipe
    waiting = [stage for stage in stages_of(recipe) if not stage.finished]
    costs: dict[str, _Costs] = {}
    for name in dict.fromkeys("teacher" if stage.name == "teacher" else "student" for stage in waiting):
        costs[name] = _step_seconds(task, next(s for s in waiting if (s.name == "teacher") == (name == "teacher")))
    if any(stage.name == "distilled" for stage in waiting):
        asked = _teacher_seconds(task)
        stored = 0.0 if recipe.schedule(recipe.student).repeat_views else asked
        costs["distilled"] = costs["student"].with_teacher(asked, stored)
    left = {stage.title: stage.schedule.steps - Trial(stage.title, stage).steps_done() for stage in waiting}
    return {stage.title: costs[stage.name].of(left[stage.title]) for stage in waiting}


class _Costs(NamedTuple):
    """Seconds of a step on new views and of one on views that come again, and steps that show new ones."""

    new: float
    again: float
    period: int

    def of(self, steps: int) -> float:
        """Of so many steps; what an interrupted training has stored is left out of account."""
        new = min(steps, self.period)
        return new * self.new + (steps - new) * self.again

    def with_teacher(self, new: float, again: float) -> "_Costs":
        """With what a teacher takes beside them."""
        return _Costs(self.new + new, self.again + again, self.period)


def tell_forecast(task: Task[Any], jobs: int = 1) -> None:
    """Print in a line how long the trainings will take, on what, and whether that has other work."""
    load = load_average()
    seconds = forecast(task)
    if not seconds:
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cores()} processor cores"
    parts = ", ".join(f"{title} {in_words(value)}" for title, value in seconds.items())
    together = f"; {jobs} students at a time share the machine" if jobs > 1 else ""
    # One process of the load average is this one.
    busy = f"; less once the machine's other work is done (load average {load:.1f})" if load > cores() + 1 else ""
    console.print(
        f"training will take about {in_words(sum(seconds.values()))} on {device}: {parts}{together}{busy}",
        highlight=False,
    )


def in_words(seconds: float) -> str:
    """A time as one says it.

    >>> in_words(40), in_words(754), in_words(9000), in_words(400_000)
    ('40 s', '13 min', '2.5 h', '4.6 days')
    """
    for unit, length, most in (("s", 1.0, 90.0), ("min", 60.0, 5400.0), ("h", 3600.0, 172_800.0)):
        if seconds < most:
            return f"{seconds / length:.1f} {unit}" if unit == "h" else f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def _step_seconds(task: Task[Any], stage: Stage) -> _Costs:
    """Of steps of a network from labels alone, batches included."""
    settings, fabric = stage.schedule, make_fabric(stage.schedule.precision)
    estimator = build_network(stage.recipe, stage.section, task.objects)
    data = task.training_set
    estimator.fit_targets(data.poses.R, data.poses.t)
    estimator.fit_shapes(task.mesh, stage.recipe.cache_folder)
    options = {"seed": stage.seed, "device": fabric.device, "batch_size": settings.batch_size}
    batches = task.loader(data.train, targets=estimator.targets, **options)
    step = TrainingStep(fabric, estimator, batches, settings, stage.seed)
    step.begin()

    def one(index: int) -> None:
        at = index % settings.steps  # a schedule may be shorter than what is timed
        step(batches.batch(at), at)

    new, period = _timed(one), settings.repeat_views * batches.steps or settings.steps
    part = estimator.frozen_part() if settings.repeat_views else None
    if part is None:
        return _Costs(new, new, period)
    batch = batches.batch(0)
    with torch.no_grad():
        batch.targets[FROZEN_MAPS] = part.maps(batch.images).half()
    again = _timed(lambda index: step(batch, index % settings.steps))
    return _Costs(new, again, period)


def _teacher_seconds(task: Task[Any]) -> float:
    """Of a forward pass of the teacher on a batch of the student."""
    recipe = task.recipe
    settings = recipe.schedule(recipe.student)
    device = make_fabric(settings.precision).device
    teacher = teacher_so_far(recipe, task.objects, device)
    batches = task.loader(task.training_set.train, seed=0, device=device, batch_size=settings.batch_size)
    batch = batches.batch(0)
    with torch.no_grad():
        return _timed(lambda _: teacher.predict(batch, -1))


def _timed(work: Callable[[int], object]) -> float:
    """Seconds of one call: the median of a few, after one that warms up."""
    spent, begun = [], time.perf_counter()
    for index in range(STEPS + 1):
        start = time.perf_counter()
        work(index)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
        if time.perf_counter() - begun > PATIENCE:
            break
    return sorted(spent[1:] or spent)[len(spent[1:] or spent) // 2]
