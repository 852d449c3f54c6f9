"""Rendering of BOP training sets from meshes: ray cast with Embree, on all cores, resumable, no OpenGL."""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.backgrounds import Backgrounds, lay_table
from posedistill.data.bop_writer import BopWriter, write_camera, write_file, write_models
from posedistill.data.raycast import Composite, build_model, cast, compose, pixel_rays
from posedistill.data.render_settings import RenderSettings
from posedistill.data.scenes import Scene, sample_scene
from posedistill.data.shading import shade, surfaces, table_light
from posedistill.data.shapes import distractors
from posedistill.errors import RecipeError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes import Mesh, diameter

__all__ = ["RenderReport", "RenderSettings", "render_dataset", "render_frame"]

Image = NDArray[np.uint8]

FRAMES_PER_SCENE = 1000
DISTRACTOR_POOL = 48
PREVIEWS = 24
EARLY_PREVIEWS = 8
TEXTURE_SIZE = 512


@dataclass(frozen=True)
class RenderReport:
    """What a call of `render_dataset` did; ``images`` counts those rendered now, not those found from before."""

    images: int
    seconds: float
    workers: int

    @property
    def images_per_second(self) -> float:
        """Rate of all workers together, start-up included."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def images_per_second_per_core(self) -> float:
        """Rate of one worker, start-up included."""
        return self.images_per_second / self.workers


@dataclass(frozen=True)
class Frame:
    """A rendered frame.

    Attributes:
        image: ``[H, W, 3]`` RGB. depth: ``[H, W]`` mm, 0 where no object or distractor is.
        poses: ``(obj_id, R, t)`` of each object. masks, masks_visib: ``[H, W]`` bool, whole and visible silhouettes.
    """

    image: Image
    K: Array
    poses: list[tuple[int, Array, Array]]
    depth: NDArray[np.float32]
    masks: list[NDArray[np.bool_]]
    masks_visib: list[NDArray[np.bool_]]


class Studio:
    """All that stays warm between frames: models with their Embree scenes, backgrounds, rays and sensor noise."""

    def __init__(self, meshes: Mapping[int, Mesh], settings: RenderSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        things = distractors(DISTRACTOR_POOL, seed) if settings.distractors[1] else []
        named: list[tuple[int | None, Mesh]] = [*sorted(meshes.items()), *((None, mesh) for mesh in things)]
        self.models = [build_model(mesh, obj_id, settings.ambient_occlusion) for obj_id, mesh in named]
        self.bodies = [model.body for model in self.models]
        self.backgrounds = Backgrounds(settings.backgrounds)
        self.K = settings.intrinsics()
        self.rays = pixel_rays(self.K, settings.width, settings.height)
        self.grain = _sensor_grain(settings.height + 64, settings.width + 64)


def _sensor_grain(height: int, width: int) -> Image:
    """Noise of sigma 32 about 128, slightly correlated between pixels as after demosaicing."""
    white = np.random.default_rng(0).normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), 0.7)
    return np.clip(128 + 32 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def render_frame(studio: Studio, index: int) -> Frame:
    """Render frame ``index``: a pure function of the studio's meshes, settings and seed, and of the index."""
    settings = studio.settings
    rng = np.random.default_rng([studio.seed, index])
    scene = sample_scene(studio.bodies, settings, rng)
    scene, image = _composed(studio, scene)
    models = [studio.models[placement.body] for placement in scene.placements]
    picture = studio.backgrounds.picture(settings.width, settings.height, rng)
    if scene.table is not None:
        texture = studio.backgrounds.table_top(TEXTURE_SIZE, rng)
        lay_table(picture, texture, table_light(scene.table, scene, models, settings.shadows), scene.table, studio.K)
    surface = surfaces(models, scene.placements, image, studio.rays, float(studio.K[0, 0]))
    if surface is not None:
        colors = shade(surface, scene, models, settings.shadows, image.owner.shape)
        picture[surface.rows, surface.columns] = colors
    picture = _photograph(_feather(picture, image), studio, rng)
    shown = [i for i, model in enumerate(models) if model.body.obj_id is not None]
    return Frame(
        picture,
        studio.K,
        [(models[i].body.obj_id or 0, scene.placements[i].R, scene.placements[i].t) for i in shown],
        np.where(np.isfinite(image.depth), image.depth, np.float32(0)),
        [image.silhouette(i) for i in shown],
        [image.owner == i for i in shown],
    )


