"""Views of images, drawn by OpenCV: the same pixels in training and in the runtime.

Pixel (0, 0) is the centre of the first pixel; a map takes pixels of the view to pixels of the image. Beyond the image a
view has the border's colour.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array

BORDER = (124, 116, 104)
"""Colour beyond the image: the ImageNet mean, about 0 once normalised."""


def affine_maps(homography: Array) -> Array:
    """``[B, 2, 3]`` maps from view to image pixels, of affine ``[B, 3, 3]`` homographies image to view."""
    return np.linalg.inv(homography)[:, :2].astype(np.float64)


def warp(
    images: Sequence[NDArray], maps: Array, out: NDArray, border: Sequence[float] | NDArray[np.float32] = BORDER
) -> NDArray:
    """Draw a view of each image into ``out``, bilinear; returns ``out``.

    Where a pixel of an affine view covers two pixels of the image and more along a side, these are averaged first, so
    that an image of many megapixels does not alias. A projective view that only cuts pixels out is copied.

    Args:
        images: ``[H, W, C]`` each. maps: ``[B, 2, 3]`` affine or ``[B, 3, 3]`` projective. out: ``[B, h, w, C]``.
    """
    fill = (*(float(value) for value in border), 0.0)
    if maps.shape[1] == 3:
        for image, projective, target in zip(images, maps, out, strict=True):
            _project(image, projective, target, fill)
        return out
    factors = reductions(maps).tolist()
    for factor, (window, affine, target) in zip(factors, _windows(images, maps, out), strict=True):
        if factor >= 2 and min(window.shape[:2]) >= factor:
            window, affine = _reduce(window, affine, factor)
        _transform(window, affine, target, cv2.INTER_LINEAR, fill)
    return out


def warp_ids(images: Sequence[NDArray[np.uint8]], maps: Array, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Affine views of the fourth channel of images ``[H, W, 4]`` into ``out`` ``[B, h, w]``: nearest pixel, or 0."""
    for window, affine, target in _windows(images, maps, out):
        _transform(cv2.extractChannel(window, 3), affine, target, cv2.INTER_NEAREST, (0.0,))
    return out


def reductions(maps: Array) -> NDArray[np.int64]:
    """Image pixels under a view pixel along a side, ``[B]``, rounded down (1 and less: nothing to average)."""
    steps: Array = np.sqrt(np.abs(np.linalg.det(maps[:, :, :2])))
    return np.floor(steps + 1e-6).astype(np.int64)


def source_windows(maps: Array, shape: tuple[int, int], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The part of each image that an affine view can touch: ``[B, 4]`` top, bottom, left, right.

    Where pixels are averaged in blocks, it starts at a whole block and holds one more than is needed on every side, so
    that the averages are those of the whole image.

    Args:
        maps: ``[B, 2, 3]``. shape: height and width of the views. sizes: ``[B, 2]`` those of the images.
    """
    height, width = shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ maps.swapaxes(1, 2)
    block = np.maximum(reductions(maps), 1)[:, None]
    low = np.floor(corners.min(axis=1)).astype(np.int64)[:, ::-1] - block
    high = np.ceil(corners.max(axis=1)).astype(np.int64)[:, ::-1] + 2 * block
    low, high = np.clip(low, 0, sizes) // block * block, np.clip(high, 0, sizes)
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)


def _windows(images: Sequence[NDArray], maps: Array, out: NDArray) -> Iterable[tuple[NDArray, Array, NDArray]]:
    """The window of each image that is needed, the map into that window, and where the view goes."""
    sizes = np.array([image.shape[:2] for image in images]).reshape(-1, 2)
    windows = source_windows(maps, (out.shape[1], out.shape[2]), sizes)
    # One pixel at least, so that a view beside the image needs no case of its own: it samples the border alone.
    for axis in (0, 2):
        windows[:, axis] = np.minimum(windows[:, axis], sizes[:, axis // 2] - 1)
        windows[:, axis + 1] = np.maximum(windows[:, axis + 1], windows[:, axis] + 1)
    shifted = maps.copy()
    shifted[:, :, 2] -= windows[:, [2, 0]]
    for image, (top, bottom, left, right), affine, target in zip(images, windows.tolist(), shifted, out, strict=True):
        yield image[top:bottom, left:right], affine, target


def _reduce(window: NDArray, affine: Array, factor: int) -> tuple[NDArray, Array]:
    """The window scaled down by a whole factor, and the map into it."""
    height, width = (length // factor for length in window.shape[:2])
    whole = window[: height * factor, : width * factor]
    small = np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return small, (affine - [0, 0, (factor - 1) / 2]) / factor


def _transform(image: NDArray, affine: Array, target: NDArray, interpolation: int, fill: tuple[float, ...]) -> None:
    size = (target.shape[1], target.shape[0])
    cv2.warpAffine(image, affine, size, dst=target, flags=cv2.WARP_INVERSE_MAP | interpolation, borderValue=fill)


def _project(image: NDArray, projective: Array, target: NDArray, fill: tuple[float, ...]) -> None:
    height, width = target.shape[:2]
    shift = np.eye(3)
    shift[:2, 2] = np.rint(projective[:2, 2])
    left, top = shift[:2, 2].astype(int).tolist()
    inside = min(left, top, image.shape[1] - left - width, image.shape[0] - top - height) >= 0
    if inside and np.abs(projective - shift).max() < 1e-9 * max(image.shape):
        target[:] = image[top : top + height, left : left + width]
        return
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    cv2.warpPerspective(image, projective, (width, height), dst=target, flags=flags, borderValue=fill)
