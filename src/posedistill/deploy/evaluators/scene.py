"""Measurement of models of a scene, with naive baselines beside."""

from pathlib import Path

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.formats.scene import CameraDataset
from posedistill.decode.photograph import PhotographDecoder
from posedistill.deploy.estimate import estimate, queries_of
from posedistill.deploy.evaluate import report
from posedistill.deploy.evaluators.base import OF_OBJECTS, Asked, warn_of_training
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Calibration
from posedistill.log import console
from posedistill.metrics import Evaluation
from posedistill.metrics.relocalisation import constant_pose, nearest_position, score_cameras
from posedistill.poses import Poses
from posedistill.runtime.predictor import Predictor

SPLITS = ("train", "test", "all")
UNKNOWN_UNIT = "no metres are known, positions are in the scene's own units"
"""What is said of errors in a scene that knows no metres."""


def evaluate_scene(predictor: Predictor, asked: Asked) -> Evaluation:
    """Errors of cameras on a split of a scene."""
    asked.refuse(OF_OBJECTS, "none: a scene has no objects; see --split")
    if asked.split not in SPLITS:
        raise DataError(describe("--split", "split", repr(asked.split), f"one of {', '.join(SPLITS)}"))
    scale, known = asked.metres_per_unit, predictor.decoder
    calibration = known.calibration if isinstance(known, PhotographDecoder) else "depth"
    dataset = _open_scene(asked.dataset, asked.split, scale, calibration)
    warn_of_training(predictor, asked, dataset.root.resolve().name, dataset.names)
    found = estimate(predictor, queries_of(dataset))
    if asked.csv is not None:
        (found.to_json if asked.csv.suffix == ".json" else found.to_csv)(asked.csv)
    baselines = _baselines(dataset, asked.dataset, scale, calibration) if asked.split == "test" else {}
    scores = score_cameras(found, Poses.of_cameras(dataset.R, dataset.t), dataset.unit)
    report(scores, asked.json, baselines)
    if not dataset.metric:
        console.print(f"[yellow]{UNKNOWN_UNIT}: --metres-per-unit tells it[/]")
    return scores


def _open_scene(scene: Path, split: str, scale: float | None, calibration: Calibration) -> CameraDataset:
    """A split of a scene, in metres where ``scale`` says how many a unit has."""
    dataset = open_scene(scene, split, calibration=calibration)  # type: ignore[arg-type]
    return dataset if scale is None else dataset.in_metres(scale)


def _baselines(
    dataset: CameraDataset, scene: Path, scale: float | None, calibration: Calibration
) -> dict[str, Evaluation]:
    """Those that ask no network, from the training frames of the same scene where it has any."""
    try:
        frames = _open_scene(scene, "train", scale, calibration)
    except DataError:
        return {}
    truth = Poses.of_cameras(dataset.R, dataset.t)
    return {name: score_cameras(poses, truth, dataset.unit) for name, poses in scene_baselines(frames, dataset).items()}


def scene_baselines(train: CameraDataset, test: CameraDataset) -> dict[str, Poses]:
    """Naive poses of the photographs of a test split that ask no network, out of all photographs of another split."""
    known, truth = Poses.of_cameras(train.R, train.t), Poses.of_cameras(test.R, test.t)
    return {"constant pose": constant_pose(known, len(test)), "nearest position": nearest_position(truth, known)}
