"""What an estimator's forward pass returns: the Prediction with its views, all that a distiller knows of a network."""

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
    """

    values: Tensor
    weights: Tensor
    mask: Tensor
    cells: Tensor | None = None


def cell_ids(stride: int, height: int, width: int) -> Tensor:
    """``[height * width]`` int64 ids of one level's cells, row-major; two networks agree on the cells they share.

    >>> cell_ids(8, 2, 2).tolist()
    [524288, 524289, 524544, 524545]
    """
    return (stride << 16) + ((torch.arange(height)[:, None] << 8) + torch.arange(width)).flatten()


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
