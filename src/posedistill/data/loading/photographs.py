"""Photographs that stand behind or before what is learned, cut at random places."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posedistill.data.loading.frame_reader import FrameReader
from posedistill.geometry.cameras import Array

CHANCES = 5
"""Uniform numbers that choose and place one cut."""


class Photographs:
    """Pictures ``[M, h, w, 3]`` uint8, one at least, out of which cuts of any shape are made on any device."""

    def __init__(self, pictures: NDArray[np.uint8]) -> None:
        # OpenCV warps four bytes a pixel twice as fast as three.
        self._pictures = np.concatenate([pictures, np.zeros_like(pictures[..., :1])], axis=-1)
        self._reader: FrameReader | None = None

    def cut(self, chance: Tensor, shape: tuple[int, int], device: torch.device) -> Tensor:
        """Random cuts: uint8 ``[r, *shape, 4]``, the fourth channel meaningless; ``chance`` ``[r, 5]`` on the CPU."""
        if self._reader is None or self._reader.device != device:
            self._reader = FrameReader([self._pictures], device)
        numbers = chance.double().numpy()
        photos = (numbers[:, 0] * len(self._pictures)).astype(np.int64)
        maps = photo_maps(numbers[:, 1:], self._pictures.shape[1:3], shape)
        return self._reader.cut(photos, maps, shape, labelled=False)[0]


def photo_maps(chance: Array, size: tuple[int, ...], shape: tuple[int, int]) -> Array:
    """``[r, 2, 3]`` maps from cut to photograph pixels: a window of random side and place, maybe mirrored.

    The window is a square, stretched where ``shape`` is none.

    Args:
        chance: ``[r, 4]`` uniform: side (0.4 to 1 of what fits), place x, place y, mirrored.
        size: height and width of the photographs. shape: those of the cuts.
    """
    height, width = size
    side = min(height, width) * (0.4 + 0.6 * chance[:, 0])
    left, top = chance[:, 1] * (width - side), chance[:, 2] * (height - side)
    mirrored = chance[:, 3] < 0.5
    maps = np.zeros((len(chance), 2, 3))
    across, down = ((side - 1) / (length - 1) for length in reversed(shape))
    maps[:, 0, 0] = np.where(mirrored, -across, across)
    maps[:, 0, 2] = np.where(mirrored, left + side - 1, left)
    maps[:, 1, 1], maps[:, 1, 2] = down, top
    return maps
