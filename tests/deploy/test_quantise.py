from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from posedistill import cli
from posedistill.data.images import write_image
from posedistill.decode import PoseNetDecoder, Request
from posedistill.deploy.bench import measure
from posedistill.deploy.export import export_onnx
from posedistill.deploy.quantise import drift, halve, kept_in_float, quantise
from posedistill.errors import CheckpointError, DataError
from posedistill.runtime import Predictor


def pictures(decoder, count: int = 6) -> list[np.ndarray]:
    return [decoder.example(seed=seed)[0].image for seed in range(count)]


@pytest.fixture(scope="module")
def quantised(camera_file, posenet_decoder, tmp_path_factory) -> Path:
    batches = (posenet_decoder.prepare(Request(image)).inputs for image in pictures(posenet_decoder))
    return quantise(camera_file, tmp_path_factory.mktemp("quantised") / "int8.onnx", batches)


def test_a_quarter_of_the_size_and_the_same_record(camera_file, quantised):
    assert quantised.stat().st_size < 0.3 * camera_file.stat().st_size
    ours, theirs = (Predictor.from_onnx(path, threads=1).record for path in (camera_file, quantised))
    assert ours.to_properties() == theirs.to_properties()
    model = onnx.load(quantised)
    assert {entry.domain for entry in model.opset_import} == {""} and model.ir_version <= 9


def test_weights_have_a_scale_for_each_channel(quantised):
    model = onnx.load(quantised)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    dequantised = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 5
    for node in convolutions:
        weight, scale = (tensors[name] for name in dequantised[node.input[1]].input[:2])
        assert weight.dtype == np.int8 and scale.shape == (len(weight),)


def test_poses_stay_near(camera_file, quantised, posenet_decoder):
    sides = [Predictor.from_onnx(path, threads=1) for path in (camera_file, quantised)]
    moved = drift(*sides, pictures(posenet_decoder, 9))
    assert (
        moved.images == 9
        and 0 < moved.median_shift <= moved.max_shift < 0.5
        and 0 < moved.median_deg <= moved.max_deg < 5
    )
    assert drift(sides[0], sides[0], pictures(posenet_decoder, 2)).max_shift == 0
    assert "of 9 photographs" in str(moved)


def test_a_batch_of_any_size(quantised):
    run = Predictor.from_onnx(quantised, threads=1).run
    images = np.random.default_rng(0).normal(size=(5, 3, 64, 80)).astype(np.float32)
    position, rotation = run({"images": images}).values()
    assert position.shape == (5, 3) and rotation.shape == (5, 6)
    np.testing.assert_allclose(run({"images": images[2:3]})["position"][0], position[2], atol=1e-3)


def test_the_last_layers_and_depthwise_ones_stay_in_float(tmp_path):
    convolutions = [torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.Conv2d(8, 16, 1)]

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = torch.nn.Sequential(*convolutions)
            self.hidden, self.position, self.rotation = (torch.nn.Linear(16, size) for size in (16, 3, 4))

        def forward(self, images):
            x = torch.relu(self.hidden(self.trunk(images).mean((2, 3))))
            return 2 + self.position(x), torch.nn.functional.normalize(self.rotation(x), dim=-1)

    decoder = PoseNetDecoder(shape=(16, 16), short_side=16, rotation="quaternion")
    path = export_onnx(Tiny(), tmp_path / "tiny.onnx", decoder)
    nodes = {node.name: node for node in onnx.load(path).graph.node}
    kept = [nodes[name] for name in kept_in_float(onnx.load(path).graph)]
    weights = {name for node in kept for name in node.input if name.endswith("weight")}
    assert {name.rsplit(".", 1)[0] for name in weights} == {"trunk.1", "position", "rotation"}
    images = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    out = quantise(path, tmp_path / "int8.onnx", [{"images": images}])
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(out).graph.initializer}
    assert all(stored[name] == onnx.TensorProto.FLOAT for name in weights)
    int8 = {name for name, kind in stored.items() if kind == onnx.TensorProto.INT8}
    assert {name.split(".weight")[0] for name in int8} >= {"trunk.0", "trunk.2", "hidden"}


@pytest.mark.parametrize("kind", ["exported", "camera_file"])
def test_half_the_size_and_the_same_outputs(kind, request, tmp_path):
    path, out = request.getfixturevalue(kind), tmp_path / "half.onnx"
    moved = halve(path, out)
    ours, theirs = (Predictor.from_onnx(file, threads=1) for file in (path, out))
    assert ours.record.to_properties() == theirs.record.to_properties()
    assert out.stat().st_size < 0.55 * path.stat().st_size
    assert moved and 0 < max(moved.values()) < 0.2
    weights = {tensor.name: tensor.data_type for tensor in onnx.load(out).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in weights.values()


def test_a_weight_beyond_16_bits_stays_whole(camera_file, tmp_path):
    model = onnx.load(camera_file)
    large = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(large).copy()
    values.flat[0] = 1e5
    large.CopyFrom(onnx.numpy_helper.from_array(values, large.name))
    changed, out = tmp_path / "changed.onnx", tmp_path / "half.onnx"
    onnx.save(model, changed)
    assert max(halve(changed, out).values()) < 0.05
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(out).graph.initializer}
    assert stored[large.name] == onnx.TensorProto.FLOAT


def test_mistakes(camera_file, exported, tmp_path):
    with pytest.raises(DataError, match="calibration: 'images': found none"):
        quantise(camera_file, tmp_path / "out.onnx", [])
    with pytest.raises(CheckpointError, match="'family': found wdrnet, of objects, expected one of a scene"):
        quantise(exported, tmp_path / "out.onnx", [])
    assert not list(tmp_path.iterdir())


def test_a_model_of_fewer_bits_is_refused(camera_file, quantised, tmp_path):
    halve(camera_file, tmp_path / "half.onnx")
    for path, bits in ((tmp_path / "half.onnx", 16), (quantised, 8)):
        with pytest.raises(CheckpointError, match=f"found weights of {bits} bits, expected the model as it"):
            halve(path, tmp_path / "out.onnx")
        with pytest.raises(CheckpointError, match=f"found weights of {bits} bits"):
            quantise(path, tmp_path / "out.onnx", [])
    assert not (tmp_path / "out.onnx").exists()


def test_the_command(camera_file, posenet_decoder, tmp_path):
    photos = [tmp_path / f"{number}.png" for number in range(5)]
    for photo, image in zip(photos, pictures(posenet_decoder, 5), strict=True):
        write_image(photo, image)
    out = tmp_path / "small.onnx"
    result = CliRunner().invoke(cli.app, ["quantise", str(camera_file), *map(str, photos), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "median of 2 photographs" in result.output and "MiB instead of" in result.output
    timed = measure(str(out), 1, 2, 1, poses=True, image=None)
    assert timed.poses == 1.0 and timed.megabytes < 0.3 * camera_file.stat().st_size / 2**20


def test_the_command_without_photographs(exported, tmp_path):
    result = CliRunner().invoke(cli.app, ["quantise", str(exported), "--out", str(tmp_path / "half.onnx")])
    assert result.exit_code == 0, result.output
    assert "outputs move at most" in result.output and "MiB instead of" in result.output
