"""What is done to a whole photograph before a network sees it: the lens taken out, scaled, cropped in the middle.

Packs of training images and the runtime both go through here, so that they see the same pixels.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw import Image


def undistort(image: Image, K: Array, distortion: Sequence[float]) -> tuple[Image, Array]:
    """A photograph as a pinhole camera would have taken it, and that camera; scaled so that no edge is empty.

    Args:
        image: ``[H, W, 3]``. K: ``[3, 3]`` of it, pixels.
        distortion: of the lens, in OpenCV's order (k1, k2, p1, p2, k3, ...), as many as are not 0; without any,
            nothing happens.
    """
    if not any(distortion):
        return image, K
    height, width = image.shape[:2]
    columns, rows, new_K = _maps(tuple(K.ravel().tolist()), tuple(distortion), width, height)
    straight = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(straight, dtype=np.uint8), new_K.copy()


@lru_cache(maxsize=4)  # one lens takes most pictures, and making its maps costs more than using them
def _maps(
    K: tuple[float, ...], distortion: tuple[float, ...], width: int, height: int
) -> tuple[NDArray, NDArray, Array]:
    """Where the pixels of a straight picture come from, in OpenCV's fixed-point form, and the straight camera."""
    bent, size = np.array(K).reshape(3, 3), (width, height)
    lens = np.array([*distortion, *[0.0] * (4 - len(distortion))])  # OpenCV wants four at least
    straight = np.asarray(cv2.getOptimalNewCameraMatrix(bent, lens, size, alpha=0)[0], dtype=np.float64)
    columns, rows = cv2.initUndistortRectifyMap(bent, lens, None, straight, size, cv2.CV_16SC2)
    return columns, rows, straight


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
