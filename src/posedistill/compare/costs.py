"""What a training step of each variant costs: seconds, taken by turns in one process, and memory, in one of its own."""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from posedistill.errors import PoseDistillError, TrainingError
from posedistill.files import write_file
from posedistill.log import console
from posedistill.machine import cores, load_average, processor
from posedistill.recipe.comparison import Comparison, Variant
from posedistill.recipe.recipe import Recipe, fingerprint, load_recipe
from posedistill.recipe.stages import Stage
from posedistill.tasks.base import Task
from posedistill.tasks.registry import open_task
from posedistill.training.jobs import environment_of, last_line
from posedistill.training.run import set_up
from posedistill.training.run_folder import write_recipe
from posedistill.training.step import TrainingStep, make_fabric
from posedistill.training.teaching.cache import CachedTeacher
from posedistill.training.teaching.repeated import RepeatedViews
from posedistill.training.teaching.teachers import Teacher
from posedistill.training.worker import end_with_parent

ROUNDS, STEPS = 6, 4
"""Rounds in which every variant has its turn, and steps of a turn."""
MEMORY_STEPS = 3

Costs = dict[str, dict[str, Any]]
"""Variant to its ``seconds_per_step``, that of the student alone measured beside it, and ``peak_memory_mb``."""


def measure_costs(comparison: Comparison, factors: dict[str, float], jobs: int) -> Costs:
    """Time and memory of every variant's training step; what is known of the same recipe is not measured again.

    Runs alone, with the threads that each of ``jobs`` trainings has. The student alone is timed beside whatever is
    timed, so that ratios hold on a machine whose speed changes.

    Raises:
        TrainingError: the student alone cannot be timed. A variant that fails is left out.
    """
    path = comparison.folder / "costs.json"
    known: Costs = json.loads(path.read_text()) if path.exists() else {}
    recipes = {name: _probed(comparison, variant, factors) for name, variant in comparison.variants.items()}
    keys = {name: _key(recipe, jobs) for name, recipe in recipes.items()}
    costs = {name: known[name] for name in recipes if name in known and known[name]["key"] == keys[name]}
    missing = [name for name in recipes if name not in costs]
    if missing:
        console.print(f"timing a step of {', '.join(missing)}", highlight=False)
        for recipe in recipes.values():
            write_recipe(recipe)
        load = load_average()
        timed = dict.fromkeys([comparison.alone, *missing])
        networks = {name: comparison.variants[name].stage for name in timed}
        seconds = _probe("time", {name: (recipes[name], networks[name]) for name in timed}, jobs)
        for name in missing:
            if name in seconds:
                memory = _probe("memory", {name: (recipes[name], networks[name])}, jobs)
                costs[name] = {
                    "key": keys[name],
                    "seconds_per_step": seconds[name],
                    "alone_seconds_per_step": seconds[comparison.alone],
                    "same_student": recipes[name].student == recipes[comparison.alone].student,
                    "peak_memory_mb": memory.get(name),
                    "load": round(load, 1),
                }
        write_file(path, json.dumps(costs, indent=1), TrainingError)
    return costs


def equal_time_steps(costs: Costs, steps: int) -> dict[str, int]:
    """Steps that each variant makes in the time in which the student alone makes ``steps``.

    What trains the same student and more is never taken for cheaper: a difference of that sign is noise.

    >>> cost = {"seconds_per_step": 0.3, "alone_seconds_per_step": 0.2, "same_student": True}
    >>> equal_time_steps({"align": cost}, 1000)
    {'align': 667}
    """
    ratios = {name: cost["seconds_per_step"] / cost["alone_seconds_per_step"] for name, cost in costs.items()}
    ratios = {name: max(ratio, 1.0) if costs[name]["same_student"] else ratio for name, ratio in ratios.items()}
    return {name: max(1, round(steps / ratio)) for name, ratio in ratios.items()}


def timing_note(costs: Costs) -> str:
    """A warning where the machine had other work while steps were timed; empty where it had not."""
    loads = [cost["load"] for cost in costs.values() if not math.isnan(cost["load"])]
    if not loads or max(loads) <= cores():
        return ""
    return (
        f"Timed on a busy machine (load average up to {max(loads):g} on {cores()} cores): the ratios are those of "
        "steps taken by turns, the milliseconds are too many."
    )


def _probed(comparison: Comparison, variant: Variant, factors: dict[str, float]) -> Recipe:
    """The recipe of the tables, under a teacher that is not replayed from a cache: its forward pass is a cost."""
    recipe = comparison.recipe_of(variant, "probe", factor=factors.get(variant.name, 1.0))
    return recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"cache": False})})


def _key(recipe: Recipe, jobs: int) -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    about = recipe.model_dump(mode="json", include={"data", "teacher", "student", "distill", "train"})
    schedule = recipe.schedule(recipe.student)
    about["train"] = schedule.batch_size
    if schedule.repeat_views:  # of which the share of new ones depends on the length
        about["train"] = [schedule.batch_size, schedule.repeat_views, schedule.steps]
    return fingerprint(about, jobs, processor(), gpu)


