"""Depths of photographs by points of their scene: those of the made room, some wrong; and of the kitchen."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.room import Room
from tests.data.room_writer import write_made_scene

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.formats.scene import CameraDataset, CameraFrame
from posedistill.data.images import read_image, write_image
from posedistill.decode import SceneCoordinatesDecoder
from posedistill.decode.base import Arrays, Request
from posedistill.errors import RecipeError
from posedistill.geometry.cameras import cell_centers, scaled_camera
from posedistill.geometry.novel_view import resampled
from posedistill.geometry.photographs import pinhole
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
    monkeypatch: pytest.MonkeyPatch, room: Room, frame: CameraFrame, wrong: float, **looks: object
) -> tuple[SceneDepths, np.ndarray]:
    """What knows the room by its true points, but for a share of the cells; and their true depths ``[h, w]``.

    Half of the wrong cells are sure of points elsewhere, the others are unsure of points on their rays.
    """
    looks = {"shape": (frame.height, frame.width), "short_side": frame.height} | looks
    decoder = SceneCoordinatesDecoder(calibration="colour", **looks)
    request = Request(read_image(frame.image), frame.K, distortion=frame.distortion)
    pixels, K = cell_centers(*decoder.grid, decoder.stride), decoder.prepare(request).K[0]
    points = room.points(pixels, K, frame.R, frame.t)
    depths = (points @ frame.R.T + frame.t)[:, 2].reshape(decoder.grid)
    chance = np.random.default_rng(0).random(len(points))
    stray, unsure = chance < wrong / 2, (chance >= wrong / 2) & (chance < wrong)
    points[stray] = np.random.default_rng(1).uniform(0, 3, (int(stray.sum()), 3))
    center = -frame.R.T @ frame.t
    points[unsure] = center + 3 * (points[unsure] - center)
    confidence = np.where(unsure, 1e-3, 1.0).reshape(1, 1, *decoder.grid).astype(np.float32)
    outputs = {"points": points.T.reshape(1, 3, *decoder.grid).astype(np.float32), "confidence": confidence}

    def run(_: Arrays) -> Arrays:
        return outputs

    monkeypatch.setattr(Predictor, "from_onnx", lambda file: Predictor(run, decoder))
    return SceneDepths(Path("points.onnx"), "colour"), depths


@pytest.mark.parametrize("looks", [{}, {"shape": (48, 64), "short_side": 56}])
@pytest.mark.parametrize("wrong", [0.0, 0.5])
def test_depths_are_those_of_the_room(dataset, made_room, monkeypatch, wrong: float, looks: dict[str, Any]) -> None:
    """Also of a network that sees a part of the photograph, smaller."""
    frame = dataset.frames[3]
    known, depths = depths_of(monkeypatch, made_room, frame, wrong, **looks)
    found = known(frame)
    assert found is not None
    assert np.median(np.abs(found.inverse * depths - 1)) < (0.06 if wrong == 0 else 0.12)
    at_pixels = resampled(found.inverse, found.K, frame.K, (frame.height, frame.width))
    pixels = cell_centers(frame.height, frame.width, 1)
    seen = (made_room.points(pixels, frame.K, frame.R, frame.t) @ frame.R.T + frame.t)[:, 2]
    middle = (np.abs(pixels - frame.K[:2, 2]) < 20).all(axis=1)
    assert np.median(np.abs(at_pixels.ravel() * seen - 1)[middle]) < (0.06 if wrong == 0 else 0.12)


def test_a_lens_is_taken_out(dataset, made_room, monkeypatch) -> None:
    """Cells are those of the straightened picture: a strong lens that is ignored would move the outer ones."""
    frame = replace(dataset.frames[3], distortion=(0.25, 0.1))
    known, depths = depths_of(monkeypatch, made_room, frame, wrong=0.0)
    found = known(frame)
    assert found is not None
    straight = scaled_camera(pinhole(frame.K, frame.distortion, frame.size), (8, 8), (1, 1))
    np.testing.assert_allclose(found.K, straight)
    assert np.median(np.abs(found.inverse * depths - 1)) < 0.06


def test_one_cell_cannot_be_right_before_ones_nose(dataset, made_room, monkeypatch) -> None:
    frame = dataset.frames[3]
    known, _ = depths_of(monkeypatch, made_room, frame, wrong=0.0)
    run = known.predictor.run

    def nearer(arrays: Arrays) -> Arrays:
        outputs = {name: value.copy() for name, value in run(arrays).items()}
        center = -frame.R.T @ frame.t
        outputs["points"][0, :, 4, 7] = center + 1e-3 * (outputs["points"][0, :, 4, 7] - center)
        return outputs

    plain = known(frame)
    known.predictor.run = nearer
    found = known(frame)
    assert plain is not None and found is not None
    assert found.inverse.max() < 6 * np.median(plain.inverse)


def test_a_photograph_of_another_aspect_is_unknown(dataset, made_room, monkeypatch, tmp_path) -> None:
    frame = dataset.frames[3]
    known, _ = depths_of(monkeypatch, made_room, frame, wrong=0.0)
    write_image(tmp_path / "upright.png", np.zeros((frame.width, frame.height, 3), np.uint8))
    assert known(replace(frame, image=tmp_path / "upright.png", width=frame.height, height=frame.width)) is None


def test_a_photograph_that_no_point_agrees_with(dataset, made_room, monkeypatch) -> None:
    known, _ = depths_of(monkeypatch, made_room, dataset.frames[3], wrong=0.0)
    assert known(dataset.frames[0]) is None


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
