import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset, read_depth
from posedistill.data.formats.bop_writer import BopWriter, mask_box, write_camera, write_models
from posedistill.data.images import read_image, read_mask
from posedistill.errors import DataError
from posedistill.files import write_file
from posedistill.geometry.meshes import Mesh, load_mesh, save_ply

K = np.array([[300.0, 0.0, 20.0], [0.0, 310.0, 15.0], [0.0, 0.0, 1.0]])


def frame(value: int = 100, depth: float = 500.0) -> dict[str, Any]:
    """One object, half of it seen."""
    mask = np.zeros((30, 40), dtype=bool)
    mask[5:15, 10:20] = True
    visible = mask.copy()
    visible[:, :15] = False
    pose = (3, np.eye(3), np.array([0.0, 0.0, depth]))
    depth_mm = np.where(mask, depth, 0.0).astype(np.float32)
    image = np.full((30, 40, 3), value, dtype=np.uint8)
    return {"image": image, "K": K, "poses": [pose], "depth_mm": depth_mm, "masks": [mask], "masks_visib": [visible]}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    writer = BopWriter(tmp_path, "train", jpeg_quality=None)
    written = frame()
    written["image"][3, 7] = (1, 2, 3)
    writer.add_frame(2, 5, **written)
    assert writer.finish_scene(2) == 1
    read = BopDataset(tmp_path, split="train").frame(2, 5)
    np.testing.assert_array_equal(read_image(read.rgb), written["image"])
    np.testing.assert_array_equal(read.K, K)
    np.testing.assert_array_equal(read_depth(read), written["depth_mm"])
    (instance,) = read.instances
    np.testing.assert_array_equal(instance.R, np.eye(3))
    np.testing.assert_array_equal(instance.t, [0.0, 0.0, 500.0])
    assert instance.obj_id == 3 and instance.visib_fract == 0.5
    assert instance.bbox_obj is not None and instance.bbox_obj.tolist() == [10, 5, 9, 9]
    assert instance.bbox_visib is not None and instance.bbox_visib.tolist() == [15, 5, 4, 9]
    assert instance.mask is not None and (read_mask(instance.mask) == written["masks"][0]).all()
    assert instance.mask_visib is not None and (read_mask(instance.mask_visib) == written["masks_visib"][0]).all()
    info = json.loads((tmp_path / "train" / "000002" / "scene_gt_info.json").read_text())["5"][0]
    assert (info["px_count_all"], info["px_count_valid"], info["px_count_visib"]) == (100, 100, 50)


def test_hidden_objects_and_frames_without_any(tmp_path: Path) -> None:
    writer = BopWriter(tmp_path, "train")
    hidden = frame()
    hidden["masks_visib"] = [np.zeros((30, 40), dtype=bool)]
    writer.add_frame(0, 0, **hidden)
    writer.add_frame(0, 1, **{**frame(), "poses": [], "masks": [], "masks_visib": [], "depth_mm": None})
    writer.finish_scene(0)
    first, second = BopDataset(tmp_path, split="train").frames
    assert first.instances[0].bbox_visib is None and first.instances[0].visib_fract == 0.0
    assert second.instances == () and second.depth is None


def test_depth_beyond_six_metres_changes_its_scale(tmp_path: Path) -> None:
    writer = BopWriter(tmp_path, "train")
    writer.add_frame(0, 0, **frame(depth=6000.04))
    writer.add_frame(0, 1, **frame(depth=20_000.4))
    writer.finish_scene(0)
    near, far = BopDataset(tmp_path, split="train").frames
    assert (near.depth_scale, far.depth_scale) == (0.1, 1.0)
    assert read_depth(near).max() == pytest.approx(6000.0, abs=0.01)
    assert read_depth(far).max() == 20_000.0


