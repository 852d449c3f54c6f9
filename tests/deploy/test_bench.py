import json

import numpy as np
import pytest

from posedistill.data.images import write_image
from posedistill.deploy.bench import bench, measure, peak_memory_mb
from posedistill.deploy.bench_calls import synthetic_outputs
from posedistill.deploy.export import noise_request
from posedistill.errors import CheckpointError, DataError
from posedistill.runtime.predictor import Predictor


def test_reports_a_fresh_process(exported):
    ballast = np.ones(60 * 2**20 // 8 * 4)  # 240 MiB that must not show up in the child's memory
    result = bench(exported, threads=1, repeats=8, batch=2)
    assert result.repeats == 8 and result.batch == 2 and result.threads == 1
    assert 0 < result.p50_ms <= result.p90_ms <= result.p99_ms
    assert result.images_per_second == pytest.approx(2e3 / result.mean_ms)
    assert result.poses == 1.0, "the decoder is timed on votes that hold a pose"
    assert 0 < result.model_memory_mb < result.peak_memory_mb < peak_memory_mb()
    assert result.load_ms > 0 and result.first_inference_ms > 0 and result.parameters > 1e5
    assert result.runtime.startswith("onnxruntime ") and "core(s)" in result.device
    assert result.megabytes == pytest.approx(exported.stat().st_size / 2**20)
    assert json.loads(json.dumps(result.to_dict()))["crop_size"] == 64
    assert "images/s" in result.table() and f"{result.p50_ms:.2f}" in result.table()
    assert ballast.sum() > 0


def test_without_pnp(exported):
    result = measure(str(exported), threads=1, repeats=3, batch=1, with_pnp=False, image=None, box=None)
    assert not result.with_pnp and result.poses == 0 and "without PnP" in result.table()


def test_names_the_fault(tmp_path, exported):
    with pytest.raises(CheckpointError, match=r"none\.onnx: 'file': found nothing"):
        bench(tmp_path / "none.onnx")
    with pytest.raises(DataError, match=r"no\.png"):
        bench(exported, image=tmp_path / "no.png")


def test_synthetic_votes_hold_the_pose_of_the_middle(exported):
    predictor = Predictor.from_onnx(exported, threads=1)
    request = noise_request(predictor.metadata)
    outputs = synthetic_outputs(predictor, request)
    poses = predictor.decode_outputs(outputs, predictor.prepare(*request))
    center = request.boxes[0, :2] + request.boxes[0, 2:] / 2
    for pose in poses[:1]:
        seen = request.K @ pose.t
        np.testing.assert_allclose(seen[:2] / seen[2], center, atol=3)
        assert pose.score > 0.3


def test_photograph_to_the_pose_of_the_camera(camera_file, tmp_path):
    result = bench(camera_file, threads=1, repeats=6, batch=2)
    assert result.call == "2 photograph(s) of 80x70 to the camera's pose, through 80x64 px"
    assert result.poses == 1.0 and not result.with_pnp and result.crop_size == 64
    assert 0 < result.p50_ms <= result.p90_ms <= result.p99_ms and result.parameters > 1e6
    assert result.call in result.table() and "PnP" not in result.table() and "crops with" not in result.table()
    write_image(tmp_path / "photo.png", np.zeros((90, 160, 3), np.uint8))
    result = measure(str(camera_file), 1, 2, 1, with_pnp=True, image=str(tmp_path / "photo.png"), box=None)
    assert result.call.startswith("1 photograph(s) of 160x90 ")
    with pytest.raises(DataError, match=r"'box': found \[.*\], expected none"):
        bench(camera_file, box=(0, 0, 10, 10))
