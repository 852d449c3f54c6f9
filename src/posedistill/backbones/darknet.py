"""DarkNet-53 and the small DarkNets (Redmon and Farhadi, 2016 and 2018), without their classifiers.

Modules are named as in the public ImageNet checkpoints (``stage3.unit2.conv1.conv.weight``), so those load as they are.
"""

from torch import Tensor, nn

_TINY_WIDTHS = ((16,), (32,), (16, 128, 16, 128), (32, 256, 32, 256), (64, 512, 64, 512, 128))


class ConvBlock(nn.Sequential):
    """Convolution without bias, BatchNorm (eps 1e-5), LeakyReLU(0.1); keeps the size at stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.activ = nn.LeakyReLU(0.1, inplace=True)
        nn.init.kaiming_uniform_(self.conv.weight)


class ResidualUnit(nn.Module):
    """1x1 to half the width, 3x3 back, plus the input; nothing follows the addition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvBlock(width, width // 2, 1)
        self.conv2 = ConvBlock(width // 2, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, width, H, W]`` to the same shape."""
        return x + self.conv2(self.conv1(x))


class DarkNet(nn.Module):
    """A chain of stages, some of which give out their map.

    Attributes:
        channels: stride of each map given out -> its number of channels, fine to coarse.
    """

    def __init__(self, stages: dict[str, nn.Module], taps: dict[str, int], channels: dict[int, int]) -> None:
        super().__init__()
        self.taps = taps
        self.channels = channels
        for name, stage in stages.items():
            self.add_module(name, stage)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """``[B, 3, H, W]`` -> ``{stride: [B, channels[stride], H / stride, W / stride]}``."""
        maps: dict[int, Tensor] = {}
        x = images
        for name, stage in self.named_children():
            x = stage(x)
            if name in self.taps:
                maps[self.taps[name]] = x
        return maps

    def from_stride(self, finest: int) -> "DarkNet":
        """The same stages, giving out the maps of stride ``finest`` and coarser alone."""
        taps = {name: stride for name, stride in self.taps.items() if stride >= finest}
        channels = {stride: count for stride, count in self.channels.items() if stride >= finest}
        return DarkNet(dict(self.named_children()), taps, channels)

    def cut(self, stride: int) -> "DarkNet":
        """The stages up to the map of that stride, one of ``channels``."""
        stages = dict(self.named_children())
        last = list(stages).index(next(name for name, tapped in self.taps.items() if tapped == stride))
        kept = {name: stages[name] for name in list(stages)[: last + 1]}
        return DarkNet(kept, self.taps, {tapped: count for tapped, count in self.channels.items() if tapped <= stride})


def darknet53() -> DarkNet:
    """The teacher's backbone: 40.6 M parameters; strides 2 to 32 with 64, 128, 256, 512, 1024 channels."""
    stages: dict[str, nn.Module] = {"init_block": ConvBlock(3, 32, 3)}
    inputs = 32
    for number, (width, units) in enumerate(((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)), start=1):
        stage = nn.Sequential()
        stage.add_module("unit1", ConvBlock(inputs, width, 3, stride=2))
        for unit in range(units):
            stage.add_module(f"unit{unit + 2}", ResidualUnit(width))
        stages[f"stage{number}"] = stage
        inputs = width
    taps = {"stage1": 2, "stage2": 4, "stage3": 8, "stage4": 16, "stage5": 32}
    return DarkNet(stages, taps, {2: 64, 4: 128, 8: 256, 16: 512, 32: 1024})


def darknet_tiny(divisor: int = 1) -> DarkNet:
    """DarkNet-tiny with its widths divided: strides 2 to 16 with ``(16, 32, 128, 128) / divisor`` channels.

    0.91 M parameters, 0.23 M at half its widths and 0.06 M at a quarter. 1x1 and 3x3 alternate in the stages of several
    units.
    """
    stages: dict[str, nn.Module] = {}
    inputs = 3
    for number, widths in enumerate(_TINY_WIDTHS, start=1):
        stage = nn.Sequential()
        for unit, width in enumerate(widths):
            kernel = 1 if len(widths) > 1 and unit % 2 == 0 else 3
            stage.add_module(f"unit{unit + 1}", ConvBlock(inputs, width // divisor, kernel))
            inputs = width // divisor
        if number < 5:
            stage.add_module(f"pool{number}", nn.MaxPool2d(2, 2))
        stages[f"stage{number}"] = stage
    taps = {"stage1": 2, "stage2": 4, "stage3": 8, "stage5": 16}
    return DarkNet(
        stages, taps, {stride: width // divisor for stride, width in ((2, 16), (4, 32), (8, 128), (16, 128))}
    )
