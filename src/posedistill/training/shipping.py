"""The last stages of a run: evaluate every network, export the best distilled one, bench it, draw cases."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from posedistill.data.bop import BopDataset, Frame, read_image
from posedistill.deploy.bench import bench
from posedistill.deploy.export import Parity, check_parity, export_onnx, torch_run
from posedistill.deploy.shapes import coarse_shape
from posedistill.errors import TrainingError
from posedistill.estimators.base import Estimator
from posedistill.files import write_file
from posedistill.geometry.cameras import Array, Camera
from posedistill.geometry.meshes import load_mesh
from posedistill.metrics import score_estimates
from posedistill.poses import PoseEstimates
from posedistill.report.gallery import Case, save_cases
from posedistill.runtime.metadata import ModelMetadata
from posedistill.runtime.predictor import Predictor, Request
from posedistill.training import sources
from posedistill.training.evaluation import Wanted, boxes_for, estimate
from posedistill.training.log import console
from posedistill.training.recipe import Recipe, RenderSource
from posedistill.training.stages import load_network, networks_of, recipe_of, variant_folder, weights_of
from posedistill.training.teacher_build import load_members
from posedistill.training.teacher_poses import csv_poses, ensemble_poses
from posedistill.training.validation import metadata_of

PARITY_FRAMES = 8
"""Test frames on which an exported file must agree with its network."""


def test_split(recipe: Recipe) -> tuple[BopDataset, list[Wanted]]:
    """The recipe's test frames, and the boxes that objects are sought in."""
    test = recipe.data.test
    dataset = sources.open_source(test.source, recipe.data.objects, recipe.cache_folder, recipe.data.objects)
    return dataset, boxes_for(dataset, sources.objects_of(recipe), test.boxes, test.detections)


def finished(recipe: Recipe) -> Iterator[tuple[str, int]]:
    """Variants and seeds whose training has ended."""
    for variant, seed in networks_of(recipe):
        trained = (variant_folder(recipe, variant, seed) / "done.json").exists()
        if trained or (variant == "teacher" and recipe.teacher.files):
            yield variant, seed


def evaluate_run(folder: Path) -> None:
    """Measure every finished network of a run on the test split: a BOP csv each, and ``evaluation.json``.

    A network whose csv is newer than its weights and the recipe is not run again, only scored.
    """
    recipe = recipe_of(folder)
    dataset, wanted = test_split(recipe)
    records = [record for record in _records(folder) if record["variant"] == "exported"]
    for variant, seed in finished(recipe):
        records.append(measure_network(recipe, variant, seed, dataset, wanted))
    write_file(folder / "evaluation.json", json.dumps(records), TrainingError)


def measure_network(
    recipe: Recipe, variant: str, seed: int, dataset: BopDataset, wanted: list[Wanted]
) -> dict[str, Any]:
    """Scores and costs of one finished network on the test split; its ``results.csv`` is made where outdated."""
    if variant == "teacher" and not recipe.teacher.is_network:
        return _measure_teacher(recipe, dataset, wanted)
    csv = variant_folder(recipe, variant, seed) / "results.csv"
    estimator, _ = load_network(recipe, variant, seed)
    if not fresh(csv, weights_of(recipe, variant, seed), recipe.folder / "recipe.yaml"):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        predictor = Predictor(torch_run(estimator.network, device), metadata_of(estimator))
        csv.parent.mkdir(parents=True, exist_ok=True)
        estimate(predictor, wanted, f"evaluate {variant} seed {seed}").to_bop_csv(csv)
    about = _about(recipe, dataset, variant, seed) | _cost(estimator)
    return _record(PoseEstimates.from_bop_csv(csv), dataset, about)


