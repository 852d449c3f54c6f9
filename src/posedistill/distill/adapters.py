"""What is learned for a loss between feature maps: adapters of the student, and what forms of the loss need beside.

All of it exists in training alone. Modules are built once, from the shapes of both networks, and live in the distiller,
so that the optimizer and the checkpoints hold them. An adapter made anew each step, as in some published code, learns
nothing and hands the student random targets.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.1
"""Of the leaky ReLU in paraphraser and translator, as published."""


class Statistics(nn.Module):
    """Mean and spread of each channel of the teacher's map, measured once: targets then mean the same at any scale.

    Other than batch statistics they do not change from step to step, nor with the batch size. A channel that hardly
    moves is taken to move by a tenth of what the others do, or its noise would count as much as their content.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, maps: Tensor) -> None:
        """Measure on maps ``[B, C, H, W]``; in a distributed run on those of all processes."""
        super().__init__()
        maps = maps.detach().double()
        sums = torch.stack([maps.sum((0, 2, 3)), maps.square().sum((0, 2, 3)), torch.ones_like(maps[0, :, 0, 0])])
        sums[2] *= maps[:, 0].numel()
        lowest = maps.amin()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(lowest, torch.distributed.ReduceOp.MIN)
        mean = sums[0] / sums[2]
        variance = (sums[1] / sums[2] - mean.square()).clamp(min=0)
        spread = torch.maximum(variance.sqrt(), 0.1 * variance.mean().sqrt()).clamp(min=1e-6)
        self.register_buffer("mean", mean.float()[:, None, None])
        self.register_buffer("spread", spread.float()[:, None, None])
        self.rectified = bool(lowest >= 0)
        """Whether the maps come out of a ReLU: nothing in them is negative."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps with mean 0 and spread 1 in each channel, where they are like those measured."""
        return (maps - self.mean) / self.spread


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that takes its running statistics where a batch holds one value a channel, instead of failing."""

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C, H, W]``"""
        if input.numel() > input.shape[1]:
            return super().forward(input)
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def adapter(student: int, teacher: int, norm: bool = False, rectify: bool = False) -> nn.Module:
    """A 1x1 convolution from the student's channels to the teacher's; then batch norm and ReLU where asked for."""
    layers: list[nn.Module] = [nn.Conv2d(student, teacher, 1, bias=not norm)]
    layers += [BatchNorm(teacher)] if norm else []
    layers += [nn.ReLU()] if rectify else []
    return nn.Sequential(*layers)


def published_adapter(student: int, teacher: int, rectify: bool) -> nn.Module:
    """1x1 convolution without bias (and ReLU) where the widths differ, nothing where they are equal."""
    if student == teacher:
        return nn.Identity()
    convolution = nn.Conv2d(student, teacher, 1, bias=False)
    return nn.Sequential(convolution, nn.ReLU()) if rectify else convolution


class Variational(nn.Module):
    """Mean and variance of the teacher's map as the student predicts it (VID, Ahn et al., CVPR 2019, section 3.1)."""

    def __init__(self, student: int, teacher: int, start: float = 5.0) -> None:
        """``start``: the variance at first; 5 as published, 1 for standardised targets of which nothing is known."""
        super().__init__()
        self.mean = nn.Sequential(
            *(nn.Conv2d(student, teacher, 1, bias=False), nn.ReLU()),
            *(nn.Conv2d(teacher, teacher, 1, bias=False), nn.ReLU()),
            nn.Conv2d(teacher, teacher, 1, bias=False),
        )
        self.alpha = nn.Parameter(torch.full((teacher,), math.log(math.expm1(start - 1e-5))))

    def forward(self, student: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, S, H, W]`` -> mean ``[B, C, H, W]`` and variance ``[C]``, never below 1e-5."""
        return self.mean(student), functional.softplus(self.alpha) + 1e-5


class Paraphraser(nn.Module):
    """An autoencoder of the teacher's map: its code is the factor (Kim et al., NeurIPS 2018, section 3.1).

    Three 3x3 convolutions and three transposed ones, a leaky ReLU after each but the last, which must reach values of
    both signs.
    """

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = _convolutions([channels, channels, factors, factors], norm=False)
        self.decoder = nn.Sequential(
            *(nn.ConvTranspose2d(factors, factors, 3, padding=1), nn.LeakyReLU(SLOPE)),
            *(nn.ConvTranspose2d(factors, channels, 3, padding=1), nn.LeakyReLU(SLOPE)),
            nn.ConvTranspose2d(channels, channels, 3, padding=1),
        )

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, C, H, W]`` -> the factor ``[B, F, H, W]`` and the map made from it again ``[B, C, H, W]``."""
        factor = self.encoder(maps)
        return factor, self.decoder(factor)


def translator(student: int, factors: int) -> nn.Module:
    """The student's counterpart of the paraphraser's encoder, with batch norm."""
    return _convolutions([student, student, factors, factors], norm=True)


def _convolutions(channels: list[int], norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        layers.append(nn.Conv2d(before, after, 3, padding=1, bias=not norm))
        layers += [BatchNorm(after)] if norm else []
        layers.append(nn.LeakyReLU(SLOPE))
    return nn.Sequential(*layers)
