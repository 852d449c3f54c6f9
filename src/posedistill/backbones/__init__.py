"""Backbones: networks that turn an image into feature maps of several strides."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from posedistill.backbones.cfg.library import SHIPPED, is_cfg
from posedistill.backbones.cfg.network import CfgBackbone
from posedistill.backbones.cut import FINEST_STRIDE, check_cut, split_cut
from posedistill.backbones.darknet import DarkNet, darknet53, darknet_tiny
from posedistill.backbones.fpn import FeaturePyramid
from posedistill.backbones.pooled import PooledTrunk
from posedistill.backbones.timm_backbone import TimmBackbone
from posedistill.backbones.timm_trunk import TimmTrunk
from posedistill.backbones.weights import canonical_key, load_pretrained

__all__ = ["DarkNet", "FeaturePyramid", "TimmBackbone", "build_backbone", "build_trunk", "load_pretrained"]

_DARKNETS: dict[str, Callable[[], DarkNet]] = {
    "darknet53": darknet53,
    "darknet_tiny": darknet_tiny,
    "darknet_tiny_h": partial(darknet_tiny, 2),
    "darknet_tiny_q": partial(darknet_tiny, 4),
}


def build_backbone(
    name: str, pretrained: str | Path | None = None, finest: int = FINEST_STRIDE
) -> DarkNet | TimmBackbone | CfgBackbone:
    """A backbone by name, randomly initialised or from a state-dict file the user gives; nothing is downloaded.

    Args:
        name: ``darknet53``, ``darknet_tiny``, ``darknet_tiny_h``, ``darknet_tiny_q``; ``tiny_yolo``, ``yolo_lite``,
            ``yolo_lite_bn``, ``yolo_pose``, or ``cfg:FILE`` for any Darknet ``.cfg``; or any timm model that supports
            ``features_only`` (``timm:darknet53`` where both have the name). ``NAME@STRIDE`` keeps its layers up to the
            deepest map of that stride, ``NAME@STRIDE:COUNT`` (EfficientNets, MobileNetV3) the first blocks of it.
        pretrained: ``.safetensors``, a torch file that loads with ``weights_only=True``, or ``lite0``, ``lite1`` or
            ``lite2`` for the weights of an installed package; for the networks of a ``.cfg`` also Darknet's
            ``.weights``. Of a cut network the whole one's will do.
        finest: stride from which on maps are given out; those of a ``.cfg`` have none finer than 8.

    Returns:
        A module with ``channels`` (stride -> channels), which turns images ``[B, 3, H, W]`` into maps by stride,
        ``{stride: [B, channels[stride], H / stride, W / stride]}``.

    Raises:
        RecipeError: the name is unknown, or the timm model gives no usable maps.
        CheckpointError: the file is damaged or belongs to another network.
    """
    own, cut = split_cut(name)
    if is_cfg(own):
        return CfgBackbone(name.removeprefix("cfg:").strip(), pretrained)
    if own not in _DARKNETS:
        return TimmBackbone(name.removeprefix("timm:"), pretrained, known=(*_DARKNETS, *SHIPPED), finest=finest)
    network = _DARKNETS[own]().from_stride(finest)
    check_cut(own, cut, network.channels)
    keys = {canonical_key(key) for key in network.state_dict()}
    if cut is not None:
        network = network.cut(cut)
    if pretrained is not None:
        load_pretrained(network, pretrained, lambda key: key.startswith("output.") or canonical_key(key) in keys)
    return network


def build_trunk(name: str, pretrained: str | Path | None = None) -> PooledTrunk | TimmTrunk:
    """A network up to its pooled features, with the maps on the way there.

    Args:
        name, pretrained: as for :func:`build_backbone`.

    Returns:
        A module with ``channels`` (name of a map -> channels) and ``width``, which turns images ``[B, 3, H, W]`` into
        maps by name and pooled features ``[B, width]``.

    Raises:
        RecipeError: the name is unknown, or the timm model gives no usable maps.
        CheckpointError: the file is damaged or belongs to another network.
    """
    own, _ = split_cut(name)
    if is_cfg(own) or own in _DARKNETS:
        backbone = build_backbone(name, pretrained)
        assert not isinstance(backbone, TimmBackbone)
        return PooledTrunk(backbone)
    return TimmTrunk(name.removeprefix("timm:"), pretrained)