def _measure_teacher(recipe: Recipe, dataset: BopDataset, wanted: list[Wanted]) -> dict[str, Any]:
    """Scores of an ensemble, with the costs of all members, or of a csv; none of a csv that is about other images."""
    csv = variant_folder(recipe, "teacher", recipe.seed) / "results.csv"
    about = _about(recipe, dataset, "teacher", recipe.seed)
    objects = sources.objects_of(recipe)
    members = load_members(recipe, objects)
    if not fresh(csv, *recipe.teacher.files, recipe.folder / "recipe.yaml"):
        found = ensemble_poses(members, wanted, objects) if members else csv_poses(recipe, dataset)
        if found is None:
            console.print(f"{recipe.teacher.csv} says nothing of the test frames: the teacher is not scored")
            return about
        csv.parent.mkdir(parents=True, exist_ok=True)
        found.to_bop_csv(csv)
    costs = [_cost(member) for member in members]
    about |= {key: sum(cost[key] for cost in costs) for key in (costs[0] if costs else ())}
    return _record(PoseEstimates.from_bop_csv(csv), dataset, about)


def export_run(folder: Path) -> None:
    """Export the distilled seed with the best validation as ``model.onnx`` and measure the file itself.

    A file newer than its weights is not made again, nor run again where its csv is newer than it and the recipe.
    """
    recipe = recipe_of(folder)
    seeds = [seed for variant, seed in finished(recipe) if variant == "distilled"]
    best = max(seeds, key=lambda seed: load_network(recipe, "distilled", seed)[1]["scores"]["val/score"])
    path, csv = folder / "model.onnx", folder / "results.csv"
    if not fresh(path, weights_of(recipe, "distilled", best)):
        export_variant(recipe, "distilled", best, path)
    dataset, wanted = test_split(recipe)
    if not fresh(csv, path, folder / "recipe.yaml"):
        estimate(Predictor.from_onnx(path), wanted, "evaluate exported").to_bop_csv(csv)
    megabytes = path.stat().st_size / 1e6
    estimator, _ = load_network(recipe, "distilled", best)
    about = _about(recipe, dataset, "exported", best) | _cost(estimator) | {"megabytes": megabytes}
    records = [record for record in _records(folder) if record["variant"] != "exported"]
    records.append(_record(PoseEstimates.from_bop_csv(csv), dataset, about))
    write_file(folder / "evaluation.json", json.dumps(records), TrainingError)


def export_variant(recipe: Recipe, variant: str, seed: int, path: Path, shapes: bool = True) -> Parity:
    """Write one network as ONNX and check on test frames that the file gives the same votes and poses.

    ``shapes`` puts a coarse surface of each object into the file, for the contour in overlays; leave it out of a file
    whose models must not be passed on.
    """
    estimator, trained = load_network(recipe, variant, seed)
    dataset, wanted = test_split(recipe)
    training = f"{recipe.name}: {variant}, seed {seed}, step {trained['step']}"
    metadata = _metadata(estimator, dataset, training, shapes)
    export_onnx(estimator.network, path, metadata)
    requests = [
        Request(read_image(entry.frame.rgb), entry.frame.K, entry.boxes, entry.obj_ids)
        for entry in [entry for entry in wanted if len(entry.boxes)][:PARITY_FRAMES]
    ]
    parity = check_parity(estimator.network, path, requests)
    console.print(f"exported {path}: votes agree to {parity.max_px:.1e} px, poses to {parity.max_deg:.1e} deg")
    write_file(path.with_suffix(".parity.json"), json.dumps(parity.to_dict()), TrainingError)
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
            estimator, _ = load_network(recipe, "teacher", recipe.seed)
            export_onnx(estimator.network, path, metadata_of(estimator))
        result = bench(path, repeats=50)
        console.print(result.table())
        results.append({"variant": variant, **_bench_row(result.to_dict())})
    write_file(folder / "bench.json", json.dumps(results, indent=1), TrainingError)


def save_run_cases(folder: Path) -> None:
    """Draw the best and the worst poses of teacher and exported student on the test frames."""
    recipe = recipe_of(folder)
    dataset, _ = test_split(recipe)
    teacher = variant_folder(recipe, "teacher", recipe.seed) / "results.csv"
    csvs = {"teacher": teacher, "exported": folder / "results.csv"}
    for variant, csv in csvs.items():
        if not csv.exists():  # a teacher that says nothing of the test frames
            continue
        save_cases(folder / "cases", variant, list(_cases(PoseEstimates.from_bop_csv(csv), dataset, recipe)))


