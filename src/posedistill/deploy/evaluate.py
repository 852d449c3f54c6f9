"""Evaluation of files: frames of a BOP folder or a scene -> network -> decoder -> csv -> scores."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.data.formats.bop import BopDataset, Detection, Frame, read_detections
from posedistill.data.formats.labels.dataset import LabelDataset
from posedistill.data.formats.open_scene import open_scene
from posedistill.data.formats.scene import CameraDataset
from posedistill.decode.objects import of_objects
from posedistill.deploy.estimate import FrameQuery, estimate, queries_of
from posedistill.errors import DataError, TrainingError, describe
from posedistill.files import write_file
from posedistill.geometry.cameras import pixel_box, project
from posedistill.geometry.objects import ObjectTable
from posedistill.log import console
from posedistill.metrics import Evaluation, ScoringModel, find_cases, load_scoring_models, score_estimates
from posedistill.metrics.relocalisation import constant_pose, nearest_position, score_cameras
from posedistill.metrics.single_shot import score_single_shot
from posedistill.poses import Poses
from posedistill.report.score_table import score_tables
from posedistill.runtime.predictor import Predictor
from posedistill.runtime.record import Frames

SPLITS = ("train", "test", "all")
UNKNOWN_UNIT = "unit unknown: m stands for the scene's own"
"""What is said of errors in a scene that knows no metres."""


def ground_truth_boxes(dataset: BopDataset, objects: ObjectTable) -> list[FrameQuery]:
    """Boxes of the target instances, the most visible ones, from their true poses.

    A box is the extent of the projected box corners, as in training.
    """
    queries = []
    for frame, counts in _targets_by_frame(dataset, objects):
        seen = sorted(frame.instances, key=lambda instance: -instance.visib_fract)
        instances = [i for obj_id, count in counts.items() for i in [s for s in seen if s.obj_id == obj_id][:count]]
        corners = [project(objects.keypoints[objects.index(i.obj_id)], i.R, i.t, frame.K) for i in instances]
        boxes = [pixel_box(pixels) for pixels in corners]
        queries.append(FrameQuery.of_objects(frame, boxes, [i.obj_id for i in instances], [1.0] * len(instances)))
    return queries


def detector_boxes(dataset: BopDataset, objects: ObjectTable, detections: Path) -> list[FrameQuery]:
    """The best-scored detections of each target object, as many as the target has instances; no ground truth."""
    by_image = detections_by_image(detections)
    queries = []
    for frame, counts in _targets_by_frame(dataset, objects):
        seen = by_image.get((frame.scene_id, frame.im_id), [])
        chosen = [d for obj_id, count in counts.items() for d in [s for s in seen if s.obj_id == obj_id][:count]]
        columns = ([d.bbox for d in chosen], [d.obj_id for d in chosen], [d.score for d in chosen])
        queries.append(FrameQuery.of_objects(frame, *columns))
    return some_boxes(queries, detections, by_image)


def detections_by_image(path: Path) -> dict[tuple[int, int], list[Detection]]:
    """The detections of a BOP json by (scene_id, im_id), the surest first; what cannot be used is told."""
    by_image: dict[tuple[int, int], list[Detection]] = {}
    read, left_out = read_detections(path)
    if left_out:
        print(f"posedistill: {path}: {left_out}", file=sys.stderr)
    for detection in sorted(read, key=lambda d: -d.score):
        by_image.setdefault((detection.scene_id, detection.im_id), []).append(detection)
    return by_image


def some_boxes(queries: list[FrameQuery], path: Path, found: Mapping[Any, list[Detection]]) -> list[FrameQuery]:
    """The queries; ``DataError`` where the detections of a file gave none of them a box."""
    if not any(len(entry.boxes) for entry in queries):
        told = f"{sum(map(len, found.values()))} usable ones, none for the test images and objects"
        raise DataError(describe(path, "detections", told, "some"))
    return queries


def whole_pictures(dataset: BopDataset, objects: ObjectTable) -> list[FrameQuery]:
    """Every test frame, with the objects that are in it, as often as they are; no boxes."""
    queries = []
    for frame, counts in _targets_by_frame(dataset, objects):
        labels = [obj_id for obj_id, count in counts.items() for _ in range(count)]
        queries.append(FrameQuery.of_picture(frame, labels))
    return queries


def boxes_for(dataset: BopDataset, objects: ObjectTable, boxes: str, detections: Path | None) -> list[FrameQuery]:
    """The boxes of one of the two named modes, ``gt`` or ``detector``; they are never mixed."""
    if boxes == "gt":
        return ground_truth_boxes(dataset, objects)
    if boxes != "detector":
        raise DataError(describe("--boxes", "boxes", repr(boxes), "'gt' or 'detector'"))
    if detections is None:
        raise DataError(describe("--detections", "detections", "no file", "a BOP json for boxes: detector"))
    return detector_boxes(dataset, objects, detections)


def evaluate_file(
    model: Path,
    dataset: Path,
    split: str,
    frames: Path | None,
    boxes: str,
    detections: Path | None,
    csv: Path | None,
    json_path: Path | None,
    *,
    scenes: list[int] | None = None,
    legacy_diameters: bool = False,
    metres_per_unit: float | None = None,
    threads: int = 0,
) -> Evaluation:
    """Measure an exported file on any BOP folder, or on a scene where it tells poses of cameras.

    Prints the table, writes csv and json where asked.
    """
    predictor = Predictor.from_onnx(model, threads=threads or None)
    if predictor.decoder.task == "scene":
        given = {"--frames": frames, "--scene": scenes, "--detections": detections, "--boxes": boxes != "gt" and boxes}
        for option, value in (given | {"--legacy-diameters": legacy_diameters}).items():
            if value:
                raise DataError(describe(option, "option", value, "none: a scene has no objects; see --split"))
        return _evaluate_scene(predictor, dataset, split, csv, json_path, metres_per_unit)
    if metres_per_unit is not None:
        expected = "none: BOP folders are in millimetres"
        raise DataError(describe("--metres-per-unit", "option", metres_per_unit, expected))
    if predictor.decoder.task == "categories":
        expected = "one of objects or a scene; of categories a run is measured, on the data.test of its recipe: "
        expected += "posedistill run runs/NAME/recipe.yaml data.test=FOLDER"
        raise DataError(describe(model, "family", f"{predictor.decoder.family}, a model of categories", expected))
    decoder = of_objects(predictor.decoder, model)
    objects = decoder.objects
    if decoder.whole_pictures:
        boxes = _no_boxes(decoder.family, boxes, detections)
    opened = open_bop(dataset, split, frames, objects.obj_ids, scenes)
    models = load_scoring_models(opened)  # before hours of estimating, for a mesh may be missing
    if note := trained_on(opened, predictor.record.frames) or unlisted(opened, frames, predictor.record.frames):
        console.print(f"[yellow]{note}", highlight=False)
    sought = (
        whole_pictures(opened, objects) if decoder.whole_pictures else boxes_for(opened, objects, boxes, detections)
    )
    estimates = estimate(predictor, sought)
    if csv is not None:
        estimates.to_bop_csv(csv)
    about = {"legacy_diameters": legacy_diameters, "boxes": boxes, "source": csv or "estimates"}
    return _report_objects(estimates, opened, models, json_path, **about)


def _no_boxes(family: str, boxes: str, detections: Path | None) -> str:
    """What is said of the boxes of a family that takes none; ``DataError`` where some are asked for."""
    for option, value in {"--boxes": boxes != "gt" and boxes, "--detections": detections}.items():
        if value:
            expected = f"none: {family} finds objects in whole pictures by itself"
            raise DataError(describe(option, "option", value, expected))
    return "none"


def _evaluate_scene(
    predictor: Predictor, scene: Path, split: str, csv: Path | None, json_path: Path | None, scale: float | None
) -> Evaluation:
    """Measure on a split of a scene, with naive baselines beside; ``scale`` in metres a unit, as in training."""
    if split not in SPLITS:
        raise DataError(describe("--split", "split", repr(split), f"one of {', '.join(SPLITS)}"))
    dataset = _open_scene(scene, split, scale)
    trained = (predictor.record.frames or {}).get(dataset.root.resolve().name, np.empty(0))
    if shared := len(set(dataset.names) & set(trained.tolist())):
        console.print(f"[yellow]{scene}: the model was trained on {shared} of the {len(dataset)} photographs")
    found = estimate(predictor, queries_of(dataset))
    if csv is not None:
        found.to_csv(csv)
    baselines = _baselines(dataset, scene, scale) if split == "test" else {}
    scores = _report(score_cameras(found, Poses.of_cameras(dataset.R, dataset.t)), json_path, baselines)
    if not dataset.metric:
        console.print(f"[yellow]{UNKNOWN_UNIT}: --metres-per-unit tells it[/]")
    return scores


def _open_scene(scene: Path, split: str, scale: float | None) -> CameraDataset:
    dataset = open_scene(scene, split)  # type: ignore[arg-type]
    return dataset if scale is None else dataset.in_metres(scale)


def _baselines(dataset: CameraDataset, scene: Path, scale: float | None) -> dict[str, Evaluation]:
    """Those that ask no network, from the training frames of the same scene where it has any."""
    try:
        frames = _open_scene(scene, "train", scale)
    except DataError:
        return {}
    train, truth = Poses.of_cameras(frames.R, frames.t), Poses.of_cameras(dataset.R, dataset.t)
    answers = {"constant pose": constant_pose(train, len(dataset)), "nearest position": nearest_position(truth, train)}
    return {name: score_cameras(poses, truth) for name, poses in answers.items()}


def score_csv(
    results: Path,
    dataset: Path,
    split: str,
    frames: Path | None,
    json_path: Path | None,
    *,
    scenes: list[int] | None = None,
    vsd: bool = False,
    legacy_diameters: bool = False,
) -> Evaluation:
    """Score anybody's BOP csv and print the table."""
    estimates = Poses.from_bop_csv(results)
    opened = open_bop(dataset, split, frames, None, scenes)
    about = {"vsd": vsd, "legacy_diameters": legacy_diameters, "source": results}
    return _report_objects(estimates, opened, load_scoring_models(opened), json_path, **about)


