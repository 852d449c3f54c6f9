import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from posedistill.deploy.bench_calls import noise_photograph
from posedistill.deploy.camera_export import camera_run, check_camera_parity, export_camera_onnx
from posedistill.errors import CheckpointError
from posedistill.runtime import CameraPredictor


def test_one_file_with_everything(posenet, camera_metadata, camera_file):
    assert [path.name for path in camera_file.parent.iterdir()] == ["camera.onnx"]
    model = onnx.load(camera_file, load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds and "Conv" in kinds
    assert {entry.domain for entry in model.opset_import} == {""}
    read = CameraPredictor.from_onnx(camera_file).metadata
    assert replace(read, parameters=0) == camera_metadata
    assert read.parameters == sum(weight.numel() for weight in posenet.network.parameters())


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_any_batch(posenet, camera_file, rows):
    images = np.random.default_rng(rows).normal(size=(rows, 3, 64, 80)).astype(np.float32)
    ours, theirs = camera_run(posenet.network)(images), CameraPredictor.from_onnx(camera_file, threads=1).run(images)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)
    assert ours[0].shape == (rows, 3) and ours[1].shape == (rows, 6)


def test_parity_holds(posenet, camera_file, camera_metadata):
    images = [noise_photograph(camera_metadata, seed) for seed in range(3)]
    parity = check_camera_parity(posenet.network, camera_file, images)
    assert parity.images == 3 and 0 <= parity.max_m < 1e-4 and 0 <= parity.max_deg < 1e-3
    assert parity.to_dict()["max_m"] == parity.max_m


class Shifted(torch.nn.Module):
    """A network whose positions or rotations are off."""

    def __init__(self, network, metres=0.0, turn=0.0):
        super().__init__()
        self.network, self.metres, self.turn = network, metres, turn

    def forward(self, images):
        position, rotation = self.network(images)
        return position + self.metres, rotation + self.turn * torch.tensor([0.0, 1, 0, 0, 0, 0])


def test_parity_of_another_network_fails(posenet, camera_file):
    with pytest.raises(
        CheckpointError, match=r"camera\.onnx: 'position': found 0\.03464 m off, expected at most 0\.001 m"
    ):
        check_camera_parity(Shifted(posenet.network, metres=0.02), camera_file)
    with pytest.raises(CheckpointError, match=r"camera\.onnx: 'rotation': found \d\.\d* degrees off, .* 0.02"):
        check_camera_parity(Shifted(posenet.network, turn=0.02), camera_file)


def test_a_large_scene_may_lose_what_float32_loses(posenet, camera_file):
    """A position of kilometres, or in millimetres, has no millionth of its unit."""
    far = copy.deepcopy(posenet.network)
    far.center.fill_(30_000.0)
    path = camera_file.with_name("far.onnx")
    export_camera_onnx(far, path, CameraPredictor.from_onnx(camera_file).metadata)
    check_camera_parity(far, path)


def test_the_mean_image_is_subtracted_inside(posenet, camera_metadata, tmp_path):
    mean = np.random.default_rng(1).uniform(0, 255, (64, 80, 3)).astype(np.float32)
    metadata = replace(camera_metadata, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    path = export_camera_onnx(posenet.network, tmp_path / "mean.onnx", metadata, mean)
    check_camera_parity(posenet.network, path, mean_image=mean)
    exported = CameraPredictor.from_onnx(path, threads=1)
    image = noise_photograph(metadata)
    prepared = exported.prepare(image) - mean.transpose(2, 0, 1)
    position, _ = camera_run(posenet.network)(prepared[None])
    np.testing.assert_allclose(exported.predict(image).center, position[0], atol=1e-3)
    with pytest.raises(CheckpointError, match=r"'mean image': found \(64, 64, 3\), expected \(64, 80, 3\)"):
        export_camera_onnx(posenet.network, tmp_path / "other.onnx", metadata, mean[:, :64])


def test_the_file_needs_no_torch(posenet, camera_file, camera_metadata):
    code = f"""
import sys
sys.modules["torch"] = sys.modules["onnx"] = None
import numpy as np
from posedistill.runtime import open_predictor
image = np.random.default_rng(0).integers(0, 256, (72, 100, 3), dtype=np.uint8)
print(*open_predictor({str(camera_file)!r}, threads=1).predict(image).center.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    image = np.random.default_rng(0).integers(0, 256, (72, 100, 3), dtype=np.uint8)
    ours = CameraPredictor(camera_run(posenet.network), camera_metadata).predict(image)
    np.testing.assert_allclose([float(word) for word in done.stdout.split()], ours.center, atol=1e-4)
