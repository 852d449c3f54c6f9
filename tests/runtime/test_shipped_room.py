"""The model of a room that comes with the repository: it loads by itself, and knows where a photograph was taken."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.images import read_image, write_image
from posedistill.decode import SceneCoordinatesDecoder
from posedistill.deploy.estimate import estimate, queries_of
from posedistill.deploy.evaluators.base import Asked
from posedistill.deploy.evaluators.files import evaluate_file
from posedistill.deploy.predict.base import predict_images
from posedistill.deploy.predict.scene import UNLIKELY, ScenePresenter
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


def test_it_does_not_claim_to_know_other_places(predictor: Predictor, tmp_path: Path) -> None:
    """Noise, the dark, and what this repository has pictures of."""
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    views = cv2.resize(read_image(Path(__file__).parents[2] / "docs/pictures/quickstart_predictions.jpg"), (640, 480))
    paths = [tmp_path / f"{name}.png" for name in ("noise", "dark", "views")]
    for path, image in zip(paths, (noise, np.zeros_like(noise), views), strict=True):
        write_image(path, image)
    presenter = ScenePresenter(predictor)
    for found in predict_images(presenter, paths):
        assert not found.poses and "not recognised" in presenter.in_words(found)[0]


def test_it_knows_the_kitchen(predictor: Predictor, real_data: Path) -> None:
    """On photographs that it was trained on, as far as its file says."""
    kitchen = open_scene(real_data / "7scenes/redkitchen", calibration="colour")
    assert set(kitchen.names) == set(predictor.record.frames["redkitchen"].tolist())
    rows = np.arange(0, len(kitchen), 40)
    found = estimate(predictor, [queries_of(kitchen)[row] for row in rows])
    truth = Poses.of_cameras(kitchen.R[rows], kitchen.t[rows])
    assert np.median(position_errors(found, truth)) < 0.04 and np.median(orientation_errors(found, truth)) < 1.5
    assert np.median(found.score) > 0.8 and found.score.min() > UNLIKELY


def test_the_regressor_is_nearer_than_the_photograph_that_looks_most_alike(real_data: Path) -> None:
    """On the test frames, of which it has seen none: retrieval by the features of its teacher stands 0.197 m off."""
    path, root = MODEL.with_name("redkitchen_posenet.onnx"), real_data / "7scenes/redkitchen"
    found = evaluate_file(Asked(path, root))
    assert found.targets == 100 and found.scores["position_m"] < 0.16 and found.scores["orientation_deg"] < 3.5
    assert path.stat().st_size < 1.6e6
