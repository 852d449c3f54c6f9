"""What is cut out of an image for the network, and what a caller may not ask for."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array, project
from posedistill.geometry.draw import Image


def check_image(image: Image) -> None:
    """Refuse what is no uint8 RGB picture; ``DataError`` says what it is."""
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(describe("request", "image", found, "uint8 [H, W, 3], RGB"))


def check_request(image: Image, K: Array, boxes: Array, obj_ids: Sequence[int]) -> None:
    """Refuse an image, camera or box that cannot mean what the caller thinks; ``DataError`` says which."""
    check_image(image)
    height, width = image.shape[:2]
    usable = K.shape == (3, 3) and bool(np.isfinite(K).all())
    if not (usable and K[0, 0] > 0 and K[1, 1] > 0 and K[1, 0] == 0 and np.array_equal(K[2], [0.0, 0.0, 1.0])):
        wanted = "finite [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0, pixels"
        raise DataError(describe("request", "K", K.tolist(), wanted))
    if len(boxes) != len(obj_ids):
        raise DataError(describe("request", "boxes", f"{len(boxes)} boxes", f"{len(obj_ids)}, one for each object id"))
    for row, (x, y, w, h) in enumerate(boxes):
        overlaps = w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0
        if not (np.isfinite([x, y, w, h]).all() and overlaps):
            wanted = f"(x, y, w, h) with an area, touching the {width} x {height} image"
            raise DataError(describe("request", f"boxes[{row}]", (float(x), float(y), float(w), float(h)), wanted))


def cut(image: Image, homography: Array, size: int, border: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0)) -> Image:
    """``[size, size, 3]`` crop of an image under a similarity; outside it is ``border`` (0..255).

    Bilinear, as in training. Where that would skip pixels (a crop of twice ``size`` and more), the region is first
    averaged down by a whole factor, so a 12-megapixel photograph does not alias.

    Args:
        image: ``[H, W, 3]``. homography: ``[3, 3]`` image pixels to crop pixels.
    """
    inverse: Array = np.linalg.inv(homography)[:2].astype(np.float64)
    factor = max(int(np.sqrt(np.abs(np.linalg.det(inverse[:, :2]))) + 1e-6), 1)
    image, start = _window(image, inverse, size, factor)
    inverse[:, 2] -= start
    if min(image.shape[:2]) >= factor > 1:
        height, width = (length // factor for length in image.shape[:2])
        whole = image[: height * factor, : width * factor]
        image = np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        inverse = (inverse - [0, 0, (factor - 1) / 2]) / factor
    fill, flags = [float(value) for value in border], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, inverse, (size, size), flags=flags, borderValue=fill), dtype=np.uint8)


def _window(image: Image, inverse: Array, size: int, factor: int) -> tuple[Image, NDArray[np.int64]]:
    """The part of an image that a crop can touch, one pixel at least, and its first pixel (x, y).

    It starts at a multiple of ``factor`` and holds a block more than is needed on every side, so that averages over
    blocks are those of the whole image.
    """
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ inverse.T
    shape = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.floor(corners.min(axis=0)) - factor, 0, shape - 1).astype(np.int64) // factor * factor
    high = np.clip(np.ceil(corners.max(axis=0)) + 2 * factor, low + 1, shape).astype(np.int64)
    return image[low[1] : high[1], low[0] : high[0]], low


def scan_boxes(width: int, height: int, pad: float, levels: int = 3) -> Array:
    """``[n, 4]`` boxes whose crops cover the image with squares of its shorter side, half of it, a quarter, ...

    Neighbouring squares overlap by half.

    >>> len(scan_boxes(640, 480, pad=1.5))
    87
    """
    boxes = []
    for level in range(levels):
        side = min(width, height) / 2**level
        columns, rows = (int(np.ceil((length - side) / (side / 2))) + 1 for length in (width, height))
        for y in np.linspace(side / 2, height - side / 2, rows):
            for x in np.linspace(side / 2, width - side / 2, columns):
                boxes.append([x - side / pad / 2, y - side / pad / 2, side / pad, side / pad])
    return np.array(boxes)


def box_of_pose(R: Array, t: Array, corners: Array, K: Array, shape: Sequence[int]) -> Array | None:
    """(x, y, w, h) of a pose's projected corners ``[8, 3]``; None where they lie behind the camera or off the image."""
    if (corners @ R[2] + t[2]).min() <= 0:
        return None
    pixels = project(corners, R, t, K)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    inside = (high > 0).all() and low[0] < shape[1] and low[1] < shape[0]
    sensible = 4 < (high - low).max() < 2 * max(shape[:2])
    return np.concatenate([low, high - low]) if inside and sensible else None
