"""Building a frame pack: what enters it, decoding on all cores, and going on where a killed build stopped."""

import contextlib
import hashlib
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from posedistill.data.formats.bop import BopDataset, Frame, Instance, read_image, read_mask
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array, project
from posedistill.geometry.meshes import load_mesh
from posedistill.geometry.warp import BORDER
from posedistill.machine import cores as cores

VERSION = 1
"""Raised whenever the layout or the meaning of a pack changes; packs of another version are rebuilt."""
OTHER = 255
"""Id of foreground that is no training object: distractors, objects outside the recipe."""
MIN_PIXELS = 10
"""An instance with fewer visible pixels cannot be learnt from and stays out of the table."""
_FLUSH = 64
"""Frames between two flushes while building; at most so many are decoded again after a crash."""

Progress = Callable[[int, int], None]


class PackBuilder:
    """One build: what enters, the fingerprint of its sources, and the decoding of each frame."""

    def __init__(self, dataset: BopDataset, obj_ids: list[int], min_visible: float) -> None:
        self.dataset, self.obj_ids, self.min_visible = dataset, frozenset(obj_ids), min_visible
        self.frames = [frame for frame in dataset.frames if any(map(self.admits, frame.instances))]
        if not self.frames:
            wanted = f"a frame with one of the objects {obj_ids}, visible by {min_visible} or more"
            raise DataError(describe(dataset.root, "frames", f"none among {len(dataset.frames)}", wanted))
        self.fingerprint = self._fingerprint(obj_ids)
        self._vertices: dict[int, Array] = {}
        self._lock = threading.Lock()
        self.guessed: set[Path] = set()

    def admits(self, instance: Instance) -> bool:
        """Whether an annotated instance may enter the table (its mask is looked at later)."""
        return instance.obj_id in self.obj_ids and instance.visib_fract >= self.min_visible

    def _fingerprint(self, obj_ids: list[int]) -> str:
        digest = hashlib.sha256(json.dumps([VERSION, obj_ids, self.min_visible, MIN_PIXELS]).encode())
        for frame in self.frames:
            digest.update(file_state(frame.rgb) + np.asarray(frame.K, dtype=np.float64).tobytes())
            for instance in frame.instances:
                digest.update(
                    repr((instance.obj_id, instance.visib_fract, instance.bbox_obj, instance.bbox_visib)).encode()
                )
                if instance.score != 1.0:  # packs of hand-annotated frames keep the fingerprint they always had
                    digest.update(repr(instance.score).encode())
                digest.update(np.concatenate([np.ravel(instance.R), np.ravel(instance.t)]).astype(np.float64).tobytes())
                digest.update(file_state(instance.mask_visib))
        return digest.hexdigest()

    def run(self, folder: Path, progress: Progress | None, workers: int) -> None:
        """Build into a hidden folder beside ``folder``, continuing what an earlier build left there, then rename."""
        partial = folder.with_name(f".{folder.name}.partial")
        with ThreadPoolExecutor(workers) as pool:
            frames, done = self._allocate(partial, pool)
            rows = self._decode(frames, done, pool, progress)
        table = [row for index in range(len(self.frames)) for row in rows[index]]
        if not table:
            raise DataError(describe(self.dataset.root, "masks", "none large enough", f"{MIN_PIXELS} pixels"))
        np.savez(partial / "instances.npz", allow_pickle=False, **_columns(table))
        (partial / "done.npy").unlink()
        if self.guessed:
            warnings.warn(
                f"{self.dataset.root}: {len(self.guessed)} frames lack visible masks (first: {min(self.guessed)}); "
                "the convex hull of the projected model stands in for them",
                stacklevel=3,
            )
        swap(partial, folder)

    def _allocate(self, partial: Path, pool: ThreadPoolExecutor) -> tuple[np.memmap, np.memmap]:
        if read_fingerprint(partial) == self.fingerprint:
            with contextlib.suppress(OSError, ValueError):
                return _map(partial / "frames.npy"), _map(partial / "done.npy")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        sizes = np.array(list(pool.map(_image_size, [frame.rgb for frame in self.frames])))
        shape = (len(self.frames), *sizes.max(axis=0).tolist(), 4)
        frames = np.lib.format.open_memmap(partial / "frames.npy", mode="w+", dtype=np.uint8, shape=shape)
        reserve(partial / "frames.npy", frames.offset + frames.nbytes)
        done = np.lib.format.open_memmap(partial / "done.npy", mode="w+", dtype=bool, shape=(len(frames),))
        (partial / "fingerprint.json").write_text(json.dumps(self.fingerprint))
        return frames, done

    def _decode(
        self, frames: np.memmap, done: np.memmap, pool: ThreadPoolExecutor, progress: Progress | None
    ) -> dict[int, list[dict[str, object]]]:
        rows: dict[int, list[dict[str, object]]] = {}
        jobs = {pool.submit(self._decode_one, index, frames, bool(done[index])): index for index in range(len(frames))}
        try:
            for job in as_completed(jobs):
                rows[jobs[job]] = job.result()
                if len(rows) % _FLUSH == 0:
                    _note(done, frames, list(rows))
                if progress is not None:
                    progress(len(rows), len(frames))
        finally:
            pool.shutdown(cancel_futures=True)
            whole = [job for job in jobs if not job.cancelled() and job.exception() is None]
            _note(done, frames, [jobs[job] for job in whole])
        return rows

    def _decode_one(self, index: int, frames: np.memmap, done: bool) -> list[dict[str, object]]:
        frame, target = self.frames[index], frames[index]
        if not done:
            image = read_image(frame.rgb)
            height, width = image.shape[:2]
            target[height:], target[:, width:] = (*BORDER, 0), (*BORDER, 0)
            target[:height, :width, :3] = image
            target[:height, :width, 3] = self._ids(frame, (height, width))
        return self._rows(index, frame, np.ascontiguousarray(target[..., 3]))

    def _slot(self, position: int, instance: Instance) -> int:
        return position + 1 if instance.obj_id in self.obj_ids and position + 1 < OTHER else OTHER

    def _ids(self, frame: Frame, shape: tuple[int, int]) -> NDArray[np.uint8]:
        ids = np.zeros(shape, dtype=np.uint8)
        # Where masks overlap, as silhouettes do, the nearest object is the one that is seen.
        for position, instance in sorted(enumerate(frame.instances), key=lambda item: -float(item[1].t[2])):
            if instance.mask_visib is None or not instance.mask_visib.exists():
                self.guessed.add(frame.rgb)
                mask = self._silhouette(frame, instance, shape)
            else:
                mask = read_mask(instance.mask_visib, allow_empty=not self.admits(instance))
                if mask.shape != shape:
                    raise DataError(describe(instance.mask_visib, "size", mask.shape, f"{shape}, the image's"))
            ids[mask] = self._slot(position, instance)
        return ids

    def _rows(self, index: int, frame: Frame, ids: NDArray[np.uint8]) -> list[dict[str, object]]:
        counts = np.bincount(ids.ravel(), minlength=256)
        rows = []
        for position, instance in enumerate(frame.instances):
            slot = self._slot(position, instance)
            if not self.admits(instance) or slot == OTHER or counts[slot] < MIN_PIXELS:
                continue
            rows.append(
                {
                    "frame": index,
                    "slot": slot,
                    "obj_id": instance.obj_id,
                    "scene_id": frame.scene_id,
                    "im_id": frame.im_id,
                    "K": frame.K,
                    "R": instance.R,
                    "t": instance.t,
                    "bbox_obj": _given(instance.bbox_obj) or _extent(self._pixels(frame, instance)),
                    "bbox_visib": _given(instance.bbox_visib) or cv2.boundingRect((ids == slot).view(np.uint8)),
                    "visib_fract": instance.visib_fract,
                    "score": instance.score,
                }
            )
        return rows

    def _pixels(self, frame: Frame, instance: Instance) -> Array:
        """``[V, 2]`` projections of the model's vertices."""
        with self._lock:
            if instance.obj_id not in self._vertices:
                self._vertices[instance.obj_id] = load_mesh(
                    self.dataset.mesh_path(instance.obj_id), looks=False
                ).vertices
        return project(self._vertices[instance.obj_id], instance.R, instance.t, frame.K)

    def _silhouette(self, frame: Frame, instance: Instance, shape: tuple[int, int]) -> NDArray[np.bool_]:
        hull = cv2.convexHull(np.rint(self._pixels(frame, instance)).astype(np.int32))
        mask = np.zeros(shape, dtype=np.uint8)
        cv2.fillConvexPoly(mask, hull, 1)
        return mask.view(bool)


