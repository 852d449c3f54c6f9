"""The model of cars that comes with the repository: it loads by itself, and tells front from rear."""

from pathlib import Path

import numpy as np
import pytest

from posedistill.data.formats.viewpoint.annotations import open_categories
from posedistill.data.images import read_image
from posedistill.decode import ViewpointDecoder
from posedistill.geometry.rotations import angle_between
from posedistill.runtime import Predictor

MODEL = Path(__file__).parents[2] / "models" / "cars.onnx"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_onnx(MODEL, threads=1)


def test_it_carries_all_the_runtime_needs(predictor: Predictor):
    decoder = predictor.decoder
    assert isinstance(decoder, ViewpointDecoder) and not decoder.looks_at_shapes
    assert list(decoder.inputs) == ["images"] and decoder.crop_size == 96
    assert MODEL.stat().st_size < 5e6 and predictor.record.frames is not None
    (pose,) = predictor.predict(np.zeros((120, 200, 3), np.uint8))
    assert np.linalg.det(pose.R) == pytest.approx(1) and np.isnan(pose.t).all() and 0 < pose.score < 1


def test_it_tells_how_cars_are_turned(predictor: Predictor, real_data: Path):
    """Of cars that it was trained on, as far as its file says."""
    cars = open_categories(real_data / "cars").of_split("train")
    assert set(cars.names) == set(predictor.record.frames["cars"].tolist())
    cars = cars.take(range(0, len(cars), 30))
    found = np.stack([predictor.predict(read_image(view.image))[0].R for view in cars])
    errors = np.rad2deg(angle_between(found, cars.R))
    assert np.median(errors) < 12 and (errors < 30).mean() > 0.75