def fresh(output: Path, *sources: Path) -> bool:
    """Whether an output is there and no older than what it is made from, as ``make`` decides."""
    return output.exists() and all(source.stat().st_mtime <= output.stat().st_mtime for source in sources)


def _records(folder: Path) -> list[dict[str, Any]]:
    """What ``evaluation.json`` holds so far."""
    path = folder / "evaluation.json"
    return json.loads(path.read_text()) if path.exists() else []


def _cases(estimates: PoseEstimates, dataset: BopDataset, recipe: Recipe) -> Iterator[Case]:
    """One case for each target instance; a missed one has no predicted pose."""
    objects = sources.objects_of(recipe)
    for case in score_estimates(estimates, dataset).cases:
        frame = dataset.frame(case.scene_id, case.im_id)
        index = objects.index(case.obj_id)
        R, t = (estimates.R[case.row], estimates.t[case.row]) if case.row >= 0 else (None, None)
        R_gt, t_gt = _nearest_truth(frame, case.obj_id, R, t, objects.symmetries[index])
        about = (case.add, "mm", case.obj_id, case.scene_id, case.im_id)
        yield Case(frame.rgb, frame.K, objects.keypoints[index], R_gt, t_gt, R, t, *about)


def _nearest_truth(
    frame: Frame, obj_id: int, R: Array | None, t: Array | None, symmetries: Array
) -> tuple[Array, Array]:
    """The true pose, of all instances and equivalent poses, that lies nearest to the predicted one."""
    truths = [
        (instance.R @ S[:3, :3], instance.R @ S[:3, 3] + instance.t)
        for instance in frame.instances
        if instance.obj_id == obj_id
        for S in symmetries
    ]
    if R is None or t is None:
        return truths[0]
    return min(truths, key=lambda truth: float(np.linalg.norm(truth[1] - t) + 100 * np.linalg.norm(truth[0] - R)))


def _record(estimates: PoseEstimates, dataset: BopDataset, about: dict[str, Any]) -> dict[str, Any]:
    return {**score_estimates(estimates, dataset).to_dict(), **about}


def _about(recipe: Recipe, dataset: BopDataset, variant: str, seed: int) -> dict[str, Any]:
    rendered = isinstance(recipe.data.test.source, RenderSource)
    name = "rendered test frames" if rendered else f"{dataset.root.name}/{dataset.split}"
    return {"variant": variant, "seed": seed, "boxes": recipe.data.test.boxes, "dataset": name}


def _cost(estimator: Estimator) -> dict[str, Any]:
    parameters = sum(weight.numel() for weight in estimator.network.parameters())
    size = int(estimator.deployment()["crop_size"])
    device = next(estimator.parameters()).device  # an accelerator's, where the network has just been evaluated
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        estimator.network(
            torch.zeros(1, 3, size, size, device=device), torch.zeros(1, dtype=torch.int64, device=device)
        )
    gmacs = counter.get_total_flops() / 2e9
    return {"parameters": parameters, "megabytes": parameters * 4 / 1e6, "gmacs": gmacs}


def _metadata(estimator: Estimator, dataset: BopDataset, training: str, shapes: bool) -> ModelMetadata:
    frame = dataset.frames[0]
    height, width = read_image(frame.rgb).shape[:2]
    meshes = [load_mesh(dataset.mesh_path(obj_id)) for obj_id in estimator.objects.obj_ids if shapes]
    surfaces = tuple(coarse_shape(mesh.vertices, mesh.faces) for mesh in meshes)
    return metadata_of(estimator, camera=Camera(frame.K, width, height), training=training, shapes=surfaces)


def _bench_row(result: dict[str, Any]) -> dict[str, Any]:
    names = {"first_ms": "first_inference_ms", "memory_mb": "peak_memory_mb", "size_mb": "megabytes"}
    return {names.get(name, name): value for name, value in result.items()}
