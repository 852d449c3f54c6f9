"""All stages of a run: data -> teacher -> student -> distilled -> evaluate -> export -> bench -> report.

Like make, a finished stage is skipped and an interrupted one resumes; each leaves its results in ``runs/<name>/``.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from posedistill.errors import TrainingError
from posedistill.report import build_report, result_table
from posedistill.training.log import console
from posedistill.training.recipe import Recipe
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
from posedistill.training.task import task_of


def run(recipe: Recipe, path: Path, overrides: list[str], jobs: int = 1) -> None:
    """Walk all stages of a recipe and print the result table and the path of the report."""
    started = time.perf_counter()
    folder = recipe.folder
    for variant, seed in networks_of(recipe):
        refuse_other_recipe(recipe, variant, seed)
    check_networks(recipe, task_of(recipe).prepare(recipe).objects)
    write_recipe(recipe)
    train_all(recipe, path, overrides, jobs)
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


def train_all(recipe: Recipe, path: Path, overrides: list[str], jobs: int) -> None:
    """Train the teacher, then every seed of student and distilled, ``jobs`` at a time."""
    train_variant(recipe, "teacher", recipe.seed)
    pending = [(variant, seed) for variant in ("student", "distilled") for seed in seeds_of(recipe)]
    if jobs == 1 or "RANK" in os.environ:  # processes of torchrun train each network together
        for variant, seed in pending:
            train_variant(recipe, variant, seed)
        return
    command = [sys.executable, "-m", "posedistill"]
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    for variant, seed in pending:
        words = ["distill"] if variant == "distilled" else ["train", "--network", "student"]
        log = recipe.folder / variant / f"seed{seed}" / "train.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen([*command, *words, "--seed", str(seed), str(path), *overrides], stderr=out)
        running.append((f"{variant} seed {seed} (see {log})", process))
        if len(running) == jobs:
            _wait(running)
            running = []
    _wait(running)


def _wait(running: list[tuple[str, "subprocess.Popen[bytes]"]]) -> None:
    failed = [name for name, process in running if process.wait() != 0]
    if failed:
        raise TrainingError("training stopped: " + ", ".join(failed))
