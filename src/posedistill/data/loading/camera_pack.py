"""CameraPack: the photographs of a scene decoded, undistorted and scaled once, in one memory-mapped array."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.scene import CameraDataset, CameraFrame
from posedistill.data.images import read_image
from posedistill.data.loading.pack_build import exclusive, file_state, read_fingerprint, reserve, swap
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array, scaled_camera
from posedistill.geometry.photographs import scale, scaled_size, undistort
from posedistill.geometry.warp import BORDER
from posedistill.machine import cores

VERSION = 1
"""Raised whenever the layout or the meaning of a pack changes; packs of another version are built anew."""
PUBLISHED_SIZE = (455, 256)
"""Width and height to which PoseNet's descendants squeeze every image, its aspect ignored."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class CameraPack:
    """``F`` scaled photographs and their cameras, one array a column.

    Attributes:
        frames: uint8 ``[F, H, W, 4]``, memory-mapped; RGB, the fourth channel is 0 (OpenCV warps four bytes a pixel
            twice as fast as three). Smaller images are padded below and to the right.
        sizes: int64 ``[F, 2]`` height and width of each image without padding.
        K: ``[F, 3, 3]`` of the scaled images, without distortion. R: ``[F, 3, 3]`` world to camera. t: ``[F, 3]`` m.
        sequences: of each frame. images: the files, as strings.
    """

    folder: Path
    frames: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    K: Array
    R: Array
    t: Array
    sequences: tuple[str, ...]
    images: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def open(cls, folder: str | Path) -> "CameraPack":
        """Open a finished pack; ``DataError`` where a file is missing or damaged."""
        folder = Path(folder)
        try:
            frames = np.load(folder / "frames.npy", mmap_mode="r", allow_pickle=False)
            with np.load(folder / "cameras.npz", allow_pickle=False) as table:
                columns = {name: table[name] for name in ("sizes", "K", "R", "t", "sequences", "images")}
        except FileNotFoundError as error:
            raise DataError(describe(folder, "pack", "no such file", error.filename)) from error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            expected = "frames.npy and cameras.npz of a finished pack"
            raise DataError(describe(folder, "pack", error, expected)) from error
        if frames.ndim != 4 or frames.shape[3] != 4 or frames.dtype != np.uint8 or len(frames) != len(columns["K"]):
            found = f"{frames.dtype} {frames.shape} with {len(columns['K'])} cameras"
            raise DataError(describe(folder / "frames.npy", "shape", found, "uint8 [F, H, W, 4] with F cameras"))
        sequences, images = (tuple(columns.pop(name).tolist()) for name in ("sequences", "images"))
        return cls(folder, frames, sequences=sequences, images=images, **columns)

    @classmethod
    def build(
        cls,
        dataset: CameraDataset,
        folder: str | Path,
        size: int | tuple[int, int] = 256,
        progress: Progress | None = None,
        *,
        workers: int | None = None,
    ) -> "CameraPack":
        """The pack of a data set: opened where it is up to date, else built. The photographs are only read.

        The pack appears under its name only when it is complete. Processes that build the same pack at once wait for
        each other.

        Args:
            size: the shorter side, pixels; or (width, height) for all, whatever the aspect (``PUBLISHED_SIZE``).

        Raises:
            DataError: a damaged image (named), or a full disk.
        """
        folder = Path(folder)
        fingerprint = _fingerprint(dataset, size)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(folder.with_name(f".{folder.name}.lock")):
            if read_fingerprint(folder) != fingerprint:
                partial = folder.with_name(f".{folder.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                _write(partial, dataset, size, workers or cores(), progress)
                (partial / "fingerprint.json").write_text(json.dumps(fingerprint))
                swap(partial, folder)
        return cls.open(folder)


def mean_image(pack: CameraPack, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """``[H, W, 3]`` mean of some frames in 0..255: what the published preprocessing subtracts, the training frames'.

    Raises:
        DataError: images of several sizes have no mean.
    """
    size = one_size(pack, "mean image")
    total = np.zeros((*size, 3))
    for row in rows:
        total += pack.frames[row, : size[0], : size[1], :3]
    return (total / len(rows)).astype(np.float32)


def one_size(pack: CameraPack, wanted_by: str) -> tuple[int, int]:
    """Height and width of all images; a ``DataError`` names two that differ."""
    sizes, first = np.unique(pack.sizes, axis=0, return_index=True)
    if len(sizes) > 1:
        shown = ", ".join(f"{w}x{h} ({Path(pack.images[i]).name})" for (h, w), i in zip(sizes, first, strict=True))
        raise DataError(describe(pack.folder, wanted_by, f"images of {shown}", "images of one size, or square crops"))
    return int(sizes[0, 0]), int(sizes[0, 1])


def _fingerprint(dataset: CameraDataset, size: int | tuple[int, int]) -> str:
    digest = hashlib.sha256(repr((VERSION, size)).encode())
    for frame in dataset.frames:
        digest.update(file_state(frame.image) + repr((frame.sequence, frame.distortion)).encode())
        digest.update(np.concatenate([frame.K.ravel(), frame.R.ravel(), frame.t]).tobytes())
    return digest.hexdigest()


def _write(
    folder: Path, dataset: CameraDataset, size: int | tuple[int, int], workers: int, progress: Progress | None
) -> None:
    widths, heights = np.array([scaled_size(frame.width, frame.height, size) for frame in dataset.frames]).T
    shape = (len(dataset), int(heights.max()), int(widths.max()), 4)
    frames = np.lib.format.open_memmap(folder / "frames.npy", mode="w+", dtype=np.uint8, shape=shape)
    reserve(folder / "frames.npy", frames.offset + frames.nbytes)

    def decode(row: int) -> Array:
        frame = dataset.frames[row]
        image, K = undistort(_photograph(frame), frame.K, frame.distortion)
        target, size = frames[row], (int(widths[row]), int(heights[row]))
        target[size[1] :], target[:, size[0] :] = (*BORDER, 0), (*BORDER, 0)
        target[: size[1], : size[0], :3] = scale(image, size)
        return scaled_camera(K, (image.shape[1], image.shape[0]), size)

    cameras: list[Array] = []
    with ThreadPoolExecutor(workers) as pool:
        for K in pool.map(decode, range(len(dataset))):
            cameras.append(K)
            if progress is not None:
                progress(len(cameras), len(dataset))
    frames.flush()
    np.savez(
        folder / "cameras.npz",
        allow_pickle=False,
        sizes=np.stack([heights, widths], axis=1),
        K=np.stack(cameras),
        R=dataset.R,
        t=dataset.t,
        sequences=np.array(dataset.sequences),
        images=np.array([str(frame.image) for frame in dataset.frames]),
    )


def _photograph(frame: CameraFrame) -> NDArray[np.uint8]:
    """Read a frame of the size that its camera states."""
    image = read_image(frame.image)
    if image.shape[:2] != (frame.height, frame.width):
        found, expected = f"{image.shape[1]}x{image.shape[0]}", f"{frame.width}x{frame.height}"
        raise DataError(describe(frame.image, "image size", found, expected))
    return image
