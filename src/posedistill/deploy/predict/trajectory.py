"""A picture of where cameras stand and look, from above and from the side."""

import cv2
import numpy as np

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.cameras import (
    VIEWS,
    View,
    camera_views,
    draw_cameras,
    map_axes,
    map_views,
    new_panel,
    side_by_side,
)
from posedistill.geometry.draw.poses import Image

PANEL = 640
"""Side of each of the two views, pixels."""
MARGIN = 72
"""Pixels around what is drawn, so that arrows and numbers have room."""
PALE = (190, 190, 190)
"""Of training cameras."""
ARROW = 40.0
"""Length of an arrow that lies in the plane of the picture, pixels; others are foreshortened."""


def draw_trajectory(R: Array, centers: Array, unit: str = "m", known: Array | None = None) -> Image:
    """``[PANEL, 2 PANEL, 3]``: a dot for each camera and an arrow where it looks, from blue (first) to yellow (last).

    "Above" is what the cameras have above them on average, so that worlds of any axes can be drawn.

    Args:
        R: ``[N, 3, 3]`` world to camera. centers: ``[N, 3]`` in ``unit``. Poses that are no numbers are left out.
        known: ``[M, 3]`` where the training cameras stood: pale dots, whose place gives the scale. A camera that is
            estimated far outside of them is not drawn.

    >>> draw_trajectory(np.eye(3)[None], np.zeros((1, 3))).shape
    (640, 1280, 3)
    """
    usable = np.isfinite(R).all(axis=(1, 2)) & np.isfinite(centers).all(axis=1)
    R, centers = R[usable], centers[usable]
    order = np.linspace(0, 255, max(len(R), 1)).astype(np.uint8)[:, None]
    colors = cv2.applyColorMap(order, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1].tolist()
    panels = []
    stood = np.empty((0, 3)) if known is None else np.asarray(known, dtype=np.float64)
    for title, view in zip(VIEWS, _views(R, centers, stood), strict=True):
        panels.append(new_panel(view, title, unit))
        draw_cameras(panels[-1], view, np.eye(3)[None].repeat(len(stood), 0), stood, [PALE] * len(stood), 0.0, 2)
        draw_cameras(panels[-1], view, R, centers, [tuple(color) for color in colors], ARROW)
    return side_by_side(panels)


def _views(R: Array, centers: Array, stood: Array) -> tuple[View, View]:
    """The views of the estimated cameras, on the scale of the training cameras where these are known."""
    if not len(stood):
        return camera_views(R, centers, (PANEL, PANEL), MARGIN)
    up = -R[:, 1].mean(axis=0) if len(R) else None
    reach = 0.5 * max(float(np.ptp(stood, axis=0).max()), 1e-3)
    near = np.clip(centers, stood.min(axis=0) - reach, stood.max(axis=0) + reach)
    return map_views(map_axes(stood, up), np.concatenate([stood, near]), (PANEL, PANEL), MARGIN)
