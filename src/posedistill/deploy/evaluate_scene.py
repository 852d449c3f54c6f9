"""Evaluation of cameras: photographs -> poses -> medians and recalls, beside naive baselines."""

import json
from pathlib import Path

import numpy as np

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.formats.scene import CameraDataset
from posedistill.deploy.estimate import estimate, queries_of
from posedistill.errors import DataError, TrainingError, describe
from posedistill.files import write_file
from posedistill.log import console
from posedistill.metrics.evaluation import Evaluation
from posedistill.metrics.relocalisation import constant_pose, nearest_position, score_cameras
from posedistill.poses import Poses
from posedistill.report.score_table import score_tables
from posedistill.runtime.predictor import Predictor

SPLITS = ("train", "test", "all")
UNKNOWN_UNIT = "unit unknown: m stands for the scene's own"
"""What is said of errors in a scene that knows no metres."""


def evaluate_scene(
    predictor: Predictor,
    scene: Path,
    split: str,
    csv: Path | None = None,
    json_path: Path | None = None,
    *,
    metres_per_unit: float | None = None,
) -> Evaluation:
    """Measure an exported file on the split of any scene; prints the table, writes csv and json where asked.

    ``metres_per_unit`` of the scene must be that of the training.

    Raises:
        DataError: no such split, or any fault of the scene.
    """
    if split not in SPLITS:
        raise DataError(describe("--split", "split", repr(split), f"one of {', '.join(SPLITS)}"))
    dataset = open_scene(scene, split)  # type: ignore[arg-type]
    if metres_per_unit is not None:
        dataset = dataset.in_metres(metres_per_unit)
    trained = (predictor.record.frames or {}).get(dataset.root.resolve().name, np.empty(0))
    if shared := len(set(dataset.names) & set(trained.tolist())):
        console.print(f"[yellow]{scene}: the model was trained on {shared} of the {len(dataset)} photographs")
    found = estimate(predictor, queries_of(dataset))
    if csv is not None:
        found.to_csv(csv)
    scores = score_cameras(found, Poses.of_cameras(dataset.R, dataset.t))
    if json_path is not None:
        write_file(json_path, json.dumps(scores.to_dict() | {"intervals": scores.intervals()}, indent=1), TrainingError)
    naive = {} if split != "test" else _naive(dataset, scene, metres_per_unit)
    console.print(*score_tables(scores, naive))
    if not dataset.metric:
        console.print(f"[yellow]{UNKNOWN_UNIT}: --metres-per-unit tells it[/]")
    return scores


def _naive(dataset: CameraDataset, scene: Path, metres_per_unit: float | None) -> dict[str, Evaluation]:
    """Answers that ask no network, from the training frames of the same scene where it has any."""
    try:
        frames = open_scene(scene, "train")
    except DataError:
        return {}
    frames = frames if metres_per_unit is None else frames.in_metres(metres_per_unit)
    train, truth = Poses.of_cameras(frames.R, frames.t), Poses.of_cameras(dataset.R, dataset.t)
    answers = {"constant pose": constant_pose(train, len(dataset)), "nearest position": nearest_position(truth, train)}
    return {name: score_cameras(poses, truth) for name, poses in answers.items()}
