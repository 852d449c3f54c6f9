"""Rendering of BOP training sets from meshes: ray cast with Embree, on all cores, resumable, no OpenGL."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.bop_parse import load_json
from posedistill.data.formats.bop_writer import BopWriter, write_camera, write_models
from posedistill.data.images import contact_sheet, write_image
from posedistill.data.render.backgrounds import Backgrounds
from posedistill.data.render.settings import RenderSettings
from posedistill.data.render.studio import Frame, Studio, render_frame
from posedistill.errors import DataError, RecipeError, describe
from posedistill.files import write_file
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.meshes import Mesh
from posedistill.machine import cores

__all__ = ["RenderReport", "RenderSettings", "render_dataset"]

SPLIT = "train_render"
"""Folder of the scenes in a BOP folder."""
RENDERER = 2
"""Raised whenever the same settings and seed give other pictures than before."""
STATED = ("diameter", "symmetries_discrete", "symmetries_continuous")
"""What ``models_info.json`` states beyond the mesh, and rendered sets hand on."""
FRAMES_PER_SCENE = 1000
PREVIEWS = 24
EARLY_PREVIEWS = 8


@dataclass(frozen=True)
class RenderReport:
    """What a call of `render_dataset` did; ``images`` counts those rendered now, not those found from before."""

    images: int
    seconds: float
    workers: int
    too_small: int = 0
    """Photographs that were left out as backgrounds, for they hold too few pixels."""

    @property
    def images_per_second(self) -> float:
        """Rate of all workers together, start-up included."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def images_per_second_per_core(self) -> float:
        """Rate of one worker, start-up included."""
        return self.images_per_second / self.workers


