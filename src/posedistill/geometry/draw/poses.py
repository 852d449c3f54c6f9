"""Overlays: a pose drawn into its image as contour, 3D box, axes and a label."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array

Image = NDArray[np.uint8]
Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (255, 176, 0), (0, 190, 255), (255, 99, 146), (120, 220, 80), (177, 130, 255), (255, 125, 40), (60, 220, 190),
    (240, 230, 80),
)  # fmt: skip
"""RGB, bright on photographs and told apart by people who see colours differently."""
AXES: tuple[Color, ...] = ((235, 50, 50), (60, 200, 60), (60, 110, 255))
BOX_EDGES = tuple((a, a | bit) for a in range(8) for bit in (4, 2, 1) if not a & bit)
"""The 12 edges of ``box_corners``: pairs of corners that differ in one index bit."""
NEAR = 1.0
"""mm before the camera at which lines are clipped."""
SUBPIXEL = 4
"""Fractional bits that OpenCV draws with."""
MARGIN = 64.0
"""Pixels around a picture in which lines still go on."""
_FARTHEST = 2.0**24
"""Pixels; corners of a surface beyond are drawn there."""


@dataclass(frozen=True)
class Shape:
    """A (coarse) surface of an object, for its contour: ``vertices`` ``[V, 3]`` mm and ``faces`` ``[F, 3]`` indices."""

    vertices: Array
    faces: NDArray[np.int64]


def color_of(index: int) -> Color:
    """A fixed colour for an object's index or id."""
    return PALETTE[index % len(PALETTE)]


