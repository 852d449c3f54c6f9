"""What is cut out of an image for the network, and what a caller may not ask for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posedistill.decode.base import Decoder
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array, CropCameras, crop_cameras
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.warp import affine_maps, warp


def check_image(image: Image) -> None:
    """Refuse what is no uint8 RGB picture; ``DataError`` says what it is."""
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(describe("request", "image", found, "uint8 [H, W, 3], RGB"))


def check_request(image: Image, K: Array, boxes: Array, labels: Sequence[int]) -> None:
    """Refuse an image, camera or box that cannot mean what the caller thinks; ``DataError`` says which."""
    check_image(image)
    height, width = image.shape[:2]
    usable = K.shape == (3, 3) and bool(np.isfinite(K).all())
    if not (usable and K[0, 0] > 0 and K[1, 1] > 0 and K[1, 0] == 0 and np.array_equal(K[2], [0.0, 0.0, 1.0])):
        wanted = "finite [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0, pixels"
        raise DataError(describe("request", "K", K.tolist(), wanted))
    if len(boxes) != len(labels):
        raise DataError(describe("request", "boxes", f"{len(boxes)} boxes", f"{len(labels)}, one for each label"))
    for row, (x, y, w, h) in enumerate(boxes):
        overlaps = w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0
        if not (np.isfinite([x, y, w, h]).all() and overlaps):
            wanted = f"(x, y, w, h) with an area, touching the {width} x {height} image"
            raise DataError(describe("request", f"boxes[{row}]", (float(x), float(y), float(w), float(h)), wanted))


def cut(image: Image, homography: Array, size: int, border: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0)) -> Image:
    """``[size, size, 3]`` crop of an image under a similarity; outside it is ``border`` (0..255).

    Drawn as in training, see ``geometry.warp``.

    Args:
        image: ``[H, W, 3]``. homography: ``[3, 3]`` image pixels to crop pixels.
    """
    out = np.empty((1, size, size, image.shape[2]), dtype=np.uint8)
    return warp([image], affine_maps(homography[None]), out, border)[0]


def cut_boxes(
    decoder: Decoder, image: Image, K: Array, boxes: Array, pad: float, size: int
) -> tuple[NDArray[np.float32], CropCameras]:
    """``[n, 3, size, size]`` squares of ``pad`` times each box's longer side, as the decoder normalises, and cameras.

    Args:
        image: ``[H, W, 3]``. K: ``[3, 3]``. boxes: ``[n, 4]`` (x, y, w, h), pixels.
    """
    centers, sides = boxes[:, :2] + boxes[:, 2:] / 2, pad * boxes[:, 2:].max(axis=1, initial=0.0)
    cameras = crop_cameras(np.broadcast_to(K, (len(boxes), 3, 3)), centers, sides, size)
    border = 255 * np.array(decoder.mean, dtype=np.float32)
    crops = np.empty((len(boxes), 3, size, size), dtype=np.float32)
    for crop, homography in zip(crops, cameras.homography, strict=True):
        decoder.normalise(cut(image, homography, size, border), out=crop)
    return crops, cameras


def scan_boxes(width: int, height: int, pad: float) -> Array:
    """``[n, 4]`` boxes whose crops cover the image with squares of its shorter side, of half of it, and of a quarter.

    Neighbouring squares overlap by half.

    >>> len(scan_boxes(640, 480, pad=1.5))
    87
    """
    boxes = []
    for share in (1, 2, 4):
        side = min(width, height) / share
        columns, rows = (int(np.ceil((length - side) / (side / 2))) + 1 for length in (width, height))
        for y in np.linspace(side / 2, height - side / 2, rows):
            for x in np.linspace(side / 2, width - side / 2, columns):
                boxes.append([x - side / pad / 2, y - side / pad / 2, side / pad, side / pad])
    return np.array(boxes)
