import json
from dataclasses import replace

import numpy as np
import pytest

from posedistill.errors import CheckpointError
from posedistill.geometry.cameras import Camera
from posedistill.runtime.camera_metadata import CameraMetadata
from posedistill.runtime.metadata import ModelMetadata

CAMERA = Camera(np.array([[585.0, 0.0, 320.0], [0.0, 585.0, 240.0], [0.0, 0.0, 1.0]]), 640, 480)
METADATA = CameraMetadata(
    "posenet", 256, None, (224, 224), decode_settings={"rotation": "quaternion"}, camera=CAMERA,
    distortion=(-0.1, 0.02), training="nothing: made by a test", parameters=12,
)  # fmt: skip
SQUEEZED = CameraMetadata("posenet", None, (455, 256), (224, 300), mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)


@pytest.mark.parametrize("metadata", [METADATA, SQUEEZED])
def test_json_round_trip(metadata):
    again = CameraMetadata.from_json(metadata.to_json())
    assert again.to_json() == metadata.to_json()
    assert replace(again, camera=None) == replace(metadata, camera=None)
    assert (again.size, again.shape) == (metadata.size, metadata.shape)


def test_the_camera_travels():
    again = CameraMetadata.from_json(METADATA.to_json())
    np.testing.assert_array_equal(again.camera.K, CAMERA.K)
    assert (again.camera.width, again.camera.height, again.distortion) == (640, 480, (-0.1, 0.02))


def changed(**values) -> str:
    return json.dumps({**json.loads(METADATA.to_json()), **values})


@pytest.mark.parametrize("key", ["decoder", "short_side", "frame_size", "shape", "distortion", "camera", "metric"])
def test_missing_key_is_named(key):
    values = json.loads(METADATA.to_json())
    del values[key]
    with pytest.raises(CheckpointError, match=f"cut.onnx: '{key}': found no such key"):
        CameraMetadata.from_json(json.dumps(values), "cut.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("short_side", "large"),
        ("shape", [224]),
        ("shape", 224),
        ("shape", [0, 224]),
        ("shape", [257, 300]),
        ("mean", [0.5, 0.5]),
        ("std", [0.5, 0.5, 0.0]),
        ("camera", {"K": [[1, 0], [0, 1]], "width": 3, "height": 4}),
        ("distortion", [0.1] * 6),
        ("distortion", "strong"),
        ("metric", 1),
        ("parameters", None),
    ],
)
def test_bad_value_is_named(key, value):
    with pytest.raises(CheckpointError, match=f"'{key}': found"):
        CameraMetadata.from_json(changed(**{key: value}))


def test_contradictions():
    for values in ({"frame_size": [455, 256]}, {"short_side": None}):
        with pytest.raises(CheckpointError, match=r"'short_side, frame_size': found \(.*\), expected one of them"):
            CameraMetadata.from_json(changed(**values))
    with pytest.raises(CheckpointError, match=r"'distortion': found .* with a camera"):
        CameraMetadata.from_json(changed(camera=None))
    squeezed = json.loads(SQUEEZED.to_json())
    with pytest.raises(CheckpointError, match=r"'shape': found \(300, 224\), .* within 455x256 photographs"):
        CameraMetadata.from_json(json.dumps({**squeezed, "shape": [300, 224]}))


def test_models_of_the_other_kind_are_named(scene):
    with pytest.raises(CheckpointError, match="'decoder': found wdrnet, expected one that gives poses of cameras"):
        CameraMetadata.from_json(scene.metadata.to_json())
    with pytest.raises(CheckpointError, match="'decoder': found posenet, expected one that gives poses of objects"):
        ModelMetadata.from_json(METADATA.to_json())
