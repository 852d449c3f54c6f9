"""The model that comes with the repository: it loads by itself, and finds the cat in photographs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset
from posedistill.data.formats.bop_scene import Frame
from posedistill.data.images import read_image
from posedistill.decode.objects import of_objects
from posedistill.deploy.evaluators.base import Asked
from posedistill.deploy.evaluators.files import evaluate_file
from posedistill.deploy.threshold import camera_of
from posedistill.geometry.cameras import project
from posedistill.runtime import Predictor, locate
from posedistill.runtime.search import search

MODELS = Path(__file__).parents[2] / "models"
MODEL = MODELS / "linemod_cat.onnx"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_onnx(MODEL, threads=1)


def pixels_of(decoder: Any, frame: Frame, pose: Any) -> np.ndarray:
    """``[8, 2]`` where a frame shows the corners of the cat's box in a pose."""
    return project(decoder.objects.keypoints[0], pose.R, pose.t, frame.K)


def pixel_error(decoder: Any, frame: Frame, pose: Any) -> float:
    """Mean distance of these from the true ones."""
    (truth,) = frame.instances
    return float(np.linalg.norm(pixels_of(decoder, frame, pose) - pixels_of(decoder, frame, truth), axis=1).mean())


def in_true_box(predictor: Predictor, frame: Frame) -> Any:
    """The pose that a network finds in the box of the true one."""
    pixels = pixels_of(of_objects(predictor.decoder), frame, frame.instances[0])
    box = np.concatenate([pixels.min(axis=0), np.ptp(pixels, axis=0)])
    (pose,) = predictor.predict(read_image(frame.rgb), frame.K, box[None], [6])
    return pose


def test_it_carries_all_the_runtime_needs(predictor: Predictor):
    decoder = predictor.decoder
    assert decoder.objects.obj_ids == (6,) and decoder.camera is not None and predictor.record.parameters == 871_094
    assert len(decoder.distance) == 1 and 0.97 < decoder.distance[0] < 1.0
    assert decoder.shapes == (), "the meshes of LINEMOD are not ours to pass on"
    stated = predictor.record.threshold
    assert stated is not None and 0.6 < stated.score < 0.8 and stated.kept > 0.95 and stated.false <= 0.05
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    poses = predictor.predict(noise, decoder.camera.K, np.array([[200.0, 150.0, 90.0, 80.0]]), [6])
    assert all(pose.score < stated.score for pose in poses)


def test_it_finds_the_cat_with_and_without_a_box(predictor: Predictor, real_data: Path):
    root = real_data / "lm"
    frames = BopDataset(root, scenes=[6], frames=root / "cat_train.txt").frames[::30]
    errors, found = [], 0
    for frame in frames:
        errors.append(pixel_error(predictor.decoder, frame, in_true_box(predictor, frame)))
        searched = locate(predictor, read_image(frame.rgb), frame.K, 6)
        assert searched is not None
        found += pixel_error(predictor.decoder, frame, searched) < 20
    assert np.median(errors) < 2.0
    assert found >= len(frames) - 1


def test_the_one_of_whole_pictures_asks_for_no_box(real_data: Path):
    predictor = Predictor.from_onnx(MODELS / "linemod_cat_yolo6d.onnx", threads=1)
    stated, decoder = predictor.record.threshold, of_objects(predictor.decoder)
    assert decoder.whole_pictures and predictor.record.parameters == 545_956 and decoder.shapes == ()
    assert stated is not None and stated.kept > 0.9 and stated.false <= 0.1
    root, found, errors = real_data / "lm", 0, []
    frames = BopDataset(root, scenes=[6], frames=root / "cat_train.txt").frames[::20]
    for frame in frames:
        poses = [pose for pose in predictor.predict(read_image(frame.rgb), frame.K) if pose.score >= stated.score]
        if poses:
            errors.append(pixel_error(decoder, frame, poses[0]))
            found += len(poses) == 1
    assert found >= len(frames) - 1 and np.median(errors) < 8.0
    for path in sorted((real_data / "backgrounds").glob("*.jpg"))[1:16:2]:
        image = read_image(path)
        poses = predictor.predict(image, camera_of(decoder, image))
        assert all(pose.score < stated.score for pose in poses), path


def test_the_one_of_codes_places_the_cat(real_data: Path):
    predictor = Predictor.from_onnx(MODELS / "linemod_cat_codes.onnx", threads=1)
    stated, decoder = predictor.record.threshold, of_objects(predictor.decoder)
    assert decoder.family == "zebrapose" and predictor.record.parameters < 1_000_000 and decoder.shapes == ()
    assert stated is not None and stated.kept > 0.9 and stated.false <= 0.1
    root, errors = real_data / "lm", []
    for frame in BopDataset(root, scenes=[6], frames=root / "cat_test.txt").frames[::12]:
        errors.append(pixel_error(decoder, frame, in_true_box(predictor, frame)))
    assert np.median(errors) < 3.0


def test_the_one_of_eight_objects_places_them_in_a_detectors_boxes(real_data: Path, tmp_path: Path):
    path = MODELS / "lmo_codes.onnx"
    predictor = Predictor.from_onnx(path, threads=1)
    decoder = of_objects(predictor.decoder)
    assert decoder.objects.obj_ids == (1, 5, 6, 8, 9, 10, 11, 12) and decoder.shapes == ()
    assert predictor.record.parameters == 1_779_816 and path.stat().st_size < 4.2e6
    root, frames = real_data / "lmo", tmp_path / "frames.txt"
    ids = sorted(int(image.stem) for image in (root / "test/000002/rgb").iterdir())[::10]
    frames.write_text("\n".join(map(str, ids)))
    detections = root / "detections/cosypose_maskrcnn_pbr.json"
    found = evaluate_file(Asked(path, root, "test", frames, "detector", detections))
    assert found.targets > 60 and found.scores["AR"] > 0.48 and found.scores["AR_MSPD"] > 0.62


def test_it_finds_no_cat_where_there_is_none(predictor: Predictor, real_data: Path):
    """In photographs that its threshold was not chosen on: every second one from the second."""
    photographs = sorted((real_data / "backgrounds").glob("*.jpg"))[1:16:2]
    stated = predictor.record.threshold
    assert stated is not None
    for path in photographs:
        image = read_image(path)
        pose = search(predictor, image, camera_of(of_objects(predictor.decoder), image), 6)
        assert pose is None or pose.score < stated.score, path
