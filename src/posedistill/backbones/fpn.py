"""Feature pyramid (Lin et al., CVPR 2017) with the extra levels of RetinaNet: torchvision's, at the wanted strides."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork

from posedistill.errors import RecipeError


class FeaturePyramid(nn.Module):
    """Maps of one width at the wanted strides, from a backbone's maps.

    Strides the backbone has are torchvision's pyramid. Coarser ones come from 3x3 stride-2 convolutions: the first on
    the backbone's deepest map (torchvision's own extra levels take the pyramid's where the widths happen to be equal),
    each further one on the ReLU of the one before. No norm and no activation.
    """

    def __init__(self, channels: dict[int, int], strides: Sequence[int], width: int) -> None:
        """Raise RecipeError where the strides cannot be made from ``channels`` (stride -> channels)."""
        super().__init__()
        _check_strides(channels, strides)
        self.strides = tuple(strides)
        self.deepest = max(channels)
        self.merged = sorted(stride for stride in channels if stride >= strides[0])
        extra = [stride for stride in strides if stride > self.deepest]
        inputs = [channels[self.deepest], *[width] * len(extra)]
        convolutions = [nn.Conv2d(inputs[i], width, 3, 2, padding=1) for i in range(len(extra))]
        self.pyramid = FeaturePyramidNetwork([channels[stride] for stride in self.merged], width)
        for index, stride in enumerate(self.merged):
            if stride not in strides:  # merged into finer levels only
                self.pyramid.layer_blocks[index] = nn.Identity()
        self.extra = nn.ModuleList(convolutions)
        for convolution in convolutions:
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)

    def forward(self, maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """``{stride: [B, channels, H, W]}`` -> ``{stride: [B, width, H, W]}``, fine to coarse."""
        levels = list(self.pyramid({stride: maps[stride] for stride in self.merged}).values()) if self.merged else []
        levels = levels[: len(self.strides) - len(self.extra)]
        x = maps[self.deepest]
        for index, convolution in enumerate(self.extra):
            x = convolution(functional.relu(x) if index else x)
            levels.append(x)
        return dict(zip(self.strides, levels, strict=True))

    def purpose(self, layer: str) -> str:
        """A layer's name with its stride in place of its number, the same in pyramids of other strides.

        >>> FeaturePyramid({8: 4, 16: 8}, (16, 32), 32).purpose("pyramid.inner_blocks.0.0")
        'inner_blocks@16.0'
        """
        block, number, *rest = layer.removeprefix("pyramid.").split(".")
        strides = [stride for stride in self.strides if stride > self.deepest] if block == "extra" else self.merged
        kind = "first_extra" if layer == "extra.0" else block  # alone on a map of the backbone
        return ".".join([f"{kind}@{strides[int(number)]}", *rest])


def _check_strides(channels: dict[int, int], strides: Sequence[int]) -> None:
    """Every wanted stride is the double of the one before, and the first can be reached from the backbone."""
    doubles = all(b == 2 * a for a, b in itertools.pairwise(strides))
    if not strides or not doubles or (strides[0] not in channels and strides[0] != 2 * max(channels)):
        raise RecipeError(
            f"strides {list(strides)} cannot be made: the backbone gives {sorted(channels)}; "
            "wanted are doubling strides that start at one of these"
        )