def _probe(what: str, networks: dict[str, tuple[Recipe, str]], jobs: int) -> dict[str, float]:
    """Run this file as a process on some variants; those that it could not measure are missing."""
    recipes = [recipe for recipe, _ in networks.values()]
    out, log = (recipes[0].runs / f"{what}.{kind}" for kind in ("json", "log"))
    out.unlink(missing_ok=True)
    words = [word for recipe, network in networks.values() for word in (str(recipe.folder / "recipe.yaml"), network)]
    with log.open("wb") as file:
        command = [sys.executable, "-m", "posedistill.compare.costs", what, str(out), *words]
        code = subprocess.run(command, stdout=file, stderr=file, env=environment_of(0, jobs), check=False).returncode
    if code or not out.exists():
        message = f"{what} of a step of {', '.join(networks)}: {last_line(log)} (see {log})"
        if what == "time":
            raise TrainingError(message)
        console.print(message, highlight=False, markup=False)
        return {}
    measured: dict[str, float] = json.loads(out.read_text())
    return measured


class _Stepper:
    """Makes training steps of one variant, and says how long they took.

    Attributes:
        teacher: that is asked for new views; None of a student alone.
        new_share: of the schedule's steps, those that show new views; 1 but for ``train.repeat_views``.
    """

    def __init__(self, task: Task[Any], stage: Stage, shared: Teacher | None = None) -> None:
        fabric = make_fabric(stage.schedule.precision)
        self.device, self.step, self.new_share = fabric.device, 0, 1.0
        estimator, self.teaching, self.batches = set_up(task, stage, fabric)
        self._again = self.batches if isinstance(self.batches, RepeatedViews) else None
        if self._again is not None:
            self.batches, self.new_share = self._again.batches, min(1.0, self._again.period / stage.schedule.steps)
        self.switch = self.teaching.switch if self.teaching else 0
        self._replayed = self.teaching.teacher if self.teaching else None
        self.teacher = self._replayed.teacher if isinstance(self._replayed, CachedTeacher) else self._replayed
        if self.teacher and shared is not None and shared.offers == self.teacher.offers:  # not translated
            self.teacher = shared
        self._train = TrainingStep(fabric, estimator, self.batches, stage.schedule, stage.seed, self.teaching)
        self._train.begin()

    def run(self, steps: int) -> float:
        """Mean seconds of so many steps, data included: added on processors, hidden behind the step on a GPU."""
        return self._run(steps, self.batches.batch, self.teacher)

    def run_again(self, steps: int) -> float:
        """The same of views that come again, of which all is stored that a training stores."""
        if self._again is None:
            return 0.0
        self.step = 0
        return self._run(steps, self._again.stored_batch, self._replayed)

    def _run(self, steps: int, batch_of: Callable[[int], Any], teacher: Teacher | None) -> float:
        if self.teaching and teacher:
            self.teaching.teacher = teacher
        made: list[Any] = []
        loading = self._seconds(lambda: made.append(batch_of(self.step + len(made))), steps)
        training = self._seconds(lambda: self._next(made.pop(0)), steps)
        return (max(loading, training) if self.device.type == "cuda" else loading + training) / steps

    def _next(self, batch: Any) -> None:
        second = self.switch and self.step % 2
        self._train(batch, self.switch + self.step if second else self.step)
        self.step += 1

    def _seconds(self, work: Callable[[], None], times: int) -> float:
        self._wait()
        started = time.perf_counter()
        for _ in range(times):
            work()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _time(recipes: Sequence[tuple[Path, str]]) -> dict[str, float]:
    """Of each variant, the fastest round of all that take turns; what cannot be built or trained is left out.

    Where views come again, the mean over the schedule of steps with new views and steps with stored ones.
    """
    steppers: dict[str, _Stepper] = {}
    task: Task[Any] | None = None
    shared: Teacher | None = None
    for path, network in recipes:
        try:
            recipe = load_recipe(path)
            task = task or open_task(recipe)
            stepper = _Stepper(task, Stage(recipe, network, recipe.seed), shared)
            stepper.run(1)  # warm
            stepper.run_again(STEPS)  # and store
        except (PoseDistillError, RuntimeError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            continue
        steppers[recipe.name] = stepper
        shared = shared or stepper.teacher
    best, again = dict.fromkeys(steppers, math.inf), dict.fromkeys(steppers, math.inf)
    names = list(steppers)
    for turn in range(ROUNDS):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            best[name] = min(best[name], steppers[name].run(STEPS))
            again[name] = min(again[name], steppers[name].run_again(STEPS))
    shares = {name: stepper.new_share for name, stepper in steppers.items()}
    return {name: shares[name] * best[name] + (1 - shares[name]) * again[name] for name in steppers}


def _memory(recipes: Sequence[tuple[Path, str]]) -> dict[str, float]:
    """Megabytes: on a GPU those allocated at most, else the high water of the whole process."""
    recipe = load_recipe(recipes[0][0])
    stepper = _Stepper(open_task(recipe), Stage(recipe, recipes[0][1], recipe.seed))
    stepper.run(MEMORY_STEPS)
    if stepper.device.type == "cuda":
        return {recipe.name: torch.cuda.max_memory_allocated(stepper.device) / 1e6}
    unit = 1 if sys.platform == "darwin" else 1024  # of the system's own count
    return {recipe.name: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}


def main() -> None:
    """Measure the variants whose recipes and stages are named, and write a JSON mapping."""
    parser = argparse.ArgumentParser(prog="posedistill.compare.costs", description=main.__doc__)
    parser.add_argument("what", choices=("time", "memory"))
    parser.add_argument("out", type=Path)
    parser.add_argument("networks", nargs="+", metavar="RECIPE STAGE")
    words = parser.parse_args()
    end_with_parent()
    pairs = [(Path(path), network) for path, network in zip(words.networks[::2], words.networks[1::2], strict=True)]
    measured = (_time if words.what == "time" else _memory)(pairs)
    write_file(words.out, json.dumps(measured), TrainingError)


if __name__ == "__main__":
    main()
