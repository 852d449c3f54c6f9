"""All stages of a run: data -> teacher -> student -> distilled -> evaluate -> export -> bench -> report.

Like make, a finished stage is skipped and an interrupted one resumes; each leaves its results in ``runs/<name>/``.
"""

import os
import time

from posedistill.compare.jobs import run_trials, sigterm_interrupts
from posedistill.compare.trial import Trial
from posedistill.errors import TrainingError
from posedistill.log import console
from posedistill.recipe.recipe import Recipe
from posedistill.report.page import build_report
from posedistill.report.tables import result_table
from posedistill.tasks.registry import task_of
from posedistill.training.shipping import bench_run, evaluate_run, export_run, save_run_cases
from posedistill.training.stages import (
    check_networks,
    networks_of,
    refuse_other_recipe,
    seeds_of,
    train_variant,
    write_environment,
    write_recipe,
)


def run(recipe: Recipe, jobs: int = 1) -> None:
    """Walk all stages of a recipe and print the result table and the path of the report."""
    started = time.perf_counter()
    folder = recipe.folder
    for variant, seed in networks_of(recipe):
        refuse_other_recipe(recipe, variant, seed)
    check_networks(recipe, task_of(recipe).prepare(recipe).objects)
    write_recipe(recipe)
    train_all(recipe, jobs)
    if int(os.environ.get("RANK", 0)):
        return  # of the processes of torchrun the first does the rest
    evaluate_run(folder)
    export_run(folder)
    bench_run(folder)
    save_run_cases(folder)
    write_environment(folder, {"run": time.perf_counter() - started})
    page = build_report(folder)
    console.print(result_table(folder))
    print(f"report: {page}")


def train_all(recipe: Recipe, jobs: int) -> None:
    """Train the teacher, then every seed of student and distilled, ``jobs`` at a time.

    Raises:
        TrainingError: some of those trained at the same time failed; the others have been trained.
    """
    train_variant(recipe, "teacher", recipe.seed)
    pending = [(variant, seed) for variant in ("student", "distilled") for seed in seeds_of(recipe)]
    if jobs == 1 or "RANK" in os.environ:  # processes of torchrun train each network together
        for variant, seed in pending:
            train_variant(recipe, variant, seed)
        return
    failures: list[str] = []

    def ended(trial: Trial, failure: str | None) -> None:
        if failure is not None:
            failures.append(f"{trial.title}: {failure}")

    trials = [Trial(f"{variant} seed {seed}", recipe, variant, seed, tested=False) for variant, seed in pending]
    with sigterm_interrupts():
        run_trials(trials, jobs, ended)
    if failures:
        raise TrainingError("training stopped:\n  " + "\n  ".join(failures))
