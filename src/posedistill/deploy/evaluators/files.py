"""Evaluation of exported files: each by the evaluator of its task."""

from pathlib import Path

from posedistill.deploy.evaluators.base import Asked, Evaluator
from posedistill.deploy.evaluators.categories import evaluate_categories
from posedistill.deploy.evaluators.objects import evaluate_objects
from posedistill.deploy.evaluators.scene import evaluate_scene
from posedistill.metrics import Evaluation
from posedistill.runtime.predictor import Predictor

EVALUATORS: dict[str, Evaluator] = {
    "objects": evaluate_objects,
    "scene": evaluate_scene,
    "categories": evaluate_categories,
}
"""By what the model's decoder says its ``task`` is."""


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
    """Measure an exported file on a BOP folder, a scene or a data set of viewpoints, whichever its model is of.

    Prints the table, writes csv and json where asked.

    Raises:
        DataError: options or data of another task, or any fault of the data.
    """
    predictor = Predictor.from_onnx(model, threads=threads or None)
    known = (split, frames, boxes, detections, csv, json_path, scenes, legacy_diameters, metres_per_unit)
    return EVALUATORS[predictor.decoder.task](predictor, Asked(model, dataset, *known))
