"""Evaluation of exported files: each by the evaluator of its task."""

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


def evaluate_file(asked: Asked, threads: int = 0) -> Evaluation:
    """Measure an exported file on a BOP folder, a scene or a data set of viewpoints, whichever its model is of.

    Prints the table, writes csv and json where asked.

    Raises:
        DataError: options or data of another task, or any fault of the data.
    """
    predictor = Predictor.from_onnx(asked.model, threads=threads or None)
    return EVALUATORS[predictor.decoder.task](predictor, asked)