def draw_pose(
    image: Image,
    R: Array,
    t: Array,
    K: Array,
    corners: Array,
    color: Color = PALETTE[0],
    label: str = "",
    shape: Shape | None = None,
) -> Image:
    """A copy of the image with one pose drawn into it.

    Args:
        image: ``[H, W, 3]`` uint8 RGB.
        R, t: object to camera, mm. K: ``[3, 3]``.
        corners: ``[8, 3]`` mm, order of ``geometry.objects.box_corners``.
        color: of box, contour and label.
        label: one line beside the object, e.g. name and score.
        shape: gives the contour; without it there is none.
    """
    canvas = np.ascontiguousarray(image).copy()
    width = line_width(canvas)
    if shape is not None:
        mask = silhouette(shape, R, t, K, canvas.shape)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        pale = tuple((channel + 255) // 2 for channel in color)
        cv2.drawContours(canvas, outlines, -1, pale, width, cv2.LINE_AA)
    points = corners @ R.T + t
    draw_box(canvas, points, K, color, width)
    draw_axes(canvas, R, t, K, 0.5 * float(np.ptp(corners, axis=0).max()), width)
    if label:
        draw_label(canvas, points, K, label, color)
    return canvas


def line_width(image: Image) -> int:
    """1 px at 640 px, more on larger pictures, so that an overlay looks alike at every size."""
    return max(1, round(max(image.shape[:2]) / 640))


def draw_box(canvas: Image, points: Array, K: Array, color: Color, width: int) -> None:
    """Draw the box with camera-frame corners ``[8, 3]`` in place; edges at the farthest corner are dimmed."""
    far = int(points[:, 2].argmax())
    hidden = tuple(int(0.55 * channel) for channel in color)
    for a, b in sorted(BOX_EDGES, key=lambda edge: far not in edge):
        draw_line(canvas, points[a], points[b], K, hidden if far in (a, b) else color, width)


def draw_axes(canvas: Image, R: Array, t: Array, K: Array, length: float, width: int) -> None:
    """Draw the object's axes x, y, z (red, green, blue) of ``length`` mm from its origin, farthest first, in place."""
    for axis in np.argsort(-R[2]):
        draw_line(canvas, t, t + length * R[:, axis], K, AXES[axis], 2 * width)


def draw_line(canvas: Image, start: Array, end: Array, K: Array, color: Sequence[int], width: int) -> None:
    """Draw the segment between two camera-frame points (mm) in place, as far as it lies before the camera and near
    the picture; what has no finite place is left out."""
    if start[2] < end[2]:
        start, end = end, start
    if start[2] <= NEAR:
        return
    if end[2] < NEAR:
        end = start + (end - start) * ((start[2] - NEAR) / (start[2] - end[2]))
    pixels = np.stack([start, end]) @ K.T
    seen = _clipped(pixels[:, :2] / pixels[:, 2:], canvas.shape)
    if seen is not None:
        first, last = (tuple(int(value) for value in row) for row in np.round(seen * 2**SUBPIXEL))
        cv2.line(canvas, first, last, color, width, cv2.LINE_AA, SUBPIXEL)


def _clipped(pixels: Array, shape: Sequence[int]) -> Array | None:
    """The part of a segment ``[2, 2]`` in or near a picture (Liang and Barsky, 1984), None where there is none.

    OpenCV takes whole numbers of 32 bits, and an absurd pose or camera projects far beyond them.
    """
    low, high = np.full(2, -MARGIN), np.array([shape[1], shape[0]]) + MARGIN
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        along = pixels[1] - pixels[0]
        to_low, to_high = (low - pixels[0]) / along, (high - pixels[0]) / along
    enter = max(np.fmin(to_low, to_high).max(), 0.0)
    leave = min(np.fmax(to_low, to_high).min(), 1.0)
    if not np.isfinite(along).all() or not enter <= leave:
        return None
    return np.stack([pixels[0] + enter * along, pixels[0] + leave * along])


def draw_label(canvas: Image, points: Array, K: Array, label: str, color: Color) -> None:
    """Write a line above the box of camera-frame ``points`` in place, on a plate, kept inside the picture.

    Where there is no room above, it stands below: a plate on a small object would hide it.
    """
    points = points[points[:, 2] > NEAR]
    if not len(points):
        return
    scale = 0.45 * max(1.0, max(canvas.shape[:2]) / 640)
    thickness = line_width(canvas)
    (width, height), drop = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    pixels = points @ K.T
    places = np.nan_to_num(pixels[:, :2] / pixels[:, 2:])
    corner, lowest = places.min(axis=0), float(places[:, 1].max())
    margin = drop // 2 + 1
    x = int(np.clip(corner[0], 0, max(canvas.shape[1] - width - 2 * margin, 0)))
    plate = height + drop + margin
    lower = float(np.ceil(lowest)) + 1 + plate
    below = corner[1] - margin < plate and lower <= canvas.shape[0]
    y = int(np.clip(lower if below else corner[1] - margin, plate, canvas.shape[0]))
    cv2.rectangle(canvas, (x, y - plate), (x + width + 2 * margin, y), color, cv2.FILLED)
    place = (x + margin, y - drop // 2 - margin)
    cv2.putText(canvas, label, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (15, 15, 15), thickness, cv2.LINE_AA)


def silhouette(shape: Shape, R: Array, t: Array, K: Array, size: Sequence[int]) -> NDArray[np.bool_]:
    """``[H, W]`` mask of the pixels that the surface covers; faces that reach behind the camera are left out."""
    mask = np.zeros(tuple(size[:2]), np.uint8)
    points = shape.vertices @ R.T + t
    faces = shape.faces[(points[shape.faces, 2] > NEAR).all(axis=1)]
    pixels = points @ K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = pixels[:, :2] / pixels[:, 2:]
    triangles = np.clip(pixels[faces[np.isfinite(pixels[faces]).all(axis=(1, 2))]], -_FARTHEST, _FARTHEST)
    for triangle in np.round(triangles * 2**SUBPIXEL).astype(np.int32):
        cv2.fillConvexPoly(mask, triangle, 1, cv2.LINE_8, SUBPIXEL)
    return mask.astype(bool)
