"""PointNet without transformer networks: one vector of a point cloud (Qi et al., CVPR 2017)."""

from torch import Tensor, nn


class PointNet(nn.Module):
    """Three layers for each point (64, 128 and ``width`` channels), then the largest value over all points."""

    def __init__(self, width: int = 1024) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            *(nn.Conv1d(3, 64, 1), nn.BatchNorm1d(64), nn.ReLU()),
            *(nn.Conv1d(64, 128, 1), nn.BatchNorm1d(128), nn.ReLU()),
            *(nn.Conv1d(128, width, 1), nn.BatchNorm1d(width)),
        )

    def forward(self, clouds: Tensor) -> Tensor:
        """``[B, P, 3]`` -> ``[B, width]``; the order of the points does not matter."""
        features: Tensor = self.layers(clouds.transpose(1, 2))
        return features.amax(2)