def test_jpeg_quality(tmp_path: Path) -> None:
    noisy = frame()
    noisy["image"] = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for quality in (30, 95):
        BopWriter(tmp_path, f"q{quality}", quality).add_frame(0, 0, **noisy)
    low, high = ((tmp_path / name / "000000" / "rgb" / "000000.jpg").stat().st_size for name in ("q30", "q95"))
    assert low < high


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    writer = BopWriter(tmp_path, "train")
    with pytest.raises(ValueError, match="1 poses, 0 masks"):
        writer.add_frame(0, 0, **{**frame(), "masks": []})
    with pytest.raises(ValueError, match="uint8"):
        writer.add_frame(0, 0, **{**frame(), "image": np.zeros((30, 40, 3))})
    with pytest.raises(ValueError, match="masks and depth"):
        writer.add_frame(0, 0, **{**frame(), "depth_mm": np.zeros((3, 4), dtype=np.float32)})
    assert not writer.has_frame(0, 0) and not writer.split.exists()


def test_scenes_grow_and_merge_again(tmp_path: Path) -> None:
    writer = BopWriter(tmp_path, "train")
    writer.add_frame(1, 1, **frame())
    assert writer.has_frame(1, 1) and not writer.has_frame(1, 0)
    with pytest.raises(DataError, match=r"scene_camera.json"):
        BopDataset(tmp_path, split="train")
    assert writer.finish_scene(1) == 1
    assert writer.has_frame(1, 1) and not writer.has_frame(1, 0)
    writer.add_frame(1, 0, **frame())
    assert BopWriter(tmp_path, "train").has_frame(1, 0)
    assert writer.finish_scene(1) == 2 == writer.finish_scene(1)
    assert [read.im_id for read in BopDataset(tmp_path, split="train").frames] == [0, 1]
    assert not list(tmp_path.rglob(".*"))


def test_a_frame_written_again_replaces_the_old_one(tmp_path: Path) -> None:
    writer = BopWriter(tmp_path, "train", jpeg_quality=None)
    for value in (10, 200):
        writer.add_frame(0, 0, **frame(value))
        writer.finish_scene(0)
    assert read_image(BopDataset(tmp_path, split="train").frames[0].rgb).max() == 200


def _write_range(root: Path, im_ids: range) -> None:
    writer = BopWriter(root, "train")
    for im_id in im_ids:
        writer.add_frame(0, im_id, **frame(im_id))


