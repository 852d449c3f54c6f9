import dataclasses
import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from posedistill.deploy import export
from posedistill.deploy.export import check_parity, export_onnx, noise_request, torch_run
from posedistill.errors import CheckpointError
from posedistill.runtime.predictor import Predictor


def test_one_file_with_everything(estimator, exported: Path):
    assert [path.name for path in exported.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(exported, load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds and "Conv" in kinds
    assert {entry.domain for entry in model.opset_import} == {""}
    assert model.ir_version <= 9
    weights = sum(parameter.numel() for parameter in estimator.network.parameters())
    assert Predictor.from_onnx(exported).metadata.parameters == weights


def test_metadata_travel_in_the_file(exported: Path, metadata):
    read = Predictor.from_onnx(exported).metadata
    assert dataclasses.replace(read, parameters=0).to_json() == metadata.to_json()


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_any_batch_and_every_class(estimator, exported, rows):
    predictor = Predictor.from_onnx(exported, threads=1)
    rng = np.random.default_rng(rows)
    crops = rng.normal(size=(rows, 3, 64, 64)).astype(np.float32)
    classes = np.arange(rows) % 2
    for ours, theirs in zip(torch_run(estimator.network)(crops, classes), predictor.run(crops, classes), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    logits = [predictor.run(crops[:1], np.array([label]))[0] for label in (0, 1)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_the_network_is_left_as_it_was(estimator, metadata, tmp_path):
    estimator.network.train()
    before = {name: value.clone() for name, value in estimator.network.state_dict().items()}
    export_onnx(estimator.network, tmp_path / "deep" / "er" / "model.onnx", metadata)
    assert estimator.network.training
    assert all(torch.equal(before[name], value) for name, value in estimator.network.state_dict().items())
    estimator.network.eval()


def test_parity_holds(estimator, exported):
    parity = check_parity(estimator.network, exported)
    assert parity.crops == 2 and 0 <= parity.mean_px <= parity.max_px < 0.01
    assert parity.max_score < 1e-4 and parity.to_dict()["max_px"] == parity.max_px


def test_parity_of_another_network_fails(estimator, exported, metadata):
    other = torch.nn.Module()
    shift = 0.2

    def forward(images, classes):
        logits, votes = estimator.network(images, classes)
        return logits, votes + shift

    other.forward = forward
    with pytest.raises(
        CheckpointError, match=r"model\.onnx: 'votes': found 0\.28\d* px off, expected at most 0\.05 px"
    ):
        check_parity(other, exported, [noise_request(metadata)])


def test_parity_compares_poses(estimator, exported, metadata):
    """Votes within tolerance but another pose: refused by the degrees."""
    parity = check_parity(estimator.network, exported, max_px=1e9, max_deg=1e9)
    if parity.poses:
        with pytest.raises(CheckpointError, match="degrees off"):
            check_parity(estimator.network, exported, max_px=1e9, max_deg=-1.0)
    assert parity.poses > 0


def test_a_full_disk_leaves_the_old_file(estimator, metadata, exported, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    monkeypatch.setattr(export, "trace", lambda *_: onnx.load(exported))  # tracing takes seconds
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"model\.onnx: 'file': found .*, expected a writable disk"):
            export_onnx(estimator.network, path, metadata)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old" and [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
