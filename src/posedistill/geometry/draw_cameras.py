"""Drawing where cameras stand and look: orthographic views from above and from the side, grids, arrows."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw import SUBPIXEL, Color, Image

PAPER, GRID, INK = (255, 255, 255), (226, 228, 232), (70, 74, 82)


class View(NamedTuple):
    """An orthographic view: world points to pixels of a panel."""

    right: Array
    up: Array
    """``[3]`` unit vectors in the world that point to the right and up in the picture."""
    middle: Array
    """``[2]`` what lies in the middle of the panel, along ``right`` and ``up``."""
    scale: float
    """Pixels for a unit of the world."""
    size: tuple[int, int]
    """Width and height of the panel, pixels."""

    def pixels(self, points: Array) -> Array:
        """``[N, 2]`` of world points ``[N, 3]``."""
        flat = points @ np.stack([self.right, self.up]).T - self.middle
        return np.array(self.size) / 2 + self.scale * flat * [1, -1]


def camera_views(R: Array, centers: Array, size: tuple[int, int], margin: int) -> tuple[View, View]:
    """From above and from the side, of one scale.

    "Above" is what the cameras have above them on average, so that worlds of any axes can be drawn. The longest
    horizontal way lies to the right, and cameras rather look up the page than down.

    Args:
        R: ``[N, 3, 3]`` world to camera. centers: ``[N, 3]``. size: of each panel, pixels.
        margin: pixels around the cameras, so that arrows and numbers have room.

    >>> above, side = camera_views(np.eye(3)[None], np.zeros((1, 3)), (640, 480), 40)
    >>> side.up.tolist(), above.pixels(np.zeros((1, 3))).tolist()
    ([-0.0, -1.0, -0.0], [[320.0, 240.0]])
    """
    if not len(R):
        R, centers = np.eye(3)[None], np.zeros((1, 3))
    aside, above = R[:, 0].mean(axis=0), -R[:, 1].mean(axis=0)
    length = np.linalg.norm(above)
    above = above / length if length > 0.1 else np.array([0.0, 0.0, 1.0])  # cameras of all postures have no "up"
    right = _longest_way(centers, above, aside)
    right = right / np.linalg.norm(right) * (-1 if right @ aside < 0 else 1)
    axes = np.stack([right, np.cross(above, right), above])
    places = centers @ axes.T
    low, high = places.min(axis=0), places.max(axis=0)
    wide, high_above, high_beside = np.maximum(high - low, 1e-6)
    scale = min((size[0] - 2 * margin) / wide, (size[1] - 2 * margin) / max(high_above, high_beside))
    scale = scale if (high - low).max() > 1e-6 else min(size) - 2.0 * margin
    middle = (low + high) / 2
    return View(right, axes[1], middle[[0, 1]], scale, size), View(right, above, middle[[0, 2]], scale, size)


def grid_step(scale: float) -> float:
    """Units between lines of a grid: 1, 2 or 5 times a power of ten, 60 pixels at least at ``scale`` pixels a unit.

    >>> [grid_step(scale) for scale in (10.0, 40.0, 100.0, 700.0)]
    [10.0, 2.0, 1.0, 0.1]
    """
    least = 60.0 / scale
    power = 10.0 ** np.floor(np.log10(least))
    return float(round(next(f * power for f in (1, 2, 5, 10) if f * power >= least * (1 - 1e-9)), 9))


def draw_grid(panel: Image, view: View, unit: str) -> None:
    """Lines at whole steps, and how long a step is, in place."""
    step, (width, height) = grid_step(view.scale), view.size
    for axis, size in enumerate(view.size):
        half = size / 2 / view.scale
        first, last = np.ceil((view.middle[axis] - half) / step), np.floor((view.middle[axis] + half) / step)
        for line in np.arange(first, last + 1) * step:
            offset = view.scale * (line - view.middle[axis])
            place = round(size / 2 + (offset if axis == 0 else -offset))
            start, end = ((place, 0), (place, height)) if axis == 0 else ((0, place), (width, place))
            cv2.line(panel, start, end, GRID, 1)
    length, y = round(step * view.scale), height - 18
    cv2.line(panel, (14, y), (14 + length, y), INK, 2)
    cv2.putText(panel, f"{step:g} {unit}".strip(), (14, y - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)


def draw_cameras(
    panel: Image, view: View, R: Array, centers: Array, colors: Sequence[Color], arrow: float, radius: int = 4
) -> None:
    """A dot for each camera and an arrow where it looks, in place.

    Args:
        R: ``[N, 3, 3]`` world to camera. centers: ``[N, 3]``. colors: one for each.
        arrow: length of one that lies in the plane of the picture, pixels; others are foreshortened. 0 for none.
        radius: of the dots, pixels.
    """
    dots = view.pixels(centers)
    ends = view.pixels(centers + R[:, 2] * (arrow / view.scale))
    near = (np.abs(dots) < 10 * max(view.size)).all(axis=1)  # OpenCV counts in 32 bits
    for row in np.flatnonzero(near).tolist():
        dot, end, color = dots[row], ends[row], colors[row]
        start, tip = (tuple(point.tolist()) for point in _fixed(np.stack([dot, end])))
        cv2.line(panel, start, tip, color, 1, cv2.LINE_AA, SUBPIXEL)
        cv2.circle(panel, start, radius * 2**SUBPIXEL, color, cv2.FILLED, cv2.LINE_AA, SUBPIXEL)
        along = end - dot
        length = float(np.linalg.norm(along))
        if length > 8:  # a camera that looks out of the picture has no arrow head
            back, across = end - 8 * along / length, 4 * np.array([-along[1], along[0]]) / length
            head = _fixed(np.stack([end, back + across, back - across]))
            cv2.fillConvexPoly(panel, head, color, cv2.LINE_AA, SUBPIXEL)


def _longest_way(centers: Array, above: Array, aside: Array) -> Array:
    """``[3]`` the horizontal direction in which cameras spread most; their own right where they do not."""
    flat = centers - centers.mean(axis=0)
    flat = flat - flat @ above[:, None] * above
    right = np.linalg.svd(flat, full_matrices=False)[2][0] if np.ptp(flat) > 1e-9 else aside
    right = right - right @ above * above
    return right if np.linalg.norm(right) > 1e-6 else np.cross(above, np.eye(3)[np.abs(above).argmin()])


def _fixed(pixels: Array) -> NDArray[np.int32]:
    return np.round(pixels * 2**SUBPIXEL).astype(np.int32)
