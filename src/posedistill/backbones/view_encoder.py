"""The feature of a shape from renderings around it (Su et al., "Multi-view CNNs", ICCV 2015; PoseFromShape's form)."""

from torch import Tensor, nn

from posedistill.backbones import build_trunk


class ViewEncoder(nn.Module):
    """One trunk and one layer for all views; their features stand side by side, in the order of the views."""

    def __init__(self, name: str, count: int, width: int) -> None:
        super().__init__()
        self.trunk = build_trunk(name)
        self.layer = nn.Linear(self.trunk.width, width)
        self.width = count * width

    def forward(self, views: Tensor) -> Tensor:
        """``[B, V, 3, side, side]`` -> ``[B, V width]``."""
        _, pooled = self.trunk(views.flatten(0, 1))
        features: Tensor = self.layer(pooled)
        return features.reshape(-1, self.width)
