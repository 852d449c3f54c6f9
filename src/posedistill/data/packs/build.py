"""Building a pack: decoding on all cores, and going on where a killed build stopped."""

import contextlib
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.data.packs.pack import FRAMES, Instances, Pack
from posedistill.errors import DataError, describe
from posedistill.files import exclusive, reserve, swap
from posedistill.geometry.cameras import Array
from posedistill.geometry.warp import BORDER
from posedistill.machine import cores

VERSION = 2
"""Raised whenever the layout or the meaning of a pack changes; packs of another version are built anew."""
_FINGERPRINT, _DONE = "fingerprint.json", "done.npy"
_FLUSH = 64
"""Frames between two flushes while building; at most so many are decoded again after a crash."""

Progress = Callable[[int, int], None]


class FrameSource:
    """The frames that enter a pack: all in which packs of objects and of scenes differ.

    Attributes:
        root: what errors name. images: the file of each frame. sequences: the recording of each frame.
    """

    root: Path
    images: Sequence[Path]
    sequences: Sequence[str]

    def state(self) -> bytes:
        """What the frames, annotations and settings are now, for the fingerprint; no image is read."""
        raise NotImplementedError

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a frame as it enters."""
        raise NotImplementedError

    def camera(self, index: int) -> Array:
        """``[3, 3]`` of a frame as it enters."""
        raise NotImplementedError

    def draw(self, index: int, target: NDArray[np.uint8]) -> None:
        """Decode a frame into ``[height, width, 4]``: RGB and ids."""
        raise NotImplementedError

    def instances(self, index: int, ids: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """The rows of a frame's instances, but for the column ``frame``; its decoded ids ``[height, width]`` tell."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """What a user should know of a finished build."""
        return []


def build_pack(
    source: FrameSource, folder: str | Path, progress: Progress | None = None, workers: int | None = None
) -> Pack:
    """The pack of a source: opened where it is up to date, else built (or a broken-off build continued).

    The pack appears under its name only when it is complete. Processes that build the same pack at once wait for each
    other. Image files are only read.

    Raises:
        DataError: a damaged image (named), no usable instance, a full disk.
    """
    folder = Path(folder)
    fingerprint = hashlib.sha256(repr(VERSION).encode() + source.state()).hexdigest()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.with_name(f".{folder.name}.lock")):
        if read_fingerprint(folder) != fingerprint:
            with ThreadPoolExecutor(workers or cores()) as pool:
                _Build(source, folder, pool).run(fingerprint, progress)
    return Pack.open(folder)


def read_fingerprint(folder: Path) -> str | None:
    """What the pack (or the unfinished build) in a folder was made from; None where there is none."""
    try:
        return json.loads((folder / _FINGERPRINT).read_text())
    except (OSError, ValueError):
        return None


class _Build:
    """One build, into a hidden folder beside the pack's own."""

    def __init__(self, source: FrameSource, folder: Path, pool: ThreadPoolExecutor) -> None:
        self.source, self.folder, self.pool = source, folder, pool
        self.partial = folder.with_name(f".{folder.name}.partial")
        self.count = len(source.images)

    def run(self, fingerprint: str, progress: Progress | None) -> None:
        """Decode what an earlier build has not, then put the pack in its place."""
        sizes = np.array(list(self.pool.map(self.source.size, range(self.count))), dtype=np.int64)
        frames, done = self._allocate(fingerprint, sizes)
        rows = self._decode(frames, done, sizes, progress)
        table = [row | {"frame": index} for index in range(self.count) for row in rows[index]]
        if not table:
            expected = "an instance that can be seen in its mask"
            raise DataError(describe(self.source.root, "instances", f"none in {self.count} frames", expected))
        K = np.stack([self.source.camera(index) for index in range(self.count)])
        names = tuple(self.source.sequences), tuple(map(str, self.source.images))
        Pack(self.partial, frames, sizes, K, *names, Instances.of_rows(table)).save_columns()
        (self.partial / _DONE).unlink()
        for note in self.source.notes():
            warnings.warn(note, stacklevel=4)
        swap(self.partial, self.folder)

    def _allocate(self, fingerprint: str, sizes: NDArray[np.int64]) -> tuple[np.memmap, np.memmap]:
        """The memory-mapped frames, and which of them are decoded: of the earlier build of the same, or new."""
        partial = self.partial
        if read_fingerprint(partial) == fingerprint:
            with contextlib.suppress(OSError, ValueError):
                return _map(partial / FRAMES), _map(partial / _DONE)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        shape = (self.count, *sizes.max(axis=0).tolist(), 4)
        frames = np.lib.format.open_memmap(partial / FRAMES, mode="w+", dtype=np.uint8, shape=shape)
        reserve(partial / FRAMES, frames.offset + frames.nbytes)
        done = np.lib.format.open_memmap(partial / _DONE, mode="w+", dtype=bool, shape=(self.count,))
        (partial / _FINGERPRINT).write_text(json.dumps(fingerprint))
        return frames, done

    def _decode(
        self, frames: np.memmap, done: np.memmap, sizes: NDArray[np.int64], progress: Progress | None
    ) -> dict[int, list[dict[str, Any]]]:
        rows: dict[int, list[dict[str, Any]]] = {}

        def decode(index: int) -> list[dict[str, Any]]:
            height, width = sizes[index]
            target, size = frames[index], (slice(height), slice(width))
            if not done[index]:
                target[height:], target[:, width:] = (*BORDER, 0), (*BORDER, 0)
                self.source.draw(index, target[size])
            return self.source.instances(index, np.ascontiguousarray(target[(*size, 3)]))

        jobs = {self.pool.submit(decode, index): index for index in range(self.count)}
        try:
            for job in as_completed(jobs):
                rows[jobs[job]] = job.result()
                if len(rows) % _FLUSH == 0:
                    _note(done, frames, list(rows))
                if progress is not None:
                    progress(len(rows), self.count)
        finally:
            self.pool.shutdown(cancel_futures=True)
            whole = [job for job in jobs if not job.cancelled() and job.exception() is None]
            _note(done, frames, [jobs[job] for job in whole])
        return rows


def _note(done: np.memmap, frames: np.memmap, finished: list[int]) -> None:
    """Note which frames are decoded; their pixels reach the disk before the note does."""
    frames.flush()
    done[finished] = True
    done.flush()


def _map(path: Path) -> np.memmap:
    return np.load(path, mmap_mode="r+", allow_pickle=False)
