"""Feature pyramid (Lin et al., CVPR 2017) with the two extra levels of RetinaNet."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from posedistill.errors import RecipeError


class FeaturePyramid(nn.Module):
    """Maps of one width at the wanted strides, from a backbone's maps.

    Strides the backbone has get a 1x1 lateral, the sum with the upsampled coarser map, and a 3x3 output convolution.
    Coarser ones come from 3x3 stride-2 convolutions: the first on the backbone's deepest map, each further one on the
    ReLU of the one before. No norm and no activation.
    """

    def __init__(self, channels: dict[int, int], strides: Sequence[int], width: int) -> None:
        """Raise RecipeError where the strides cannot be made from ``channels`` (stride -> channels)."""
        super().__init__()
        _check_strides(channels, strides)
        self.strides = tuple(strides)
        self.deepest = max(channels)
        self.lateral_strides = sorted(stride for stride in channels if stride >= strides[0])
        self.lateral = nn.ModuleDict({str(s): nn.Conv2d(channels[s], width, 1) for s in self.lateral_strides})
        inner = [stride for stride in strides if stride <= self.deepest]
        self.output = nn.ModuleDict({str(s): nn.Conv2d(width, width, 3, padding=1) for s in inner})
        extra = [stride for stride in strides if stride > self.deepest]
        inputs = [channels[self.deepest]] + [width] * len(extra)
        self.extra = nn.ModuleDict(
            {str(s): nn.Conv2d(n, width, 3, 2, padding=1) for s, n in zip(extra, inputs, strict=False)}
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """``{stride: [B, channels, H, W]}`` -> ``{stride: [B, width, H, W]}``, fine to coarse."""
        inner: dict[int, Tensor] = {}
        coarser: Tensor | None = None
        for stride in reversed(self.lateral_strides):
            lateral = self.lateral[str(stride)](maps[stride])
            if coarser is not None:
                lateral = lateral + functional.interpolate(coarser, scale_factor=2.0, mode="nearest")
            inner[stride] = coarser = lateral
        pyramid = {int(key): convolution(inner[int(key)]) for key, convolution in self.output.items()}
        x = maps[self.deepest]
        for key, convolution in self.extra.items():
            x = convolution(functional.relu(x) if int(key) > 2 * self.deepest else x)
            pyramid[int(key)] = x
        return pyramid


def _check_strides(channels: dict[int, int], strides: Sequence[int]) -> None:
    """Every wanted stride is the double of the one before, and the first can be reached from the backbone."""
    doubles = all(b == 2 * a for a, b in itertools.pairwise(strides))
    if not strides or not doubles or (strides[0] not in channels and strides[0] != 2 * max(channels)):
        raise RecipeError(
            f"strides {list(strides)} cannot be made: the backbone gives {sorted(channels)}; "
            "wanted are doubling strides that start at one of these"
        )
