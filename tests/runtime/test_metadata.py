import json

import numpy as np
import pytest

from posedistill.errors import CheckpointError
from posedistill.geometry.draw import Shape
from posedistill.runtime.metadata import ModelMetadata
from posedistill.runtime.model_file import FORMAT


def with_shapes(metadata: ModelMetadata) -> ModelMetadata:
    shape = Shape(np.array([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [0.0, 2.5, 0.0]]), np.array([[0, 1, 2]]))
    return ModelMetadata(**{**vars(metadata), "shapes": (shape, shape), "decode_settings": {"score_threshold": 0.2}})


def test_json_round_trip(scene):
    metadata = with_shapes(scene.metadata)
    again = ModelMetadata.from_json(metadata.to_json())
    assert again.to_json() == metadata.to_json()
    assert (
        again.names == ("cat", "duck") and again.strides == (8, 16) and again.decode_settings["score_threshold"] == 0.2
    )
    np.testing.assert_array_equal(again.objects.keypoints, metadata.objects.keypoints)
    np.testing.assert_array_equal(again.camera.K, scene.K)
    np.testing.assert_array_equal(again.shape(9).faces, [[0, 1, 2]])
    assert again.shape(9).faces.dtype == np.int64


def test_without_camera_and_shapes(scene):
    metadata = ModelMetadata("wdrnet", scene.metadata.objects, 64, (8, 16))
    again = ModelMetadata.from_json(metadata.to_json())
    assert again.camera is None and again.default_K(640, 480) is None
    assert again.shape(6) is None and again.name(6) == "object 6"


@pytest.mark.parametrize("key", ["decoder", "objects", "crop_size", "strides", "mean", "decode_settings", "camera"])
def test_missing_key_is_named(scene, key):
    values = json.loads(scene.metadata.to_json())
    del values[key]
    with pytest.raises(CheckpointError, match=f"cut.onnx: '{key}': found no such key"):
        ModelMetadata.from_json(json.dumps(values), "cut.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop_size", "large"),
        ("crop_size", 0),
        ("strides", []),
        ("strides", 8),
        ("objects", {"obj_ids": [1]}),
        ("objects", [1]),
        ("mean", [0.5, 0.5]),
        ("std", [0.5, 0.5, 0.0]),
        ("camera", {"K": [[1, 0], [0, 1]], "width": 3, "height": 4}),
        ("names", ["only one"]),
        ("shapes", [{"vertices": [[0, 0]]}]),
        ("pad", None),
    ],
)
def test_bad_value_is_named(scene, key, value):
    values = json.loads(scene.metadata.to_json())
    values[key] = value
    with pytest.raises(CheckpointError, match=f"'{key}': found"):
        ModelMetadata.from_json(json.dumps(values))


def test_foreign_text(scene):
    values = json.loads(scene.metadata.to_json())
    with pytest.raises(CheckpointError, match="no JSON"):
        ModelMetadata.from_json("{cut")
    with pytest.raises(CheckpointError, match="found list"):
        ModelMetadata.from_json("[]")
    with pytest.raises(CheckpointError, match="'format': found 99, expected"):
        ModelMetadata.from_json(json.dumps({**values, "format": 99}))
    with pytest.raises(CheckpointError, match="'surprise': found an unknown key"):
        ModelMetadata.from_json(json.dumps({**values, "format": FORMAT, "surprise": 1}))


def test_default_camera_follows_the_image(scene):
    np.testing.assert_allclose(scene.metadata.default_K(640, 480), scene.K)
    doubled = scene.metadata.default_K(1280, 960)
    # A point that the small camera sees at pixel (x, y) is seen by the large one at (2x + 0.5, 2y + 0.5).
    ray = np.array([0.1, -0.05, 1.0])
    small = (scene.K @ ray)[:2]
    np.testing.assert_allclose((doubled @ ray)[:2], 2 * small + 0.5)
    portrait = scene.metadata.default_K(480, 640)
    assert portrait[0, 0] == pytest.approx(570.0)
    assert 200 < portrait[0, 2] < 280 and 280 < portrait[1, 2] < 360
