"""The head shared by all levels of a pyramid: a score and eight corner offsets for every cell."""

import math

import torch
from torch import Tensor, nn

KEYPOINTS = 8
_FINEST, _LEVELS = 8, 5
_PRIOR = 0.01
"""Score of every cell before training; keeps the many background cells from swamping the first steps."""


def _norm(width: int) -> nn.GroupNorm:
    """32 groups as published, but at least four channels in each: alone on a 1x1 level a channel would norm to zero."""
    return nn.GroupNorm(min(32, width // 4), width)


def _full_tower(width: int) -> nn.Sequential:
    """Four 3x3 convolutions, each with GroupNorm and ReLU."""
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(width, width, 3, padding=1), _norm(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _slim_tower(width: int) -> nn.Sequential:
    """Two depthwise-separable 5x5 convolutions: the reach of four 3x3 ones at a fiftieth of their work."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [
            nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False),
            nn.Conv2d(width, width, 1),
            _norm(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class CellHead(nn.Module):
    """Two towers (score, pose) and their predictors, for ``C`` classes; a scalar a level scales the offsets.

    The scalars are five whatever levels a network has, one for each stride from 8 to 128.
    """

    def __init__(self, width: int, classes: int, slim: bool) -> None:
        super().__init__()
        self.classes = classes
        tower = _slim_tower if slim else _full_tower
        kernel = 1 if slim else 3
        self.score_tower, self.pose_tower = tower(width), tower(width)
        self.score = nn.Conv2d(width, classes, kernel, padding=kernel // 2)
        self.offsets = nn.Conv2d(width, 2 * KEYPOINTS * classes, kernel, padding=kernel // 2)
        self.scales = nn.Parameter(torch.ones(_LEVELS))
        # Depthwise filters this small would sink below GroupNorm's epsilon: the slim towers keep torch's own start.
        for module in [self.score, self.offsets] if slim else self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        assert self.score.bias is not None
        nn.init.constant_(self.score.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, pyramid: dict[int, Tensor], classes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of all classes, and the offsets of the wanted one, for every cell.

        Args:
            pyramid: ``{stride: [B, width, H, W]}``, fine to coarse. classes: ``[B]`` int64.

        Returns:
            ``[B, N, C]`` logits and ``[B, N, 8, 2]`` offsets in reference boxes, float32.
        """
        logits, offsets = [], []
        for stride, level in pyramid.items():
            logits.append(self.score(self.score_tower(level)).permute(0, 2, 3, 1).flatten(1, 2).float())
            # Channels are class-major, [dx_1..dx_8, dy_1..dy_8] in a class.
            values = self.offsets(self.pose_tower(level)).permute(0, 2, 3, 1).flatten(1, 2)
            values = values.unflatten(2, (self.classes, 2 * KEYPOINTS))
            wanted = classes[:, None, None, None].expand(-1, values.shape[1], 1, 2 * KEYPOINTS)
            own = values.gather(2, wanted).squeeze(2).float()
            scale = self.scales[(stride // _FINEST).bit_length() - 1]
            offsets.append(scale * own.unflatten(2, (2, KEYPOINTS)).transpose(2, 3))
        return torch.cat(logits, dim=1), torch.cat(offsets, dim=1)
