"""The grid of cells shared by an estimator and its decoder, and how many cells of each level speak for an object."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array

PUBLISHED_STRIDES = (8, 16, 32, 64, 128)
"""The levels of the full network; smaller ones have a run of these."""

ANCHOR_STRIDES = 4
"""Side of a cell's reference box, in strides: 32, 64, 128, 256, 512 px at strides 8, 16, 32, 64, 128."""


@dataclass(frozen=True)
class CellLayout:
    """``N`` cells, level by level (fine to coarse) and row by row in a level.

    Attributes:
        centers: ``[N, 2]`` crop pixels, ``((x + 0.5) * stride, (y + 0.5) * stride)``.
        anchors: ``[N]`` side of the reference box, crop pixels.
        level: ``[N]`` index of the cell's level.
        strides: stride of each level.
        crop_size: side of the crop, pixels.
    """

    centers: Array
    anchors: Array
    level: NDArray[np.int64]
    strides: tuple[int, ...]
    crop_size: int

    @classmethod
    def build(cls, strides: Sequence[int], crop_size: int) -> "CellLayout":
        """The cells of a crop; a level has ``ceil(crop_size / stride)`` cells a side.

        >>> layout = CellLayout.build((8, 16, 32, 64), 256)
        >>> len(layout), layout.level_sizes, layout.centers[1]
        (1360, (1024, 256, 64, 16), array([12.,  4.]))
        """
        centers, anchors, levels = [], [], []
        for index, stride in enumerate(strides):
            line = (np.arange(-(-crop_size // stride)) + 0.5) * stride
            x, y = np.meshgrid(line, line, indexing="xy")
            centers.append(np.stack([x.ravel(), y.ravel()], axis=-1))
            anchors.append(np.full(x.size, float(ANCHOR_STRIDES * stride)))
            levels.append(np.full(x.size, index, dtype=np.int64))
        return cls(np.concatenate(centers), np.concatenate(anchors), np.concatenate(levels), tuple(strides), crop_size)

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Number of cells of each level."""
        return tuple((-(-self.crop_size // stride)) ** 2 for stride in self.strides)

    def __len__(self) -> int:
        return len(self.centers)


def level_anchors(strides: Sequence[int]) -> Array:
    """``[L]`` sides of the reference boxes, pixels.

    >>> level_anchors((8, 16))
    array([32., 64.])
    """
    return np.asarray(strides, dtype=np.float64) * ANCHOR_STRIDES


def level_budgets(spans: Array, anchors: Array, cells: int, scale_lambda: float = 1.0) -> NDArray[np.int64]:
    """How many cells of each level represent an object (WDRNet, Hu et al., CVPR 2021, eq. 5).

    ``d = |log2(span / anchor)|``, ``w = exp(-lambda d^2)``, ``n = floor(cells * w / sum(w) + 0.5)``.

    Args:
        spans: ``[...]`` larger side of the object's box, crop pixels (values below 1, and nan, count as 1).
        anchors: ``[L]`` reference sides, pixels. cells: how many cells speak for an object in all.

    Returns:
        ``[..., L]``; the sum is ``cells`` up to rounding.

    >>> level_budgets(np.array([171.0]), level_anchors((8, 16, 32, 64, 128)), 10)
    array([[0, 1, 5, 4, 0]])
    """
    distances = np.log2(np.fmax(np.asarray(spans, dtype=np.float64), 1.0)[..., None] / anchors)
    # Shifted by the nearest level, so that an object far from every anchor does not divide 0 by 0.
    exponents = -scale_lambda * distances**2
    weights = np.exp(exponents - exponents.max(axis=-1, keepdims=True))
    return np.floor(cells * weights / weights.sum(axis=-1, keepdims=True) + 0.5).astype(np.int64)
