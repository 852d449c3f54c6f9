"""A picture of where cameras stand and look, from above and from the side."""

import cv2
import numpy as np

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw import Image
from posedistill.geometry.draw_cameras import INK, PAPER, camera_views, draw_cameras, draw_grid

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
    views = camera_views(R, centers, (PANEL, PANEL), MARGIN)
    for title, view in zip(("from above", "from the side"), views, strict=True):
        panel: Image = np.full((PANEL, PANEL, 3), PAPER, np.uint8)
        draw_grid(panel, view, unit)
        draw_cameras(panel, view, R, centers, [tuple(color) for color in colors], ARROW)
        cv2.putText(panel, title, (14, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.6, INK, 1, cv2.LINE_AA)
        panels.append(panel)
    picture: Image = np.concatenate(panels, axis=1)
    picture[:, PANEL - 1 : PANEL + 1] = INK
    return picture
