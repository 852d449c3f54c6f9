"""Overlays of what a grid of cells says: how sure each cell is, and where it sees the points of an object."""

import cv2
import numpy as np

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Color, Image, line_width

STRENGTH = 0.6
"""Of the colour of a cell that is sure, over the photograph."""


def draw_confidence(image: Image, confidence: Array) -> Image:
    """A copy of a photograph ``[H, W, 3]``, each cell of a grid ``[rows, columns]`` tinted the more the surer it is.

    >>> image = np.full((4, 4, 3), 100, np.uint8)
    >>> tinted = draw_confidence(image, np.array([[0.0, 1.0]]))
    >>> bool((tinted[:, 0] == 100).all()), bool((tinted[:, 3] != 100).any())
    (True, True)
    """
    height, width = image.shape[:2]
    share = cv2.resize(confidence.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)[..., None]
    colours = cv2.applyColorMap(np.rint(255 * share).astype(np.uint8), cv2.COLORMAP_HOT)[..., ::-1]
    tinted = image + STRENGTH * share * (colours.astype(np.float32) - image)
    return np.rint(tinted).astype(np.uint8)


def draw_votes(canvas: Image, points: Array, weights: Array, color: Color) -> None:
    """Draw the points ``[n, K, 2]`` that ``n`` cells vote for in place, paler where a cell's weight ``[n]`` is less."""
    radius = 2 * line_width(canvas)
    largest = max(float(weights.max(initial=0.0)), 1e-9)
    for row in np.argsort(weights):
        shade = tuple(int(128 + (channel - 128) * weights[row] / largest) for channel in color)
        for x, y in np.nan_to_num(points[row], nan=-1e4).clip(-1e4, 1e4).round().astype(int).tolist():
            cv2.circle(canvas, (x, y), radius + 1, (20, 20, 20), cv2.FILLED, cv2.LINE_AA)
            cv2.circle(canvas, (x, y), radius, shade, cv2.FILLED, cv2.LINE_AA)
