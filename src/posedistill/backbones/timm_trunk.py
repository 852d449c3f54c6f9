"""Any timm model as a trunk: all of it up to its pooled features, and the maps on the way there by name."""

from pathlib import Path

import timm
import torch
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from posedistill.backbones.cut import check_cut, level_name, refuse_unused, split_cut
from posedistill.backbones.timm_models import Renormalise, feature_maps, load_timm_weights
from posedistill.errors import RecipeError

RESNET_TAPS = ("stem", "layer1", "layer2", "layer3", "layer4")
_RESNET_MODULES = ("act1", "layer1", "layer2", "layer3", "layer4")
POOLED = "gap"


class TimmTrunk(nn.Module):
    """A timm model without its classifier, or its first layers alone (``resnet18@16``: up to its map of stride 16).

    Unlike :class:`TimmBackbone` it keeps what lies between the last map and the pooling (the widening convolution of
    EfficientNet; MobileNetV3's comes after the pooling and is left out), so that its pooled features are the model's.
    Those of a cut trunk are the mean of its last map.

    Attributes:
        channels: name of each map -> its channels, fine to coarse. ResNets have ``stem`` (after the ReLU, before
            max-pooling) and ``layer1`` to ``layer4`` (after the ReLU); others the deepest map of each stride, ``p1``
            to ``p5`` for strides 2 to 32.
        width: of the pooled features.
    """

    def __init__(self, name: str, pretrained: str | Path | None = None) -> None:
        """Build ``name``, randomly initialised or from a state-dict file.

        Raises RecipeError (unknown name, no maps) and CheckpointError (a file that does not fit).
        """
        super().__init__()
        name, cut = split_cut(name)
        taps = _taps(name, cut)
        self.net = _build(name, cut, list(taps.values()))
        self.names, self.indices = tuple(taps), list(taps.values())
        self.channels, self.width = _probe(name, cut, taps)
        self.renormalise = Renormalise(name)
        if pretrained is not None:
            load_timm_weights(self.net, name, pretrained)

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """``[B, 3, H, W]`` -> maps ``[B, C, H / stride, W / stride]`` by name, and pooled features ``[B, width]``."""
        last, maps = self.net.forward_intermediates(self.renormalise(images), indices=self.indices)  # type: ignore[operator]
        return dict(zip(self.names, maps, strict=True)), last.mean(dim=(2, 3))


def _taps(name: str, cut: int | None) -> dict[str, int]:
    """Names of the maps and their numbers in timm."""
    info = feature_maps(name)
    strides = [int(stride) for stride in info.reduction()]
    check_cut(name, cut, sorted(set(strides)))
    strides = [stride for stride in strides if cut is None or stride <= cut]
    if tuple(info.module_name()) == _RESNET_MODULES:
        return dict(zip(RESNET_TAPS, range(len(strides)), strict=False))
    deepest = {stride: index for index, stride in enumerate(strides)}
    return {level_name(stride): index for stride, index in sorted(deepest.items())}


def _build(name: str, cut: int | None, indices: list[int]) -> nn.Module:
    """The model without what its pooled features do not use."""
    net: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    if cut is None and isinstance(net, EfficientNet):  # pruning would take the widening convolution too
        return net
    try:
        net.prune_intermediate_layers(indices, prune_norm=False, prune_head=True)  # type: ignore[operator]
    except AttributeError:
        raise RecipeError(f"backbone: timm's {name!r} does not give out maps on the way to its features") from None
    return net


def _probe(name: str, cut: int | None, taps: dict[str, int]) -> tuple[dict[str, int], int]:
    """Channels of the maps and of the pooled features, without computing anything."""
    indices = list(taps.values())
    with torch.device("meta"):
        net = _build(name, cut, indices).eval()
        try:
            images = torch.empty(1, 3, 224, 224)
            last, maps = net.forward_intermediates(images, indices=indices)  # type: ignore[operator]
        except (RuntimeError, AssertionError, TypeError) as error:
            raise RecipeError(f"backbone: timm's {name!r} gives no feature maps ({error})") from error
    if cut is not None:
        refuse_unused(f"{name}@{cut}", net, lambda images: net.forward_intermediates(images, indices=indices)[1])  # type: ignore[operator]
    width = net.num_features if cut is None else maps[-1].shape[1]
    if last.ndim != 4 or last.shape[1] != width or any(entry.ndim != 4 for entry in maps):
        raise RecipeError(f"backbone: timm's {name!r} ends in features {list(last.shape)}, expected maps [B, C, H, W]")
    return {tap: entry.shape[1] for tap, entry in zip(taps, maps, strict=True)}, int(last.shape[1])
