"""What turns a backbone's maps into one fine map for a prediction at every pixel: small decoders, and ZebraPose's."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from posedistill.errors import RecipeError, describe

Kind = Literal["separable", "dense", "published"]
PUBLISHED_STRIDES = (2, 4, 8)
"""Of the maps that ZebraPose's decoder takes, the last of which it goes on from."""
_DILATIONS = (6, 12, 18)


class DenseMaps(NamedTuple):
    """``levels`` by stride, fine to coarse, and ``last``, what the predictor takes: the finest and what joins it."""

    levels: dict[int, Tensor]
    last: Tensor


def build_decoder(kind: Kind, channels: dict[int, int], width: int, stride: int) -> "SmallDecoder | PublishedDecoder":
    """A decoder for a backbone's maps (stride -> channels) that ends in a map of ``stride``.

    Raises:
        RecipeError: the backbone has no maps to make it of.
    """
    if kind == "published":
        return PublishedDecoder(channels, width)
    return SmallDecoder(channels, width, stride, separable=kind == "separable")


class SmallDecoder(nn.Module):
    """Each map by a 1x1 convolution to ``width``, plus the coarser result doubled in size, through one block.

    A stride of half the finest map's adds a block on that level doubled once more.

    Attributes:
        width: channels of all levels and of ``last``.
    """

    def __init__(self, channels: dict[int, int], width: int, stride: int, *, separable: bool) -> None:
        super().__init__()
        finest = min(channels)
        if stride not in (finest, finest // 2):
            found = f"a backbone with maps of stride {sorted(channels)}"
            raise RecipeError(describe("recipe", "stride", found, f"one with a map of stride {stride} or {2 * stride}"))
        self.width = width
        self.strides = tuple(sorted(channels, reverse=True))
        self.sides = nn.ModuleList(_unit(channels[s], width, 1) for s in self.strides)
        count = len(self.strides) + (stride < finest)
        self.blocks = nn.ModuleList(_separable(width) if separable else _unit(width, width, 3) for _ in range(count))

    def forward(self, maps: dict[int, Tensor]) -> DenseMaps:
        """``{stride: [B, C, H, W]}`` to levels ``[B, width, H, W]``."""
        levels: dict[int, Tensor] = {}
        x: Tensor | None = None
        for stride, side, block in zip(self.strides, self.sides, self.blocks, strict=False):
            own = side(maps[stride])
            x = block(own if x is None else own + functional.interpolate(x, scale_factor=2.0, mode="nearest"))
            levels[stride] = x
        assert x is not None
        if len(self.blocks) > len(self.strides):
            x = self.blocks[-1](functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
            levels[self.strides[-1] // 2] = x
        return DenseMaps(dict(sorted(levels.items())), x)


class PublishedDecoder(nn.Module):
    """ZebraPose's (Su et al., CVPR 2022): dilated residual blocks and a pyramid of dilations, then two steps up.

    A step up is a transposed convolution and two of 3x3; the maps of stride 4 and 2 join before and after the second.

    Attributes:
        width: channels of ``last``.
    """

    def __init__(self, channels: dict[int, int], width: int = 256) -> None:
        super().__init__()
        if tuple(channels) != PUBLISHED_STRIDES:
            found = f"a backbone with maps of stride {list(channels)}"
            raise RecipeError(describe("recipe", "decoder", found, "strides 2, 4 and 8, as those of resnet34@8"))
        fine, middle, coarse = channels.values()
        self.blocks = nn.Sequential(
            *(DilatedBlock(coarse if index == 0 else 256, 256, 2) for index in range(6)),
            *(DilatedBlock(256 if index == 0 else 512, 512, 4) for index in range(3)),
        )
        self.pyramid = DilationPyramid(512, 256)
        self.up1, self.up2 = _step_up(256, width), _step_up(width + middle, width)
        self.width = width + fine

    def forward(self, maps: dict[int, Tensor]) -> DenseMaps:
        """``{stride: [B, C, H, W]}`` to levels of strides 2, 4 and 8."""
        coarse = self.pyramid(self.blocks(maps[8]))
        middle = self.up1(coarse)
        fine = self.up2(torch.cat([middle, maps[4]], dim=1))
        return DenseMaps({2: fine, 4: middle, 8: coarse}, torch.cat([fine, maps[2]], dim=1))


class DilatedBlock(nn.Module):
    """The basic residual block, dilated instead of strided."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.first = _unit(inputs, outputs, 3, dilation)
        self.second = _unit(outputs, outputs, 3, dilation)[:2]
        same = inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else _unit(inputs, outputs, 1)[:2]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        return functional.relu(self.second(self.first(x)) + self.shortcut(x))


class DilationPyramid(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., 2017), convolutions with bias as in ZebraPose."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [_unit(inputs, width, 1, bias=True)] + [_unit(inputs, width, 3, rate, bias=True) for rate in _DILATIONS]
        )
        self.pooled = _unit(inputs, width, 1, bias=True)
        self.merge = _unit(width * (len(_DILATIONS) + 2), width, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` to ``[B, width, H, W]``."""
        pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        merged: Tensor = self.merge(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))
        return merged


def _unit(inputs: int, outputs: int, kernel: int, dilation: int = 1, *, bias: bool = False) -> nn.Sequential:
    """Convolution that keeps the size, BatchNorm, ReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _separable(width: int) -> nn.Sequential:
    """A depthwise 5x5 and a pointwise convolution, each with BatchNorm and ReLU."""
    depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(width), nn.ReLU(inplace=True), *_unit(width, width, 1))


def _step_up(inputs: int, width: int) -> nn.Sequential:
    """A transposed convolution to twice the size and two of 3x3."""
    up = nn.ConvTranspose2d(inputs, width, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(
        up, nn.BatchNorm2d(width), nn.ReLU(inplace=True), _unit(width, width, 3), _unit(width, width, 3)
    )
