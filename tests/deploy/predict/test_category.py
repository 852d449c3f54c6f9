from pathlib import Path

import numpy as np
import pytest
from tests.deploy.viewpoints import sure_predictor
from typer.testing import CliRunner

from posedistill import cli
from posedistill.data.images import write_image
from posedistill.decode import ViewpointDecoder
from posedistill.deploy.predict.base import predict_images
from posedistill.deploy.predict.category import CategoryPresenter
from posedistill.errors import DataError
from posedistill.geometry.viewpoint import rotation_viewpoint
from posedistill.poses import Poses
from posedistill.runtime.predictor import Predictor


@pytest.fixture
def predictor() -> Predictor:
    return sure_predictor()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_image(tmp_path / "a.png", np.zeros((40, 60, 3), np.uint8))
    return tmp_path / "a.png"


def test_angles_in_words_and_in_the_table(predictor, photo, tmp_path):
    presenter = CategoryPresenter(predictor)
    (found,) = predict_images(presenter, [photo], tmp_path / "out")
    expected = "azimuth 330.0, elevation 0.0, in-plane rotation 0.0 degrees, score 1.00"
    assert presenter.in_words(found) == [f"{photo}: {expected}"]
    table = Poses.from_csv(tmp_path / "out" / "poses.csv")
    np.testing.assert_allclose(rotation_viewpoint(table.R[0]), [330, 0, 0], atol=1e-4)
    assert table.name.tolist() == [photo.as_posix()] and np.isnan(table.t).all()


def test_a_teacher_is_no_model_for_photographs(photo, tmp_path):
    clouds = np.zeros((1, 4, 3))
    teacher = Predictor(lambda inputs: inputs, ViewpointDecoder(crop_size=32, names=("car/1",), clouds=clouds))
    with pytest.raises(DataError, match=r"found a teacher that looks at shapes too, expected .* the distilled student"):
        predict_images(CategoryPresenter(teacher), [photo], tmp_path / "out")


def test_the_command_takes_no_options_of_objects(predictor, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(Predictor, "from_onnx", lambda path, threads=None: predictor)
    words = ["predict", "model.onnx", str(photo), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == f"1 pose; poses.csv in {tmp_path / 'out'}"
    refused = CliRunner().invoke(cli.app, [*words, "--obj", "6"])
    assert str(refused.exception) == "--obj: found a model of categories, expected one of objects"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["evaluate", "--detection", "--detections", "d.json", "--dataset"], "expected a model of objects"),
        (["threshold", "--negatives", "photos", "--dataset"], "expected a model of objects"),
    ],
)
def test_commands_of_objects_name_the_file(predictor, tmp_path, monkeypatch, command, said):
    monkeypatch.setattr(Predictor, "from_onnx", lambda path, threads=None: predictor)
    name, *options = command
    refused = CliRunner().invoke(cli.app, [name, "turned.onnx", *options, str(tmp_path)])
    with pytest.raises(DataError, match=rf"^turned.onnx: 'family': found viewpoint, a model of categories, {said}"):
        raise refused.exception
