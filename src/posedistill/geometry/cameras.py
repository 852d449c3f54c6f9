"""Pinhole cameras. A crop, a zoom or an in-plane turn of an image *is a new camera*."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Calibration = Literal["depth", "colour"]
"""Of 7-Scenes, whose camera a photograph is told of: the depth sensor's as recorded, or the one that took it."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: ``K`` 3x3 in pixels (centre of the first pixel at 0, 0) and the image size."""

    K: Array
    width: int
    height: int


class CropCameras(NamedTuple):
    """What a crop or a scaling does to an image and the poses seen in it; all arrays have a leading batch axis."""

    homography: Array
    """``[B, 3, 3]`` full-image pixels to those of the new camera."""
    K: Array
    """``[B, 3, 3]`` intrinsics of the new camera (upper triangular)."""
    rotation: Array
    """``[B, 3, 3]`` rotation of the camera, of a crop about the optical axis: a pose ``R, t`` becomes ``rotation @ R,
    rotation @ t``."""


def project(points: Array, R: Array, t: Array, K: Array) -> Array:
    """Project object points into the image.

    Args:
        points: ``[..., N, 3]`` in the object frame.
        R: ``[..., 3, 3]`` object to camera. t: ``[..., 3]``, same unit as ``points``.
        K: ``[..., 3, 3]`` intrinsics; any upper-triangular matrix, skew included.

    Returns:
        ``[..., N, 2]`` pixels. A point at depth 0 projects to inf or nan, as it should.

    >>> project(np.array([[0.0, 0.0, 0.0]]), np.eye(3), np.array([0.0, 0.0, 2.0]), np.diag([500.0, 500.0, 1.0]))
    array([[0., 0.]])
    """
    camera_points = points @ np.swapaxes(R, -1, -2) + t[..., None, :]
    pixels = camera_points @ np.swapaxes(K, -1, -2)
    return pixels[..., :2] / pixels[..., 2:]


def cell_centers(height: int, width: int, stride: int) -> Array:
    """``[height * width, 2]``: (x, y) of the centres of a grid's cells, row by row; pixel (0, 0) is a pixel's centre.

    >>> cell_centers(1, 2, 8).tolist()
    [[3.5, 3.5], [11.5, 3.5]]
    """
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    return stride * np.stack([columns, rows], axis=-1).reshape(-1, 2) + (stride - 1) / 2


def pixel_box(pixels: Array) -> Array:
    """The boxes ``[..., 4]`` (x, y, width, height) around pixels ``[..., N, 2]``.

    >>> pixel_box(np.array([[1.0, 5.0], [4.0, 3.0]])).tolist()
    [1.0, 3.0, 3.0, 2.0]
    """
    low = pixels.min(axis=-2)
    return np.concatenate([low, pixels.max(axis=-2) - low], axis=-1)


def scaled_camera(K: Array, taken: tuple[int, int], size: tuple[int, int]) -> Array:
    """Intrinsics for images of ``size`` (width, height), given those for size ``taken``; pixel centres are whole."""
    scale = np.array(size, dtype=np.float64) / taken
    scaled: Array = np.array(K, dtype=np.float64)
    scaled[:2] *= scale[:, None]
    scaled[:2, 2] += (scale - 1) / 2
    return scaled


def crop_cameras(K: Array, centers: Array, sides: Array, size: int, angles: Array | float = 0.0) -> CropCameras:
    """Square crops, turned about their centre and scaled to ``size`` pixels, as exact new cameras.

    The crop's centre lands on ``(size / 2, size / 2)`` and ``side`` full-image pixels become ``size`` crop pixels.
    With ``H`` the homography, ``H K = K' Rz`` is solved in closed form (an RQ decomposition), so no pose is ever
    re-fitted. Unequal focal lengths under a turn give ``K'`` a small skew.

    Args:
        K: ``[B, 3, 3]``. centers: ``[B, 2]`` pixels. sides: ``[B]`` pixels. angles: ``[B]`` or scalar, radians.

    >>> crop = crop_cameras(np.diag([500.0, 500.0, 1.0])[None], np.array([[40.0, 30.0]]), np.array([64.0]), 128)
    >>> crop.homography[0] @ [40.0, 30.0, 1.0]
    array([64., 64.,  1.])
    """
    scales = size / np.asarray(sides, dtype=np.float64)
    angles = np.broadcast_to(np.asarray(angles, dtype=np.float64), scales.shape)
    homography = _turns(scales * np.cos(angles), scales * np.sin(angles))
    homography[:, :2, 2] = size / 2 - np.einsum("bij,bj->bi", homography[:, :2, :2], centers)

    image = homography @ K
    lower = image[:, 1, :2]
    K_crop = image.copy()
    K_crop[:, 1, 0] = 0.0
    K_crop[:, 1, 1] = np.linalg.norm(lower, axis=-1)
    sine, cosine = (lower / K_crop[:, 1, 1:2]).T
    K_crop[:, 0, 0] = image[:, 0, 0] * cosine - image[:, 0, 1] * sine
    K_crop[:, 0, 1] = image[:, 0, 0] * sine + image[:, 0, 1] * cosine
    return CropCameras(homography, K_crop, _turns(cosine, sine))


def picture_cameras(
    K: Array, sizes: NDArray[np.int64], shape: tuple[int, int], edges: Array | None = None, turns: Array | None = None
) -> CropCameras:
    """Whole images squeezed to one shape, width and height each by its own factor, as exact new cameras.

    Args:
        K: ``[B, 3, 3]``. sizes: ``[B, 2]`` heights and widths of the images. shape: height and width of the pictures.
        edges: ``[B, 4]`` what is cut off left, right, top and bottom before that, as shares of the image's width or
            height; negative adds to the image. None cuts nothing off.
        turns: ``[B]`` about the optical axis, radians, before that; none by default.

    >>> picture = picture_cameras(np.diag([500.0, 500.0, 1.0])[None], np.array([[480, 640]]), (416, 416))
    >>> picture.homography[0] @ [319.5, 239.5, 1.0]
    array([207.5, 207.5,   1. ])
    """
    left, right, top, bottom = (np.zeros((len(K), 4)) if edges is None else edges).T
    lengths = sizes[:, ::-1].astype(np.float64)
    scale = np.array(shape[::-1]) / (lengths * np.stack([1 - left - right, 1 - top - bottom], axis=1))
    cut = np.tile(np.eye(3), (len(K), 1, 1))
    cut[:, 0, 0], cut[:, 1, 1] = scale.T
    # Edges of pixels scale, whose centres are whole numbers.
    cut[:, :2, 2] = scale * (0.5 - lengths * np.stack([left, top], axis=1)) - 0.5
    turns = np.zeros(len(K)) if turns is None else turns
    rotation = _turns(np.cos(turns), np.sin(turns))
    camera = cut @ K
    return CropCameras(camera @ rotation @ np.linalg.inv(K), camera, rotation)


def _turns(cos: Array, sin: Array) -> Array:
    """``[B, 3, 3]`` turns about the optical axis, by their cosines and sines, a scale of the image included."""
    matrices = np.tile(np.eye(3), (len(cos), 1, 1))
    matrices[:, 0, 0] = matrices[:, 1, 1] = cos
    matrices[:, 0, 1], matrices[:, 1, 0] = -sin, sin
    return matrices
