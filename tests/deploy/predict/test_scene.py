import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from posedistill import cli
from posedistill.data.images import read_image, write_image
from posedistill.decode import PoseNetDecoder, SceneCoordinatesDecoder
from posedistill.deploy.predict.base import predict_images
from posedistill.deploy.predict.scene import ScenePresenter
from posedistill.errors import DataError, PoseDistillError
from posedistill.geometry.cameras import Camera, cell_centers
from posedistill.poses import Poses
from posedistill.runtime import Predictor


@pytest.fixture
def predictor() -> Predictor:
    """The mean colour is the place."""

    def run(inputs):
        images = inputs["images"]
        rotation = np.repeat(np.array([[0.5, 0.5, -0.5, 0.5]]), len(images), axis=0)
        return {"position": images.mean(axis=(2, 3)), "rotation": rotation}

    return Predictor(
        run, PoseNetDecoder(shape=(30, 30), short_side=30, mean=(0.0,) * 3, std=(1.0,) * 3, rotation="quaternion")
    )


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a" / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        write_image(path, np.full((40, 60, 3), (51 * number, 102, 255), np.uint8))
    return paths


def test_table_and_picture(predictor, photos, tmp_path):
    found = predict_images(ScenePresenter(predictor), photos, tmp_path / "new" / "out")
    table = Poses.from_csv(tmp_path / "new" / "out" / "poses.csv")
    np.testing.assert_allclose(table.centers, [[0.2 * number, 0.4, 1.0] for number in range(3)], atol=1e-6)
    assert table.name.tolist() == [path.as_posix() for path in photos] and (table.seconds > 0).all()
    np.testing.assert_allclose(table.R[2], found[2].poses[0].R, atol=1e-6)
    assert read_image(tmp_path / "new" / "out" / "trajectory.png").shape == (640, 1280, 3)


def test_in_words(predictor, photos):
    presenter = ScenePresenter(predictor)
    (found,) = predict_images(presenter, photos[:1])
    (line,) = presenter.in_words(found)
    x, y, z = found.poses[0].direction
    assert line == f"{photos[0]}: at (0.00, 0.40, 1.00) m, looking along ({x:.2f}, {y:.2f}, {z:.2f})"
    assert np.isclose(np.abs(found.poses[0].direction).max(), 1)


def test_a_model_without_metres_says_units(predictor, photos, tmp_path):
    predict_images(ScenePresenter(predictor), photos, tmp_path / "metres")
    presenter = ScenePresenter(Predictor(predictor.run, replace(predictor.decoder, metric=False)))
    found = predict_images(presenter, photos, tmp_path / "units")
    assert "at (0.00, 0.40, 1.00) units, " in presenter.in_words(found[0])[0]
    units, metres = (read_image(tmp_path / name / "trajectory.png") for name in ("units", "metres"))
    assert (units != metres).any()


