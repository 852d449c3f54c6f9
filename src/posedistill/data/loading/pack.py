"""FramePack: every frame of a data set decoded once into one memory-mapped array, with an instance id per pixel."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.bop import BopDataset
from posedistill.data.loading.pack_build import PackBuilder, Progress, exclusive, read_fingerprint
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.machine import cores

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Instances:
    """A table of ``N`` annotated instances, one array per column.

    Attributes:
        frame: int64 ``[N]`` row of ``FramePack.frames``. slot: uint8 ``[N]`` the instance's value in the id channel.
        obj_id, scene_id, im_id: int64 ``[N]``.
        K: ``[N, 3, 3]``. R: ``[N, 3, 3]``. t: ``[N, 3]`` mm.
        bbox_obj: ``[N, 4]`` x, y, w, h of the whole silhouette; bbox_visib: of the visible part. visib_fract: ``[N]``.
        score: ``[N]`` of the estimator that made the pose; 1 where a person annotated it (and in packs of old).
    """

    frame: NDArray[np.int64]
    slot: NDArray[np.uint8]
    obj_id: NDArray[np.int64]
    scene_id: NDArray[np.int64]
    im_id: NDArray[np.int64]
    K: Array
    R: Array
    t: Array
    bbox_obj: Array
    bbox_visib: Array
    visib_fract: Array
    score: Array = field(default_factory=lambda: np.ones(()))

    def __post_init__(self) -> None:
        """One score for all becomes one each."""
        object.__setattr__(self, "score", np.broadcast_to(self.score, self.frame.shape))

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True)
class FramePack:
    """Decoded frames, uint8 ``[F, H, W, 4]`` memory-mapped, and the instances annotated in them.

    Channels 0..2 are RGB. Channel 3 is the instance id: 0 background, ``slot`` of an instance in ``instances``, 255
    other foreground. Frames smaller than the largest are padded below and to the right with the border colour.
    """

    folder: Path
    frames: NDArray[np.uint8]
    instances: Instances

    @classmethod
    def open(cls, folder: str | Path) -> "FramePack":
        """Open a finished pack; ``DataError`` where a file is missing or damaged."""
        folder = Path(folder)
        try:
            frames = np.load(folder / "frames.npy", mmap_mode="r", allow_pickle=False)
            with np.load(folder / "instances.npz", allow_pickle=False) as columns:
                names = [column.name for column in fields(Instances)]
                instances = Instances(**{name: columns[name] for name in names if name in columns or name != "score"})
        except FileNotFoundError as error:
            raise DataError(describe(folder, "pack", "no such file", error.filename)) from error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                describe(folder, "pack", error, "frames.npy and instances.npz of a finished pack")
            ) from error
        if frames.ndim != 4 or frames.shape[3] != 4 or frames.dtype != np.uint8:
            raise DataError(
                describe(folder / "frames.npy", "shape", (frames.dtype, frames.shape), "uint8 [F, H, W, 4]")
            )
        return cls(folder, frames, instances)

    @classmethod
    def build(
        cls,
        dataset: BopDataset,
        folder: str | Path,
        obj_ids: Sequence[int],
        progress: Progress | None = None,
        *,
        min_visible: float = 0.1,
        workers: int | None = None,
    ) -> "FramePack":
        """The pack of a data set: opened where it is up to date, else built (or a broken-off build continued).

        An instance enters when its object is in ``obj_ids``, at least ``min_visible`` of it can be seen and its mask
        has ``MIN_PIXELS``; frames without such an instance are left out. The pack appears under its name only when it
        is complete. Processes that build the same pack at once wait for each other.

        Raises:
            DataError: a damaged image or mask (named), no usable frame, a full disk.
        """
        folder = Path(folder)
        builder = PackBuilder(dataset, sorted({int(obj_id) for obj_id in obj_ids}), min_visible)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(folder.with_name(f".{folder.name}.lock")):
            if read_fingerprint(folder) != builder.fingerprint:
                builder.run(folder, progress, workers or cores())
        return cls.open(folder)

    def __len__(self) -> int:
        return len(self.instances)


def split_validation(packs: Sequence[FramePack], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split the instances of ``packs`` (numbered through, in order) into training and validation indices.

    Whole frames are held back, ``fraction`` of each pack's (at least one where ``fraction`` > 0 and two exist), so
    that no validation picture is ever trained on.
    """
    train, validation, start = [], [], 0
    for number, pack in enumerate(packs):
        frames = np.unique(pack.instances.frame)
        count = min(max(round(fraction * len(frames)), 1 if fraction > 0 else 0), len(frames) - 1)
        held = np.random.default_rng([seed, number]).permutation(frames)[:count]
        is_held = np.isin(pack.instances.frame, held)
        train.append(start + np.flatnonzero(~is_held))
        validation.append(start + np.flatnonzero(is_held))
        start += len(pack)
    return np.concatenate(train), np.concatenate(validation)