def render_dataset(
    meshes: Mapping[int, Mesh],
    models_info: Mapping[int, Mapping[str, Any]] | None,
    out_root: str | Path,
    settings: RenderSettings,
    count: int,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RenderReport:
    """Render a BOP data set of ``count`` frames; a second call goes on where the first was stopped.

    The frames found complete are kept, so the set may also be enlarged. Scenes hold up to 1000 frames. Beside the
    split lie ``models`` (with ``models_info.json``), ``camera.json``, ``train_render_render.json`` and a contact sheet
    ``train_render_preview.jpg``, written early on and again at the end.

    Args:
        meshes: by object id, mm. models_info: their BOP entries, for the symmetries; None for none.
        workers: processes; all cores for None. One renders in this process. With more, a script that calls this needs
            the usual ``if __name__ == "__main__":``.
        progress: called with (frames complete, ``count``).

    Raises:
        RecipeError: a view that cannot be, or a folder that holds renders of other settings, meshes, textures,
            symmetries or photographs, or of another version of the renderer.
        DataError: no readable background, or a full disk. What is complete stays.
    """
    if not meshes:
        raise RecipeError(describe("render", "objects", "no mesh", "at least one"))
    settings.check_objects({obj_id: float(np.ptp(mesh.vertices, axis=0).max()) for obj_id, mesh in meshes.items()})
    backgrounds = Backgrounds(settings.backgrounds)
    root, start = Path(out_root), time.perf_counter()
    workers = min(workers or cores(), max(count, 1))
    claim(root / f"{SPLIT}_render.json", origin(meshes, models_info, settings, seed, backgrounds))
    if not (root / "models" / "models_info.json").exists():
        write_models(root, meshes, infos=models_info)
    write_camera(root, settings.intrinsics(), settings.width, settings.height)
    writer = BopWriter(root, SPLIT, settings.jpeg_quality)
    missing = [i for i in range(count) if not writer.has_frame(*divmod(i, FRAMES_PER_SCENE))]
    if missing:
        _render_all(meshes, settings, seed, workers, root, missing, count, progress)
    for scene_id in sorted({i // FRAMES_PER_SCENE for i in range(count)}):
        writer.finish_scene(scene_id)
    return RenderReport(len(missing), time.perf_counter() - start, workers, len(backgrounds.too_small))


def origin(
    meshes: Mapping[int, Mesh],
    models_info: Mapping[int, Mapping[str, Any]] | None,
    settings: RenderSettings,
    seed: int,
    backgrounds: Backgrounds | None = None,
) -> dict[str, Any]:
    """What frames are rendered from, as ``train_render_render.json`` keeps it: what differs in it gives other frames.

    Args:
        backgrounds: of the settings, where they are at hand.
    """
    paths = (backgrounds or Backgrounds(settings.backgrounds)).paths
    photographs = hashlib.sha256(repr([(path.name, path.stat().st_size) for path in paths]).encode())
    note: dict[str, Any] = settings.model_dump(mode="json", exclude={"backgrounds"})
    note |= {"renderer": RENDERER, "seed": seed, "photographs": f"{len(paths)}, {photographs.hexdigest()[:16]}"}
    for obj_id, mesh in sorted(meshes.items()):
        note |= {f"shape of object {obj_id}": mesh.shape_digest(), f"looks of object {obj_id}": mesh.looks_digest()}
        info = (models_info or {}).get(obj_id, {})
        note |= {f"{key} of object {obj_id}": info[key] for key in STATED if key in info}
    return note


def claim(path: Path, note: Mapping[str, Any]) -> None:
    """Note in a file what its folder is made from; ``RecipeError`` for a folder that was made from something else."""
    if path.exists():
        found = load_json(path)
        for key in {**note, **found}:
            before, now = found.get(key, "nothing"), note.get(key, "nothing")
            if before != now:
                raise RecipeError(describe(path, key, before, f"{now}, or another output folder"))
    write_file(path, json.dumps(note, indent=2))


def _render_all(
    meshes: Mapping[int, Mesh],
    settings: RenderSettings,
    seed: int,
    workers: int,
    root: Path,
    missing: list[int],
    count: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Render the missing frames, and again the few of the contact sheet that are there already."""
    shown = {i * count // PREVIEWS for i in range(PREVIEWS)} | set(range(min(EARLY_PREVIEWS, count)))
    tasks = [(i, True, i in shown) for i in missing]
    tasks += [(i, False, True) for i in sorted(shown.difference(missing))]
    sheet: list[Image] = []
    done = count - len(missing)
    for written, thumbnail in _run(tasks, workers, (dict(meshes), settings, seed, root)):
        done += written
        if thumbnail is not None:
            sheet.append(thumbnail)
            if len(sheet) == min(EARLY_PREVIEWS, len(shown)):
                _write_sheet(root, sheet)
        if progress is not None and written:
            progress(done, count)
    _write_sheet(root, sheet[-PREVIEWS:])


Task = tuple[int, bool, bool]
"""The number of a frame; whether to write it, and to draw its thumbnail."""
Result = tuple[bool, Image | None]


class _Worker:
    """The studio and the writer of one process."""

    current: "_Worker"

    def __init__(self, meshes: dict[int, Mesh], settings: RenderSettings, seed: int, root: Path) -> None:
        self.studio = Studio(meshes, settings, seed)
        self.writer = BopWriter(root, SPLIT, settings.jpeg_quality)

    def __call__(self, task: Task) -> Result:
        """Render a frame, and do with it what the task says."""
        index, write, show = task
        frame = render_frame(self.studio, index)
        if write:
            depth = frame.depth if self.studio.settings.depth else None
            scene_id, im_id = divmod(index, FRAMES_PER_SCENE)
            self.writer.add_frame(
                scene_id, im_id, frame.image, frame.K, frame.poses, depth, frame.masks, frame.masks_visib
            )
        return write, _thumbnail(frame) if show else None


def _start_worker(*arguments: Any) -> None:
    """Set a process up; the keyboard's interrupt is left to the parent, and no child outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    _Worker.current = _Worker(*arguments)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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


def _run(tasks: list[Task], workers: int, arguments: tuple[Any, ...]) -> Iterator[Result]:
    """Results of the tasks in their order, from this process or a pool of others."""
    if workers == 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield from map(_Worker(*arguments), tasks)
        finally:
            cv2.setNumThreads(threads)
        return
    spawn = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(workers, spawn, _start_worker, arguments) as pool:
        try:
            yield from pool.map(_work, tasks, chunksize=4)
        except BrokenProcessPool as error:
            found = "a rendering process that died"
            raise DataError(describe(arguments[3], "workers", found, "more memory, or fewer workers")) from error


def _thumbnail(frame: Frame, width: int = 400) -> Image:
    """The part of the frame with its objects, and their boxes, green to red as they are hidden."""
    x, y, w, h = around_objects(frame.masks, frame.image.shape[1], frame.image.shape[0])
    zoom, size = width / w, (width, round(width * frame.image.shape[0] / frame.image.shape[1]))
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    picture = cv2.resize(frame.image[y : y + h, x : x + w], size, interpolation=how)
    for (obj_id, _, _), mask, visible in zip(frame.poses, frame.masks, frame.masks_visib, strict=True):
        share = int(visible.sum()) / max(int(mask.sum()), 1)
        left, top, across, down = cv2.boundingRect(mask.astype(np.uint8))
        low = (round(zoom * (left - x)), round(zoom * (top - y)))
        high = (round(zoom * (left + across - x)), round(zoom * (top + down - y)))
        color = (int(255 * (1 - share)), int(255 * share), 40)
        cv2.rectangle(picture, low, high, color, 1)
        place = (low[0], low[1] - 3 if low[1] > 14 else high[1] + 13)
        cv2.putText(picture, f"{obj_id}: {share:.2f}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1)
    return picture


def around_objects(masks: Sequence[NDArray[np.bool_]], width: int, height: int) -> tuple[int, int, int, int]:
    """``x, y, w, h`` of the part of a frame with all its objects and some room, in the frame's proportions.

    At least a quarter of the width; the whole frame where there is no object.

    >>> mask = np.zeros((480, 640), bool)
    >>> mask[200:240, 300:380] = True
    >>> around_objects([mask], 640, 480)
    (260, 160, 160, 120)
    """
    union = np.any(masks, axis=0) if len(masks) else np.zeros((height, width), bool)
    if not union.any():
        return 0, 0, width, height
    x, y, w, h = cv2.boundingRect(union.astype(np.uint8))
    scale = min(max(1.5 * w / width, 1.5 * h / height, 0.25), 1.0)
    across, down = round(scale * width), round(scale * height)
    left = int(np.clip(x + w / 2 - across / 2, 0, width - across))
    top = int(np.clip(y + h / 2 - down / 2, 0, height - down))
    return left, top, across, down


def _write_sheet(root: Path, thumbnails: list[Image]) -> None:
    """The contact sheet, beside the split's folder."""
    write_image(root / f"{SPLIT}_preview.jpg", contact_sheet(thumbnails, columns=4))
