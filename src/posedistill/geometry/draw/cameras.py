"""Drawing where cameras stand and look: orthographic views from above and from the side, grids, arrows."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import SUBPIXEL, Color, Image

PAPER, GRID, INK = (255, 255, 255), (226, 228, 232), (70, 74, 82)


VIEWS = ("from above", "from the side")


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

    @property
    def step(self) -> float:
        """Units of the world between lines of the grid."""
        return grid_step(self.scale)

    def grid(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Lines at whole steps, each from pixel to pixel."""
        lines: list[tuple[tuple[int, int], tuple[int, int]]] = []
        width, height = self.size
        for axis, size in enumerate(self.size):
            middle, half = self.middle[axis], size / 2 / self.scale
            first, last = np.ceil((middle - half) / self.step), np.floor((middle + half) / self.step)
            for line in np.arange(first, last + 1) * self.step:
                offset = self.scale * (line - middle)
                place = round(size / 2 + (offset if axis == 0 else -offset))
                lines.append(((place, 0), (place, height)) if axis == 0 else ((0, place), (width, place)))
        return lines


def camera_views(R: Array, centers: Array, size: tuple[int, int], margin: int) -> tuple[View, View]:
    """From above and from the side: "above" is what the cameras have above them on average, in worlds of any axes.

    Cameras rather look up the page than down.

    Args:
        R: ``[N, 3, 3]`` world to camera. centers: ``[N, 3]``. size: of each panel, pixels.
        margin: pixels around the cameras, so that arrows and numbers have room.

    >>> above, side = camera_views(np.eye(3)[None], np.zeros((1, 3)), (640, 480), 40)
    >>> side.up.tolist(), above.pixels(np.zeros((1, 3))).tolist()
    ([-0.0, -1.0, -0.0], [[320.0, 240.0]])
    """
    if not len(R):
        R, centers = np.eye(3)[None], np.zeros((1, 3))
    axes = map_axes(centers, -R[:, 1].mean(axis=0), R[:, 0].mean(axis=0))
    return map_views(axes, centers, size, margin)


def map_axes(centers: Array, up: Array | None = None, aside: Array | None = None) -> Array:
    """``[3, 3]`` rows of a right-handed frame for maps of ``[N, 3]`` places: the longest horizontal way, across it, up.

    Args:
        up: what the cameras have above them; without it, or where cameras of all postures leave none, it is the
            direction in which the places vary least, for cameras are carried about at one height.
        aside: what the cameras have to their right: the first axis points that way rather than back.

    >>> map_axes(np.array([[0.0, 0, 0], [0, 0, 5], [1, 0, 2.5], [-1, 0, 2.5]]), np.array([0.0, -2, 0])) + 0
    array([[ 0.,  0.,  1.],
           [-1.,  0.,  0.],
           [ 0., -1.,  0.]])
    """
    offsets = centers - centers.mean(axis=0)
    above = up if up is not None and np.linalg.norm(up) > 0.1 else _directions(offsets)[2]
    above = above / np.linalg.norm(above)
    flat = offsets - np.outer(offsets @ above, above)
    hints = [_directions(flat)[0]] if np.ptp(flat) > 1e-9 else []
    hints += [] if aside is None else [aside]
    hints.append(np.eye(3)[np.abs(above).argmin()])  # all stand above one another
    level = [hint - hint @ above * above for hint in hints]
    right = next(hint for hint in level if np.linalg.norm(hint) > 1e-6)
    forward = right @ aside if aside is not None else 0.0
    sign = np.sign(forward if abs(forward) > 1e-9 else right[np.abs(right).argmax()])
    right = sign * right / np.linalg.norm(right)
    return np.stack([right, np.cross(above, right), above])


def map_views(axes: Array, points: Array, size: tuple[int, int], margin: int) -> tuple[View, View]:
    """The views of ``VIEWS``, of one scale at which both show all ``[N, 3]`` points within a margin, pixels.

    Args:
        axes: of ``map_axes``. size: of each panel, pixels.
    """
    places = points @ axes.T
    low, high = places.min(axis=0), places.max(axis=0)
    wide, across, tall = np.maximum(high - low, 1e-6)
    scale = min((size[0] - 2 * margin) / wide, (size[1] - 2 * margin) / max(across, tall))
    scale = scale if (high - low).max() > 1e-6 else min(size) - 2.0 * margin
    middle = (low + high) / 2
    return View(axes[0], axes[1], middle[[0, 1]], scale, size), View(axes[0], axes[2], middle[[0, 2]], scale, size)


def grid_step(scale: float) -> float:
    """Units between lines of a grid: 1, 2 or 5 times a power of ten, 60 pixels at least at ``scale`` pixels a unit.

    >>> [grid_step(scale) for scale in (10.0, 40.0, 100.0, 700.0)]
    [10.0, 2.0, 1.0, 0.1]
    """
    least = 60.0 / scale
    power = 10.0 ** np.floor(np.log10(least))
    return float(round(next(f * power for f in (1, 2, 5, 10) if f * power >= least * (1 - 1e-9)), 9))


def new_panel(view: View, title: str, unit: str) -> Image:
    """An empty picture with the view's grid, how long a step of it is, and a title."""
    width, height = view.size
    panel: Image = np.full((height, width, 3), PAPER, np.uint8)
    for start, end in view.grid():
        cv2.line(panel, start, end, GRID, 1)
    y = height - 18
    cv2.line(panel, (14, y), (14 + round(view.step * view.scale), y), INK, 2)
    cv2.putText(panel, f"{view.step:g} {unit}".strip(), (14, y - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
    cv2.putText(panel, title, (14, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.6, INK, 1, cv2.LINE_AA)
    return panel


def side_by_side(panels: Sequence[Image]) -> Image:
    """Panels of one size in a row, with lines between them."""
    picture: Image = np.hstack(panels)
    for edge in range(panels[0].shape[1], picture.shape[1], panels[0].shape[1]):
        picture[:, edge - 1 : edge + 1] = INK
    return picture


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


def _directions(offsets: Array) -> Array:
    """``[3, 3]`` principal directions in rows, the longest first."""
    directions: Array = np.linalg.eigh(offsets.T @ offsets)[1].T[::-1]
    return directions


def _fixed(pixels: Array) -> NDArray[np.int32]:
    return np.round(pixels * 2**SUBPIXEL).astype(np.int32)