def open_bop(root: Path, split: str, frames: Path | None, obj_ids: Any, scenes: list[int] | None = None) -> BopDataset:
    """A BOP folder, or the .data file of label folders; a frame list is looked for beside the caller and in the folder.

    Raises:
        DataError: as its reader; scenes or frames of a .data file, which names its frames by its lists.
    """
    if root.suffix == ".data":
        if given := frames or scenes:
            raise DataError(
                describe("--frames, --scene", "option", given, "none: --split names a list of the .data file")
            )
        return LabelDataset(root, split, obj_ids)
    if frames is not None and not frames.exists() and (root / frames).exists():
        frames = root / frames
    return BopDataset(root, split=split, scenes=scenes, frames=frames, obj_ids=obj_ids)


def trained_on(dataset: BopDataset, known: Frames | None) -> str:
    """How many of the measured frames the model was trained on; empty where it knows of none.

    A split may hold both: of LINEMOD, ``test`` is all that was photographed.
    """
    trained = (known or {}).get(f"{dataset.root.resolve().name}/{dataset.split}", np.empty((0, 2)))
    measured = _measured(dataset)
    if not (shared := len(measured & set(map(tuple, trained.tolist())))):
        return ""
    return (
        f"{dataset.root}: the model was trained on {shared} of the {len(measured)} measured frames; --frames takes "
        f"a list of others (lists in the folder: {_lists(dataset)})"
    )


