"""Pictures of codes: the parts of a surface in colours, over the photograph in which they are seen."""

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image

_STRENGTH = 0.75
"""Of the colours, over the photograph in grey."""
_GAP = 6
"""White pixels between panels."""


def surface_colors(points: Array | NDArray[np.float32], corners: Array) -> NDArray[np.uint8]:
    """``[..., 3]`` colours of points ``[..., 3]`` by their place in the object's box; NaN is black.

    >>> box = np.array([[0.0, 0, 0], [2, 2, 2]])
    >>> surface_colors(np.array([[2.0, 0, 1], [np.nan, 0, 0]]), box).tolist()
    [[255, 0, 128], [0, 0, 0]]
    """
    low, high = corners.min(axis=0), corners.max(axis=0)
    shares = np.clip((points - low) / np.maximum(high - low, 1e-9), 0, 1)
    colors: NDArray[np.uint8] = np.rint(
        255 * np.nan_to_num(shares) * np.isfinite(shares).all(-1, keepdims=True)
    ).astype(np.uint8)
    return colors


def draw_surface(photograph: Image, points: Array | NDArray[np.float32], corners: Array) -> Image:
    """A photograph ``[S, S, 3]`` in grey, with the surface points ``[G, G, 3]`` of a grid over it in their colours."""
    side = photograph.shape[0]
    grey = np.repeat(cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    colors, seen = surface_colors(points, corners), np.isfinite(points[..., 0]).astype(np.uint8)
    colors, seen = (cv2.resize(part, (side, side), interpolation=cv2.INTER_NEAREST) for part in (colors, seen))
    mixed = np.rint((1 - _STRENGTH) * grey + _STRENGTH * colors).astype(np.uint8)
    return np.where(seen[..., None] > 0, mixed, grey)


def draw_cells(canvas: Image, pixels: Array) -> None:
    """Mark places ``[n, 2]`` in a picture by dots, in place."""
    for x, y in np.rint(pixels).astype(int).tolist():
        cv2.circle(canvas, (x, y), 2, (20, 20, 20), cv2.FILLED, cv2.LINE_AA)
        cv2.circle(canvas, (x, y), 1, (255, 255, 255), cv2.FILLED, cv2.LINE_AA)


def side_by_side(panels: list[Image]) -> Image:
    """Pictures of one height in a row."""
    gap = np.full((panels[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([part for panel in panels for part in (gap, panel)][1:], axis=1)