def test_processes_share_a_scene(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        list(pool.map(_write_range, [tmp_path] * 2, [range(0, 20), range(20, 40)]))
    assert BopWriter(tmp_path, "train").finish_scene(0) == 40
    assert len(BopDataset(tmp_path, split="train")) == 40


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_bop_writer import BopWriter, frame
writer = BopWriter(Path({root!r}), "train")
for im_id in range(100_000):
    writer.add_frame(0, im_id, **frame())
"""


def test_complete_frames_outlive_kill_9(tmp_path: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script])
    writer = BopWriter(tmp_path, "train")
    try:
        deadline = time.monotonic() + 60
        while not writer.has_frame(0, 5) and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = 0
    while writer.has_frame(0, done):
        done += 1
    assert done >= 6
    for im_id in range(done + 3):
        if not writer.has_frame(0, im_id):
            writer.add_frame(0, im_id, **frame())
    (writer.scene_folder(0) / "mask" / ".000000_000000.png.77.part").write_bytes(b"half a mask")
    assert writer.finish_scene(0) == done + 3
    assert not list(tmp_path.rglob("*.part")), "what killed writers leave is taken away"
    dataset = BopDataset(tmp_path, split="train")
    assert len(dataset) == done + 3
    for read in dataset.frames:
        assert read_image(read.rgb).shape == (30, 40, 3)
        assert read_mask(read.instances[0].mask_visib).sum() == 50  # type: ignore[arg-type]


def test_a_kill_while_merging_is_mended_by_merging_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = BopWriter(tmp_path, "train")
    for im_id in range(3):
        writer.add_frame(0, im_id, **frame())
    writer.finish_scene(0)
    writer.add_frame(0, 3, **frame())

    def killed(path: Path, data: str) -> None:
        if path.name == "scene_camera.json":
            raise KeyboardInterrupt
        write_file(path, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("posedistill.data.formats.bop_writer.write_file", killed)
        writer.finish_scene(0)
    assert len(BopDataset(tmp_path, split="train")) == 3, "the data set is whole at any moment"
    assert BopWriter(tmp_path, "train").finish_scene(0) == 4


def test_a_full_disk_keeps_what_is_complete(tmp_path: Path) -> None:
    writer = BopWriter(tmp_path, "train", jpeg_quality=None)
    writer.add_frame(0, 0, **frame(10))
    noisy = {**frame(), "image": np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"000001.png: 'file': found .*, expected a writable disk"):
            writer.add_frame(0, 1, **noisy)
        with pytest.raises(DataError, match=r"000000.png"):
            writer.add_frame(0, 0, **noisy)
        with pytest.raises(DataError, match="models"):
            write_models(tmp_path, {1: _tetrahedron(50)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert writer.has_frame(0, 0) and not writer.has_frame(0, 1)
    assert writer.finish_scene(0) == 1
    assert read_image(BopDataset(tmp_path, split="train").frames[0].rgb).max() == 10
    assert not list(tmp_path.rglob(".*")), "no temporary file is left"


def _tetrahedron(copies: int = 1) -> Mesh:
    vertices = np.tile(np.array([[0.0, 0, 0], [30, 0, 0], [0, 40, 0], [0, 0, 10]]), (copies, 1))
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    return Mesh(vertices, faces, np.full((len(vertices), 3), 90, np.uint8), None, None, np.full_like(vertices, 0.577))


def test_models_and_camera(tmp_path: Path) -> None:
    turn = np.diag([-1.0, -1.0, 1.0, 1.0]).ravel().tolist()
    write_models(tmp_path, {4: _tetrahedron(), 2: _tetrahedron()}, infos={4: {"symmetries_discrete": [turn]}})
    write_camera(tmp_path, K, 40, 30)
    writer = BopWriter(tmp_path, "train")
    writer.add_frame(0, 0, **{**frame(), "poses": [(4, np.eye(3), np.array([0.0, 0.0, 300.0]))]})
    writer.finish_scene(0)
    dataset = BopDataset(tmp_path, split="train")
    assert list(dataset.models_info) == [2, 4]
    assert dataset.models_info[2]["diameter"] == pytest.approx(50.0)
    assert [len(symmetries) for symmetries in dataset.objects().symmetries] == [1, 2]
    np.testing.assert_allclose(load_mesh(dataset.mesh_path(4)).vertices.max(axis=0), [30, 40, 10])
    camera = json.loads((tmp_path / "camera.json").read_text())
    assert (camera["fx"], camera["fy"], camera["cx"], camera["width"]) == (300.0, 310.0, 20.0, 40)


def test_textures_lie_beside_their_meshes(tmp_path: Path) -> None:
    plain = _tetrahedron()
    uv, texture = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]]), np.full((4, 4, 3), 70, dtype=np.uint8)
    write_models(tmp_path, {1: Mesh(plain.vertices, plain.faces, None, uv, texture, plain.normals)})
    names = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert names == ["models_info.json", "obj_000001.ply", "obj_000001.png"]


def test_leftovers_of_a_killed_write_models_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / ".models.partial").mkdir()
    save_ply(_tetrahedron(), tmp_path / ".models.partial" / "obj_000009.ply")
    write_models(tmp_path, {1: _tetrahedron()})
    assert not (tmp_path / "models" / "obj_000009.ply").exists()


def test_mask_box() -> None:
    mask = np.zeros((6, 8), dtype=np.uint8)
    assert mask_box(mask.astype(bool)) == [-1, -1, -1, -1]
    cv2.rectangle(mask, (2, 1), (5, 4), 1, cv2.FILLED)
    assert mask_box(mask.astype(bool)) == [2, 1, 3, 3]
