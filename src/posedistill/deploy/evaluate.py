"""Poses of objects scored on a BOP folder: which frames and boxes are asked for, and the tables of the scores."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.data.formats.bop import BopDataset, Detection, Frame, read_detections
from posedistill.data.formats.labels.dataset import LabelDataset
from posedistill.deploy.estimate import FrameQuery
from posedistill.errors import DataError, TrainingError, describe
from posedistill.files import write_file
from posedistill.geometry.cameras import pixel_box, project
from posedistill.geometry.objects import ObjectTable
from posedistill.log import console
from posedistill.metrics import Evaluation, ScoringModel, find_cases, load_scoring_models, score_estimates
from posedistill.metrics.matching import refuse_foreign
from posedistill.metrics.single_shot import score_single_shot
from posedistill.poses import Poses
from posedistill.report.score_table import score_tables
from posedistill.runtime.record import Frames


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
    by_image, chosen = detections_by_image(detections), []
    for frame, counts in _targets_by_frame(dataset, objects):
        seen = by_image.get((frame.scene_id, frame.im_id), [])
        best = [d for obj_id, count in counts.items() for d in [s for s in seen if s.obj_id == obj_id][:count]]
        chosen.append((frame, best))
    return in_detections(chosen, detections, by_image)


def detections_by_image(path: Path) -> dict[tuple[int, int], list[Detection]]:
    """The detections of a BOP json by (scene_id, im_id), the surest first; what cannot be used is told."""
    by_image: dict[tuple[int, int], list[Detection]] = {}
    read, left_out = read_detections(path)
    if left_out:
        print(f"posedistill: {path}: {left_out}", file=sys.stderr)
    for detection in sorted(read, key=lambda d: -d.score):
        by_image.setdefault((detection.scene_id, detection.im_id), []).append(detection)
    return by_image


def in_detections(
    chosen: Sequence[tuple[Frame, list[Detection]]], path: Path, read: Mapping[Any, list[Detection]]
) -> list[FrameQuery]:
    """The detections chosen for each frame of those ``read`` from a file; ``DataError`` where that is none at all."""
    if not any(own for _, own in chosen):
        told = f"{sum(map(len, read.values()))} usable ones, none for the test images and objects"
        raise DataError(describe(path, "detections", told, "some"))
    return [
        FrameQuery.of_objects(frame, [d.bbox for d in own], [d.obj_id for d in own], [d.score for d in own])
        for frame, own in chosen
    ]


def whole_pictures(dataset: BopDataset, objects: ObjectTable) -> list[FrameQuery]:
    """Every test frame, with the objects that are in it, as often as they are; no boxes."""
    queries = []
    for frame, counts in _targets_by_frame(dataset, objects):
        labels = [obj_id for obj_id, count in counts.items() for _ in range(count)]
        queries.append(FrameQuery.of_objects(frame, [], labels, []))
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
    refuse_foreign(estimates, opened, results)
    about = {"vsd": vsd, "legacy_diameters": legacy_diameters, "source": results}
    return report_objects(estimates, opened, load_scoring_models(opened), json_path, **about)


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


def report_objects(
    estimates: Poses, dataset: BopDataset, models: Mapping[int, ScoringModel], json_path: Path | None, **options: Any
) -> Evaluation:
    """Score poses on a BOP folder and report it as :func:`report` does; ``options`` are ``score_estimates``'s."""
    scores = score_estimates(estimates, dataset, models=models, **options)
    if options.get("boxes") == "none":
        scores = scores.beside(score_single_shot(estimates, dataset, models))
    cases = [] if json_path is None else find_cases(estimates, dataset, models=models)
    return report(scores, json_path, cases=[case.to_dict() for case in cases])


def report(
    scores: Evaluation, json_path: Path | None, baselines: Mapping[str, Evaluation] | None = None, **content: Any
) -> Evaluation:
    """Write the json, where asked, and print the table."""
    if json_path is not None:
        beside = {name: baseline.scores for name, baseline in (baselines or {}).items()}
        content = scores.to_dict() | {"intervals": scores.intervals(), "baselines": beside} | content
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
