import json
from dataclasses import asdict

import numpy as np
import pytest

from posedistill.data.images import write_image
from posedistill.deploy.bench import bench, measure, peak_memory_mb
from posedistill.errors import CheckpointError, DataError
from posedistill.runtime import Predictor


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
    assert result.call == "1 photograph(s) of 640x480, 2 input(s) of 64x64 px, to poses"
    assert json.loads(json.dumps(asdict(result)))["call"] == result.call and result.call in result.table()
    assert "images/s" in result.table() and f"{result.p50_ms:.2f}" in result.table()
    assert ballast.sum() > 0


def test_without_poses(exported):
    result = measure(str(exported), threads=1, repeats=3, batch=1, poses=False, image=None)
    assert result.poses == 0 and "to the outputs of the network" in result.table()


def test_names_the_fault(tmp_path, exported):
    with pytest.raises(CheckpointError, match=r"none\.onnx: 'file': found nothing"):
        bench(tmp_path / "none.onnx")
    with pytest.raises(DataError, match=r"no\.png"):
        bench(exported, image=tmp_path / "no.png")


def test_stand_in_votes_hold_the_pose_of_the_middle(exported):
    decoder = Predictor.from_onnx(exported, threads=1).decoder
    (request,) = decoder.example(2)
    prepared = decoder.prepare(request)
    pose = decoder.decode(decoder.stand_in(prepared), prepared)[0]
    seen = request.K @ pose.t
    np.testing.assert_allclose(seen[:2] / seen[2], request.boxes[0, :2] + request.boxes[0, 2:] / 2, atol=8)
    assert pose.score > 0.3


def test_photograph_to_the_pose_of_the_camera(camera_file, tmp_path):
    result = bench(camera_file, threads=1, repeats=6, batch=2)
    assert result.call == "2 photograph(s) of 80x70, 2 input(s) of 80x64 px, to poses" and result.poses == 1.0
    assert 0 < result.p50_ms <= result.p90_ms <= result.p99_ms and result.parameters > 1e6
    write_image(tmp_path / "photo.png", np.zeros((90, 160, 3), np.uint8))
    result = measure(str(camera_file), 1, 2, 1, poses=True, image=str(tmp_path / "photo.png"))
    assert result.call.startswith("1 photograph(s) of 160x90, ")
