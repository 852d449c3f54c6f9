"""CameraEstimates: what an estimator says of where photographs were taken, as a table that is a csv file."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posedistill.errors import DataError, describe
from posedistill.files import write_file
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix

COLUMNS = ("name", "x", "y", "z", "qw", "qx", "qy", "qz", "seconds")
"""Camera centre (metres, world frame), quaternion from world to camera, seconds from photograph to pose."""


@dataclass(frozen=True, eq=False)
class CameraEstimates:
    """Poses of ``N`` photographs.

    Attributes:
        names: of the photographs, as the caller calls them.
        R: ``[N, 3, 3]`` world to camera. t: ``[N, 3]`` metres. seconds: ``[N]`` from photograph to pose.
    """

    names: tuple[str, ...]
    R: Array
    t: Array
    seconds: Array

    def __len__(self) -> int:
        return len(self.names)

    @property
    def centers(self) -> Array:
        """``[N, 3]`` where the cameras stand, metres."""
        return -np.einsum("nji,nj->ni", self.R, self.t)

    def to_csv(self, path: str | Path) -> None:
        """Write the table, nine significant digits a number.

        Raises:
            DataError: a full disk, or any other refusal; an older file is kept.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        numbers = np.concatenate([self.centers, matrix_to_quaternion(self.R), self.seconds[:, None]], axis=1)
        writer.writerows(
            [name, *(f"{value:.9g}" for value in row)] for name, row in zip(self.names, numbers.tolist(), strict=True)
        )
        write_file(Path(path), text.getvalue())

    @classmethod
    def from_csv(cls, path: str | Path) -> "CameraEstimates":
        """Read what :meth:`to_csv` wrote.

        Raises:
            DataError: no such file, other columns, or a cell that is no number (the line is named).
        """
        try:
            rows = list(csv.reader(Path(path).read_text(encoding="utf-8").splitlines()))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(describe(path, "csv", error, "a table of camera poses")) from None
        if not rows or tuple(rows[0]) != COLUMNS:
            raise DataError(describe(path, "columns", ",".join(rows[0]) if rows else "none", ",".join(COLUMNS)))
        numbers = np.empty((len(rows) - 1, len(COLUMNS) - 1))
        for line, row in enumerate(rows[1:]):
            try:
                numbers[line] = np.array([float(cell) for cell in row[1:]]).reshape(len(COLUMNS) - 1)
            except ValueError:
                expected = f"a name and {len(COLUMNS) - 1} numbers"
                raise DataError(describe(path, f"line {line + 2}", ",".join(row)[:80], expected)) from None
        return cls.of(
            [row[0] for row in rows[1:]], quaternion_to_matrix(numbers[:, 3:7]), numbers[:, :3], numbers[:, 7]
        )

    @classmethod
    def of(cls, names: Sequence[str], R: Array, centers: Array, seconds: Array) -> "CameraEstimates":
        """From camera centres ``[N, 3]`` instead of ``t``.

        >>> one = CameraEstimates.of(["a.jpg"], np.eye(3)[None], np.array([[1.0, 2.0, 3.0]]), np.zeros(1))
        >>> one.t.tolist()
        [[-1.0, -2.0, -3.0]]
        """
        return cls(tuple(names), R, -np.einsum("nij,nj->ni", R, centers), seconds)