def test_a_damaged_image_loses_no_pose_found_before(predictor, photos, tmp_path):
    (tmp_path / "cut.png").write_bytes(photos[0].read_bytes()[:60])
    presenter = ScenePresenter(predictor)
    with pytest.raises(DataError, match=r"cut\.png: 'image': found a file cut off"):
        predict_images(presenter, [*photos[:2], tmp_path / "cut.png", photos[2]], tmp_path / "out")
    assert len(Poses.from_csv(tmp_path / "out" / "poses.csv")) == 2
    with pytest.raises(DataError, match=r"gone\.png"):
        predict_images(presenter, [tmp_path / "gone.png"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_command(camera_file, photos, tmp_path):
    words = ["predict", str(camera_file), *map(str, photos), "--out", str(tmp_path / "out"), "--threads", "1"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert len(lines) == 4 and all(f"{path}: at (" in line for path, line in zip(photos, lines, strict=False))
    expected = rf"3 poses in 3 pictures, [\d.]+ a second; poses.csv and trajectory.png in {tmp_path / 'out'}"
    assert re.fullmatch(expected, lines[-1])
    alone = CliRunner().invoke(cli.app, ["predict", str(camera_file), str(photos[0]), *words[-4:]])
    assert alone.output.splitlines()[-1].startswith("1 pose; ")
    refused = CliRunner().invoke(cli.app, [*words, "--box", "6:1,2,3,4", "--obj", "6"])
    assert str(refused.exception) == "--box, --obj: found a model of a scene, expected one of objects"


K = np.array([[48.0, 0, 31.5], [0, 48.0, 23.5], [0, 0, 1]])


@pytest.fixture
def coordinates() -> Predictor:
    """Whatever is bright shows a wall two metres ahead of a camera at the origin; nothing dark is recognised."""
    decoder = SceneCoordinatesDecoder(
        shape=(48, 64), short_side=48, camera=Camera(K, 64, 48), score_curve=(20.0, -10.0)
    )
    pixels = np.concatenate([cell_centers(6, 8, 8), np.ones((48, 1))], axis=1)
    points = (2 + 0.1 * np.arange(48)[:, None] % 0.7) * (pixels @ np.linalg.inv(K).T)

    def run(inputs):
        bright = (inputs["images"].mean(axis=(1, 2, 3)) > 0).astype(np.float32)
        confidence = np.broadcast_to(bright[:, None, None, None], (len(bright), 1, 6, 8))
        return {"points": np.repeat(points.T.reshape(1, 3, 6, 8), len(bright), axis=0), "confidence": confidence}

    return Predictor(run, decoder)


def test_a_place_that_is_not_recognised_is_said_so(coordinates, tmp_path):
    paths = [tmp_path / "wall.png", tmp_path / "night.png"]
    for path, level in zip(paths, (250, 5), strict=True):
        write_image(path, np.full((96, 128, 3), level, np.uint8))
    presenter = ScenePresenter(coordinates)
    found = predict_images(presenter, paths, tmp_path / "out")
    assert presenter.in_words(found[0]) == [
        f"{paths[0]}: at (0.00, 0.00, 0.00) m, looking along (0.00, 0.00, 1.00), score 1.00"
    ]
    assert presenter.in_words(found[1]) == [
        f"{paths[1]}: not recognised: too little of the picture looks like the scene"
    ]
    table = Poses.from_csv(tmp_path / "out" / "poses.csv")
    assert table.found.tolist() == [True, False]


def test_a_camera_of_ones_own_and_a_score_to_reach(coordinates, tmp_path):
    path = tmp_path / "wall.png"
    write_image(path, np.full((100, 100, 3), 250, np.uint8))
    options = dict.fromkeys(("--box", "--detections", "--obj", "--models"))
    with pytest.raises(DataError, match=r"wall.png: request: 'image': found 100x100, expected the aspect of 64x48"):
        predict_images(
            ScenePresenter.from_options(coordinates, options | {"--camera": "", "--threshold": None}), [path]
        )
    told = options | {"--camera": "75,75,49.5,49.5", "--threshold": 0.5}
    with pytest.raises(DataError, match="expected 64x48 at least"):
        predict_images(ScenePresenter.from_options(coordinates, told), [path])
    write_image(path, np.full((96, 128, 3), 250, np.uint8))
    told["--camera"] = "96,96,63.5,47.5"
    (found,) = predict_images(ScenePresenter.from_options(coordinates, told), [path])
    assert len(found.poses) == 1
    (found,) = predict_images(ScenePresenter.from_options(coordinates, told | {"--threshold": 1.0}), [path])
    assert not found.poses
    unlikely = replace(coordinates.decoder, score_curve=(20.0, -23.0))  # of a share of 1 a probability of 0.05
    doubtful = Predictor(coordinates.run, unlikely)
    for given, poses in ((None, 0), (0.0, 1)):
        presenter = ScenePresenter.from_options(doubtful, told | {"--threshold": given})
        assert len(predict_images(presenter, [path])[0].poses) == poses
    with pytest.raises(PoseDistillError, match="--obj: found a model of a scene"):
        ScenePresenter.from_options(coordinates, told | {"--obj": [1]})


def test_a_network_that_knows_one_camera_takes_none(predictor):
    options = dict.fromkeys(("--box", "--detections", "--obj", "--models", "--threshold"))
    with pytest.raises(PoseDistillError, match="--camera: found a model of a scene"):
        ScenePresenter.from_options(predictor, options | {"--camera": "1,2,3,4"})
