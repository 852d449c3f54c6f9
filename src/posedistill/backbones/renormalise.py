"""One normalisation of images for all backbones, whatever statistics each was trained with."""

import timm
import torch
from torch import Tensor, nn

_IMAGENET_MEAN = torch.tensor((0.485, 0.456, 0.406))
_IMAGENET_STD = torch.tensor((0.229, 0.224, 0.225))


class Renormalise(nn.Module):
    """Turns ImageNet-normalised images into what the timm model ``name`` was trained on; has no weights."""

    mean: Tensor
    scale: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        mean = torch.tensor(config.mean) if config is not None else _IMAGENET_MEAN
        std = torch.tensor(config.std) if config is not None else _IMAGENET_STD
        self.register_buffer("mean", ((mean - _IMAGENET_MEAN) / _IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", (_IMAGENET_STD / std).view(1, 3, 1, 1), persistent=False)
        self.needed = not (torch.allclose(mean, _IMAGENET_MEAN) and torch.allclose(std, _IMAGENET_STD))

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> the same shape."""
        return (images - self.mean) * self.scale if self.needed else images
