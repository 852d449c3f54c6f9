"""A photograph as it would look from elsewhere, by the inverse depths of its pixels. Numpy and OpenCV."""

import cv2
import numpy as np

from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.warp import BORDER

_STEPS = 12
"""Of the search for where a pixel comes from; in the second half a step goes half the way, so that none swings."""
_FINEST, _FADE = 0.8, 0.03
"""Standard deviation of the finest smoothing, cells, and what a scale of twice the width counts beside the next."""


def smoothed(values: Array, weights: Array) -> Array:
    """A map without holes, each cell a mean of those about it by weight: the nearest where they are known.

    Normalised convolution (Knutsson and Westin, CVPR 1993) on scales of doubling width, of which a coarse one counts
    only where the finer ones know next to nothing.

    Args:
        values: ``[h, w]``. weights: ``[h, w]``, 0 and above; not all of them 0.

    >>> known = np.zeros((4, 6)); known[1, 1] = 1.0
    >>> np.unique(smoothed(np.full((4, 6), 2.0), known)).round(6)
    array([2.])
    """
    total, known = np.zeros(values.shape), np.zeros(values.shape)
    sigma, share = _FINEST, 1.0
    while sigma < 2 * max(values.shape):
        total += share * cv2.GaussianBlur(values * weights, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        known += share * cv2.GaussianBlur(weights, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        sigma, share = 2 * sigma, _FADE * share
    return total / known


def resampled(values: Array, K: Array, new_K: Array, shape: tuple[int, int]) -> Array:
    """``[height, width]`` a map ``[h, w]`` of camera ``K`` at the pixels of camera ``new_K``, which looks the same way.

    Bilinear; beyond the map its outermost values go on.
    """
    places = (K @ np.linalg.inv(new_K))[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(values, places, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE))


def novel_view(image: Image, inverse_depth: Array, K: Array, R: Array, t: Array) -> Image:
    """What a camera sees that stands and looks elsewhere, of what the photograph shows.

    A pixel q of inverse depth d is seen at ``K R K^-1 q + d K t``. The view asks the reverse, from where each of its
    pixels comes, by fixed-point iteration: surfaces stay whole and stretch where the camera looks behind an edge. What
    the photograph does not show has the border's colour.

    Args:
        image: ``[H, W, 3]``. inverse_depth: ``[H, W]``, 1 / unit of ``t``; 0 is infinitely far.
        K: ``[3, 3]`` of both cameras. R: ``[3, 3]``, t: ``[3]`` the photograph's camera to the new one.
    """
    height, width = image.shape[:2]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    turned, moved = K @ R @ np.linalg.inv(K), K @ t
    back = np.linalg.inv(turned)
    x, y = columns, rows
    for step in range(_STEPS):
        depth = _sampled(inverse_depth, x, y)
        scale = turned[2, 0] * x + turned[2, 1] * y + turned[2, 2] + moved[2] * depth
        ends = np.stack([columns * scale, rows * scale, scale], axis=-1) - depth[..., None] * moved
        ends = ends @ back.T
        ahead = (scale > 1e-6) & (ends[..., 2] > 1e-6)
        found = np.where(ahead[..., None], ends[..., :2] / np.where(ahead, ends[..., 2], 1.0)[..., None], -2.0 * width)
        pull = 1.0 if step < _STEPS // 2 else 0.5
        x, y = x + pull * (found[..., 0] - x), y + pull * (found[..., 1] - y)
    columns, rows = x.astype(np.float32), y.astype(np.float32)
    seen = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER)
    return np.asarray(seen, dtype=np.uint8)


def _sampled(values: Array, x: Array, y: Array) -> Array:
    """Values of a map at pixels; beyond it its outermost ones."""
    columns, rows = x.astype(np.float32), y.astype(np.float32)
    return np.asarray(cv2.remap(values, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
