"""What is done to a whole photograph before a network sees it: the lens taken out, scaled, cropped in the middle.

Packs of training images and the runtime both go through here, so that they see the same pixels.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array, pixel_box, scaled_camera
from posedistill.geometry.draw.poses import Image


def undistort(image: Image, K: Array, distortion: Sequence[float]) -> tuple[Image, Array]:
    """A photograph as a pinhole camera would have taken it, and that camera; scaled to leave as little empty as it can.

    Args:
        image: ``[H, W, 3]``. K: ``[3, 3]`` of it, pixels.
        distortion: of the lens, in OpenCV's order (k1, k2, p1, p2, k3, ...), as many as are not 0; without any,
            nothing happens.

    Raises:
        DataError: the distortion folds the picture over (see :func:`lens_reach`).
    """
    if not any(distortion):
        return image, K
    height, width = image.shape[:2]
    columns, rows, new_K = _maps(tuple(K.ravel().tolist()), tuple(distortion), width, height)
    straight = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(straight, dtype=np.uint8), new_K.copy()


def lens_reach(K: Array, distortion: Sequence[float], size: tuple[int, int]) -> float:
    """How far from the middle a radial distortion is invertible, in distances of the picture's farthest corner.

    Below 1 it turns back within the picture: two points of the world share a pixel, and pixels beyond show nothing.

    >>> K = np.array([[100.0, 0, 99.5], [0, 100, 99.5], [0, 0, 1]])
    >>> round(lens_reach(K, (-0.5,), (200, 200)), 2), lens_reach(K, (0.1,), (200, 200)) > 1
    (0.39, True)
    """
    k1, k2, _, _, k3, k4, k5, k6 = [*distortion, *[0.0] * 8][:8]
    corners = (np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * (np.array(size) - 1) - K[:2, 2]) / K[[0, 1], [0, 1]]
    radii = np.tan(np.radians(np.linspace(0.0, 89.9, 4000)))
    square = radii**2
    with np.errstate(all="ignore"):
        stretch = 1 + square * (k1 + square * (k2 + square * k3))
        bent = radii * stretch / (1 + square * (k4 + square * (k5 + square * k6)))
        back = np.flatnonzero(~(np.diff(bent) > 0))
    return float(bent[back[0] if len(back) else -1] / np.linalg.norm(corners, axis=1).max())


def black_share(K: Array, distortion: Sequence[float], size: tuple[int, int]) -> float:
    """The share of a picture that :func:`undistort` leaves black, from a small copy of it."""
    if not any(distortion):
        return 0.0
    scale = min(1.0, 256 / max(size))
    width, height = (max(round(scale * side), 2) for side in size)
    lens = _whole(distortion)
    bent = scaled_camera(K, size, (width, height))
    straight = _straight_camera(bent, lens, (width, height))
    columns, rows = cv2.initUndistortRectifyMap(bent, lens, None, straight, (width, height), cv2.CV_32FC1)
    inside = (columns > -0.5) & (columns < width - 0.5) & (rows > -0.5) & (rows < height - 0.5)
    return 1.0 - float(inside.mean())


def pinhole(K: Array, distortion: Sequence[float], size: tuple[int, int]) -> Array:
    """``[3, 3]`` of what :func:`undistort` makes of a photograph of ``size`` (width, height)."""
    return _straight_camera(K, _whole(distortion), size) if any(distortion) else K


def straight_boxes(boxes: Array, K: Array, distortion: Sequence[float], straight_K: Array) -> Array:
    """``[n, 4]`` boxes (x, y, w, h) of a photograph about the same things once :func:`undistort` has been at it.

    ``straight_K``: ``[3, 3]`` of the straight picture. The box about the corners and the middles of the edges.

    >>> K = np.array([[100.0, 0, 99.5], [0, 100, 99.5], [0, 0, 1]])
    >>> straight_boxes(np.array([[20.0, 30.0, 40.0, 50.0]]), K, (0.0,), K).round(3).tolist()
    [[20.0, 30.0, 40.0, 50.0]]
    """
    edge = np.array([[x, y] for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0) if (x, y) != (0.5, 0.5)])
    points = (boxes[:, None, :2] + boxes[:, None, 2:] * edge).reshape(-1, 1, 2)
    if not len(points):
        return boxes
    straight = cv2.undistortPoints(points, K, _whole(distortion), P=straight_K)
    return pixel_box(straight.reshape(len(boxes), len(edge), 2))


@lru_cache(maxsize=4)  # one lens takes most pictures, and making its maps costs more than using them
def _maps(
    K: tuple[float, ...], distortion: tuple[float, ...], width: int, height: int
) -> tuple[NDArray, NDArray, Array]:
    """Where the pixels of a straight picture come from, in OpenCV's fixed-point form, and the straight camera."""
    bent, size, lens = np.array(K).reshape(3, 3), (width, height), _whole(distortion)
    if (reach := lens_reach(bent, distortion, size)) < 1:
        found = f"{list(distortion)}, which turns back at {reach:.0%} of the way to the farthest corner"
        raise DataError(describe("camera", "distortion", found, "one that grows over the whole picture"))
    straight = _straight_camera(bent, lens, size)
    columns, rows = cv2.initUndistortRectifyMap(bent, lens, None, straight, size, cv2.CV_16SC2)
    return columns, rows, straight


def _whole(distortion: Sequence[float]) -> Array:
    return np.array([*distortion, *[0.0] * (4 - len(distortion))])  # OpenCV wants four at least


def _straight_camera(K: Array, lens: Array, size: tuple[int, int]) -> Array:
    return np.asarray(cv2.getOptimalNewCameraMatrix(K, lens, size, alpha=0)[0], dtype=np.float64)


def scaled_size(width: int, height: int, size: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height after scaling: to a shorter side of ``size``, or to a (width, height) whatever the aspect.

    >>> scaled_size(640, 480, 256), scaled_size(640, 480, (455, 256))
    ((341, 256), (455, 256))
    """
    if isinstance(size, tuple):
        return size
    scale = size / min(width, height)
    return max(round(width * scale), size), max(round(height * scale), size)


def scale(image: Image, size: tuple[int, int]) -> Image:
    """An image of ``size`` (width, height): averaged where it shrinks, interpolated where it grows."""
    way = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=way), dtype=np.uint8)


def middle_crop(image: NDArray, shape: tuple[int, int]) -> NDArray:
    """The view ``[h, w, C]`` of an image's middle; of ``shape`` (h, w), no larger than the image.

    >>> middle_crop(np.arange(5)[None, :, None], (1, 2)).ravel()
    array([2, 3])
    """
    top, left = ((whole - part + 1) // 2 for whole, part in zip(image.shape, shape, strict=False))
    return image[top : top + shape[0], left : left + shape[1]]
