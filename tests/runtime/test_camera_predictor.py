import json

import cv2
import numpy as np
import onnx
import pytest

from posedistill.errors import CheckpointError, DataError
from posedistill.geometry.cameras import Camera, project
from posedistill.geometry.rotations import quaternion_to_matrix
from posedistill.runtime import CameraPredictor, Predictor, open_predictor
from posedistill.runtime.camera_metadata import CameraMetadata
from posedistill.runtime.model_file import PROPERTY

QUATERNION = np.array([1, 2, 2, 4]) / 5


def plain(colour: tuple[int, int, int], width: int = 100, height: int = 60) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def run(images):
    """The mean colour is the place."""
    return images.mean(axis=(2, 3)), np.repeat(QUATERNION[None], len(images), axis=0)


def test_a_pose(camera_metadata):
    found = CameraPredictor(run, camera_metadata).predict(plain((51, 102, 204)))
    np.testing.assert_allclose(found.center, [0.2, 0.4, 0.8], atol=1e-6)
    np.testing.assert_allclose(found.R, quaternion_to_matrix(QUATERNION), atol=1e-7)
    np.testing.assert_allclose(found.R @ found.center + found.t, 0, atol=1e-6)
    np.testing.assert_allclose(project(found.center[None] + found.direction, found.R, found.t, np.eye(3)), 0, atol=1e-6)
    assert found.seconds > 0


def test_a_file_says_the_same(camera_model_file, camera_metadata):
    ours = CameraPredictor(run, camera_metadata).predict(plain((10, 90, 240)))
    theirs = CameraPredictor.from_onnx(camera_model_file, threads=1).predict(plain((10, 90, 240)))
    np.testing.assert_allclose(ours.center, theirs.center, atol=1e-6)
    np.testing.assert_allclose(ours.R, theirs.R, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 5, 16])
def test_a_stream_gives_a_pose_for_each_image_in_order(camera_metadata, batch):
    calls = []

    def counted(images):
        calls.append(len(images))
        return run(images)

    predictor = CameraPredictor(counted, camera_metadata, batch)
    images = [plain((5 * number, 0, 0)) for number in range(5)]
    found = list(predictor.predict_many(iter(images)))
    np.testing.assert_allclose([pose.center[0] for pose in found], np.arange(5) * 5 / 255, atol=1e-6)
    assert calls == [len(range(first, min(first + batch, 5))) for first in range(0, 5, batch)]
    assert list(predictor.predict_many([])) == []


def test_the_middle_of_the_scaled_photograph(camera_metadata):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (80, 160, 3), dtype=np.uint8), (0, 0), 2)
    prepared = CameraPredictor(run, camera_metadata).prepare(image)
    scaled = cv2.resize(image, (80, 40), interpolation=cv2.INTER_AREA)
    assert prepared.dtype == np.float32 and prepared.shape == (3, 32, 48)
    np.testing.assert_allclose(prepared, scaled[4:36, 16:64].transpose(2, 0, 1) / 255, atol=1e-6)


def test_squeezed_photographs_of_the_published_preprocessing():
    metadata = CameraMetadata("posenet", None, (50, 30), (30, 40), mean=(0.0,) * 3, std=(1 / 255,) * 3)
    image = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    prepared = CameraPredictor(run, metadata).prepare(image)
    scaled = cv2.resize(image, (50, 30), interpolation=cv2.INTER_AREA)[:, 5:45]
    np.testing.assert_allclose(prepared, scaled.transpose(2, 0, 1), atol=1e-3)


