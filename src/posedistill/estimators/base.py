"""What every pose family has in common: the Prediction with its views, and the Estimator."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from posedistill.data.batch import Batch
from posedistill.geometry.objects import ObjectTable

VIEWS = ("votes", "features", "embedding", "regression", "logits")


@dataclass
class Votes:
    """``N`` local predictions of ``K`` keypoints in ``D`` dimensions for each of ``B`` images.

    Attributes:
        values: ``[B, N, K, D]`` in units of the crop's side (for image keypoints).
        weights: ``[B, N]`` scores in 0..1.
        mask: ``[B, N]`` bool, False where the slot is padding (its values are finite but mean nothing).
    """

    values: Tensor
    weights: Tensor
    mask: Tensor


@dataclass
class Prediction:
    """What an estimator's forward pass returns: its own heads, and the views a distiller may ask for.

    ``heads`` belong to the family (its loss reads them); a view the family does not offer is None or empty.
    """

    heads: dict[str, Tensor]
    votes: Votes | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    """Maps ``[B, C, H, W]``, named, fine to coarse."""
    embedding: Tensor | None = None
    regression: Tensor | None = None
    logits: dict[str, Tensor] = field(default_factory=dict)


class Estimator(nn.Module):
    """A pose family: ``network`` (what is exported), its forward pass on a Batch, and its supervised loss.

    In ``train()`` mode the votes are those of the cells drawn from the ground-truth mask; in ``eval()`` mode (a
    teacher) those the decoder would choose, found without ground truth and without PnP.
    """

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
