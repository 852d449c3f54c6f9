"""A camera, an object and a pose, and networks whose answers are known, as decoders and as exported files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from posedistill.decode import Decoder, PoseNetDecoder, WDRNetDecoder
from posedistill.geometry.cameras import Camera, crop_cameras, project
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.runtime.record import Record

CROP, STRIDES = 64, (8, 16)


@dataclass
class Scene:
    """One object before one camera, and what a network that knows its pose says of the crop of its box."""

    K: np.ndarray
    R: np.ndarray
    t: np.ndarray
    box: np.ndarray
    image: np.ndarray
    decoder: WDRNetDecoder
    logits: np.ndarray
    votes: np.ndarray


@pytest.fixture
def scene() -> Scene:
    corners = box_corners(np.array([-30.0, -40.0, -50.0]), np.array([30.0, 40.0, 50.0]))
    objects = ObjectTable((6, 9), np.stack([corners, corners]), np.array([141.0, 141.0]), (np.eye(4)[None],) * 2)
    K = np.array([[570.0, 0.0, 325.0], [0.0, 573.0, 242.0], [0.0, 0.0, 1.0]])
    a, b = 0.6, -0.4
    R = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    R = R @ np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    t = np.array([80.0, -60.0, 900.0])
    pixels = project(corners, R, t, K)
    box = np.concatenate([pixels.min(axis=0), np.ptp(pixels, axis=0)])
    camera = Camera(K, 640, 480)
    decoder = WDRNetDecoder(objects=objects, crop_size=CROP, strides=STRIDES, camera=camera, names=("cat", "duck"))
    centers, sides = (box[:2] + box[2:] / 2)[None], np.array([1.5 * box[2:].max()])
    crop = crop_cameras(K[None], centers, sides, CROP)
    in_crop = project(corners, crop.rotation[0] @ R, crop.rotation[0] @ t, crop.K[0])
    votes = np.broadcast_to(in_crop, (len(decoder.cells), 8, 2)).astype(np.float32)
    near = np.linalg.norm(decoder.cells.centers - CROP / 2, axis=1) < CROP / 4
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    return Scene(K, R, t, box, image, decoder, np.where(near, 3.0, -6.0).astype(np.float32), votes)


def properties(decoder: Decoder) -> dict[str, str]:
    return Record(decoder, "nothing: made by a test", 12).to_properties()


@pytest.fixture
def model_file(scene: Scene, tmp_path: Path) -> Path:
    """The scene's network as an exported file."""
    path = tmp_path / "model.onnx"
    write_model(path, scene, properties(scene.decoder))
    return path


def write_model(path: Path, scene: Scene, properties: dict[str, str], size: int = CROP) -> None:
    """An ONNX graph that answers every crop with the scene's logits and votes; it ignores ``classes``."""
    constants = {"l": scene.logits[None], "v": scene.votes[None], "axes": np.array([1, 2, 3])}
    constants |= {"zero": np.zeros(1, np.float32), "flat": np.array([-1, 1])}
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "flat"], ["nothing2"]),
        helper.make_node("Add", ["nothing2", "l"], ["logits"]),
        helper.make_node("Add", ["nothing", "v"], ["votes"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, size, size])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "votes")]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "fake", [images], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, properties)
    onnx.save(model, path)


@pytest.fixture
def writer():
    return write_model


POSENET = PoseNetDecoder(
    shape=(32, 48), short_side=40, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), rotation="quaternion"
)


@pytest.fixture
def posenet_decoder() -> PoseNetDecoder:
    return POSENET


@pytest.fixture
def camera_model_file(tmp_path: Path) -> Path:
    """A network that thinks the camera stands at (R, G, B), the mean colours in 0..1, and is turned by (1, 2, 2, 4)."""
    constants = {"axes": np.array([2, 3]), "q": np.array([[1, 2, 2, 4]], np.float32) / 5}
    constants |= {"one": np.array([1]), "zero": np.zeros(1, np.float32)}
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["position"], keepdims=0),
        helper.make_node("ReduceMean", ["position", "one"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "q"], ["rotation"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, *POSENET.shape])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("position", "rotation")]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "fake", [images], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, properties(POSENET))
    path = tmp_path / "camera.onnx"
    onnx.save(model, path)
    return path
