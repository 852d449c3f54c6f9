"""A cloud of points and the cameras that saw it, from above and from the side."""

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.cameras import INK, VIEWS, draw_cameras, map_axes, map_views, new_panel, side_by_side
from posedistill.geometry.draw.poses import Image

PANEL, MARGIN = 640, 40
"""Side of each of the two views, and room around what is drawn, pixels."""
_SHOWN = (1.0, 99.0)
"""Percentiles of each coordinate between which points must lie to be drawn to scale: a few wrong ones lie far off."""


def confidence_colors(confidence: Array) -> NDArray[np.uint8]:
    """``[N, 3]`` RGB of confidences 0..1, from violet to yellow.

    >>> confidence_colors(np.array([0.0, 1.0])).tolist()
    [[68, 1, 84], [253, 231, 37]]
    """
    levels = np.round(255 * np.clip(confidence, 0, 1)).astype(np.uint8)[:, None]
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1], dtype=np.uint8)


def draw_points(points: Array, confidence: Array, R: Array, centers: Array, unit: str) -> Image:
    """``[PANEL, 2 PANEL, 3]``: points coloured by confidence, the surest on top, and dots where the cameras stand.

    Args:
        points: ``[N, 3]``, one at least. confidence: ``[N]``. R: ``[M, 3, 3]`` world to camera. centers: ``[M, 3]``.
    """
    axes = map_axes(centers, -R[:, 1].mean(axis=0), R[:, 0].mean(axis=0))
    low, high = np.percentile(points @ axes.T, _SHOWN, axis=0)
    shown = np.concatenate([np.clip(points @ axes.T, low, high) @ axes, centers])
    order = np.argsort(confidence)
    colors = confidence_colors(confidence[order])
    panels = []
    for title, view in zip(VIEWS, map_views(axes, shown, (PANEL, PANEL), MARGIN), strict=True):
        panel = new_panel(view, title, unit)
        pixels = np.round(view.pixels(points[order]))
        inside = ((pixels >= 0) & (pixels < PANEL - 1)).all(axis=1)
        x, y = pixels[inside].astype(np.int64).T
        for right in (0, 1):
            for below in (0, 1):
                panel[y + below, x + right] = colors[inside]
        draw_cameras(panel, view, R, centers, [INK] * len(R), arrow=0, radius=2)
        panels.append(panel)
    return side_by_side(panels)
