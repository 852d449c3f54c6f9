"""Poses: the table of poses that every estimator, teacher, score and file of the project speaks."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posedistill.errors import DataError, describe
from posedistill.files import read_json, read_text, write_file
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import is_rotation, matrix_to_quaternion, quaternion_to_matrix

HEADER = "scene_id,im_id,obj_id,score,R,t,time"
UNSCORED_HEADER = "name,x,y,z,qw,qx,qy,qz,seconds"
"""Camera centre (metres, world frame), quaternion from world to camera, seconds from photograph to pose."""
CAMERA_HEADER = UNSCORED_HEADER + ",score"
ROTATION_TOLERANCE = 1e-2
"""Largest entry of ``R R^T - I`` a file may hold; files in the wild are rounded to as few as 4 digits."""
_SHOWN_FAULTS = 10
_KINDS: dict[str, type] = {"scene_id": np.int64, "im_id": np.int64, "obj_id": np.int64, "name": str, "category": str}


@dataclass(frozen=True, eq=False)
class Poses:
    """``N`` poses, one a row, in the order in which they were made; a single value given for a column fills it.

    Attributes:
        scene_id, im_id: ``[N]`` int64, BOP ids of the image; -1 where it has a ``name``.
        obj_id: ``[N]`` int64, BOP id of what is posed; -1 for scenes and categories.
        score: ``[N]`` float64, larger is surer; comparable within one estimator only; NaN where a family gives none.
        R: ``[N, 3, 3]`` object to camera, or scene to camera. t: ``[N, 3]`` mm of objects, metres of scenes.
            NaN where no pose was found, or where a family gives none.
        seconds: ``[N]`` that the whole *image* took, -1 where unknown.
        name, category: ``[N]`` text, empty where ids tell the image and the object.
    """

    scene_id: NDArray[np.int64]
    im_id: NDArray[np.int64]
    obj_id: NDArray[np.int64]
    score: Array
    R: Array
    t: Array
    seconds: Array
    name: NDArray[np.str_] = field(default_factory=lambda: np.array(""))
    category: NDArray[np.str_] = field(default_factory=lambda: np.array(""))

    def __post_init__(self) -> None:
        """Bring every column to its dtype and refuse columns of unequal length (``ValueError``)."""
        count = len(self.R)
        for column in fields(self):
            values: NDArray[Any] = np.asarray(getattr(self, column.name), dtype=_KINDS.get(column.name, np.float64))
            shape = (count, *{"R": (3, 3), "t": (3,)}.get(column.name, ()))
            values = np.broadcast_to(values, shape) if values.ndim == 0 else values
            if values.shape != shape:
                raise ValueError(f"Poses.{column.name}: found shape {values.shape}, expected {shape}")
            object.__setattr__(self, column.name, values)

    @classmethod
    def of_cameras(
        cls,
        R: Array,
        t: Array | None = None,
        *,
        centers: Array | float = np.nan,
        name: ArrayLike = "",
        score: ArrayLike = np.nan,
        seconds: ArrayLike = -1.0,
    ) -> "Poses":
        """Poses of named pictures, by ``t`` or by where the cameras stand (``centers`` ``[N, 3]``), or without either.

        >>> Poses.of_cameras(np.eye(3)[None], centers=np.array([[1.0, 2.0, 3.0]])).t.tolist()
        [[-1.0, -2.0, -3.0]]
        """
        t = -np.einsum("nij,nj->ni", R, np.broadcast_to(centers, np.shape(R)[:2])) if t is None else t
        no_id = np.array(-1)
        return cls(no_id, no_id, no_id, np.asarray(score), R, t, np.asarray(seconds), np.asarray(name))

    def __len__(self) -> int:
        return len(self.R)

    @property
    def found(self) -> NDArray[np.bool_]:
        """``[N]`` whether there is a pose: rotation and translation."""
        return np.isfinite(self.R.sum(axis=(1, 2)) + self.t.sum(axis=1))

    @property
    def centers(self) -> Array:
        """``[N, 3]`` where the cameras stand in the frame of what is posed."""
        return -np.einsum("nji,nj->ni", self.R, self.t)

    def select(self, index: NDArray | slice | Sequence[int]) -> "Poses":
        """The rows named by a boolean mask, an index array or a slice.

        >>> len(Poses.empty().select(slice(None)))
        0
        """
        return Poses(*(getattr(self, column.name)[index] for column in fields(self)))

    @classmethod
    def empty(cls) -> "Poses":
        """A table without rows."""
        return cls.of_cameras(np.zeros((0, 3, 3)), np.zeros((0, 3)))

    @classmethod
    def concatenate(cls, tables: Sequence["Poses"]) -> "Poses":
        """All rows of several tables, in order."""
        tables = tables or [cls.empty()]
        return cls(*(np.concatenate([getattr(table, column.name) for table in tables]) for column in fields(cls)))

    @classmethod
    def read(cls, path: str | Path) -> "Poses":
        """Read a csv of either kind, which its first line tells, or a json.

        See :meth:`from_csv`, :meth:`from_bop_csv` and :meth:`from_json`.
        """
        if Path(path).suffix == ".json":
            return cls.from_json(path)
        named = read_text(Path(path), "a csv of poses").startswith(UNSCORED_HEADER)
        return cls.from_csv(path) if named else cls.from_bop_csv(path)

    def write(self, path: str | Path) -> None:
        """Write the csv that can tell these images apart: with names where they have any, else as BOP has it."""
        (self.to_csv if (self.name != "").any() else self.to_bop_csv)(path)

    @classmethod
    def from_bop_csv(cls, path: str | Path) -> "Poses":
        """Read a BOP results csv (``scene_id,im_id,obj_id,score,R,t,time``; row ``i`` is line ``i + 2``).

        Raises:
            DataError: no such file, no header, or rows with a wrong column count, something that is not a finite
                number, or an ``R`` that is not a rotation; the message names the lines.
        """
        numbers = np.array(_read_csv(Path(path), HEADER, _bop_row), dtype=np.float64).reshape(-1, 17)
        R = numbers[:, 4:13].reshape(-1, 3, 3)
        _refuse_invalid(path, R, "lines", 2)
        scene_id, im_id, obj_id, score = numbers[:, :4].T
        return cls(scene_id, im_id, obj_id, score, R, numbers[:, 13:16], numbers[:, 16])

    def to_bop_csv(self, path: str | Path) -> None:
        """Write a BOP results csv; reading it back gives the same numbers bit for bit.

        The format has no row for an object that was not found, so rows without a pose are left out.

        Raises:
            DataError: a full disk, or any other refusal; an older file is kept whole.
        """
        lines = [HEADER]
        for i in np.flatnonzero(self.found):
            R = " ".join(map(repr, self.R[i].ravel().tolist()))
            t = " ".join(map(repr, self.t[i].tolist()))
            ids = f"{self.scene_id[i]},{self.im_id[i]},{self.obj_id[i]}"
            lines.append(f"{ids},{float(self.score[i])!r},{R},{t},{float(self.seconds[i])!r}")
        write_file(Path(path), "\n".join(lines) + "\n")

    @classmethod
    def from_csv(cls, path: str | Path) -> "Poses":
        """Read the poses of named photographs that :meth:`to_csv` wrote; nan stands for a pose that was not found.

        Files without a column of scores are read too.

        Raises:
            DataError: no such file, other columns, or a cell that is no number; the message names the lines.
        """
        rows = _read_csv(Path(path), CAMERA_HEADER, _camera_row, UNSCORED_HEADER)
        numbers = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 9)
        R = quaternion_to_matrix(numbers[:, 3:7])
        names = [row[0] for row in rows]
        return cls.of_cameras(R, centers=numbers[:, :3], name=names, seconds=numbers[:, 7], score=numbers[:, 8])

    def to_csv(self, path: str | Path) -> None:
        """Write names, camera centres, quaternions, seconds and scores, nine significant digits a number.

        Raises:
            DataError: a full disk, or any other refusal; an older file is kept.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CAMERA_HEADER.split(","))
        numbers = np.column_stack([self.centers, matrix_to_quaternion(self.R), self.seconds, self.score])
        for name, row in zip(self.name.tolist(), numbers.tolist(), strict=True):
            writer.writerow([name, *(f"{value:.9g}" for value in row)])
        write_file(Path(path), text.getvalue())

    @classmethod
    def from_json(cls, path: str | Path) -> "Poses":
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: no such file, no list of rows, a row without a column or with another shape, or an ``R`` that
                is not a rotation.
        """
        rows = read_json(Path(path), "a json list of poses")
        tables, columns = [], dict[str, NDArray[Any]]()
        for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
            try:
                columns = {key: np.array([value], _KINDS.get(key, np.float64)) for key, value in row.items()}
                tables.append(cls(**columns))
            except (TypeError, ValueError, AttributeError, OverflowError) as error:
                expected = ", ".join(column.name for column in fields(cls))
                raise DataError(describe(path, f"row {number}", error, expected)) from error
        table = cls.concatenate(tables)
        known = np.where(np.isnan(table.R), np.eye(3), table.R)
        _refuse_invalid(path, np.where(np.isinf(known), 2.0, known), "rows", 0)
        return table

    def to_json(self, path: str | Path) -> None:
        """Write every column of every row, one row a line, bit for bit; null stands for NaN.

        Raises:
            DataError: a full disk, or any other refusal; an older file is kept.
        """
        columns = {}
        for column in fields(self):
            values = getattr(self, column.name).astype(object)
            values[values != values] = None  # NaN alone differs from itself
            columns[column.name] = values.tolist()
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        write_file(Path(path), "[" + ",\n".join(json.dumps(row) for row in rows) + "]\n")


def _read_csv(path: Path, header: str, parse: Callable[[list[str]], list[Any]], older: str = "") -> list[list[Any]]:
    """The parsed rows below a header; ``DataError`` names every line that ``parse`` refuses by ``ValueError``.

    ``older``: the header of files that were written before there was this one.
    """
    try:
        lines = list(csv.reader(read_text(path, f"a csv of {header}").rstrip().split("\n")))
    except csv.Error as error:
        raise DataError(describe(path, "file", error, f"a csv of {header}")) from error
    first = ",".join(lines[0]) if lines else ""
    if first.replace(" ", "") not in (header, older or header):
        raise DataError(describe(path, "line 1", repr(first[:80]), repr(header)))
    rows, faults = [], []
    for number, cells in enumerate(lines[1:], start=2):
        try:
            if len(cells) != len(lines[0]):
                raise ValueError(f"found {len(cells)} columns, expected {len(lines[0])}")
            rows.append(parse(cells))
        except (ValueError, OverflowError) as error:
            faults.append(f"line {number}: {error}")
    if faults:
        shown = "; ".join(faults[:_SHOWN_FAULTS]) + ("; ..." if len(faults) > _SHOWN_FAULTS else "")
        raise DataError(describe(path, "rows", f"{len(faults)} faulty rows ({shown})", header))
    return rows


def _refuse_invalid(path: str | Path, R: Array, places: str, first: int) -> None:
    """``DataError`` where ``[N, 3, 3]`` are not rotations; ``first`` numbers the first of them."""
    wrong = np.flatnonzero(~is_rotation(R, ROTATION_TOLERANCE))
    if len(wrong):
        found = f"{len(wrong)} invalid rotation matrices ({places} {(wrong[:_SHOWN_FAULTS] + first).tolist()})"
        raise DataError(describe(path, "R", found, "R R^T = I and det R = 1"))


def _bop_row(cells: list[str]) -> list[Any]:
    """The 17 numbers of a row."""
    R, t = cells[4].split(), cells[5].split()
    if len(R) != 9 or len(t) != 3:
        raise ValueError(f"found {len(R)} numbers in R and {len(t)} in t, expected 9 and 3")
    numbers = [*map(int, cells[:3]), *map(float, [cells[3], *R, *t, cells[6]])]
    if not all(map(math.isfinite, numbers)) or max(map(abs, numbers[:3])) >= 2**53:
        raise ValueError("found NaN or inf, expected finite numbers")
    return numbers


def _camera_row(cells: list[str]) -> list[Any]:
    """A name and 9 numbers, the last one, the score, nan where the file has none."""
    numbers = [float(cell) for cell in cells[1:]]
    numbers += [math.nan] * (9 - len(numbers))
    if any(map(math.isinf, numbers)) or not any(numbers[3:7]):
        raise ValueError("found inf or a quaternion of zeros, expected a pose, or nan where none was found")
    return [cells[0], *numbers]
