"""Any timm model with ``features_only`` as a backbone (Wightman, PyTorch Image Models)."""

from pathlib import Path

import timm
import torch
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn

from posedistill.backbones.cut import FINEST_STRIDE, check_cut, refuse_unused, split_blocks, split_cut
from posedistill.backbones.timm_models import Renormalise, feature_maps, load_timm_weights
from posedistill.errors import RecipeError, describe


class TimmBackbone(nn.Module):
    """The deepest map of each stride from 8 (or ``finest``) on, up to where it is cut (``tf_efficientnet_lite0@16``).

    What lies deeper than the last map is removed. ``tf_efficientnet_lite0@16:4`` keeps the first four blocks of stride
    16 alone, which EfficientNets and MobileNetV3 allow.

    A model that was trained with other statistics than ImageNet's gets its input re-normalised here, so that every
    backbone takes the same images.

    Attributes:
        channels: stride of each map given out -> its number of channels, fine to coarse.
    """

    def __init__(
        self,
        name: str,
        pretrained: str | Path | None = None,
        known: tuple[str, ...] = (),
        finest: int = FINEST_STRIDE,
    ) -> None:
        """Build ``name`` without its classifier; ``known`` other backbones are listed where timm has no such model.

        Raises RecipeError (unknown name, no usable maps) and CheckpointError (a file that does not fit).
        """
        super().__init__()
        name, blocks = split_blocks(name)
        name, cut = split_cut(name)
        indices, self.channels = _probe(name, cut, blocks, known, finest)
        self.net = _build(name, indices, blocks)
        self.renormalise = Renormalise(name)
        if pretrained is not None:
            load_timm_weights(self.net, name, pretrained)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """``[B, 3, H, W]`` -> ``{stride: [B, channels[stride], H / stride, W / stride]}``."""
        return dict(zip(self.channels, self.net(self.renormalise(images)), strict=True))


def _build(name: str, indices: list[int], blocks: int | None) -> nn.Module:
    """The model up to the last of the maps, or up to some block of its stride."""
    net: nn.Module = timm.create_model(name, pretrained=False, features_only=True, out_indices=indices)
    if isinstance(net, EfficientNetFeatures | MobileNetV3Features):  # which keep and run what follows, as others do not
        net.blocks = net.blocks[: max(net._stage_out_idx)]
        if blocks is not None:
            _keep_blocks(name, net, blocks)
    elif blocks is not None:
        found, expected = f"{name!r} cut after a block", "an EfficientNet or MobileNetV3, or a cut at a stride alone"
        raise RecipeError(describe("recipe", "backbone", found, expected))
    return net


def _keep_blocks(name: str, net: EfficientNetFeatures | MobileNetV3Features, count: int) -> None:
    """Keep the first ``count`` blocks of the coarsest stride; they lie in one stage of the network or several."""
    *finer, _ = sorted(net._stage_out_idx)
    first = finer[-1] if finer else 0
    coarsest = list(net.blocks[first:])
    most = sum(map(len, coarsest))
    if not 1 <= count <= most:
        found, expected = f"{name!r} cut after block {count} of a stride", f"block 1 to {most}"
        raise RecipeError(describe("recipe", "backbone", found, expected))
    kept = list(net.blocks[:first])
    for stage in coarsest:
        if count > 0:
            kept.append(stage[:count])
        count -= len(stage)
    index = net._stage_out_idx.pop(max(net._stage_out_idx))
    net.blocks, net._stage_out_idx[len(kept)] = nn.Sequential(*kept), index


def _probe(
    name: str, cut: int | None, blocks: int | None, known: tuple[str, ...], finest: int
) -> tuple[list[int], dict[int, int]]:
    """Indices of the maps to take, and their channels by stride, without allocating the model."""
    info = feature_maps(name, known)
    last = {int(stride): index for index, stride in enumerate(info.reduction()) if stride >= finest}
    channels = {stride: int(info.channels()[index]) for stride, index in sorted(last.items())}
    if not channels:
        raise RecipeError(f"backbone: {name!r} has maps of stride {info.reduction()}, expected 8, 16, 32")
    check_cut(name, cut, channels)
    channels = {stride: count for stride, count in channels.items() if cut is None or stride <= cut}
    indices = [last[stride] for stride in channels]
    if cut is not None:
        with torch.device("meta"):
            net = _build(name, indices, blocks)
        refuse_unused(f"{name}@{cut}", net, net)
        if blocks is not None:
            with torch.device("meta"):
                *_, coarsest = net(torch.empty(1, 3, 64, 64))
            channels[max(channels)] = int(coarsest.shape[1])
    return indices, channels
