"""6D detection of a csv or of an exported file: every estimate counts, no target is told (BOP-24)."""

import json
from pathlib import Path

from posedistill.data.formats.bop import BopDataset
from posedistill.decode.objects import of_objects
from posedistill.deploy.estimate import FrameQuery, estimate
from posedistill.deploy.evaluate import detections_by_image, in_detections, open_bop
from posedistill.deploy.evaluators.base import Asked
from posedistill.errors import DataError, describe
from posedistill.files import write_file
from posedistill.geometry.objects import ObjectTable
from posedistill.log import console
from posedistill.metrics.detection import ESTIMATES_PER_IMAGE, DetectionScores, score_detections
from posedistill.metrics.matching import refuse_foreign
from posedistill.poses import Poses
from posedistill.report.score_table import detection_tables
from posedistill.runtime.predictor import Predictor


def detect_csv(
    results: Path, dataset: Path, split: str, frames: Path | None, json_path: Path | None, scenes: list[int] | None
) -> DetectionScores:
    """Score anybody's BOP csv and print the tables."""
    estimates, opened = Poses.from_bop_csv(results), open_bop(dataset, split, frames, None, scenes)
    refuse_foreign(estimates, opened, results)
    return _report(estimates, opened, json_path)


def detect_file(asked: Asked, threads: int = 0) -> DetectionScores:
    """Estimate a pose in each box of a detector, or all poses in whole pictures, and score them all.

    Nothing tells which objects an image shows.
    """
    predictor = Predictor.from_onnx(asked.model, threads=threads or None)
    decoder = of_objects(predictor.decoder, asked.model)
    if decoder.whole_pictures and asked.detections is not None:
        raise DataError(describe("--detections", "detections", "a file", f"none: {decoder.family} needs no boxes"))
    if not decoder.whole_pictures and asked.detections is None:
        expected = "a BOP json: true boxes tell which objects an image shows, which detection must find out"
        raise DataError(describe("--detections", "detections", "no file", expected))
    opened = open_bop(asked.dataset, asked.split, asked.frames, decoder.objects.obj_ids, asked.scenes)
    if asked.detections is None:
        queries = [FrameQuery.of_objects(opened.frame(*image), [], [], []) for image in opened.target_images()]
    else:
        queries = every_box(opened, decoder.objects, asked.detections)
    estimates = estimate(predictor, queries)
    if asked.csv is not None:
        estimates.to_bop_csv(asked.csv)
    return _report(estimates, opened, asked.json)


def every_box(dataset: BopDataset, objects: ObjectTable, detections: Path) -> list[FrameQuery]:
    """Of each image the surest detections of the objects, 100 at most."""
    by_image, chosen = detections_by_image(detections), []
    for image in dataset.target_images():
        known = [found for found in by_image.get(image, []) if found.obj_id in objects.obj_ids]
        chosen.append((dataset.frame(*image), known[:ESTIMATES_PER_IMAGE]))
    return in_detections(chosen, detections, by_image)


def _report(estimates: Poses, dataset: BopDataset, json_path: Path | None) -> DetectionScores:
    found = score_detections(estimates, dataset)
    if json_path is not None:
        intervals = {name: [ends.low, ends.high] for name, ends in found.intervals().items()}
        counts = {name: getattr(found, name) for name in ("images", "instances", "estimates", "left_out")}
        content = {"task": "detection", "dataset": f"{dataset.root.name}/{dataset.split}", **counts}
        content |= {"scores": found.scores, "intervals": intervals, "objects": found.by_object()}
        write_file(json_path, json.dumps(content, indent=1))
    console.print(*detection_tables(found))
    return found
