"""What an estimator's forward pass returns: the Prediction with its views, all that a distiller knows of a network."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

VIEWS = ("votes", "cells", "features", "embedding", "regression", "logits")


@dataclass
class Votes:
    """``N`` local predictions of ``K`` keypoints in ``D`` dimensions for each of ``B`` images.

    Attributes:
        values: ``[B, N, K, D]`` in units of the crop's side (for image keypoints).
        weights: ``[B, N]`` scores in 0..1.
        mask: ``[B, N]`` bool, False where the slot is padding (its values are finite but mean nothing).
        cells: ``[B, N]`` int64, which cell voted, as ``cell_ids`` numbers them; None where votes have no cells.
        errors: ``[B, N]`` how far each is from what the labels say, in a unit of the family's, without gradient; None
            where annotated keypoints tell.
    """

    values: Tensor
    weights: Tensor
    mask: Tensor
    cells: Tensor | None = None
    errors: Tensor | None = None

    def at(self, index: Tensor) -> "Votes":
        """Some of the votes: those at ``index`` ``[B, n]`` of each image."""
        values = self.values.gather(1, index[..., None, None].expand(-1, -1, *self.values.shape[2:]))
        cells, errors = (None if own is None else own.gather(1, index) for own in (self.cells, self.errors))
        return Votes(values, self.weights.gather(1, index), self.mask.gather(1, index), cells, errors)


_BITS = 16
"""Of an id for each of anchor, stride, row and column: the largest grid has 65,536 cells a side."""


def cell_ids(stride: int, height: int, width: int, anchors: int = 1, device: torch.device | str = "cpu") -> Tensor:
    """``[height * width * anchors]`` int64 ids of one level's predictors: row-major, the anchors of a cell together.

    Two networks agree on the cells they share, whatever the shapes of their grids.

    >>> place_of_cells(cell_ids(8, 1, 2, anchors=2))[1:]
    (tensor([0, 0, 0, 0]), tensor([0, 0, 1, 1]))
    """
    axes = (torch.arange(count, device=device) for count in (height, width, anchors))
    row, column, anchor = torch.meshgrid(*axes, indexing="ij")
    return ((((anchor << _BITS) + stride << _BITS) + row << _BITS) + column).flatten()


def place_of_cells(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Stride, row and column of the cells that :func:`cell_ids` numbers so, each of the shape of ``ids``."""
    largest = (1 << _BITS) - 1
    return ids >> 2 * _BITS & largest, ids >> _BITS & largest, ids & largest


def confidence(distances: Tensor, reach: float, sharpness: float = 2.0) -> Tensor:
    """The single-shot head's score of a point ``distances`` off: 1 on the spot, 0 from ``reach`` on.

    Tekin et al., CVPR 2018, equation 1, normalised to 0 .. 1 as its code does.

    >>> import torch
    >>> confidence(torch.tensor([0.0, 5.0, 20.0, 80.0]), reach=80.0)
    tensor([1.0000, 0.8641, 0.5449, 0.0000])
    """
    return (torch.expm1(sharpness * (1 - distances / reach)) / math.expm1(sharpness)).clamp(min=0)


PUBLISHED_REACH = 80.0
"""Pixels at which a published confidence is nothing, of a picture of 640 x 480 whatever the network's own."""


def published_pixels(shape: tuple[int, int]) -> tuple[float, float]:
    """How many pixels of a picture of 640 x 480 a pixel is wide and high in one of ``shape``, (height, width).

    >>> published_pixels((240, 320))
    (2.0, 2.0)
    """
    return 640 / shape[1], 480 / shape[0]


@dataclass
class Prediction:
    """What an estimator's forward pass returns: its own heads, and the views a distiller may ask for.

    ``heads`` belong to the family (its loss reads them); a view the family does not offer is None or empty.
    """

    heads: dict[str, Tensor]
    votes: Votes | None = None
    cells: Votes | None = None
    """The votes of every cell, chosen or not, with their ids: what pointwise matching looks up."""
    features: dict[str, Tensor] = field(default_factory=dict)
    """Maps ``[B, C, H, W]``, named, fine to coarse."""
    embedding: Tensor | None = None
    regression: Tensor | None = None
    regression_truth: Tensor | None = None
    """What ``regression`` should be by the batch's labels, where the family can say so."""
    logits: dict[str, Tensor] = field(default_factory=dict)
    spread: Tensor | None = None
    """``[B]`` how far the members of an ensemble disagree, in the units of trust (object diameters for votes)."""
