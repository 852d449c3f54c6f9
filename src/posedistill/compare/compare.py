"""``posedistill compare``: every variant on the same data order and seeds, at equal steps and at equal wall-clock."""

import json
import math
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posedistill.compare.costs import Costs, equal_time_steps, measure_costs, timing_note
from posedistill.compare.page import build_comparison
from posedistill.compare.sweep import SweepScores, best_factors, sweep
from posedistill.errors import CheckpointError, RecipeError, TrainingError
from posedistill.files import fresh, in_bytes, occupied, write_file
from posedistill.geometry.objects import ObjectTable
from posedistill.interrupts import sigterm_interrupts, told
from posedistill.log import console
from posedistill.recipe.comparison import Comparison, Variant, load_comparison
from posedistill.recipe.recipe import Recipe
from posedistill.recipe.stages import Stage, teacher_of
from posedistill.tasks.base import Task
from posedistill.tasks.registry import open_task
from posedistill.training.evaluate import measure_baselines
from posedistill.training.jobs import run_trials
from posedistill.training.run_folder import write_environment
from posedistill.training.teaching.build import check_networks, noise_batch, teacher_so_far
from posedistill.training.teaching.cache import stored_bytes, views_of
from posedistill.training.teaching.teachers import Teacher, networks_of
from posedistill.training.trial import Trial

TrialTable = dict[str, dict[int, Trial]]
"""Variant, seed, trial."""

PAUSE = 60.0
"""Seconds between two updates of the page."""


@dataclass
class Standing:
    """What a comparison has found so far; written while it goes on, so that the page is never far behind.

    Attributes:
        baselines: naive ones, to read the tables beside.
        scores, factors: of the sweep. tables: trials of ``equal_steps`` and ``equal_time``.
        costs, steps: of a training step, and how many make equal time.
        failures: title of a training to what went wrong.
    """

    comparison: Comparison
    teacher: Trial | None
    baselines: list[dict[str, Any]] = field(default_factory=list)
    scores: SweepScores = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
    tables: dict[str, TrialTable] = field(default_factory=dict)
    costs: Costs = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    shown: float = field(default_factory=time.monotonic, repr=False)

    def ended(self, trial: Trial, failure: str | None) -> None:
        """Take note of a training's end, and show it."""
        if failure is not None:
            self.failures[trial.title] = failure
        if time.monotonic() > self.shown + PAUSE:
            self.write()
            self.shown = time.monotonic()

    def write(self) -> Path:
        """``comparison.json``, ``comparison.md`` and ``comparison.html`` in the comparison's folder."""
        folder = self.comparison.folder
        write_file(folder / "comparison.json", json.dumps(self._content(), indent=1), TrainingError)
        return build_comparison(folder)

    def _content(self) -> dict[str, Any]:
        compared, tried = self.comparison, self.comparison.sweep
        return {
            "name": compared.name,
            "baseline": compared.baseline,
            "alone": compared.alone,
            "seeds": list(compared.seeds),
            "steps": compared.base.schedule(compared.base.student).steps,
            "batch_size": compared.base.schedule(compared.base.student).batch_size,
            "recipe": compared.base.name,
            "teacher": self.teacher and str(self.teacher.record.relative_to(compared.folder)),
            "baselines": self.baselines,
            "variants": {name: self._about(variant) for name, variant in compared.variants.items()},
            "sweep": None
            if tried is None
            else {
                "steps": tried.steps,
                "seed": tried.seed,
                "values": sorted(
                    {*tried.values, *(factor for row in self.scores.values() for factor in row if factor)}
                ),
                "scores": {
                    name: {f"{factor:g}": None if math.isnan(score) else score for factor, score in row.items()}
                    for name, row in self.scores.items()
                },
            },
            "tables": {
                name: {
                    variant: {str(seed): str(trial.folder.relative_to(compared.folder)) for seed, trial in row.items()}
                    for variant, row in table.items()
                }
                for name, table in self.tables.items()
            },
            "costs": {name: cost | {"equal_time_steps": self.steps[name]} for name, cost in self.costs.items()},
            "timing_note": timing_note(self.costs),
            "failures": self.failures,
        }

    def _about(self, variant: Variant) -> dict[str, Any]:
        """A variant with the weights that are used."""
        factor = self.factors.get(variant.name, 1.0)
        shown = [spec.model_dump(mode="json") for spec in self.comparison.recipe_of(variant, factor=factor).distill]
        return {"alone": variant.alone, "distill": shown, "factor": factor}


