"""What all timm models have in common here (Wightman, PyTorch Image Models): names, weights, normalisation."""

import difflib
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from posedistill.backbones.weights import IMAGENET_MEAN, IMAGENET_STD, canonical_key, load_pretrained
from posedistill.errors import RecipeError


class Renormalise(nn.Module):
    """Turns ImageNet-normalised images into what the timm model ``name`` was trained on; has no weights."""

    shift: Tensor
    scale: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if config is None else (config.mean, config.std)
        shifts = [
            (wanted - given) / deviation
            for wanted, given, deviation in zip(mean, IMAGENET_MEAN, IMAGENET_STD, strict=True)
        ]
        scales = [given / wanted for wanted, given in zip(std, IMAGENET_STD, strict=True)]
        self.register_buffer("shift", torch.tensor(shifts).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scales).view(1, 3, 1, 1), persistent=False)
        self.needed = max(map(abs, shifts)) > 1e-5 or max(abs(scale - 1) for scale in scales) > 1e-5

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> the same shape."""
        return (images - self.shift) * self.scale if self.needed else images


def feature_maps(name: str, known: tuple[str, ...] = ()) -> timm.models.FeatureInfo:
    """What timm says of the model's maps, without allocating it; ``known`` other backbones are named in the message.

    Raises:
        RecipeError: an unknown name (near ones are told), or a model without maps of doubling strides.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, [*known, *timm.list_models()], n=5)
        near = near or ["resnet18", "mobilenetv3_small_100"]
        expected = f"one of {list(known)} or a timm model" if known else "a timm model"
        raise RecipeError(f"backbone: found {name!r}, expected {expected} such as {near}")
    try:
        with torch.device("meta"):
            info = timm.create_model(name, pretrained=False, features_only=True).feature_info
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise RecipeError(f"backbone: timm's {name!r} gives no feature maps ({error})") from error
    if any(int(stride) & (int(stride) - 1) for stride in info.reduction()):
        raise RecipeError(f"backbone: {name!r} has maps of stride {info.reduction()}, expected 8, 16, 32")
    return info


def load_timm_weights(network: nn.Module, name: str, path: str | Path) -> None:
    """Fill a part of the model ``name`` from a file of the whole; a CheckpointError where the file does not fit."""
    with torch.device("meta"):
        whole = timm.create_model(name, pretrained=False).state_dict()
    keys = {canonical_key(key) for key in whole}
    load_pretrained(network, path, lambda key: canonical_key(key) in keys, whole)