def _composed(studio: Studio, scene: Scene) -> tuple[Scene, Composite]:
    """Cast the scene, then take out whatever is hidden, or beside the image, beyond ``min_visible``."""
    settings = studio.settings
    views = [cast(studio.models[p.body], p, studio.K, studio.rays) for p in scene.placements]
    image = compose(views, settings.width, settings.height)
    seen = np.bincount(image.owner[image.owner >= 0], minlength=len(views))
    whole = np.array([0 if view is None else np.count_nonzero(view.face >= 0) for view in views])
    keep = [i for i in range(len(views)) if seen[i] > 0 and seen[i] >= settings.min_visible * whole[i]]
    if len(keep) < len(views):
        image = compose([views[i] for i in keep], settings.width, settings.height)
        placements = tuple(scene.placements[i] for i in keep)
        scene = Scene(**{**scene.__dict__, "placements": placements})
    return scene, image


def _feather(picture: Image, image: Composite) -> Image:
    """Mix colours across silhouettes, as a lens does: one ray a pixel leaves staircases otherwise."""
    owner = (image.owner + 1).astype(np.uint8)
    edge = cv2.morphologyEx(owner, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    rows, columns = np.nonzero(edge)
    if len(rows):
        picture[rows, columns] = cv2.GaussianBlur(picture, (3, 3), 0.7)[rows, columns]
    return picture


def _photograph(picture: Image, studio: Studio, rng: np.random.Generator) -> Image:
    """What the camera adds: blur, exposure, contrast, white balance, noise."""
    settings, jitter = studio.settings, studio.settings.camera_jitter
    sigma = rng.uniform(*settings.blur)
    if sigma > 0.2:
        picture = cv2.GaussianBlur(picture, (5, 5) if sigma < 1.3 else (0, 0), sigma)
    gains = np.exp(rng.normal() * 0.18 * jitter) * np.exp(rng.normal(size=3) * 0.10 * jitter)
    gamma, contrast = np.exp(rng.normal() * 0.3 * jitter), np.exp(rng.normal() * 0.2 * jitter)
    curve = np.clip((np.arange(256)[:, None] / 255) ** gamma * gains, 0, 1)
    curve = np.clip((curve - 0.45) * contrast + 0.45, 0, 1)
    picture = cv2.LUT(picture, np.round(255 * curve).astype(np.uint8)[None])
    strength = rng.uniform(*settings.noise) / 32
    top, left = (int(value) for value in rng.integers(0, 64, 2))
    grain = studio.grain[top : top + settings.height, left : left + settings.width]
    return cv2.addWeighted(picture, 1.0, grain, strength, -128 * strength)


def render_dataset(
    meshes: Mapping[int, Mesh],
    models_info: Mapping[int, Mapping[str, Any]] | None,
    out_root: str | Path,
    settings: RenderSettings,
    count: int,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    split: str = "train_render",
) -> RenderReport:
    """Render a BOP data set of ``count`` frames; a second call goes on where the first was stopped.

    The frames found complete are kept, so the set may also be enlarged. Scenes hold up to 1000 frames. Beside the
    split lie ``models`` (with ``models_info.json``), ``camera.json``, ``render.json`` and a contact sheet
    ``<split>_preview.jpg``, written early on and again at the end.

    Args:
        meshes: by object id, mm. models_info: their BOP entries, for the symmetries; None for none.
        workers: processes; all cores for None. One renders in this process. With more, a script that calls this needs
            the usual ``if __name__ == "__main__":``.
        progress: called with (frames complete, ``count``).

    Raises:
        RecipeError: a view that cannot be, or a folder that holds renders of other settings.
        DataError: no readable background, or a full disk. What is complete stays.
    """
    if not meshes:
        raise RecipeError(describe("render", "objects", "no mesh", "at least one"))
    settings.check_objects({obj_id: diameter(mesh.vertices) for obj_id, mesh in meshes.items()})
    Backgrounds(settings.backgrounds)
    root, start = Path(out_root), time.perf_counter()
    workers = min(workers or len(os.sched_getaffinity(0)), max(count, 1))
    _claim(root, split, meshes, settings, seed)
    write_models(root, meshes, infos=models_info)
    write_camera(root, settings.intrinsics(), settings.width, settings.height)
    writer = BopWriter(root, split, settings.jpeg_quality)
    missing = [i for i in range(count) if not writer.has_frame(*divmod(i, FRAMES_PER_SCENE))]
    if missing:
        _render_all(meshes, settings, seed, workers, (root, split), missing, count, progress)
    for scene_id in sorted({i // FRAMES_PER_SCENE for i in range(count)}):
        writer.finish_scene(scene_id)
    return RenderReport(len(missing), time.perf_counter() - start, workers)


def _claim(root: Path, split: str, meshes: Mapping[int, Mesh], settings: RenderSettings, seed: int) -> None:
    """Note what the folder is rendered from, or refuse one that was rendered from something else."""
    shape = hashlib.sha256()
    for obj_id, mesh in sorted(meshes.items()):
        shape.update(np.int64(obj_id).tobytes() + mesh.vertices.tobytes() + mesh.faces.tobytes())
    look = settings.model_dump(mode="json", exclude={"backgrounds"})
    note = {"seed": seed, "meshes": shape.hexdigest(), "settings": look}
    path = root / f"{split}_render.json"
    if path.exists():
        found = json.loads(path.read_text())
        for key, expected in note.items():
            if found.get(key) != expected:
                raise RecipeError(describe(path, key, found.get(key), f"{expected}, or another output folder"))
    root.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(note, indent=2).encode())


def _render_all(
    meshes: Mapping[int, Mesh],
    settings: RenderSettings,
    seed: int,
    workers: int,
    target: tuple[Path, str],
    missing: list[int],
    count: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Render the missing frames, and again the few of the contact sheet that are there already."""
    shown = {i * count // PREVIEWS for i in range(min(PREVIEWS, count))} | set(range(min(EARLY_PREVIEWS, count)))
    tasks = [(i, True, i in shown) for i in missing]
    tasks += [(i, False, True) for i in sorted(shown.difference(missing))]
    sheet: dict[int, Image] = {}
    done = count - len(missing)
    early = False
    for _, written, thumbnail in _run(tasks, workers, (dict(meshes), settings, seed, *target)):
        done += written
        if thumbnail is not None:
            sheet[len(sheet)] = thumbnail
        if not early and len(sheet) >= min(EARLY_PREVIEWS, len(shown)):
            early = True
            _write_sheet(target, list(sheet.values()))
        if progress is not None and written:
            progress(done, count)
    _write_sheet(target, list(sheet.values())[-PREVIEWS:])


Task = tuple[int, bool, bool]
Result = tuple[int, bool, Image | None]


class _Worker:
    """The studio and the writer of one process."""

    current: "_Worker"

    def __init__(self, meshes: dict[int, Mesh], settings: RenderSettings, seed: int, root: Path, split: str) -> None:
        self.studio = Studio(meshes, settings, seed)
        self.writer = BopWriter(root, split, settings.jpeg_quality)

    def __call__(self, task: Task) -> Result:
        """Render a frame; write it and draw its thumbnail as the task says."""
        index, write, show = task
        frame = render_frame(self.studio, index)
        if write:
            depth = frame.depth if self.studio.settings.depth else None
            scene_id, im_id = divmod(index, FRAMES_PER_SCENE)
            self.writer.add_frame(
                scene_id, im_id, frame.image, frame.K, frame.poses, depth, frame.masks, frame.masks_visib
            )
        return index, write, _thumbnail(frame) if show else None


def _start_worker(*arguments: Any) -> None:
    """Set a process up; the keyboard's interrupt is left to the parent."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    _Worker.current = _Worker(*arguments)


def _work(task: Task) -> Result:
    return _Worker.current(task)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside use one thread each: they share the cores among themselves."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _run(tasks: list[Task], workers: int, arguments: tuple[Any, ...]) -> Iterable[Result]:
    """Results of the tasks as they come, from this process or a pool of others."""
    if workers == 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield from map(_Worker(*arguments), tasks)
        finally:
            cv2.setNumThreads(threads)
        return
    with (
        _one_thread_each(),
        multiprocessing.get_context("spawn").Pool(workers, _start_worker, arguments) as pool,
    ):
        yield from pool.imap_unordered(_work, tasks, chunksize=4)


def _thumbnail(frame: Frame, width: int = 400) -> Image:
    """The frame with the boxes of its objects, green to red as they are hidden."""
    picture = frame.image.copy()
    for (obj_id, _, _), mask, visible in zip(frame.poses, frame.masks, frame.masks_visib, strict=True):
        share = np.count_nonzero(visible) / max(np.count_nonzero(mask), 1)
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        color = (int(255 * (1 - share)), int(255 * share), 40)
        cv2.rectangle(picture, (x, y), (x + w, y + h), color, 1)
        cv2.putText(picture, f"{obj_id}: {share:.2f}", (x, y - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1)
    scale = width / picture.shape[1]
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _write_sheet(target: tuple[Path, str], thumbnails: list[Image], columns: int = 4) -> None:
    """The contact sheet, beside the split's folder."""
    blank = np.zeros_like(thumbnails[0])
    padded = thumbnails + [blank] * (-len(thumbnails) % columns)
    rows = [np.hstack(padded[i : i + columns]) for i in range(0, len(padded), columns)]
    done, data = cv2.imencode(".jpg", np.vstack(rows)[..., ::-1])
    if done:
        write_file(target[0] / f"{target[1]}_preview.jpg", data.tobytes())
