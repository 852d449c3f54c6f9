"""A small BOP data set of two boxes, drawn with OpenCV and written by the package's own writer."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tests.data.room import Recording, Room, pinhole
from tests.data.room_writer import write_cambridge, write_seven_scenes

from posedistill.data.formats.bop_writer import BopWriter, write_camera, write_models
from posedistill.data.formats.scene import CameraFrame
from posedistill.geometry.cameras import project
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.rotations import random_rotations

K = np.array([[300.0, 0.0, 79.5], [0.0, 300.0, 59.5], [0.0, 0.0, 1.0]])
SIZE = (160, 120)
SCENES = {1: range(0, 3), 4: range(10, 12)}


def box_mesh(size: tuple[float, float, float]) -> Mesh:
    """A box around the origin, two triangles a side."""
    bits = (np.arange(8)[:, None] >> np.array([2, 1, 0])) & 1
    vertices = (bits - 0.5) * np.array(size)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))])
    colors = np.full((8, 3), 200, dtype=np.uint8)
    return Mesh(vertices, faces, colors, None, None, vertices / np.linalg.norm(vertices, axis=1, keepdims=True))


MESHES = {2: box_mesh((60.0, 40.0, 30.0)), 7: box_mesh((30.0, 50.0, 70.0))}


def draw_frame(seed: int) -> dict[str, Any]:
    """Arguments of ``BopWriter.add_frame`` for two objects, one before the other, and a second instance of object 2."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
    poses, masks, depth = [], [], np.zeros(SIZE[::-1], dtype=np.float32)
    places = [(2, (-60.0, 0.0, 700.0)), (7, (-10.0, 10.0, 600.0)), (2, (90.0, 20.0, 650.0))]
    for (obj_id, place), R in zip(places, random_rotations(len(places), rng), strict=True):
        t = np.array(place) + rng.uniform(-5.0, 5.0, 3)
        hull = cv2.convexHull(project(MESHES[obj_id].vertices, R, t, K).astype(np.float32))
        mask = cv2.fillConvexPoly(np.zeros(SIZE[::-1], dtype=np.uint8), np.rint(hull).astype(np.int32), 1).astype(bool)
        poses.append((obj_id, R, t))
        masks.append(mask)
    visible = [mask.copy() for mask in masks]
    visible[0] &= ~masks[1]
    for (obj_id, _, t), mask in zip(poses, visible, strict=True):
        image[mask] = (40 * obj_id % 255, 200, 90)
        depth[mask] = t[2]
    return {
        "image": image,
        "K": K,
        "poses": poses,
        "depth_mm": depth,
        "masks": masks,
        "masks_visib": visible,
    }


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bop") / "boxes"
    writer = BopWriter(root, "test")
    for scene_id, im_ids in SCENES.items():
        for im_id in im_ids:
            writer.add_frame(scene_id, im_id, **draw_frame(im_id))
        writer.finish_scene(scene_id)
    write_models(root, MESHES, "models_eval")
    write_camera(root, K, *SIZE)
    return root


@pytest.fixture
def bop_root(_template: Path, tmp_path: Path) -> Path:
    """A private copy of the data set: scenes 1 (images 0, 1, 2) and 4 (images 10, 11), objects 2, 7, 2 in each."""
    return Path(shutil.copytree(_template, tmp_path / "boxes"))


@pytest.fixture
def edit_json() -> Callable[[Path, Callable[[Any], Any]], None]:
    """``edit_json(path, change)`` rewrites a json file; ``change`` alters its content in place."""

    def edit(path: Path, change: Callable[[Any], Any]) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


@pytest.fixture(scope="session")
def made_room() -> Room:
    """The room whose recordings the two fixtures below hold."""
    return Room("room", seed=0)


@pytest.fixture(scope="session")
def recordings(made_room: Room) -> list[Recording]:
    """Three short walks through the made room."""
    return [made_room.record(pinhole(), 6, seed) for seed in range(3)]


@pytest.fixture(scope="session")
def _scene_templates(recordings: list[Recording], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cameras")
    write_seven_scenes(root / "seven_scenes", recordings, test=[2])
    write_cambridge(root / "cambridge", recordings, test=[2])
    return root


@pytest.fixture
def seven_scenes_root(_scene_templates: Path, tmp_path: Path) -> Path:
    """A private copy of the made scene as 7-Scenes: seq-01 and seq-02 to train on, seq-03 to test, 6 frames each."""
    return Path(shutil.copytree(_scene_templates / "seven_scenes", tmp_path / "seven_scenes"))


@pytest.fixture
def cambridge_root(_scene_templates: Path, tmp_path: Path) -> Path:
    """The same as Cambridge Landmarks."""
    return Path(shutil.copytree(_scene_templates / "cambridge", tmp_path / "cambridge"))


@dataclass(frozen=True)
class KnownView:
    """A camera at (1, 2, 3) that looks along the world's x with z up, and what it must see, all worked out by hand."""

    center: tuple[float, float, float] = (1.0, 2.0, 3.0)
    right: tuple[float, float, float] = (0.0, -1.0, 0.0)
    down: tuple[float, float, float] = (0.0, 0.0, -1.0)
    forward: tuple[float, float, float] = (1.0, 0.0, 0.0)
    quaternion: tuple[float, float, float, float] = (0.5, 0.5, -0.5, 0.5)
    """World to camera."""
    t: tuple[float, float, float] = (2.0, 3.0, -1.0)
    point: tuple[float, float, float] = (3.0, 1.5, 3.25)
    """Two ahead, half to the right, a quarter above."""

    def check(self, frame: CameraFrame) -> None:
        """The frame's pose shows the point where it must be seen."""
        f, _, cx = frame.K[0]
        seen = project(np.array([self.point]), frame.R, frame.t, frame.K)[0]
        np.testing.assert_allclose(seen, [cx + f / 4, frame.K[1, 2] - frame.K[1, 1] / 8], atol=1e-9)
        np.testing.assert_allclose(frame.center, self.center, atol=1e-9)

    def camera_to_world(self, opengl: bool = False) -> np.ndarray:
        sign = -1.0 if opengl else 1.0
        columns = [self.right, sign * np.array(self.down), sign * np.array(self.forward), self.center]
        return np.vstack([np.stack(columns, axis=1), [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def known_view() -> KnownView:
    """One view whose projection was worked out by hand."""
    return KnownView()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, int]]:
    """``opened(read, root)``: how often reading both splits opens each file of ``root`` that is no image."""

    def count(read: Callable[[Path, str], Any], root: Path) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for path in root.rglob("*"):
            os.utime(path, (0, 0))  # as old as downloaded data

        def read_bytes(path: Path, plain: Callable[[Path], bytes] = Path.read_bytes) -> bytes:
            if path.suffix not in (".png", ".jpg"):
                counts[path.relative_to(root).as_posix()] += 1
            return plain(path)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", read_bytes)
            for split in ("train", "test"):
                read(root, split)
        return counts

    return count