def unlisted(dataset: BopDataset, frames: Path | None, known: Frames | None) -> str:
    """What must be said where nothing tells test frames from training frames: no list, and no model that knows its own.

    A model that was trained on renders alone knows them, one that knows frames of folders of other names does not.
    """
    told = known is not None and (not known or f"{dataset.root.resolve().name}/{dataset.split}" in known)
    if told or frames is not None or dataset.has_target_file:
        return ""
    return (
        f"{dataset.root}: {len(_measured(dataset))} frames are measured, all that {dataset.split!r} holds of these "
        f"objects, also those that the model was trained on, if any: no --frames were given (lists in the folder: "
        f"{_lists(dataset)}), and no file of targets is there"
    )


def _measured(dataset: BopDataset) -> set[tuple[int, int]]:
    return {(target.scene_id, target.im_id) for target in dataset.targets()}


def _lists(dataset: BopDataset) -> str:
    return ", ".join(sorted(path.name for path in dataset.root.glob("*.txt"))) or "none"


def _report_objects(
    estimates: Poses, dataset: BopDataset, models: Mapping[int, ScoringModel], json_path: Path | None, **options: Any
) -> Evaluation:
    scores = score_estimates(estimates, dataset, models=models, **options)
    if options.get("boxes") == "none":
        scores = scores.beside(score_single_shot(estimates, dataset, models))
    cases = [] if json_path is None else find_cases(estimates, dataset, models=models)
    return _report(scores, json_path, cases=[case.to_dict() for case in cases])


def _report(
    scores: Evaluation, json_path: Path | None, baselines: Mapping[str, Evaluation] | None = None, **content: Any
) -> Evaluation:
    """Write the json, where asked, and print the table."""
    if json_path is not None:
        content = scores.to_dict() | {"intervals": scores.intervals()} | content
        write_file(json_path, json.dumps(content, indent=1), TrainingError)
    for note in scores.notes:
        console.print(f"[yellow]{note}", highlight=False)
    console.print(*score_tables(scores, baselines or {}))
    return scores


def _targets_by_frame(dataset: BopDataset, objects: ObjectTable) -> Iterator[tuple[Frame, dict[int, int]]]:
    counts: dict[tuple[int, int], dict[int, int]] = {}
    for target in dataset.targets():
        if target.obj_id in objects.obj_ids:
            counts.setdefault((target.scene_id, target.im_id), {})[target.obj_id] = target.inst_count
    for (scene_id, im_id), sought in counts.items():
        yield dataset.frame(scene_id, im_id), sought
