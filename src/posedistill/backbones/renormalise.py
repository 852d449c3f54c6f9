"""One normalisation of images for all backbones, whatever statistics each was trained with."""

import timm
import torch
from torch import Tensor, nn

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's statistics, which all images come with."""


class Renormalise(nn.Module):
    """Turns ImageNet-normalised images into what the timm model ``name`` was trained on; has no weights."""

    shift: Tensor
    scale: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        mean, std = (_MEAN, _STD) if config is None else (config.mean, config.std)
        shifts = [(wanted - given) / deviation for wanted, given, deviation in zip(mean, _MEAN, _STD, strict=True)]
        scales = [given / wanted for wanted, given in zip(std, _STD, strict=True)]
        self.register_buffer("shift", torch.tensor(shifts).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scales).view(1, 3, 1, 1), persistent=False)
        self.needed = max(map(abs, shifts)) > 1e-5 or max(abs(scale - 1) for scale in scales) > 1e-5

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> the same shape."""
        return (images - self.shift) * self.scale if self.needed else images
