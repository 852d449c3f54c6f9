"""Backbones: networks that turn an image into feature maps of several strides."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from posedistill.backbones.cfg_library import SHIPPED
from posedistill.backbones.cfg_network import CfgBackbone
from posedistill.backbones.darknet import DarkNet, darknet53, darknet_tiny
from posedistill.backbones.fpn import FeaturePyramid
from posedistill.backbones.timm_backbone import TimmBackbone
from posedistill.backbones.weights import load_pretrained

__all__ = ["DarkNet", "FeaturePyramid", "TimmBackbone", "build_backbone", "load_pretrained"]

_DARKNETS: dict[str, Callable[[], DarkNet]] = {
    "darknet53": darknet53,
    "darknet_tiny": darknet_tiny,
    "darknet_tiny_h": partial(darknet_tiny, 2),
    "darknet_tiny_q": partial(darknet_tiny, 4),
}


def build_backbone(name: str, pretrained: str | Path | None = None) -> DarkNet | TimmBackbone | CfgBackbone:
    """A backbone by name, randomly initialised or from a state-dict file the user gives; nothing is downloaded.

    Args:
        name: ``darknet53``, ``darknet_tiny``, ``darknet_tiny_h``, ``darknet_tiny_q``; ``tiny_yolo``, ``yolo_lite``,
            ``yolo_lite_bn``, ``yolo_pose``, or ``cfg:FILE`` for any Darknet ``.cfg``; or any timm model that supports
            ``features_only`` (``timm:darknet53`` where both have the name).
        pretrained: ``.safetensors``, or a torch file that loads with ``weights_only=True``; for the networks of a
            ``.cfg`` also Darknet's ``.weights``.

    Returns:
        A module with ``channels`` (stride -> channels), which turns images ``[B, 3, H, W]`` into maps by stride,
        ``{stride: [B, channels[stride], H / stride, W / stride]}``.

    Raises:
        RecipeError: the name is unknown, or the timm model gives no usable maps.
        CheckpointError: the file is damaged or belongs to another network.
    """
    if name in _DARKNETS:
        network = _DARKNETS[name]()
        if pretrained is not None:
            load_pretrained(network, pretrained, ignorable=lambda key: key.startswith("output."))
        return network
    if name in SHIPPED or name.startswith("cfg:"):
        return CfgBackbone(name.removeprefix("cfg:").strip(), pretrained)
    return TimmBackbone(name.removeprefix("timm:"), pretrained, known=(*_DARKNETS, *SHIPPED))
