"""Pack: every frame of a data set decoded once into one memory-mapped array, with typed columns for what it shows."""

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array

FRAMES, COLUMNS = "frames.npy", "columns.npz"
"""The two files of a pack."""


@dataclass(frozen=True, eq=False)
class Instances:
    """A table of ``N`` annotated instances, one array a column. A scene is one instance of every frame of it.

    Attributes:
        frame: int64 ``[N]`` row of ``Pack.frames``. slot: uint8 ``[N]`` the instance's value in the id channel; 0 for a
            scene. obj_id: int64 ``[N]``; 0 for a scene.
        R: ``[N, 3, 3]``. t: ``[N, 3]``: of the object (mm) or the scene (m) to the frame's camera.
        bbox_obj: ``[N, 4]`` x, y, w, h of the whole silhouette; bbox_visib: of the visible part. visib_fract: ``[N]``.
        score: ``[N]`` of the estimator that made the pose; 1 where a person annotated it.
    """

    frame: NDArray[np.int64]
    slot: NDArray[np.uint8]
    obj_id: NDArray[np.int64]
    R: Array
    t: Array
    bbox_obj: Array
    bbox_visib: Array
    visib_fract: Array
    score: Array

    @classmethod
    def of_rows(cls, rows: list[dict[str, Any]]) -> "Instances":
        """The table of rows that hold a value for each column."""
        kinds: dict[str, type] = {"frame": np.int64, "slot": np.uint8, "obj_id": np.int64}
        names = [column.name for column in fields(cls)]
        return cls(**{name: np.array([row[name] for row in rows], kinds.get(name, np.float64)) for name in names})

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True, eq=False)
class Pack:
    """``F`` decoded frames with their cameras, and the instances annotated in them.

    Attributes:
        frames: uint8 ``[F, H, W, 4]``, memory-mapped. Channels 0..2 are RGB. Channel 3 is the instance id: 0 background
            (or scene; of novel views how they were made), ``slot`` of an instance, 255 other foreground. Frames smaller
            than the largest are padded below and to the right with the border colour.
        sizes: int64 ``[F, 2]`` height and width of each frame without padding. K: ``[F, 3, 3]``.
        sequences: the recording (BOP scene) of each frame. images: their files, as strings.
    """

    folder: Path
    frames: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    K: Array
    sequences: tuple[str, ...]
    images: tuple[str, ...]
    instances: Instances

    @classmethod
    def open(cls, folder: str | Path) -> "Pack":
        """Open a finished pack; ``DataError`` where a file is missing or damaged."""
        folder = Path(folder)
        try:
            frames = np.load(folder / FRAMES, mmap_mode="r", allow_pickle=False)
            with np.load(folder / COLUMNS, allow_pickle=False) as columns:
                table = Instances(**{column.name: columns[column.name] for column in fields(Instances)})
                sizes, K = columns["sizes"], columns["K"]
                sequences, images = (tuple(columns[name].tolist()) for name in ("sequences", "images"))
        except FileNotFoundError as error:
            raise DataError(describe(folder, "pack", "no such file", error.filename)) from error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            expected = f"{FRAMES} and {COLUMNS} of a finished pack"
            raise DataError(describe(folder, "pack", error, expected)) from error
        if frames.ndim != 4 or frames.shape[3] != 4 or frames.dtype != np.uint8 or len(frames) != len(K):
            found = f"{frames.dtype} {frames.shape} with {len(K)} cameras"
            raise DataError(describe(folder / FRAMES, "shape", found, "uint8 [F, H, W, 4] with F cameras"))
        return cls(folder, frames, sizes, K, sequences, images, table)

    def save_columns(self) -> None:
        """Write all but the frames."""
        columns = {name: getattr(self, name) for name in ("sizes", "K", "sequences", "images")}
        np.savez(self.folder / COLUMNS, allow_pickle=False, **columns, **vars(self.instances))

    def __len__(self) -> int:
        """Number of instances."""
        return len(self.instances)

    def one_size(self, wanted_by: str) -> tuple[int, int]:
        """Height and width of all frames; a ``DataError`` names two that differ."""
        sizes, first = np.unique(self.sizes, axis=0, return_index=True)
        if len(sizes) > 1:
            shown = ", ".join(f"{w}x{h} ({Path(self.images[i]).name})" for (h, w), i in zip(sizes, first, strict=True))
            expected = "images of one size, or square crops"
            raise DataError(describe(self.folder, wanted_by, f"images of {shown}", expected))
        return int(sizes[0, 0]), int(sizes[0, 1])


def mean_image(pack: Pack, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """``[H, W, 3]`` mean of some frames in 0..255: what the published preprocessing subtracts, the training frames'.

    Raises:
        DataError: images of several sizes have no mean.
    """
    height, width = pack.one_size("mean image")
    total = np.zeros((height, width, 3))
    for row in rows:
        total += pack.frames[row, :height, :width, :3]
    return (total / len(rows)).astype(np.float32)
