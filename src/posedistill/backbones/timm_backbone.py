"""Any timm model with ``features_only`` as a backbone (Wightman, PyTorch Image Models)."""

from pathlib import Path

import timm
from torch import Tensor, nn

from posedistill.backbones.timm_models import Renormalise, feature_maps, load_timm_weights
from posedistill.errors import RecipeError

FINEST_STRIDE = 8


class TimmBackbone(nn.Module):
    """The deepest map of each stride from 8 on.

    A model that was trained with other statistics than ImageNet's gets its input re-normalised here, so that every
    backbone takes the same images.

    Attributes:
        channels: stride of each map given out -> its number of channels, fine to coarse.
    """

    def __init__(self, name: str, pretrained: str | Path | None = None, known: tuple[str, ...] = ()) -> None:
        """Build ``name`` without its classifier; ``known`` other backbones are listed where timm has no such model.

        Raises RecipeError (unknown name, no usable maps) and CheckpointError (a file that does not fit).
        """
        super().__init__()
        indices, self.channels = _probe(name, known)
        self.net = timm.create_model(name, pretrained=False, features_only=True, out_indices=indices)
        self.renormalise = Renormalise(name)
        if pretrained is not None:
            load_timm_weights(self.net, name, pretrained)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """``[B, 3, H, W]`` -> ``{stride: [B, channels[stride], H / stride, W / stride]}``."""
        return dict(zip(self.channels, self.net(self.renormalise(images)), strict=True))


def _probe(name: str, known: tuple[str, ...]) -> tuple[list[int], dict[int, int]]:
    """Indices of the maps to take, and their channels by stride, without allocating the model."""
    info = feature_maps(name, known)
    last = {int(stride): index for index, stride in enumerate(info.reduction()) if stride >= FINEST_STRIDE}
    channels = {stride: int(info.channels()[index]) for stride, index in sorted(last.items())}
    if not channels:
        raise RecipeError(f"backbone: {name!r} has maps of stride {info.reduction()}, expected 8, 16, 32")
    return [last[stride] for stride in channels], channels
