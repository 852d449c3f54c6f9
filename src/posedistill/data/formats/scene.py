"""CameraDataset: photographs of one scene, each with its camera and its pose, in one convention for all formats.

Poses are from the world to the camera, ``x_camera = R x_world + t``, with OpenCV's axes (x right, y down, z forward)
and the data set's own unit, metres in the published sets. The centre of the first pixel is (0, 0).
"""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from posedistill.data.images import image_size
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.poses import Poses


@dataclass(frozen=True, eq=False)
class CameraFrame:
    """One photograph.

    Attributes:
        image: its file. sequence: the recording it belongs to; frames of a sequence are neighbours in time.
        K: ``[3, 3]`` pixels. width, height: pixels.
        R: ``[3, 3]`` world to camera. t: ``[3]`` metres, or the unit of a data set that is not metric.
        distortion: of the lens, in OpenCV's order (k1, k2, p1, p2, k3, ...); empty for a pinhole.
    """

    image: Path
    sequence: str
    K: Array
    width: int
    height: int
    R: Array
    t: Array
    distortion: tuple[float, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.width, self.height

    @property
    def center(self) -> Array:
        """``[3]`` where the camera stands, world frame."""
        return -self.R.T @ self.t

    def same_camera(self, other: "CameraFrame") -> bool:
        """Whether both were taken by one camera, as far as is known of them."""
        same = self.size == other.size and self.distortion == other.distortion
        return same and np.array_equal(self.K, other.K)


@dataclass(frozen=True, eq=False)
class CameraDataset:
    """The frames of a split, sequence by sequence, in the order of time within each.

    Attributes:
        root: its folder. split: which part of it was read.
        notes: what the reader repaired or left out, in words, with counts.
        metric: whether its unit is the metre. A reconstruction from photographs alone knows no unit.
    """

    root: Path
    split: str
    frames: tuple[CameraFrame, ...]
    notes: tuple[str, ...] = ()
    metric: bool = True

    def __post_init__(self) -> None:
        if not self.frames:
            raise DataError(describe(self.root, f"split {self.split}", "no usable frame", "at least one"))

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[CameraFrame]:
        return iter(self.frames)

    @property
    def unit(self) -> str:
        """Of positions: ``m``, or ``units`` where nobody said how long one is."""
        return "m" if self.metric else "units"

    @property
    def K(self) -> Array:
        """``[N, 3, 3]``."""
        return np.stack([frame.K for frame in self.frames])

    @property
    def R(self) -> Array:
        """``[N, 3, 3]`` world to camera."""
        return np.stack([frame.R for frame in self.frames])

    @property
    def t(self) -> Array:
        """``[N, 3]`` metres, or the unit of the data set."""
        return np.stack([frame.t for frame in self.frames])

    @property
    def centers(self) -> Array:
        """``[N, 3]`` where the cameras stand, in the same."""
        return np.stack([frame.center for frame in self.frames])

    @property
    def sequences(self) -> tuple[str, ...]:
        """The sequence of each frame."""
        return tuple(frame.sequence for frame in self.frames)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the photographs, from the scene's folder on."""
        return tuple(Path(os.path.relpath(frame.image, self.root)).as_posix() for frame in self.frames)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "CameraDataset":
        """The data set of some of the frames."""
        return replace(self, frames=tuple(self.frames[int(row)] for row in rows))

    def posed_by(
        self, poses: Poses, file: Path, min_score: float = 0.0, held: Collection[Path] = ()
    ) -> "CameraDataset":
        """The photographs that a table names, with its poses, whatever estimator made them; all others are left out.

        So are those of which it holds no pose, or one of a score below ``min_score``. It may name photographs of the
        scene's folder that have no pose there: they are by the scene's camera where it has but one, and left out where
        it has several; none of ``held`` is taken, the resolved paths of what is measured with. Errors name ``file``.

        Raises:
            DataError: two poses of a photograph; nothing is left; a photograph of another size than the camera's.
        """
        sure = poses.found & ~(poses.score < min_score)
        rows = {self._inside(name): row for row, name in enumerate(poses.name.tolist()) if sure[row]}
        if len(rows) < (count := int(sure.sum())):
            raise DataError(describe(file, "name", f"{count} poses of {len(rows)} photographs", "one of each"))
        own = dict(zip(self.names, self.frames, strict=True))
        there = ((name, self.root / name) for name in rows if name not in own)
        unposed = [name for name, path in there if path.is_file() and path.resolve() not in held]
        known = own | self._taken(unposed)
        frames = [replace(known[name], R=poses.R[row], t=poses.t[row]) for name, row in rows.items() if name in known]
        if not frames:
            found = f"poses of {len(rows)} photographs, none of these (first: {next(iter(rows), 'none')})"
            raise DataError(describe(file, "name", found, f"names as in {self.root}, such as {self.names[0]}"))
        frames.sort(key=lambda frame: natural_order(frame.image.as_posix()))
        used = sum(name in own for name in rows)
        notes = [f"poses of {file.name} for {used} of {len(self)} photographs, the others are left out"]
        if unposed:
            told = "without a pose in the scene" if len(known) > len(own) else "left out: the scene has no one camera"
            notes.append(f"{file.name}: {len(unposed)} photographs more, {told}")
        return replace(self, frames=tuple(frames), notes=(*self.notes, *notes))

    def _taken(self, names: Sequence[str]) -> dict[str, CameraFrame]:
        """Frames, whose poses mean nothing, of photographs by the scene's camera; none where it has several."""
        first, frames = self.frames[0], dict[str, CameraFrame]()
        if not all(frame.same_camera(first) for frame in self.frames):
            return frames
        for name in names:
            path = self.root / name
            if (size := image_size(path)) != first.size:
                found, expected = (f"{width}x{height}" for width, height in (size, first.size))
                raise DataError(describe(path, "image size", found, f"{expected}, as the scene's other photographs"))
            frames[name] = replace(first, image=path, sequence=PurePosixPath(name).parent.as_posix())
        return frames

    def _inside(self, name: str) -> str:
        """A photograph's name from the scene's folder on, where it is given from elsewhere."""
        if (self.root / name).is_file() or not Path(name).is_file():
            return name
        return Path(os.path.relpath(Path(name).resolve(), self.root.resolve())).as_posix()

    def in_metres(self, metres_per_unit: float) -> "CameraDataset":
        """The data set in metres, one of its units being so many.

        Raises:
            DataError: ``metres_per_unit`` is no positive number.
        """
        if not 0 < metres_per_unit < np.inf:
            raise DataError(describe(self.root, "metres per unit", metres_per_unit, "a positive number"))
        frames = tuple(replace(frame, t=metres_per_unit * frame.t) for frame in self.frames)
        return replace(self, frames=frames, metric=True)


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers in names by their value.

    >>> sorted(["img10.png", "img9.png", "img1.png"], key=natural_order)
    ['img1.png', 'img9.png', 'img10.png']
    """
    parts = [part.lstrip("0") if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    # A number is as large as it is long, then as its digits; names may have more of these than int() takes.
    return [(row % 2, len(part) * (row % 2), part) for row, part in enumerate(parts)]


def hold_out_every(count: int, split: str, every: int = 8) -> NDArray[np.int64]:
    """Rows of a split where the data set has none of its own: each ``every``-th image is for testing.

    >>> hold_out_every(10, "test", 8).tolist(), hold_out_every(10, "all", 8).tolist() == list(range(10))
    ([0, 8], True)
    """
    rows = np.arange(count)
    held = rows % every == 0
    return {"train": rows[~held], "test": rows[held], "all": rows}[split]
