"""Heads of viewpoints: bins of three angles with offsets, or a whole rotation.

``bins`` is that of PoseFromShape, PoseContrast and 3DAug-Pose. ``6d`` regresses two columns (Zhou et al., "On the
Continuity of Rotation Representations in Neural Networks", CVPR 2019) under the geodesic distance. ``fisher`` gives the
parameter of a matrix Fisher distribution (Mohlin et al., "Probabilistic Orientation Estimation with Matrix Fisher
Distributions", NeurIPS 2020) and is trained by its likelihood, so that it knows how sure it is about each axis.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from posedistill.decode.viewpoint import ANGLES, HEAD_SIZES, Grid, Head, bin_counts
from posedistill.estimators.losses.fisher import fisher_likelihood, fisher_mode
from posedistill.estimators.losses.viewpoint import bin_losses, decoded_angle, labels_of_rotations, rotations_of_labels
from posedistill.estimators.rotations import geodesic_angle, to_matrix

_FRONT = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))
"""The rotation of what is upright and seen from the front: where heads of rotations start."""


class PoseHead(nn.Module):
    """Of a vector, numbers that tell a rotation; the names of its outputs are the decoder's."""

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``[B, width]`` -> ``[B, K]`` by name."""

    @abstractmethod
    def rotations(self, heads: dict[str, Tensor]) -> Tensor:
        """``[B, 3, 3]``, differentiable."""

    @abstractmethod
    def losses(self, heads: dict[str, Tensor], R: Tensor) -> dict[str, Tensor]:
        """Means over the batch, against the rotations ``[B, 3, 3]``."""

    def class_logits(self, heads: dict[str, Tensor]) -> dict[str, Tensor]:
        """What of them are logits of classes."""
        return {}


class BinHead(PoseHead):
    """Six linear maps: logits and offsets of each angle."""

    def __init__(self, width: int, grid: Grid, size: float) -> None:
        super().__init__()
        self.grid: Grid = grid
        self.size, counts = size, bin_counts(grid, size)
        self.logits = nn.ModuleDict({name: nn.Linear(width, counts[name]) for name in ANGLES})
        self.offsets = nn.ModuleDict({name: nn.Linear(width, counts[name]) for name in ANGLES})
        for name, weights in self.named_parameters():
            nn.init.normal_(weights, std=0.01) if name.endswith("weight") else nn.init.zeros_(weights)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of each angle, then offsets of each, before their tanh."""
        logits = {name: self.logits[name](x) for name in ANGLES}
        return logits | {f"{name}_offset": self.offsets[name](x) for name in ANGLES}

    def rotations(self, heads: dict[str, Tensor]) -> Tensor:
        """Of the decoded angles."""
        angles = [
            decoded_angle(heads[name], heads[f"{name}_offset"], self.grid, self.size, circular=name != "elevation")
            for name in ANGLES
        ]
        return rotations_of_labels(torch.stack(angles, 1))

    def losses(self, heads: dict[str, Tensor], R: Tensor) -> dict[str, Tensor]:
        """``bins``: the sum of three cross-entropies; ``offset``: the mean of three smooth L1 losses; as published."""
        labels, (grid, size) = labels_of_rotations(R), (self.grid, self.size)
        bins, offsets = zip(
            *(
                bin_losses(
                    heads[name], heads[f"{name}_offset"], labels[:, place], size, grid, circular=name != "elevation"
                )
                for place, name in enumerate(ANGLES)
            ),
            strict=True,
        )
        return {"bins": torch.stack(bins).sum(0).mean(), "offset": torch.stack(offsets).mean()}

    def class_logits(self, heads: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of each angle."""
        return {name: heads[name] for name in ANGLES}


class RotationHead(PoseHead):
    """One linear map to two columns of a rotation (``6d``), or to nine numbers (``fisher``)."""

    def __init__(self, width: int, kind: Head) -> None:
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(width, HEAD_SIZES[kind])
        front = torch.tensor(_FRONT)
        nn.init.normal_(self.layer.weight, std=0.01)
        with torch.no_grad():
            self.layer.bias.copy_(front[:, :2].T.flatten() if kind == "6d" else front.flatten())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``rotation``."""
        return {"rotation": self.layer(x)}

    def rotations(self, heads: dict[str, Tensor]) -> Tensor:
        """Orthonormal columns, or the mode of the distribution."""
        values = heads["rotation"].float()
        return to_matrix(values, "6d") if self.kind == "6d" else fisher_mode(values.view(-1, 3, 3))

    def losses(self, heads: dict[str, Tensor], R: Tensor) -> dict[str, Tensor]:
        """``rotation``: the geodesic distance in radians; or ``likelihood``: its negative logarithm."""
        values = heads["rotation"].float()
        if self.kind == "6d":
            return {"rotation": geodesic_angle(to_matrix(values, "6d"), R).mean()}
        return {"likelihood": fisher_likelihood(values.view(-1, 3, 3), R).neg().mean()}


def build_head(width: int, kind: Head, grid: Grid, size: float) -> PoseHead:
    """The head of a kind; ``grid`` and ``size`` (degrees) are of bins."""
    return BinHead(width, grid, size) if kind == "bins" else RotationHead(width, kind)
