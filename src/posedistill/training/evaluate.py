"""What follows a run's trainings: measure every network, export the best student, time it, draw its poses."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from posedistill.data.loading.picture_view import PictureSize
from posedistill.deploy.bench import bench
from posedistill.deploy.estimate import estimate
from posedistill.deploy.export import check_parity, example_inputs, export_onnx, torch_predictor
from posedistill.deploy.threshold import store_threshold
from posedistill.errors import TrainingError
from posedistill.estimators.base import Estimator
from posedistill.files import fresh, write_file, write_if_changed
from posedistill.log import console
from posedistill.metrics.evaluation import Evaluation
from posedistill.poses import Poses
from posedistill.recipe.recipe import Recipe
from posedistill.recipe.stages import Stage, stages_of, teacher_of
from posedistill.runtime.predictor import Predictor, Run
from posedistill.tasks.base import Task
from posedistill.training.networks import load_members, load_network, validation_score

PARITY_FRAMES = 8
"""Test frames on which an exported file must agree with its network."""
_Outputs = Mapping[str, NDArray[Any]]


def finished(recipe: Recipe) -> list[Stage]:
    """The stages whose training has ended."""
    return [stage for stage in stages_of(recipe) if stage.finished]


def evaluate_run(task: Task[Any]) -> None:
    """Measure every finished network of a run on the test split, with naive baselines beside: ``evaluation.json``.

    A network whose poses are newer than its weights and the recipe is not run again for poses, only scored, and looked
    into where its task does so (``Task.looked_into``).
    """
    kept = [record for record in _records(task) if record["stage"] == "exported"]
    found = [measure_stage(task, stage) for stage in finished(task.recipe)]
    found += [measure_stage(task, stage, size) for size in task.sizes for stage in _sized(task.recipe)]
    found += measure_baselines(task, teacher_of(task.recipe))
    _write_records(task, kept + [item.to_dict() for item in found])


def measure_stage(task: Task[Any], stage: Stage, size: PictureSize | None = None) -> Evaluation:
    """Scores and costs of one finished network (or what stands in a teacher's place) on the test split.

    ``size``: of whole pictures, where it is not the recipe's; it is told in the name of what is measured.
    """
    name, csv = stage.name, stage.folder / "results.csv"
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        stage = replace(stage, recipe=stage.recipe.at_size(size))
        name, csv = f"{name} at {height} x {width}", csv.with_stem(f"results_{height}x{width}")
    members = load_members(stage, task.objects)
    scored = stage.name != "teacher" or not stage.recipe.cuts_crops
    looked_into = len(members) == 1 and scored and size is None
    said: list[_Outputs] = []

    def found() -> Poses | None:
        if not scored:
            return None
        if not members:
            return task.stated_poses()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        predictors = [torch_predictor(*task.deployed(member), device) for member in members]
        if looked_into and task.reads_outputs:
            predictors[0].run = _noting(predictors[0].run, said)
        tables = [estimate(each, task.queries, f"evaluate {name} seed {stage.seed}") for each in predictors]
        return tables[0] if len(tables) == 1 else task.joined(tables)

    poses = _poses(task, csv, stage.files, found)
    if poses is None:
        reason = (
            f"{stage.recipe.teacher.csv} says nothing of the test frames" if scored else "it looks at crops in boxes"
        )
        console.print(f"{reason}: the teacher is not scored")
    costs = [_cost(task, member) for member in members]
    summed = {key: sum(cost[key] for cost in costs) for key in (costs[0] if costs else ())}
    scores = task.score(poses)
    if looked_into:
        scores = task.looked_into(scores, members[0], said)
    return replace(scores, stage=name, seed=stage.seed, **summed)


def _noting(run: Run, said: list[_Outputs]) -> Run:
    """The same network, which notes what it says."""

    def noting(inputs: _Outputs) -> _Outputs:
        said.append(run(inputs))
        return said[-1]

    return noting


def _sized(recipe: Recipe) -> list[Stage]:
    """The finished stages whose networks look at whole pictures."""
    whole = recipe.teacher.csv is None and not recipe.cuts_crops
    return [stage for stage in finished(recipe) if whole or stage.name != "teacher"]


def measure_baselines(task: Task[Any], teacher: Stage) -> list[Evaluation]:
    """Scores of the naive baselines; those that ask the teacher's network need it finished."""
    trained = teacher.is_network and teacher.weights.exists()
    baselines = task.baselines(load_network(teacher, task.objects)[0] if trained else None)
    return [
        replace(task.score(poses), stage=name, baseline=task.baseline_notes[name]) for name, poses in baselines.items()
    ]


def export_run(task: Task[Any]) -> None:
    """Export the seed with the best validation, of what is shipped, as ``model.onnx`` and measure the file itself.

    A file newer than its weights is not made again, nor run again where its poses are newer than it and the recipe.
    """
    folder = task.recipe.folder
    best = max((stage for stage in finished(task.recipe) if stage.name == task.recipe.shipped), key=validation_score)
    path = folder / "model.onnx"
    if not fresh(path, best.weights):
        export_stage(task, best, path)
    poses = _poses(
        task,
        folder / "results.csv",
        [path],
        lambda: estimate(Predictor.from_onnx(path), task.queries, "evaluate exported"),
    )
    costs = _cost(task, load_network(best, task.objects)[0]) | {"megabytes": path.stat().st_size / 1e6}
    kept = [record for record in _records(task) if record["stage"] != "exported"]
    exported = replace(task.score(poses), stage="exported", seed=best.seed, **costs)
    _write_records(task, [*kept, exported.to_dict()])


def export_stage(
    task: Task[Any], stage: Stage, path: Path, shapes: bool = True, threshold: bool = True
) -> dict[str, Any]:
    """Write one network as ONNX and check on test frames that the file gives the same; returns by how much.

    ``shapes``: whether surfaces of objects are put into the file. ``threshold``: whether a score threshold is chosen.
    """
    estimator, trained = load_network(stage, task.objects)
    origin = f"step {trained['step']}" if "step" in trained else str(stage.weights)  # Darknet's tell no step
    training = f"{stage.recipe.name}: {stage.name}, seed {stage.seed}, {origin}"
    network, decoder = task.deployed(estimator, shapes=shapes)
    export_onnx(network, path, decoder, training, task.training_frames, task.places)
    sought = [query for query in task.queries if len(query.boxes)] or task.queries
    parity = check_parity(network, path, [query.request() for query in sought[:PARITY_FRAMES]])
    console.print(f"exported {path}: {parity}")
    write_file(path.with_suffix(".parity.json"), json.dumps(asdict(parity)), TrainingError)
    if threshold and (chosen := task.threshold(Predictor.from_onnx(path))) is not None:
        store_threshold(path, chosen)
        console.print(f"{path}: {chosen}", highlight=False)
    return asdict(parity)


def bench_run(task: Task[Any]) -> None:
    """Time the exported file, and the teacher exported for the purpose, into ``bench.json`` where that is outdated."""
    folder, teacher, asked = task.recipe.folder, teacher_of(task.recipe), task.recipe.has_teacher
    if fresh(folder / "bench.json", folder / "model.onnx", *([teacher.weights] if asked else [])):
        return
    files = {"exported": folder / "model.onnx"}
    if asked and teacher.is_network and not task.recipe.cuts_crops:
        export_stage(task, teacher, folder / "teacher.onnx", shapes=False, threshold=False)
        files = {"teacher": folder / "teacher.onnx"} | files
    results = []
    for name, path in files.items():
        result = bench(path, repeats=50)
        console.print(result.table())
        results.append({"stage": name, **asdict(result)})
    write_file(folder / "bench.json", json.dumps(results, indent=1), TrainingError)


def draw_cases(task: Task[Any]) -> None:
    """Draw the best and the worst poses of teacher and exported student on the test frames, and what they rest on."""
    folder = task.recipe.folder
    for name, place in {"teacher": teacher_of(task.recipe).folder, "exported": folder}.items():
        csv = place / "results.csv"
        if csv.exists():  # a teacher's csv may say nothing of the test frames
            task.draw(Poses.read(csv), name, folder / "cases")
    for name, file in {"teacher": folder / "teacher.onnx", "exported": folder / "model.onnx"}.items():
        if file.exists():
            task.draw_votes(Predictor.from_onnx(file), name, folder / "cases")


def _poses(task: Task[Any], csv: Path, made_from: Sequence[Path], make: Callable[[], Poses | None]) -> Poses | None:
    """Poses of the test frames as a file holds them: made again only where it is older than what they depend on."""
    if fresh(csv, task.recipe.folder / "recipe.yaml", _noted_test(task), *made_from):
        return Poses.read(csv)
    if (found := make()) is None:
        return None
    found.write(csv)
    return Poses.read(csv)  # so that they score the same now and when they are read again


def _noted_test(task: Task[Any]) -> Path:
    """``test.json`` of a run: what is sought in which frames; as old as the last change of that."""
    path = task.recipe.folder / "test.json"
    about = {"frames": len(task.queries), "fingerprint": task.test_fingerprint}
    write_if_changed(path, json.dumps(about), TrainingError)
    return path


def _records(task: Task[Any]) -> list[dict[str, Any]]:
    """What ``evaluation.json`` holds so far."""
    path = task.recipe.folder / "evaluation.json"
    return json.loads(path.read_text()) if path.exists() else []


def _write_records(task: Task[Any], records: list[dict[str, Any]]) -> None:
    write_file(task.recipe.folder / "evaluation.json", json.dumps(records), TrainingError)


def _cost(task: Task[Any], estimator: Estimator) -> dict[str, Any]:
    parameters = sum(weight.numel() for weight in estimator.network.parameters())
    device = next(estimator.parameters()).device  # an accelerator's, where the network has just been evaluated
    inputs = example_inputs(task.decoder(estimator))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        estimator.network(*(value.to(device) for value in inputs.values()))
    gmacs = counter.get_total_flops() / 2e9
    return {"parameters": parameters, "megabytes": parameters * 4 / 1e6, "gmacs": gmacs}
