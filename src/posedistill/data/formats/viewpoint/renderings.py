"""Renderings of CAD models from around them, as PoseFromShape's teachers see shapes (Xiao et al., BMVC 2019).

They lie as ``CATEGORY/SHAPE/crop/rendering_EEE_AAA.png``: elevation, azimuth in whole degrees, cut to the silhouette.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.viewpoint.kinds import Kind
from posedistill.data.images import fitted
from posedistill.errors import DataError, describe

RINGS = {1: (30,), 2: (0, 30), 3: (0, 30, 60)}
"""Elevations of a ``tour``."""
Renderings = NDArray[np.uint8]
"""``[S, V, side, side, 3]`` of each shape, a view after the other."""


def view_angles(count: int = 12, tour: int = 2) -> list[tuple[int, int]]:
    """Azimuth and elevation of each view: ring by ring, evenly around.

    Raises:
        DataError: views that do not divide evenly into the rings, or rings at broken degrees.

    >>> view_angles(4, 2)
    [(0, 0), (180, 0), (0, 30), (180, 30)]
    """
    rings = RINGS.get(tour, ())
    around = count // max(len(rings), 1)
    if not rings or count % len(rings) or not around or 360 % around:
        found = f"{count} views on a tour of {tour}"
        expected = f"a tour of {', '.join(map(str, RINGS))} rings, each with views at whole degrees"
        raise DataError(describe("views", "renderings", found, expected))
    return [(azimuth, elevation) for elevation in rings for azimuth in range(0, 360, 360 // around)]


def rendering_path(folder: Path, kind: Kind, azimuth: int, elevation: int) -> Path:
    """The file of one view; a shape's number is written with two digits."""
    shape = f"{int(kind.shape):02d}" if kind.shape.isdecimal() else kind.shape
    return folder / kind.category / shape / "crop" / f"rendering_{elevation:03d}_{azimuth:03d}.png"


def read_renderings(folder: Path, kinds: Sequence[Kind], angles: Sequence[tuple[int, int]], side: int) -> Renderings:
    """``[S, V, side, side, 3]`` RGB before black, each scaled to the side and padded about its middle.

    Raises:
        DataError: a rendering is missing or damaged.
    """
    made = np.zeros((len(kinds), len(angles), side, side, 3), np.uint8)
    for place, kind in enumerate(kinds):
        for row, (azimuth, elevation) in enumerate(angles):
            path = rendering_path(folder, kind, azimuth, elevation)
            if not path.is_file():
                expected = "a rendering of each view: posedistill data views writes them"
                raise DataError(describe(path, "rendering", "no such file", expected))
            pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if pixels is None or pixels.ndim != 3 or pixels.dtype != np.uint8:
                raise DataError(describe(path, "rendering", "no colour picture", "a png of colours, 8 bits"))
            made[place, row] = fitted(_before_black(pixels), (side, side))
    return made


def mirrored_order(angles: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """``[V]`` which view of a shape, mirrored, is each view of the mirrored shape: that of minus its azimuth.

    >>> mirrored_order(view_angles(4, 1)).tolist()
    [0, 3, 2, 1]
    """
    places = {angle: place for place, angle in enumerate(angles)}
    return np.array([places[-azimuth % 360, elevation] for azimuth, elevation in angles])


def _before_black(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB of BGR, or of BGRA by its alpha."""
    colours = pixels[..., 2::-1]
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(colours)
    return (colours * (pixels[..., 3:] / 255.0)).round().astype(np.uint8)
