from pathlib import Path

import cv2
import numpy as np
import pytest

from posedistill.deploy.predict import Box, overlay, predict_images
from posedistill.errors import DataError
from posedistill.poses import PoseEstimates
from posedistill.runtime.metadata import ModelMetadata
from posedistill.runtime.predictor import PredictedPose, Predictor

K = np.array([[570.0, 0.0, 160.0], [0.0, 570.0, 120.0], [0.0, 0.0, 1.0]])


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "000006" / "rgb" / "000012.png", tmp_path / "holiday.jpg"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (240, 320, 3), dtype=np.uint8))
    return paths


@pytest.fixture(scope="module")
def predictor(exported: Path) -> Predictor:
    return Predictor.from_onnx(exported, threads=1)


def test_writes_overlays_and_csv(predictor, photos, tmp_path):
    boxes = [Box(6, (100.0, 80.0, 60.0, 50.0)), Box(9, (10.0, 20.0, 80.0, 90.0))]
    table = predict_images(predictor, photos, boxes, K, out=tmp_path / "out")
    found = set(zip(table.scene_id.tolist(), table.im_id.tolist(), table.obj_id.tolist(), strict=True))
    assert found <= {(6, 12, 6), (6, 12, 9), (0, 1, 6), (0, 1, 9)} and len(found) == len(table) > 0
    again = PoseEstimates.from_bop_csv(tmp_path / "out" / "results.csv")
    np.testing.assert_allclose(again.t, table.t, rtol=1e-5)
    for name in ("000012.png", "holiday.png"):
        assert cv2.imread(str(tmp_path / "out" / name)).shape == (240, 320, 3)


def test_boxes_by_image(predictor, photos):
    table = predict_images(predictor, photos, {(6, 12): [Box(9, (10.0, 20.0, 80.0, 90.0))]}, K)
    assert set(zip(table.scene_id.tolist(), table.obj_id.tolist(), strict=True)) <= {(6, 9)}


def test_no_camera_takes_the_models_and_says_so(predictor, photos, capsys):
    boxes = [Box(6, (100.0, 80.0, 60.0, 50.0))]
    assumed = predict_images(predictor, photos, boxes)
    assert capsys.readouterr().err.count("no camera given, assuming K = [[286.2") == 1
    given = predict_images(predictor, photos, boxes, predictor.metadata.default_K(320, 240))
    np.testing.assert_allclose(assumed.t, given.t)


def test_no_camera_anywhere(predictor, photos):
    bare = Predictor(predictor.run, ModelMetadata(**{**vars(predictor.metadata), "camera": None}))
    with pytest.raises(DataError, match=r"000012\.png: 'K': found no camera"):
        predict_images(bare, photos, [])


def test_no_boxes_searches_the_image(predictor, photos, monkeypatch):
    searched = []
    monkeypatch.setattr(Predictor, "locate", lambda self, image, K, obj_id, **_: searched.append(obj_id))
    assert len(predict_images(predictor, photos[:1], None, K)) == 0 and searched == [6, 9]
    searched.clear()
    predict_images(predictor, photos[:1], None, K, obj_ids=[9])
    assert searched == [9]


def test_overlay_shows_name_and_every_pose(predictor):
    image = np.zeros((240, 320, 3), np.uint8)
    poses = [
        PredictedPose(obj_id, np.eye(3), np.array([x, 0.0, 900.0]), 0.9, (0.0, 0.0, 1.0, 1.0), 0.1)
        for obj_id, x in ((6, -100.0), (9, 100.0))
    ]
    drawn = overlay(image, K, poses, predictor.metadata)
    assert drawn[:, :160].any() and drawn[:, 160:].any() and not image.any()


def test_a_missing_image_is_named(predictor, tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: 'image': found no such file"):
        predict_images(predictor, [tmp_path / "gone.png"], [], K)
