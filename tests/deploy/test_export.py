import copy
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from posedistill.decode.base import IMAGENET_MEAN, Tolerance
from posedistill.deploy import export
from posedistill.deploy.export import check_parity, example_inputs, export_onnx, torch_predictor, torch_run
from posedistill.errors import CheckpointError
from posedistill.estimators.base import MeanSubtracted
from posedistill.estimators.registry import build_estimator
from posedistill.geometry.cameras import Camera
from posedistill.geometry.objects import ObjectTable, box_corners
from posedistill.runtime import Predictor

ANY = Tolerance({}, degrees=1e9)


@pytest.fixture(params=["objects", "scene"])
def both(request, estimator, exported, decoder, posenet, camera_file, posenet_decoder):
    """Network, file and decoder of a family of either task."""
    sides = {"objects": (estimator, exported, decoder), "scene": (posenet, camera_file, posenet_decoder)}
    return sides[request.param]


def test_one_file_with_everything(both):
    estimator, path, decoder = both
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    model = onnx.load(path, load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds and "Conv" in kinds
    assert {entry.domain for entry in model.opset_import} == {""}
    assert model.ir_version <= 9
    record = Predictor.from_onnx(path, threads=1).record
    assert record.parameters == sum(weight.numel() for weight in estimator.network.parameters())
    assert record.training == "random weights" and record.decoder.record()[0] == decoder.record()[0]


def test_no_path_of_this_machine_is_in_the_file(exported):
    assert str(Path(__file__).parents[2]).encode() not in Path(exported).read_bytes()


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_any_batch(both, rows):
    estimator, path, decoder = both
    predictor = Predictor.from_onnx(path, threads=1)
    images = np.random.default_rng(rows).normal(size=(rows, *decoder.inputs["images"])).astype(np.float32)
    arrays = {"images": images, "classes": np.arange(rows) % 2}
    ours, theirs = torch_run(estimator.network, decoder)(arrays), predictor.run(arrays)
    for name, shape in decoder.outputs.items():
        assert ours[name].shape == (rows, *shape)
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-3)


