"""The last stages of a run: evaluate every network, export the best distilled one, bench it, draw cases."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from posedistill.deploy.bench import bench
from posedistill.errors import TrainingError
from posedistill.estimators.base import Estimator
from posedistill.files import fresh, write_file
from posedistill.log import console
from posedistill.recipe.recipe import Recipe
from posedistill.tasks.base import Record
from posedistill.tasks.object_sources import objects_of
from posedistill.tasks.registry import task_of
from posedistill.training.stages import load_network, networks_of, recipe_of, variant_folder, weights_of
from posedistill.training.teacher_build import load_members


def finished(recipe: Recipe) -> Iterator[tuple[str, int]]:
    """Variants and seeds whose training has ended."""
    for variant, seed in networks_of(recipe):
        trained = (variant_folder(recipe, variant, seed) / "done.json").exists()
        if trained or (variant == "teacher" and recipe.teacher.files):
            yield variant, seed


def evaluate_run(folder: Path) -> None:
    """Measure every finished network of a run on the test split, with trivial answers beside: ``evaluation.json``.

    A network whose poses are newer than its weights and the recipe is not run again, only scored.
    """
    recipe = recipe_of(folder)
    task = task_of(recipe)
    split = task.split(recipe)
    records = [record for record in _records(folder) if record["variant"] == "exported"]
    for variant, seed in finished(recipe):
        records.append(measure_network(recipe, variant, seed, split))
    records += task.references(recipe, split)
    write_file(folder / "evaluation.json", json.dumps(records), TrainingError)


def measure_network(recipe: Recipe, variant: str, seed: int, split: Any) -> Record:
    """Scores and costs of one finished network (or what stands in a teacher's place) on the test split."""
    record = task_of(recipe).measure(recipe, variant, seed, split)
    return record | {"variant": variant, "seed": seed} | _costs(recipe, variant, seed)


def export_run(folder: Path) -> None:
    """Export the distilled seed with the best validation as ``model.onnx`` and measure the file itself.

    A file newer than its weights is not made again, nor run again where its poses are newer than it and the recipe.
    """
    recipe = recipe_of(folder)
    seeds = [seed for variant, seed in finished(recipe) if variant == "distilled"]
    best = max(seeds, key=lambda seed: load_network(recipe, "distilled", seed)[1]["scores"]["val/score"])
    path = folder / "model.onnx"
    if not fresh(path, weights_of(recipe, "distilled", best)):
        export_variant(recipe, "distilled", best, path)
    task = task_of(recipe)
    record = task.measure_file(recipe, path, folder / "results.csv", task.split(recipe))
    costs = _costs(recipe, "distilled", best) | {"megabytes": path.stat().st_size / 1e6}
    records = [record for record in _records(folder) if record["variant"] != "exported"]
    records.append(record | {"variant": "exported", "seed": best} | costs)
    write_file(folder / "evaluation.json", json.dumps(records), TrainingError)


def export_variant(recipe: Recipe, variant: str, seed: int, path: Path, shapes: bool = True) -> Record:
    """Write one network as ONNX and check on test frames that the file gives the same; returns by how much.

    ``shapes``: whether surfaces of objects are put into the file.
    """
    estimator, trained = load_network(recipe, variant, seed)
    training = f"{recipe.name}: {variant}, seed {seed}, step {trained['step']}"
    task = task_of(recipe)
    parity = task.export(recipe, estimator, path, training, task.split(recipe), shapes=shapes)
    write_file(path.with_suffix(".parity.json"), json.dumps(parity), TrainingError)
    return parity


def bench_run(folder: Path) -> None:
    """Time the exported file, and the teacher exported for the purpose, into ``bench.json`` where that is outdated."""
    recipe = recipe_of(folder)
    if fresh(folder / "bench.json", folder / "model.onnx", weights_of(recipe, "teacher", recipe.seed)):
        return
    results = []
    for variant in ("teacher", "exported") if recipe.teacher.is_network else ("exported",):
        path = folder / "model.onnx"
        if variant == "teacher":
            path = folder / "teacher.onnx"
            export_variant(recipe, "teacher", recipe.seed, path, shapes=False)
        result = bench(path, repeats=50)
        console.print(result.table())
        results.append({"variant": variant, **_bench_row(result.to_dict())})
    write_file(folder / "bench.json", json.dumps(results, indent=1), TrainingError)


def save_run_cases(folder: Path) -> None:
    """Draw the best and the worst poses of teacher and exported student on the test frames."""
    recipe = recipe_of(folder)
    task = task_of(recipe)
    task.draw(recipe, folder, task.split(recipe))


def _records(folder: Path) -> list[Record]:
    """What ``evaluation.json`` holds so far."""
    path = folder / "evaluation.json"
    return json.loads(path.read_text()) if path.exists() else []


def _costs(recipe: Recipe, variant: str, seed: int) -> dict[str, Any]:
    """What a network costs, an ensemble all its members, a csv nothing."""
    if variant != "teacher" or recipe.teacher.is_network:
        return _cost(recipe, load_network(recipe, variant, seed)[0])
    costs = [_cost(recipe, member) for member in load_members(recipe, objects_of(recipe))]
    return {key: sum(cost[key] for cost in costs) for key in (costs[0] if costs else ())}


def _cost(recipe: Recipe, estimator: Estimator) -> dict[str, Any]:
    parameters = sum(weight.numel() for weight in estimator.network.parameters())
    device = next(estimator.parameters()).device  # an accelerator's, where the network has just been evaluated
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        estimator.network(*task_of(recipe).inputs(recipe, device))
    gmacs = counter.get_total_flops() / 2e9
    return {"parameters": parameters, "megabytes": parameters * 4 / 1e6, "gmacs": gmacs}


def _bench_row(result: dict[str, Any]) -> dict[str, Any]:
    names = {"first_ms": "first_inference_ms", "memory_mb": "peak_memory_mb", "size_mb": "megabytes"}
    return {names.get(name, name): value for name, value in result.items()}
