"""The model of a room that comes with the repository: it loads by itself, and knows where a photograph was taken."""

from pathlib import Path

import numpy as np
import pytest

from posedistill.data.formats.open_scene import open_scene
from posedistill.decode import SceneCoordinatesDecoder
from posedistill.deploy.estimate import estimate, queries_of
from posedistill.metrics.relocalisation import orientation_errors, position_errors
from posedistill.poses import Poses
from posedistill.runtime import Predictor

MODEL = Path(__file__).parents[2] / "models" / "redkitchen.onnx"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_onnx(MODEL, threads=1)


def test_it_carries_all_the_runtime_needs(predictor: Predictor) -> None:
    decoder = predictor.decoder
    assert isinstance(decoder, SceneCoordinatesDecoder) and decoder.shape == (480, 640)
    assert decoder.camera is not None and decoder.camera.K[0, 0] == 525 and decoder.calibration == "colour"
    assert MODEL.stat().st_size < 4.5e6 and predictor.record.frames is not None
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    assert all(pose.score < 0.5 for pose in predictor.predict(noise))


def test_it_knows_the_kitchen(predictor: Predictor, real_data: Path) -> None:
    """On photographs that it was trained on, as far as its file says."""
    kitchen = open_scene(real_data / "7scenes/redkitchen", calibration="colour")
    assert set(kitchen.names) == set(predictor.record.frames["redkitchen"].tolist())
    rows = np.arange(0, len(kitchen), 40)
    found = estimate(predictor, [queries_of(kitchen)[row] for row in rows])
    truth = Poses.of_cameras(kitchen.R[rows], kitchen.t[rows])
    assert np.median(position_errors(found, truth)) < 0.04 and np.median(orientation_errors(found, truth)) < 1.5
    assert np.median(found.score) > 0.8