def test_every_class_has_its_own_answer(exported):
    predictor = Predictor.from_onnx(exported, threads=1)
    crops = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    logits = [predictor.run({"images": crops, "classes": np.array([label])})["logits"] for label in (0, 1)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_example_inputs(decoder, posenet_decoder):
    inputs = example_inputs(decoder, 3)
    assert {name: (tuple(value.shape), value.dtype) for name, value in inputs.items()} == {
        "images": ((3, 3, 64, 64), torch.float32),
        "classes": ((3,), torch.int64),
    }
    assert [tuple(value.shape) for value in example_inputs(posenet_decoder).values()] == [(1, 3, 64, 80)]


def test_the_network_is_left_as_it_was(estimator, decoder, tmp_path):
    estimator.network.train()
    before = {name: value.clone() for name, value in estimator.network.state_dict().items()}
    export_onnx(estimator.network, tmp_path / "deep" / "er" / "model.onnx", decoder)
    assert estimator.network.training
    assert all(torch.equal(before[name], value) for name, value in estimator.network.state_dict().items())
    estimator.network.eval()


class Shifted(torch.nn.Module):
    """A network whose outputs are off."""

    def __init__(self, network, first=0.0, second=0.0):
        super().__init__()
        self.network, self.first, self.second = network, first, second

    def forward(self, *inputs):
        first, second = self.network(*inputs)
        return first + self.first, second + self.second


class TestParity:
    def test_of_objects(self, estimator, exported):
        parity = check_parity(estimator.network, exported)
        assert (parity.rows, parity.unit) == (2, "mm") and parity.poses > 0
        assert 0 <= parity.outputs["votes (px)"] < 0.01 and parity.outputs["scores"] < 1e-4
        assert "on 2 inputs: votes (px) to" in str(parity)

    def test_of_a_scene(self, posenet, camera_file, posenet_decoder):
        requests = [posenet_decoder.example(seed=seed)[0] for seed in range(3)]
        parity = check_parity(posenet.network, camera_file, requests)
        assert (parity.rows, parity.poses, parity.unit) == (3, 3, "m")
        assert 0 <= parity.shift < 1e-4 and 0 <= parity.degrees < 1e-3

    def test_other_votes_are_refused(self, estimator, exported):
        with pytest.raises(
            CheckpointError, match=r"model\.onnx: 'votes \(px\)': found 0\.28\d* off, expected at most 0\.05"
        ):
            check_parity(Shifted(estimator.network, second=0.2), exported)

    def test_other_poses_are_refused(self, estimator, exported):
        assert check_parity(estimator.network, exported, tolerance=ANY).poses > 0
        with pytest.raises(CheckpointError, match=r"'rotation': found .* degrees off, expected at most -1 degrees"):
            check_parity(estimator.network, exported, tolerance=replace(ANY, degrees=-1.0))

    def test_a_pose_that_one_alone_finds_is_refused(self, estimator, decoder, tmp_path):
        silent = replace(decoder, decoding=replace(decoder.decoding, always_answer=False, score_threshold=1e-6))
        path = export_onnx(estimator.network, tmp_path / "model.onnx", silent)
        with pytest.raises(CheckpointError, match=r"'poses': found those of rows \[0, 1\], expected \[\], as its"):
            check_parity(Shifted(estimator.network, first=-90.0), path, tolerance=ANY)

    def test_another_scene_is_refused(self, posenet, camera_file):
        found = r"camera\.onnx: 'position': found 0\.03464 m off, expected at most 0\.001 m"
        with pytest.raises(CheckpointError, match=found):
            check_parity(Shifted(posenet.network, first=0.02), camera_file)
        turn = 0.02 * torch.tensor([0.0, 1, 0, 0, 0, 0])
        with pytest.raises(CheckpointError, match=r"camera\.onnx: 'rotation': found \d\.\d* degrees off, .* 0.02"):
            check_parity(Shifted(posenet.network, second=turn), camera_file)

    def test_a_large_scene_may_lose_what_float32_loses(self, posenet, posenet_decoder, tmp_path):
        """A position of kilometres, or in millimetres, has no millionth of its unit."""
        far = copy.deepcopy(posenet.network)
        far.center.fill_(30_000.0)
        check_parity(far, export_onnx(far, tmp_path / "far.onnx", posenet_decoder))


def test_the_mean_image_is_subtracted_inside(posenet, posenet_decoder, tmp_path):
    mean = np.random.default_rng(1).uniform(0, 255, (64, 80, 3)).astype(np.float32)
    decoder = replace(posenet_decoder, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    network = MeanSubtracted(posenet.network, mean)
    path = export_onnx(network, tmp_path / "mean.onnx", decoder)
    check_parity(network, path)
    (request,) = decoder.example()
    images = decoder.prepare(request).inputs["images"] - mean.transpose(2, 0, 1)
    (found,) = Predictor.from_onnx(path, threads=1).predict(request.image)
    position = torch_run(posenet.network, decoder)({"images": images})["position"]
    np.testing.assert_allclose(found.center, position[0], atol=1e-3)


def test_a_network_of_other_statistics_takes_the_same_pictures(tmp_path):
    """Weights trained on pictures in -1..1 (EfficientNet-Lite0's) are met in the exported graph, not in the record."""
    corners = np.stack([box_corners(np.full(3, -30.0), np.full(3, 30.0))])
    objects = ObjectTable((1,), corners, np.array([104.0]), (np.eye(4)[None],))
    settings = {"backbone": "tf_efficientnet_lite0@8", "head": "slim", "width": 64, "pretrained": "lite0"}
    estimator = build_estimator("wdrnet", objects, settings, 64)
    decoder = estimator.build_decoder(camera=Camera(np.array([[90.0, 0, 32], [0, 90, 32], [0, 0, 1]]), 64, 64))
    path = export_onnx(estimator.network, tmp_path / "model.onnx", decoder)
    check_parity(estimator.network, path)
    assert Predictor.from_onnx(path, threads=1).decoder.mean == IMAGENET_MEAN
    estimator.network.backbone.renormalise.needed = False
    with pytest.raises(CheckpointError, match="off, expected at most"):
        check_parity(estimator.network, path)


def test_a_full_disk_leaves_the_old_file(estimator, decoder, exported, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    monkeypatch.setattr(export, "trace", lambda *_: onnx.load(exported))  # tracing takes seconds
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"model\.onnx: 'file': found .*, expected a writable disk"):
            export_onnx(estimator.network, path, decoder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old" and [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_the_file_needs_no_torch(posenet, camera_file: Path, posenet_decoder):
    code = f"""
import sys
sys.modules["torch"] = sys.modules["onnx"] = None
import numpy as np
from posedistill.runtime import Predictor
image = np.random.default_rng(0).integers(0, 256, (72, 100, 3), dtype=np.uint8)
(pose,) = Predictor.from_onnx({str(camera_file)!r}, threads=1).predict(image)
print(*pose.center.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    image = np.random.default_rng(0).integers(0, 256, (72, 100, 3), dtype=np.uint8)
    (ours,) = torch_predictor(posenet.network, posenet_decoder).predict(image)
    np.testing.assert_allclose([float(word) for word in done.stdout.split()], ours.center, atol=1e-4)
