"""What every pose family has in common: the Prediction with its views, and the Estimator."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from posedistill.data.loading.batch import Batch
from posedistill.geometry.objects import ObjectTable

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


class Estimator(nn.Module):
    """A pose family: ``network`` (what is exported), its forward pass on a Batch, and its supervised loss.

    In ``train()`` mode the votes are those of the cells drawn from the ground-truth mask; in ``eval()`` mode (a
    teacher) those the decoder would choose, found without ground truth and without PnP.
    """

    learns: ClassVar[Literal["objects", "cameras"]] = "objects"
    """Whose poses: those of objects in crops, or those of cameras in a scene."""
    offers: ClassVar[frozenset[str]] = frozenset()
    """The views (of ``VIEWS``) that this family's Prediction carries."""
    decoder: ClassVar[str] = ""
    """Name of the module in ``posedistill.decode`` that turns the network's outputs into poses."""
    network: nn.Module
    objects: ObjectTable

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Prediction:
        """Predict on a batch; ``generator`` drives whatever the family draws at random in train mode."""
        raise NotImplementedError

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Supervised terms by name, already weighted; each is a mean over its own count. Their sum is minimised."""
        raise NotImplementedError

    def deployment(self) -> dict[str, Any]:
        """What the runtime must know of the network itself, as fields of ``ModelMetadata`` or ``CameraMetadata``."""
        raise NotImplementedError
