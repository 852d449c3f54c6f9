"""A picture of where cameras stand and look, from above and from the side."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw import SUBPIXEL, Color, Image

PANEL = 640
"""Side of each of the two views, pixels."""
MARGIN = 72
"""Pixels around what is drawn, so that arrows and numbers have room."""
ARROW = 40.0
"""Length of an arrow that lies in the plane of the picture, pixels; others are foreshortened."""
PAPER, GRID, INK = (255, 255, 255), (226, 228, 232), (70, 74, 82)


class View(NamedTuple):
    """An orthographic view: world points to pixels of a panel."""

    right: Array
    up: Array
    """``[3]`` unit vectors in the world that point to the right and up in the picture."""
    middle: Array
    """``[2]`` what lies in the middle of the panel, along ``right`` and ``up``."""
    scale: float
    """Pixels a metre."""

    def pixels(self, points: Array) -> Array:
        """``[N, 2]`` of world points ``[N, 3]``."""
        flat = points @ np.stack([self.right, self.up]).T - self.middle
        return PANEL / 2 + self.scale * flat * [1, -1]


def draw_trajectory(R: Array, centers: Array) -> Image:
    """``[PANEL, 2 PANEL, 3]``: a dot for each camera and an arrow where it looks, from blue (first) to yellow (last).

    "Above" is what the cameras have above them on average, so that worlds of any axes can be drawn.

    Args:
        R: ``[N, 3, 3]`` world to camera. centers: ``[N, 3]`` metres. Poses that are no numbers are left out.

    >>> draw_trajectory(np.eye(3)[None], np.zeros((1, 3))).shape
    (640, 1280, 3)
    """
    usable = np.isfinite(R).all(axis=(1, 2)) & np.isfinite(centers).all(axis=1)
    R, centers = R[usable], centers[usable]
    order = np.linspace(0, 255, max(len(R), 1)).astype(np.uint8)[:, None]
    colors = cv2.applyColorMap(order, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1].tolist()
    panels = []
    for title, view in zip(("from above", "from the side"), views(R, centers), strict=True):
        panel: Image = np.full((PANEL, PANEL, 3), PAPER, np.uint8)
        _draw_grid(panel, view)
        dots, ends = view.pixels(centers), view.pixels(centers + R[:, 2] * (ARROW / view.scale))
        for dot, end, color in zip(dots, ends, colors, strict=False):
            _draw_camera(panel, dot, end, tuple(color))
        cv2.putText(panel, title, (14, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.6, INK, 1, cv2.LINE_AA)
        panels.append(panel)
    picture: Image = np.concatenate(panels, axis=1)
    picture[:, PANEL - 1 : PANEL + 1] = INK
    return picture


def views(R: Array, centers: Array) -> tuple[View, View]:
    """From above and from the side, of one scale: the longest horizontal way lies to the right, and cameras rather look
    up the page than down."""
    if not len(R):
        R, centers = np.eye(3)[None], np.zeros((1, 3))
    aside, above = R[:, 0].mean(axis=0), -R[:, 1].mean(axis=0)
    length = np.linalg.norm(above)
    above = above / length if length > 0.1 else np.array([0.0, 0.0, 1.0])  # cameras of all postures have no "up"
    flat = centers - centers.mean(axis=0)
    flat = flat - flat @ above[:, None] * above
    right = np.linalg.svd(flat, full_matrices=False)[2][0] if np.ptp(flat) > 1e-9 else aside
    right = right - right @ above * above
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(above, np.eye(3)[np.abs(above).argmin()])
    right = right / np.linalg.norm(right) * (-1 if right @ aside < 0 else 1)
    away = np.cross(above, right)
    axes = np.stack([right, away, above])
    places = centers @ axes.T
    low, high = places.min(axis=0), places.max(axis=0)
    extent = float((high - low).max())
    scale = (PANEL - 2 * MARGIN) / (extent if extent > 1e-6 else 1.0)
    middle = (low + high) / 2
    return View(right, away, middle[[0, 1]], scale), View(right, above, middle[[0, 2]], scale)


def grid_step(scale: float) -> float:
    """Metres between lines of a grid: 1, 2 or 5 times a power of ten, 60 pixels at least at ``scale`` pixels a metre.

    >>> [grid_step(scale) for scale in (10.0, 40.0, 100.0, 700.0)]
    [10.0, 2.0, 1.0, 0.1]
    """
    least = 60.0 / scale
    power = 10.0 ** np.floor(np.log10(least))
    return float(round(next(f * power for f in (1, 2, 5, 10) if f * power >= least * (1 - 1e-9)), 9))


def _draw_grid(panel: Image, view: View) -> None:
    """Lines at whole steps, and how long a step is."""
    step = grid_step(view.scale)
    half = PANEL / 2 / view.scale
    for axis in (0, 1):
        first, last = np.ceil((view.middle[axis] - half) / step), np.floor((view.middle[axis] + half) / step)
        for line in np.arange(first, last + 1) * step:
            offset = view.scale * (line - view.middle[axis])
            place = round(PANEL / 2 + (offset if axis == 0 else -offset))
            start, end = ((place, 0), (place, PANEL)) if axis == 0 else ((0, place), (PANEL, place))
            cv2.line(panel, start, end, GRID, 1)
    length, y = round(step * view.scale), PANEL - 18
    cv2.line(panel, (14, y), (14 + length, y), INK, 2)
    cv2.putText(panel, f"{step:g} m", (14, y - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)


def _draw_camera(panel: Image, dot: Array, end: Array, color: Color) -> None:
    start, tip = (tuple(point.tolist()) for point in _fixed(np.stack([dot, end])))
    cv2.line(panel, start, tip, color, 1, cv2.LINE_AA, SUBPIXEL)
    cv2.circle(panel, start, 4 * 2**SUBPIXEL, color, cv2.FILLED, cv2.LINE_AA, SUBPIXEL)
    along = end - dot
    length = float(np.linalg.norm(along))
    if length > 8:  # a camera that looks out of the picture has no arrow head
        back, across = end - 8 * along / length, 4 * np.array([-along[1], along[0]]) / length
        cv2.fillConvexPoly(panel, _fixed(np.stack([end, back + across, back - across])), color, cv2.LINE_AA, SUBPIXEL)


def _fixed(pixels: Array) -> NDArray[np.int32]:
    return np.round(pixels * 2**SUBPIXEL).astype(np.int32)
