"""Novel views as a pack: poses that match the pictures, photographs of unknown depth, faults."""

import threading

import numpy as np
import pytest
from tests.data.room import Room

from posedistill.data.formats.open_scene import open_scene
from posedistill.data.formats.scene import CameraDataset, CameraFrame
from posedistill.data.packs.build import build_pack, read_fingerprint
from posedistill.data.packs.novel_views import Depths, NovelViews, NovelViewSettings
from posedistill.errors import DataError
from posedistill.geometry.cameras import Camera
from posedistill.geometry.rotations import angle_between


@pytest.fixture(scope="module")
def dataset(_scene_templates) -> CameraDataset:
    return open_scene(_scene_templates / "seven_scenes").take(np.arange(6))


@pytest.fixture
def settings(tmp_path) -> NovelViewSettings:
    (tmp_path / "points.onnx").write_bytes(b"points")
    return NovelViewSettings(points=tmp_path / "points.onnx", distance=0.2, turn=5.0, count=4)


def cast(room: Room, frame: CameraFrame) -> Depths:
    """Of every pixel of the photograph."""
    columns, rows = np.meshgrid(np.arange(frame.width, dtype=np.float64), np.arange(frame.height, dtype=np.float64))
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    points = room.points(pixels, frame.K, frame.R, frame.t) @ frame.R.T + frame.t
    return Depths(1.0 / points[:, 2].reshape(frame.height, frame.width), frame.K)


def test_views_are_what_their_poses_see(dataset, settings, made_room, tmp_path) -> None:
    pack = build_pack(NovelViews(dataset, 60, settings, lambda frame: cast(made_room, frame)), tmp_path / "pack")
    assert len(pack) == 4 * len(dataset)
    table, (height, width) = pack.instances, pack.one_size("test")
    centers = -np.einsum("nji,nj->ni", table.R, table.t)
    own = np.repeat(dataset.centers, 4, axis=0)
    distances = np.linalg.norm(centers - own, axis=1)
    assert distances.max() <= 0.2 + 1e-9 and len(np.unique(distances.round(6))) == len(pack)
    assert np.rad2deg(angle_between(table.R, np.repeat(dataset.R, 4, axis=0)).max()) <= 5 + 1e-6
    for row in range(0, len(pack), 5):
        picture = pack.frames[row, :height, :width, :3].astype(int)
        truth = made_room.picture(Camera(pack.K[row], width, height), table.R[row], table.t[row])
        photograph = made_room.picture(Camera(pack.K[row], width, height), dataset.R[row // 4], dataset.t[row // 4])
        shown = np.abs(picture - (124, 116, 104)).max(axis=2) > 2
        assert shown.mean() > 0.75
        ours, theirs = (np.median(np.abs(picture - other).mean(axis=2)[shown]) for other in (truth, photograph))
        assert ours < 8 and ours < 0.6 * theirs, (row, ours, theirs)


def test_a_photograph_of_unknown_depth_is_turned_and_told(dataset, settings, made_room, tmp_path) -> None:
    def depths(frame: CameraFrame) -> Depths | None:
        return None if frame is dataset.frames[2] else cast(made_room, frame)

    with pytest.warns(UserWarning, match="1 of 6 photographs show too few known points"):
        pack = build_pack(NovelViews(dataset, 60, settings, depths), tmp_path / "pack")
    centers = -np.einsum("nji,nj->ni", pack.instances.R, pack.instances.t)
    moved = np.linalg.norm(centers - np.repeat(dataset.centers, 4, axis=0), axis=1) > 1e-9
    assert moved.reshape(6, 4).all(axis=1).tolist() == [True, True, False, True, True, True]


def test_points_of_another_scene_are_refused_before_anything_is_drawn(dataset, settings, made_room) -> None:
    with pytest.raises(DataError, match=r"novel_views.*none of 6 photographs.*a network of this scene"):
        NovelViews(dataset, 60, settings, lambda frame: None).check()
    few = [dataset.frames[4]]
    NovelViews(dataset, 60, settings, lambda frame: cast(made_room, frame) if frame in few else None).check()


def test_each_photograph_is_asked_once_by_however_many_threads(dataset, settings, made_room, tmp_path) -> None:
    asked, lock = [], threading.Lock()

    def depths(frame: CameraFrame) -> Depths:
        with lock:
            asked.append(frame.image)
        return cast(made_room, frame)

    build_pack(NovelViews(dataset, 60, settings, depths), tmp_path / "pack", workers=8)
    assert sorted(asked) == sorted(frame.image for frame in dataset)


def test_a_build_that_goes_on_asks_no_finished_photograph_again(dataset, settings, made_room, tmp_path) -> None:
    asked = []

    def depths(frame: CameraFrame) -> Depths | None:
        asked.append(dataset.frames.index(frame))
        return None if asked[-1] == 1 else cast(made_room, frame)

    def broken_off(frame: CameraFrame) -> Depths | None:
        if frame is dataset.frames[3]:
            raise DataError("broken off")
        return depths(frame)

    with pytest.raises(DataError, match="broken off"):
        build_pack(NovelViews(dataset, 60, settings, broken_off), tmp_path / "pack", workers=1)
    finished = {0, 1, 2}
    assert finished <= set(asked)
    asked.clear()
    with pytest.warns(UserWarning, match="1 of 6 photographs show too few known points"):
        pack = build_pack(NovelViews(dataset, 60, settings, depths), tmp_path / "pack", workers=1)
    assert 3 in asked and not finished & set(asked) and len(set(asked)) == len(asked)
    with pytest.warns(UserWarning, match="1 of 6"):
        whole = build_pack(NovelViews(dataset, 60, settings, depths), tmp_path / "whole", workers=1)
    assert (pack.frames == whole.frames).all() and (pack.instances.t == whole.instances.t).all()


def test_another_file_of_points_or_distance_is_another_pack(dataset, settings, made_room, tmp_path) -> None:
    def built(chosen: NovelViewSettings) -> str | None:
        build_pack(NovelViews(dataset, 60, chosen, lambda frame: cast(made_room, frame)), tmp_path / "pack")
        return read_fingerprint(tmp_path / "pack")

    first = built(settings)
    assert built(settings.model_copy(update={"share": 0.2})) == first
    assert built(settings.model_copy(update={"distance": 0.3})) != first
    copied = settings.model_copy(update={"points": settings.points.with_name("copy.onnx")})
    copied.points.write_bytes(settings.points.read_bytes())
    assert built(copied) == first
    settings.points.write_bytes(b"other points")
    assert built(settings) != first