def compare(
    paths: Sequence[Path], overrides: Sequence[str] = (), *, seeds: int | None, baseline: str | None, jobs: int = 1
) -> Path:
    """Sweep, train, measure and tabulate all variants; the same command goes on where an earlier one stopped.

    Returns:
        The page; beside it lie ``comparison.md`` and ``comparison.json``.

    Raises:
        RecipeError: variants that cannot be compared or built; nothing was trained.
        TrainingError: the teacher failed, or (after everything else has been done) some variants did.
    """
    comparison = load_comparison(paths, overrides, seeds=seeds, baseline=baseline)
    with sigterm_interrupts(), told(_kept), occupied(comparison.folder, TrainingError):
        standing = carry_out(comparison, jobs)
    page = standing.write()
    if standing.failures:
        shown = "\n".join(f"  {title}: {failure}" for title, failure in standing.failures.items())
        found = f"{len(standing.failures)} of its parts failed, {page} shows the others"
        raise TrainingError(f"{comparison.name}: {found}:\n{shown}")
    remove_teacher_cache(comparison)
    return page


def carry_out(comparison: Comparison, jobs: int = 1) -> Standing:
    """Everything that is not done yet: teacher, sweep, the table of equal steps, costs, the table of equal time."""
    started = time.perf_counter()
    task = open_task(comparison.base)
    check(comparison, task)
    teacher = train_teacher(comparison)
    standing = Standing(comparison, teacher, kept_baselines(comparison, task, teacher))
    if comparison.sweep is not None:
        standing.scores = sweep(comparison, comparison.sweep, jobs, standing.ended)
        standing.factors = best_factors(standing.scores) | {comparison.alone: 1.0}
    standing.tables["equal_steps"] = equal_steps(comparison, standing.factors)
    run_trials(by_seed(standing.tables["equal_steps"]), jobs, standing.ended)
    _measure_costs(standing, jobs)
    if comparison.wall_clock and standing.steps:
        standing.tables["equal_time"] = equal_time(comparison, standing)
        run_trials(by_seed(standing.tables["equal_time"]), jobs, standing.ended)
    write_environment(comparison.folder, {"compare": time.perf_counter() - started})
    return standing


def check(comparison: Comparison, task: Task[Any]) -> None:
    """Refuse, before anything trains, variants whose networks and losses cannot be built or do not fit together.

    The teacher, which all share, is built once; what its stored outputs will take is told where there is a cache.

    Raises:
        RecipeError, CheckpointError: naming the variant, but where it is the teacher that is at fault.
    """
    asked = any(variant.recipe.has_teacher for variant in comparison.variants.values())
    teacher = teacher_so_far(comparison.base, task.stand_ins) if asked else None
    views: set[str] = set()
    for variant in comparison.variants.values():
        try:
            distillers = check_networks(variant.recipe, task.stand_ins, teacher)
        except (RecipeError, CheckpointError) as error:
            raise type(error)(f"variant {variant.name}: {error}") from None
        views |= views_of(distillers, teacher) if teacher else set()
    if comparison.base.teacher.cache and teacher and views:
        tell_cache_size(comparison, task.stand_ins, teacher, views)
    task.check()


def tell_cache_size(comparison: Comparison, objects: ObjectTable, teacher: Teacher, views: Iterable[str]) -> None:
    """Say, before anything is trained, what these views of the teacher's outputs will take."""
    base = comparison.base
    batch, settings = noise_batch(objects, base.input_size, networks=networks_of(teacher)), base.schedule(base.student)
    picture = stored_bytes(teacher.predict(batch, -1), batch, views) / len(batch)
    steps = settings.steps * len(comparison.seeds) + (comparison.sweep.steps if comparison.sweep else 0)
    size = picture * settings.batch_size * steps
    kept = "removed when the comparison is finished" if base.teacher.cache is True else f"kept in {base.teacher.cache}"
    console.print(f"teacher cache: about {in_bytes(size)} for {len(comparison.seeds)} seeds, {kept}", highlight=False)


