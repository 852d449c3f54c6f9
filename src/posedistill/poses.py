"""PoseEstimates: the table of poses that every estimator, teacher, score and file of the project speaks."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.files import write_file
from posedistill.geometry.rotations import is_rotation

HEADER = "scene_id,im_id,obj_id,score,R,t,time"
ROTATION_TOLERANCE = 1e-2
"""Largest entry of ``R R^T - I`` a csv may hold; files in the wild are rounded to as few as 4 digits."""
_SHOWN_FAULTS = 10


@dataclass(frozen=True)
class PoseEstimates:
    """``N`` estimated poses, one a row, in the order in which they were made.

    Attributes:
        scene_id, im_id, obj_id: ``[N]`` int64, BOP ids.
        score: ``[N]`` float64, larger is surer; comparable within one estimator only.
        R: ``[N, 3, 3]`` object to camera. t: ``[N, 3]`` mm.
        time: ``[N]`` seconds the whole *image* took (BOP), -1 where unknown.
    """

    scene_id: NDArray[np.int64]
    im_id: NDArray[np.int64]
    obj_id: NDArray[np.int64]
    score: NDArray[np.float64]
    R: NDArray[np.float64]
    t: NDArray[np.float64]
    time: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Bring every column to its dtype and refuse columns of unequal length (``ValueError``)."""
        count = len(self.scene_id)
        shapes = {"R": (count, 3, 3), "t": (count, 3)}
        for field in fields(self):
            dtype = np.int64 if field.name.endswith("_id") else np.float64
            column = np.asarray(getattr(self, field.name), dtype=dtype)
            if column.shape != shapes.get(field.name, (count,)):
                expected = shapes.get(field.name, (count,))
                raise ValueError(f"PoseEstimates.{field.name}: found shape {column.shape}, expected {expected}")
            object.__setattr__(self, field.name, column)

    def __len__(self) -> int:
        return len(self.scene_id)

    def select(self, index: NDArray | slice | Sequence[int]) -> "PoseEstimates":
        """The rows named by a boolean mask, an index array or a slice.

        >>> len(PoseEstimates.empty().select(slice(None)))
        0
        """
        return PoseEstimates(*(getattr(self, field.name)[index] for field in fields(self)))

    @classmethod
    def empty(cls) -> "PoseEstimates":
        """A table without rows."""
        ids, values = np.zeros(0, dtype=np.int64), np.zeros(0)
        return cls(ids, ids, ids, values, np.zeros((0, 3, 3)), np.zeros((0, 3)), values)

    @classmethod
    def concatenate(cls, tables: Sequence["PoseEstimates"]) -> "PoseEstimates":
        """All rows of several tables, in order."""
        if not tables:
            return cls.empty()
        return cls(*(np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(cls)))

    @classmethod
    def from_bop_csv(cls, path: str | Path) -> "PoseEstimates":
        """Read a BOP results csv (``scene_id,im_id,obj_id,score,R,t,time``; row ``i`` is line ``i + 2``).

        Raises:
            DataError: no such file, no header, or rows with a wrong column count, something that is not a finite
                number, or an ``R`` that is no rotation; the message names the lines.
        """
        path = Path(path)
        try:
            lines = path.read_text(encoding="utf-8").rstrip().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(describe(path, "file", error, "a BOP results csv")) from error
        if not lines or lines[0].replace(" ", "") != HEADER:
            raise DataError(describe(path, "line 1", repr(lines[0][:80] if lines else ""), repr(HEADER)))
        numbers, faults = np.zeros((len(lines) - 1, 17)), []
        for row, line in enumerate(lines[1:]):
            fault = _parse_row(line, numbers[row])
            if fault:
                faults.append(f"line {row + 2}: {fault}")
        if faults:
            shown = "; ".join(faults[:_SHOWN_FAULTS]) + ("; ..." if len(faults) > _SHOWN_FAULTS else "")
            raise DataError(describe(path, "rows", f"{len(faults)} faulty rows ({shown})", HEADER))
        return cls._from_numbers(path, numbers)

    @classmethod
    def _from_numbers(cls, path: Path, numbers: NDArray[np.float64]) -> "PoseEstimates":
        """Split the ``[N, 17]`` numbers of a csv into columns; ``DataError`` where an R is no rotation."""
        R = numbers[:, 4:13].reshape(-1, 3, 3)
        wrong = np.flatnonzero(~is_rotation(R, ROTATION_TOLERANCE))
        if len(wrong):
            lines = [int(row) + 2 for row in wrong[:_SHOWN_FAULTS]]
            found = f"{len(wrong)} matrices that are no rotation (lines {lines})"
            raise DataError(describe(path, "R", found, "R R^T = I and det R = 1"))
        scene_id, im_id, obj_id, score = numbers[:, :4].T
        return cls(scene_id, im_id, obj_id, score, R, numbers[:, 13:16], numbers[:, 16])

    def to_bop_csv(self, path: str | Path) -> None:
        """Write a BOP results csv; reading it back gives the same numbers bit for bit.

        Raises:
            DataError: a full disk, or any other refusal; an older file is kept whole.
        """
        lines = [HEADER]
        for i in range(len(self)):
            R = " ".join(map(repr, self.R[i].ravel().tolist()))
            t = " ".join(map(repr, self.t[i].tolist()))
            ids = f"{self.scene_id[i]},{self.im_id[i]},{self.obj_id[i]}"
            lines.append(f"{ids},{float(self.score[i])!r},{R},{t},{float(self.time[i])!r}")
        write_file(Path(path), "\n".join(lines) + "\n")


def _parse_row(line: str, out: NDArray[np.float64]) -> str | None:
    """Parse one csv row into 17 numbers; returns what is wrong with it, or None."""
    columns = line.split(",")
    if len(columns) != 7:
        return f"found {len(columns)} columns, expected 7"
    R, t = columns[4].split(), columns[5].split()
    if len(R) != 9 or len(t) != 3:
        return f"found {len(R)} numbers in R and {len(t)} in t, expected 9 and 3"
    try:
        out[:] = [int(columns[0]), int(columns[1]), int(columns[2]), *map(float, [columns[3], *R, *t, columns[6]])]
    except ValueError as error:
        return str(error)
    return None if np.isfinite(out).all() else "found NaN or inf, expected finite numbers"
