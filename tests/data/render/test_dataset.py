import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from posedistill.data.formats.bop import BopDataset, read_depth
from posedistill.data.images import read_image, read_mask
from posedistill.data.render import dataset as rendering
from posedistill.data.render.dataset import RenderSettings, render_dataset
from posedistill.data.render.shapes import Pattern, assemble, superquadric
from posedistill.data.render.studio import Frame, Studio, render_frame
from posedistill.errors import DataError, RecipeError
from posedistill.geometry.cameras import project
from posedistill.geometry.meshes import Mesh

SETTINGS = RenderSettings(
    width=160, height=120, distractors=(0, 0), objects_per_image=(1, 2), distance=(400, 700), ambient_occlusion=False
)
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_dataset import MESHES, SETTINGS
from posedistill.data.render.dataset import render_dataset
if __name__ == "__main__":
    render_dataset(MESHES, None, Path(sys.argv[1]), SETTINGS, int(sys.argv[2]), seed=3, workers=2)
"""


def plain(*color: float) -> Pattern:
    return lambda points: np.broadcast_to(np.array(color), points.shape)


MESHES: dict[int, Mesh] = {
    4: assemble([(superquadric((50, 35, 25), (0.1, 0.1), 8), plain(0.8, 0.2, 0.1))]),
    9: assemble([(superquadric((30, 30, 55), cells=10), plain(0.1, 0.3, 0.8))]),
}


def files_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "preview" not in path.name
    }


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rendered")
    render_dataset(MESHES, None, root, SETTINGS, 12, seed=3, workers=1)
    return root


def test_the_set_reads_back_as_bop_and_agrees_with_its_poses(rendered: Path) -> None:
    dataset = BopDataset(rendered, split="train_render")
    assert len(dataset.frames) == 12
    assert sorted(dataset.models_info) == [4, 9]
    for frame in dataset.frames:
        image, depth = read_image(frame.rgb), read_depth(frame)
        assert image.shape == (120, 160, 3)
        assert depth is not None
        for instance in frame.instances:
            mask, visible = read_mask(instance.mask), read_mask(instance.mask_visib)
            assert not (visible & ~mask).any()
            assert instance.visib_fract >= 0.1
            pixels = project(MESHES[instance.obj_id].vertices, instance.R, instance.t, frame.K)
            hull = cv2.convexHull(np.rint(pixels).astype(np.int32))
            filled = cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), hull, 1) > 0
            # Both bodies are convex: the silhouette is the hull of the projected vertices, to a pixel of rim.
            core = cv2.erode(filled.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) > 0
            assert not (mask & ~filled).any()
            assert not (core & ~mask).any()
            nearest = (MESHES[instance.obj_id].vertices @ instance.R.T + instance.t)[:, 2]
            assert depth[visible].min() > nearest.min() - 0.2
            assert depth[visible].max() < nearest.max() + 0.2


def test_objects_look_like_their_mesh_and_unlike_the_background() -> None:
    studio = Studio(MESHES, SETTINGS.model_copy(update={"material_jitter": 0.0, "camera_jitter": 0.0}), 0)
    seen: dict[int, list[np.ndarray]] = {4: [], 9: []}
    for index in range(12):
        frame = render_frame(studio, index)
        for (obj_id, _, _), visible in zip(frame.poses, frame.masks_visib, strict=True):
            seen[obj_id].append(frame.image[visible].mean(axis=0))
    red, blue = np.mean(seen[4], axis=0), np.mean(seen[9], axis=0)
    assert red[0] > red[2] + 40
    assert blue[2] > blue[0] + 40


def test_visible_masks_are_disjoint_and_cover_the_depth() -> None:
    settings = SETTINGS.model_copy(update={"objects_per_image": (2, 2), "distractors": (1, 3)})
    studio = Studio(MESHES, settings, 1)
    hidden = 0
    for index in range(12):
        frame = render_frame(studio, index)
        assert np.sum(frame.masks_visib, axis=0).max() <= 1
        for mask, visible in zip(frame.masks, frame.masks_visib, strict=True):
            assert (frame.depth[mask] > 0).all()
            assert visible.sum() >= settings.min_visible * mask.sum()
            hidden += bool(visible.sum() < mask.sum())
    assert hidden >= 3


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(rendered: Path, tmp_path: Path) -> None:
    report = render_dataset(MESHES, None, tmp_path, SETTINGS, 12, seed=3, workers=2)
    assert report.images == 12
    assert report.workers == 2
    assert files_of(tmp_path) == files_of(rendered)


def test_another_seed_gives_other_frames() -> None:
    frames: list[Frame] = [render_frame(Studio(MESHES, SETTINGS, seed), 0) for seed in (0, 1)]
    assert np.abs(frames[0].image.astype(int) - frames[1].image).mean() > 5


def test_a_set_is_enlarged_without_touching_what_is_there(rendered: Path, tmp_path: Path) -> None:
    counts: list[tuple[int, int]] = []
    assert render_dataset(MESHES, None, tmp_path, SETTINGS, 5, seed=3, workers=1).images == 5
    before = (tmp_path / "train_render/000000/rgb/000002.jpg").stat().st_mtime_ns
    report = render_dataset(
        MESHES, None, tmp_path, SETTINGS, 12, seed=3, workers=1, progress=lambda *pair: counts.append(pair)
    )
    assert report.images == 7
    assert counts == [(done, 12) for done in range(6, 13)]
    assert (tmp_path / "train_render/000000/rgb/000002.jpg").stat().st_mtime_ns == before
    assert files_of(tmp_path) == files_of(rendered)
    assert render_dataset(MESHES, None, tmp_path, SETTINGS, 12, seed=3, workers=1).images == 0


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_killed_run_resumes_to_the_same_bytes(name: str, rendered: Path, tmp_path: Path) -> None:
    script, root = tmp_path / "script.py", tmp_path / "set"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    process = subprocess.Popen(
        [sys.executable, str(script), str(root), "4000"],
        stderr=subprocess.DEVNULL,
        # A shell starts background jobs, and so perhaps this test, with the interrupt ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(list(root.glob("train_render/000000/.annotations/*.json"))) < 3:
        assert time.monotonic() < deadline, "no frame within a minute"
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    assert process.wait(timeout=30) != 0
    time.sleep(0.3)  # the workers of a killed parent notice and leave
    found = len(list(root.glob("train_render/000000/.annotations/*.json")))
    time.sleep(0.3)
    assert len(list(root.glob("train_render/000000/.annotations/*.json"))) == found < 4000
    report = render_dataset(MESHES, None, root, SETTINGS, 12, seed=3, workers=1)
    assert report.images < 12
    wanted = files_of(rendered)
    kept = files_of(root)
    images = [path for path in wanted if "/000000/" in path and not path.endswith(".json")]
    assert len(images) > 40
    assert all(kept[path] == wanted[path] for path in images)
    for file in ("scene_gt.json", "scene_gt_info.json", "scene_camera.json"):
        whole, first = (json.loads((r / "train_render/000000" / file).read_text()) for r in (root, rendered))
        assert {key: whole[key] for key in first} == first


def test_a_contact_sheet_is_written(rendered: Path) -> None:
    sheet = cv2.imread(str(rendered / "train_render_preview.jpg"))
    assert sheet is not None
    assert sheet.shape == (3 * 300, 4 * 400, 3)
    assert sheet.std() > 10


def test_a_folder_of_other_renders_is_refused(rendered: Path) -> None:
    with pytest.raises(RecipeError, match="'seed': found 3, expected 4"):
        render_dataset(MESHES, None, rendered, SETTINGS, 12, seed=4, workers=1)
    with pytest.raises(RecipeError, match="'width'"):
        render_dataset(MESHES, None, rendered, SETTINGS.model_copy(update={"width": 200}), 12, seed=3, workers=1)
    with pytest.raises(RecipeError, match=r"'shape of object 9': found [0-9a-f]{16}, expected nothing, or another out"):
        render_dataset({4: MESHES[4]}, None, rendered, SETTINGS, 12, seed=3, workers=1)


def test_a_folder_of_other_looks_or_symmetries_is_refused(rendered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(rendered)
    blue = MESHES[4].colors[:, ::-1].copy()
    infos = {9: {"symmetries_discrete": [[-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]]}}

    def again(meshes: dict[int, Mesh], infos: dict | None = None) -> None:
        render_dataset(meshes, infos, rendered, SETTINGS, 13, seed=3, workers=1)

    with pytest.raises(RecipeError, match="'looks of object 4'"):
        again(MESHES | {4: dataclasses.replace(MESHES[4], colors=blue)})
    texture = dataclasses.replace(MESHES[4], colors=None, uv=MESHES[4].vertices[:, :2], texture=blue[None])
    with pytest.raises(RecipeError, match="'looks of object 4'"):
        again(MESHES | {4: texture})
    with pytest.raises(RecipeError, match=r"'symmetries_discrete of object 9': found nothing, expected \[\[-1, 0"):
        again(MESHES, infos)
    monkeypatch.setattr(rendering, "RENDERER", rendering.RENDERER + 1)
    with pytest.raises(RecipeError, match="'renderer'"):
        again(MESHES)
    assert files_of(rendered) == before


def test_other_photographs_are_refused_and_small_ones_counted(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, side in (("a.png", 40), ("pixel.png", 1)):
        cv2.imwrite(str(photos / name), np.full((side, side, 3), 90, np.uint8))
    settings = SETTINGS.model_copy(update={"backgrounds": photos})
    report = render_dataset(MESHES, None, tmp_path / "out", settings, 2, workers=1)
    assert report.images == 2 and report.too_small == 1
    cv2.imwrite(str(photos / "b.png"), np.full((40, 40, 3), 90, np.uint8))
    with pytest.raises(RecipeError, match=r"'photographs': found 1, .*, expected 2, "):
        render_dataset(MESHES, None, tmp_path / "out", settings, 3, workers=1)


def test_nothing_to_render_and_views_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no mesh"):
        render_dataset({}, None, tmp_path, SETTINGS, 1)
    metres = {1: Mesh(MESHES[4].vertices / 1000, MESHES[4].faces, None, None, None, MESHES[4].normals)}
    with pytest.raises(RecipeError, match="mesh in mm"):
        render_dataset(metres, None, tmp_path, SETTINGS, 1)
    with pytest.raises(DataError, match="no such folder"):
        render_dataset(
            MESHES, None, tmp_path, SETTINGS.model_copy(update={"backgrounds": tmp_path / "none"}), 1, workers=1
        )
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_that_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render_dataset(MESHES, None, tmp_path, SETTINGS, 2, seed=3, workers=1)
    kept = files_of(tmp_path)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DataError, match="No space left on device"):
            render_dataset(MESHES, None, tmp_path, SETTINGS, 12, seed=3, workers=1)
    assert kept.items() <= files_of(tmp_path).items()
    assert render_dataset(MESHES, None, tmp_path, SETTINGS, 4, seed=3, workers=1).images == 2


def test_a_worker_that_dies_is_reported(tmp_path: Path) -> None:
    def kill_workers(done: int, count: int) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(DataError, match="a rendering process that died"):
        render_dataset(MESHES, None, tmp_path, SETTINGS, 2000, workers=2, progress=kill_workers)