def remove_teacher_cache(comparison: Comparison) -> None:
    """Delete the outputs that were stored for this comparison; a folder that the recipe names is its owner's."""
    if comparison.teacher_cache.exists():
        size = sum(path.stat().st_size for path in comparison.teacher_cache.rglob("*.safetensors"))
        shutil.rmtree(comparison.teacher_cache)
        console.print(f"teacher cache: {in_bytes(size)} removed", highlight=False)


def train_teacher(comparison: Comparison) -> Trial | None:
    """The base recipe's teacher, trained in the base recipe's own folder unless it is there; measured once.

    None where no single network teaches, or no variant asks one.

    Raises:
        TrainingError: it failed; nothing can be compared.
    """
    if not comparison.base.teacher.is_network or all(variant.untaught for variant in comparison.variants.values()):
        return None
    trained = Trial("teacher", teacher_of(comparison.base), tested=False)
    with nullcontext() if trained.finished() else occupied(comparison.base.folder, TrainingError):
        run_trials([trained], 1, _raise)
    first = next(iter(comparison.variants.values()))
    recipe = comparison.recipe_of(first, name="teacher")
    measured = Trial("test of the teacher", teacher_of(recipe))
    run_trials([measured], 1, _raise)
    return measured


def kept_baselines(comparison: Comparison, task: Task[Any], teacher: Trial | None) -> list[dict[str, Any]]:
    """Scores of naive baselines on the test split, kept in ``baselines.json``; those of retrieval need the teacher."""
    path = comparison.folder / "baselines.json"
    if teacher is None or not fresh(path, teacher.record):
        stage = teacher_of(comparison.base) if teacher is None else teacher.stage
        found = [evaluation.to_dict() for evaluation in measure_baselines(task, stage)]
        write_file(path, json.dumps(found), TrainingError)
    records: list[dict[str, Any]] = json.loads(path.read_text())
    return records


def equal_steps(comparison: Comparison, factors: dict[str, float]) -> TrialTable:
    """A training for each variant and seed, all on the recipe's schedule."""
    return {
        name: _trials(comparison, variant, comparison.recipe_of(variant, factor=factors.get(name, 1.0)))
        for name, variant in comparison.variants.items()
    }


def equal_time(comparison: Comparison, standing: Standing) -> TrialTable:
    """A training for each variant and seed, with as many steps as the student alone makes in the same time.

    What makes the same number of steps as before is not trained again. A variant that could not be timed is left out.
    """
    table: TrialTable = {}
    usual = comparison.base.schedule(comparison.base.student).steps
    for name, steps in standing.steps.items():
        variant = comparison.variants[name]
        if steps == usual:
            table[name] = standing.tables["equal_steps"][name]
            continue
        recipe = comparison.recipe_of(variant, "equal_time", factor=standing.factors.get(name, 1.0), steps=steps)
        table[name] = _trials(comparison, variant, recipe, f", {steps} steps")
    return table


def _trials(comparison: Comparison, variant: Variant, recipe: Recipe, note: str = "") -> dict[int, Trial]:
    """A training of a variant with each seed."""
    return {
        seed: Trial(f"{variant.name} seed {seed}{note}", Stage(recipe, variant.stage, seed))
        for seed in comparison.seeds
    }


def _measure_costs(standing: Standing, jobs: int) -> None:
    """Time a step of each variant; without times there is no table of equal wall-clock, but all the rest."""
    comparison = standing.comparison
    try:
        standing.costs = measure_costs(comparison, standing.factors, jobs)
    except TrainingError as error:
        standing.failures["costs"] = str(error)
        return
    standing.steps = equal_time_steps(standing.costs, comparison.base.schedule(comparison.base.student).steps)
    for name in comparison.variants:
        if name not in standing.costs:
            standing.failures[f"costs of {name}"] = "could not be built or trained, see probe/time.log"


def by_seed(table: TrialTable) -> list[Trial]:
    """Trials in the order in which results come early: the first seed of every variant, then the second."""
    return [trial for row in zip(*(list(row.values()) for row in table.values()), strict=True) for trial in row]


def _raise(trial: Trial, failure: str | None) -> None:
    if failure is not None:
        raise TrainingError(f"{trial.title}: {failure}")


def _kept() -> str:
    return "stopped; the same command goes on: finished trainings are kept, others go on from their checkpoints"