def test_a_lens_is_taken_out_at_every_resolution():
    """A dot seen through the lens lies where the straight camera sees it, also at half and at twice the size."""
    lens, point = (-0.3, 0.1, 0.0, 0.0), np.array([[0.3, 0.1, 1.0]])
    K = np.array([[150.0, 0, 99.5], [0, 150.0, 74.5], [0, 0, 1]])
    metadata = CameraMetadata(
        "posenet", 75, None, (75, 100), mean=(0.0,) * 3, std=(1.0,) * 3, camera=Camera(K, 200, 150), distortion=lens
    )
    straight, _ = cv2.getOptimalNewCameraMatrix(K, np.array(lens), (200, 150), alpha=0)
    expected = (project(point, np.eye(3), np.zeros(3), straight)[0] + 0.5) / 2 - 0.5
    for factor in (1, 0.5, 2):
        u, v = cv2.projectPoints(point, np.zeros(3), np.zeros(3), K, np.array(lens))[0].reshape(2)
        u, v = (u + 0.5) * factor - 0.5, (v + 0.5) * factor - 0.5
        rows, columns = np.mgrid[: int(150 * factor), : int(200 * factor)]
        dot = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (16 * factor**2))
        seen = CameraPredictor(run, metadata).prepare(np.repeat(dot[:, :, None], 3, axis=2).astype(np.uint8))[0]
        rows, columns = np.mgrid[:75, :100]
        place = np.array([(seen * columns).sum(), (seen * rows).sum()]) / seen.sum()
        np.testing.assert_allclose(place, expected, atol=0.3)
    with pytest.raises(DataError, match="'image': found 100x100, expected the aspect of 200x150"):
        CameraPredictor(run, metadata).prepare(plain((0, 0, 0), 100, 100))


def test_images_that_cannot_be(camera_metadata):
    predictor = CameraPredictor(run, camera_metadata)
    for image in (plain((0, 0, 0)).astype(float), plain((0, 0, 0))[..., 0], "photo.png"):
        with pytest.raises(DataError, match=r"'image': found .*, expected uint8 \[H, W, 3\], RGB"):
            predictor.predict(image)
    with pytest.raises(DataError, match=r"found 50x50, scaled to 40x40, expected 48x32 at least"):
        predictor.predict(plain((0, 0, 0), 50, 50))


def test_networks_that_do_not_fit(camera_metadata):
    def flat(images):
        return np.zeros((len(images), 2)), np.zeros((len(images), 4))

    with pytest.raises(CheckpointError, match=r"'position': found shape \(1, 2\), expected \(1, 3\)"):
        CameraPredictor(flat, camera_metadata).predict(plain((0, 0, 0)))
    unknown = CameraMetadata("posenet", 40, None, (32, 32), decode_settings={"magic": 1})
    with pytest.raises(CheckpointError, match=r"'decoder': found posenet \{'magic': 1\}, expected one we have"):
        CameraPredictor(run, unknown)


def test_files_are_opened_by_their_kind(camera_model_file, model_file):
    assert isinstance(open_predictor(camera_model_file, threads=1), CameraPredictor)
    assert isinstance(open_predictor(model_file, threads=1), Predictor)
    with pytest.raises(CheckpointError, match="'decoder': found posenet, expected one that gives poses of objects"):
        Predictor.from_onnx(camera_model_file)
    with pytest.raises(CheckpointError, match="'decoder': found wdrnet, expected one that gives poses of cameras"):
        CameraPredictor.from_onnx(model_file)
    with pytest.raises(CheckpointError, match="'file': found nothing"):
        open_predictor(camera_model_file.with_name("none.onnx"))


def test_a_graph_that_the_metadata_do_not_describe(camera_model_file, camera_metadata):
    model = onnx.load(camera_model_file)
    values = {**json.loads(camera_metadata.to_json()), "shape": [16, 16]}
    onnx.helper.set_model_props(model, {PROPERTY: json.dumps(values)})
    onnx.save(model, camera_model_file)
    with pytest.raises(CheckpointError, match=r"expected an input 'images' \[batch, 3, 16, 16\]"):
        open_predictor(camera_model_file)
    onnx.helper.set_model_props(model, {PROPERTY: camera_metadata.to_json()})
    model.graph.output.pop()
    onnx.save(model, camera_model_file)
    with pytest.raises(CheckpointError, match=r"'outputs': found .*, expected 'position' and 'rotation'"):
        open_predictor(camera_model_file)
