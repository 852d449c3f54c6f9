"""A picture of where cameras stand and look, from above and from the side."""

import cv2
import numpy as np

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw import Image
from posedistill.geometry.draw_cameras import VIEWS, camera_views, draw_cameras, new_panel, side_by_side

PANEL = 640
"""Side of each of the two views, pixels."""
MARGIN = 72
"""Pixels around what is drawn, so that arrows and numbers have room."""
ARROW = 40.0
"""Length of an arrow that lies in the plane of the picture, pixels; others are foreshortened."""


def draw_trajectory(R: Array, centers: Array, unit: str = "m") -> Image:
    """``[PANEL, 2 PANEL, 3]``: a dot for each camera and an arrow where it looks, from blue (first) to yellow (last).

    "Above" is what the cameras have above them on average, so that worlds of any axes can be drawn.

    Args:
        R: ``[N, 3, 3]`` world to camera. centers: ``[N, 3]`` in ``unit``. Poses that are no numbers are left out.

    >>> draw_trajectory(np.eye(3)[None], np.zeros((1, 3))).shape
    (640, 1280, 3)
    """
    usable = np.isfinite(R).all(axis=(1, 2)) & np.isfinite(centers).all(axis=1)
    R, centers = R[usable], centers[usable]
    order = np.linspace(0, 255, max(len(R), 1)).astype(np.uint8)[:, None]
    colors = cv2.applyColorMap(order, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1].tolist()
    panels = []
    for title, view in zip(VIEWS, camera_views(R, centers, (PANEL, PANEL), MARGIN), strict=True):
        panels.append(new_panel(view, title, unit))
        draw_cameras(panels[-1], view, R, centers, [tuple(color) for color in colors], ARROW)
    return side_by_side(panels)