def _columns(rows: list[dict[str, object]]) -> dict[str, NDArray]:
    kinds: dict[str, type] = dict.fromkeys(("frame", "obj_id", "scene_id", "im_id"), np.int64) | {"slot": np.uint8}
    return {name: np.array([row[name] for row in rows], dtype=kinds.get(name, np.float64)) for name in rows[0]}


def _given(box: Array | None) -> tuple[float, ...] | None:
    """The box, or None where there is none; BOP writes -1 -1 -1 -1 for what cannot be seen."""
    return None if box is None or not (box[2] > 0 and box[3] > 0) else tuple(box.tolist())


def _extent(pixels: Array) -> tuple[float, ...]:
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    return (*low, *(high - low))


def file_state(path: Path | None) -> bytes:
    """What identifies a source file's content without reading it."""
    try:
        stat = path.stat() if path is not None else None
    except FileNotFoundError:
        stat = None
    return repr((str(path), (stat.st_size, stat.st_mtime_ns) if stat else None)).encode()


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(describe(path, "image", error, "a readable image")) from error


def read_fingerprint(folder: Path) -> str | None:
    """What the pack (or the unfinished build) in a folder was made from; None where there is none."""
    try:
        return json.loads((folder / "fingerprint.json").read_text())
    except (OSError, ValueError):
        return None


def _note(done: np.memmap, frames: np.memmap, finished: list[int]) -> None:
    """Note which frames are decoded; their pixels reach the disk before the note does."""
    frames.flush()
    done[finished] = True
    done.flush()


def _map(path: Path) -> np.memmap:
    return np.load(path, mmap_mode="r+", allow_pickle=False)


def reserve(path: Path, size: int) -> None:
    """Claim a sparse file's blocks now: a full disk is an error here, but would kill the process later (SIGBUS)."""
    try:
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink()
        raise DataError(describe(path, "disk", error.strerror, f"{size / 1e9:.1f} GB of free space")) from error


def swap(partial: Path, folder: Path) -> None:
    """Put a finished folder in the place of an older one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock that the system frees when the process ends, however it ends."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
