"""Depths of photographs by points of their scene: those of the made room, some wrong; and of the kitchen."""

from pathlib import Path

import numpy as np
import pytest
from tests.data.room import Room
from tests.data.room_writer import write_made_scene

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.formats.scene import CameraDataset, CameraFrame
from posedistill.decode import SceneCoordinatesDecoder
from posedistill.decode.base import Arrays
from posedistill.errors import RecipeError
from posedistill.geometry.cameras import cell_centers
from posedistill.geometry.novel_view import resampled
from posedistill.runtime import Predictor
from posedistill.tasks.scene_depths import SceneDepths

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def made_room() -> Room:
    return Room(seed=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CameraDataset:
    """A walk through it."""
    root = tmp_path_factory.mktemp("scenes") / "room"
    write_made_scene(root, sequences=2, frames=5)
    return open_scene(root, calibration="colour")


def depths_of(
    monkeypatch: pytest.MonkeyPatch, room: Room, frame: CameraFrame, wrong: float
) -> tuple[SceneDepths, np.ndarray]:
    """What knows the room by its true points, but for a share of the cells; and their true depths ``[h, w]``."""
    decoder = SceneCoordinatesDecoder(shape=(frame.height, frame.width), short_side=frame.height, calibration="colour")
    pixels = cell_centers(*decoder.grid, decoder.stride)
    points = room.points(pixels, frame.K, frame.R, frame.t)
    depths = (points @ frame.R.T + frame.t)[:, 2].reshape(decoder.grid)
    rng = np.random.default_rng(0)
    stray = rng.random(len(points)) < wrong
    points[stray] = rng.uniform(0, 3, (int(stray.sum()), 3))
    outputs = {
        "points": points.T.reshape(1, 3, *decoder.grid).astype(np.float32),
        "confidence": np.ones((1, 1, *decoder.grid), np.float32),
    }

    def run(_: Arrays) -> Arrays:
        return outputs

    monkeypatch.setattr(Predictor, "from_onnx", lambda file: Predictor(run, decoder))
    return SceneDepths(Path("points.onnx"), "colour"), depths


@pytest.mark.parametrize("wrong", [0.0, 0.5])
def test_depths_are_those_of_the_room(dataset, made_room, monkeypatch, wrong: float) -> None:
    frame = dataset.frames[3]
    known, depths = depths_of(monkeypatch, made_room, frame, wrong)
    found = known(frame)
    assert found is not None
    errors = np.abs(found.inverse * depths - 1)
    assert np.median(errors) < (0.04 if wrong == 0 else 0.08)
    at_pixels = resampled(found.inverse, found.K, frame.K, (frame.height, frame.width))
    rows, columns = (cell_centers(*known.decoder.grid, 8) + 0.5).astype(int).T[::-1]
    inside = (rows < frame.height) & (columns < frame.width)
    near = np.abs(at_pixels[rows[inside], columns[inside]] * depths.ravel()[inside] - 1)
    assert np.median(near) < (0.04 if wrong == 0 else 0.1)


def test_a_photograph_that_no_point_agrees_with(dataset, made_room, monkeypatch) -> None:
    known, _ = depths_of(monkeypatch, made_room, dataset.frames[3], wrong=1.0)
    assert known(dataset.frames[3]) is None


def test_files_that_do_not_fit_are_refused(monkeypatch, made_room, dataset) -> None:
    with pytest.raises(RecipeError, match=r"novel_views\.points.*posenet.*scene_coordinates"):
        SceneDepths(MODELS / "redkitchen_posenet.onnx", "colour")
    depths_of(monkeypatch, made_room, dataset.frames[3], wrong=0.0)
    with pytest.raises(RecipeError, match=r"calibration colour, and data.calibration depth"):
        SceneDepths(Path("points.onnx"), "depth")


def test_the_kitchen_is_as_deep_as_a_kitchen(real_data: Path) -> None:
    """By the model in the repository; depths of two photographs, laid on one another, agree."""
    kitchen = open_scene(real_data / "7scenes/redkitchen", calibration="colour")
    known = SceneDepths(MODELS / "redkitchen.onnx", "colour")
    for row in (10, 150):
        first, second = kitchen.frames[row], kitchen.frames[row + 1]
        ours, theirs = known(first), known(second)
        assert ours is not None and theirs is not None
        assert 0.8 < 1 / np.median(ours.inverse) < 4
        pixels = cell_centers(*ours.inverse.shape, 1)
        rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(ours.K).T
        points = (rays / ours.inverse.reshape(-1, 1) - first.t) @ first.R @ second.R.T + second.t
        x, y = np.rint((points @ theirs.K.T)[:, :2] / points[:, 2:]).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < ours.inverse.shape[1]) & (y < ours.inverse.shape[0])
        assert inside.mean() > 0.5
        ratios = points[inside, 2] * theirs.inverse[y[inside], x[inside]]
        assert abs(np.median(ratios) - 1) < 0.05 and np.median(np.abs(ratios - 1)) < 0.1
