"""Where K comes from: what a phone writes into its photographs, or a checkerboard in front of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from posedistill.data.images import read_image
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array

FILM_DIAGONAL = 43.267
"""mm, of 35 mm film: the focal length that EXIF states is that at which film sees the same from corner to corner."""
_FOCAL_IN_35MM, _EXIF = 0xA405, 0x8769
LEAST_VIEWS = 5
LARGEST_ERROR = 1.5
"""Pixels, of the board's corners: a calibration above it is none."""


@dataclass(frozen=True)
class FoundCamera:
    """``K`` ``[3, 3]`` of images of ``size`` (width, height), ``distortion`` in OpenCV order, and its source."""

    K: Array
    size: tuple[int, int]
    about: str
    distortion: tuple[float, ...] = ()

    def option(self) -> str:
        """As ``--camera`` takes it: fx,fy,cx,cy, and the lens behind them.

        >>> FoundCamera(np.array([[500.0, 0, 320], [0, 501, 240], [0, 0, 1]]), (640, 480), "").option()
        '500.0,501.0,320.0,240.0'
        """
        numbers = [f"{value:.1f}" for value in (self.K[0, 0], self.K[1, 1], self.K[0, 2], self.K[1, 2])]
        return ",".join(numbers + [f"{value:.5f}" for value in self.distortion])


def camera_of_exif(photographs: Sequence[Path]) -> FoundCamera:
    """The camera that photographs state: the focal length by EXIF, the principal point in the middle.

    Good to some 3 %: the statement is rounded to whole millimetres, and a phone may crop what its lens sees.

    Raises:
        DataError: no photograph states one, or they differ in size or focal length (zoomed).
    """
    found = {}
    for path in photographs:
        if (focal := _film_focal(path)) is not None:
            height, width = read_image(path).shape[:2]
            found[path] = focal, width, height
    if not found:
        expected = "photographs as the phone wrote them (messengers take EXIF away), or --board"
        raise DataError(describe(photographs[0], "EXIF", "no focal length (35 mm)", expected))
    first, *others = found
    if differing := [path for path in others if found[path] != found[first]]:
        shown = ((path.name, *found[path]) for path in (first, differing[0]))
        told = ", ".join(f"{focal:g} mm at {width}x{height} in {name}" for name, focal, width, height in shown)
        raise DataError(describe(photographs[0], "EXIF", told, "photographs of one camera, size and zoom"))
    focal, width, height = found[first]
    pixels = focal / FILM_DIAGONAL * float(np.hypot(width, height))
    K = np.array([[pixels, 0.0, (width - 1) / 2], [0.0, pixels, (height - 1) / 2], [0.0, 0.0, 1.0]])
    return FoundCamera(K, (width, height), f"EXIF of {len(found)} photographs: {focal:g} mm on film, good to about 3 %")


def camera_of_board(photographs: Sequence[Path], board: tuple[int, int]) -> FoundCamera:
    """The camera that took photographs of a checkerboard (Zhang, 2000), by OpenCV, and its lens (k1, k2, p1, p2).

    A third radial term is left out: ten photographs do not tell it from noise, and it bends the corners of the picture.

    Args:
        board: inner corners along and across. How large its squares are does not matter for K.

    Raises:
        DataError: fewer than five photographs in which the whole board is seen, of several sizes, or corners that no
            camera explains.
    """
    grid = np.zeros((board[0] * board[1], 3), np.float32)
    grid[:, :2] = np.mgrid[: board[0], : board[1]].T.reshape(-1, 2)
    seen: list[Array] = []
    sizes: set[tuple[int, int]] = set()
    for path in photographs:
        grey = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)
        there, corners = cv2.findChessboardCornersSB(grey, board, flags=cv2.CALIB_CB_EXHAUSTIVE | cv2.CALIB_CB_ACCURACY)
        if there:
            seen.append(corners)
            sizes.add((grey.shape[1], grey.shape[0]))
    if len(seen) < LEAST_VIEWS or len(sizes) > 1:
        corners = f"a board of {board[0]}x{board[1]} inner corners"
        found = f"{corners} in {len(seen)} of {len(photographs)}, of {len(sizes)} sizes"
        expected = f"the whole board in {LEAST_VIEWS} or more photographs of one size, from several sides"
        raise DataError(describe(photographs[0].parent, "checkerboard", found, expected))
    size = sizes.pop()
    error, K, distortion, _, _ = cv2.calibrateCamera(  # type: ignore[call-overload]
        [grid] * len(seen), seen, size, None, None, flags=cv2.CALIB_FIX_K3
    )
    if not error <= LARGEST_ERROR:
        raise DataError(
            describe(photographs[0].parent, "checkerboard", f"an error of {error:.2f} px", "a flat board, sharp")
        )
    about = f"checkerboard in {len(seen)} photographs, corners explained to {error:.2f} px"
    return FoundCamera(np.asarray(K), size, about, tuple(float(value) for value in distortion.ravel()[:4]))


def parse_board(text: str) -> tuple[int, int]:
    """``9x6`` -> (9, 6); ``DataError`` for anything else.

    >>> parse_board("9x6")
    (9, 6)
    """
    try:
        columns, rows = (int(part) for part in text.lower().split("x"))
    except ValueError:
        columns = rows = 0
    if min(columns, rows) < 3:
        raise DataError(describe("--board", "board", repr(text), "inner corners along and across, as 9x6"))
    return columns, rows


def _film_focal(path: Path) -> float | None:
    """The focal length in mm of 35 mm film that a photograph states."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            exif = image.getexif()
            value = exif.get_ifd(_EXIF).get(_FOCAL_IN_35MM) or exif.get(_FOCAL_IN_35MM)
            return float(value) if value and float(value) > 0 else None
    except FileNotFoundError:
        raise DataError(describe(path, "image", "no such file", "a photograph")) from None
    except Exception:  # damaged tags raise whatever they hit
        return None
