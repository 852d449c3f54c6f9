"""Networks of Darknet's ``.cfg`` files in PyTorch: heads of the region loss, and backbones for any family."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from posedistill.backbones.cfg.description import (
    Cfg,
    before_coarser,
    feature_layers,
    read_cfg,
    with_head,
    without_head,
)
from posedistill.backbones.cfg.layers import (
    BATCH_NORM_EPS,
    LEAK,
    AvgPool,
    Convolutional,
    Dropout,
    Layer,
    MaxPool,
    Reorg,
    Route,
    Shortcut,
    Upsample,
)
from posedistill.backbones.cfg.weights import check_tensors, is_darknet, read_weights
from posedistill.backbones.cut import FINEST_STRIDE, check_cut, split_cut
from posedistill.backbones.weights import IMAGENET_MEAN, IMAGENET_STD, read_state_dict
from posedistill.errors import RecipeError, describe


class CfgOutputs(NamedTuple):
    """What one pass gives."""

    head: Tensor
    """``[B, A * (2K + 1 + C), H / stride, W / stride]``: of the last layer."""
    features: dict[int, Tensor]
    """By stride, fine to coarse, before the head."""


class CfgNetwork(nn.Module):
    """The layers of a ``.cfg``, run in order. Takes RGB in 0..1, any size that its strides divide.

    Attributes:
        cfg: what it was built from. stride: of the last layer's map.
        channels: stride of each feature map -> its channels, fine to coarse.
    """

    def __init__(self, cfg: Cfg) -> None:
        super().__init__()
        self.cfg = cfg
        self.layers = nn.ModuleList(_module(layer, cfg.inputs(i).channels) for i, layer in enumerate(cfg.layers))
        self.stride = cfg.outputs[-1].stride
        self._features = feature_layers(cfg)
        self.channels = {stride: cfg.outputs[index].channels for stride, index in self._features.items()}
        self._kept = set(self._features.values()).union(*map(_sources, cfg.layers))

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in 0..1 -> the last layer's map, raw."""
        return self.outputs(images).head

    def outputs(self, images: Tensor) -> CfgOutputs:
        """The same pass with the feature maps; a RecipeError for pictures of a size that a ``[reorg]`` cannot take."""
        kept: dict[int, Tensor] = {}
        x = images
        for index, (layer, module) in enumerate(zip(self.cfg.layers, self.layers, strict=True)):
            match layer:
                case Route(sources, groups, group):
                    x = torch.cat([kept[source].chunk(groups, 1)[group] for source in sources], dim=1)
                case Shortcut(source):
                    x = module(x + kept[source])
                case Reorg(stride):
                    if any(side % stride for side in x.shape[2:]):
                        raise self._odd(images)
                    x = space_to_depth(x, stride)
                case _:
                    x = module(x)
            if index in self._kept:
                kept[index] = x
        return CfgOutputs(x, {stride: kept[index] for stride, index in self._features.items()})

    def _odd(self, images: Tensor) -> RecipeError:
        """The fault of pictures whose map a reorg cannot divide into blocks."""
        coarsest = max(output.stride for output in self.cfg.outputs)
        height, width = images.shape[2:]
        expected = f"a height and width that are multiples of {coarsest}"
        return RecipeError(describe(self.cfg.name, "[reorg]", f"pictures of {height} x {width}", expected))

    def load(self, path: str | Path, start: bool = True) -> None:
        """Take the weights of a file: Darknet's ``.weights``, or a state dict with the names of this network.

        To ``start`` from, a part of a ``.weights`` file will do (``read_weights``). In a state dict only the last
        convolution may have other filters, which are then left out.

        Raises:
            CheckpointError: the file is damaged or belongs to another network.
        """
        self.load_state_dict(start_tensors(path, self.cfg, start), strict=False)


class CfgBackbone(nn.Module):
    """A :class:`CfgNetwork` without its head, whole or cut at a stride, on the images that every backbone takes.

    Attributes:
        channels: stride of each map given out -> its number of channels, fine to coarse.
    """

    def __init__(self, source: str | Path, pretrained: str | Path | None = None) -> None:
        """Raises RecipeError (a bad ``.cfg``, no map of stride 8 or coarser) and CheckpointError (other weights)."""
        super().__init__()
        source, cut = split_cut(str(source))
        cfg = read_cfg(source)
        check_cut(source, cut, feature_layers(cfg))
        self.net = CfgNetwork(without_head(cfg) if cut is None else before_coarser(cfg, cut))
        self.channels = self.net.channels
        if not self.channels:
            coarsest = max(output.stride for output in cfg.outputs)
            raise RecipeError(describe(source, "backbone", f"maps of stride {coarsest}", f"{FINEST_STRIDE} or coarser"))
        if pretrained is not None:
            known = self.net.state_dict().keys()
            tensors = start_tensors(pretrained, cfg)
            self.net.load_state_dict({key: value for key, value in tensors.items() if key in known}, strict=False)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """``[B, 3, H, W]``, ImageNet-normalised -> ``{stride: [B, channels[stride], H / stride, W / stride]}``."""
        return self.net.outputs(unit_images(images)).features


def pose_network(
    cfg: str | Path,
    *,
    classes: int = 1,
    keypoints: int = 9,
    anchors: Sequence[tuple[float, float]] = (),
    pretrained: str | Path | None = None,
) -> CfgNetwork:
    """A single-shot pose network: a ``.cfg`` with the head of so many objects and keypoints.

    Args:
        cfg: a name of ``library.SHIPPED``, or a ``.cfg`` file whose last convolution and region are replaced.
        anchors: width and height of each predictor's, in cells; none: one predictor without an anchor.
        pretrained: what to start from, see ``CfgNetwork.load``.

    Returns:
        A network that takes RGB in 0..1 (``unit_images``) and gives ``[B, A * (2 * keypoints + 1 + classes), H / 32,
        W / 32]``: for each anchor x0, y0, x1, ..., confidence, classes.

    Raises:
        RecipeError: an unknown name, or a fault in the file. CheckpointError: weights of another network.
    """
    network = CfgNetwork(with_head(read_cfg(cfg), classes, keypoints, anchors))
    if pretrained is not None:
        network.load(pretrained)
    return network


def unit_images(images: Tensor) -> Tensor:
    """ImageNet-normalised ``[B, 3, H, W]``, as every batch has them -> RGB in 0..1."""
    # By numbers, as tensors made here would have to be copied to the device in every step.
    channels = zip(images.unbind(1), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    return torch.stack([channel * std + mean for channel, mean, std in channels], dim=1)


def space_to_depth(x: Tensor, stride: int) -> Tensor:
    """``[B, C, H, W]`` -> ``[B, s * s * C, H / s, W / s]``.

    ``out[(dy * s + dx) * C + c, y, x] = in[c, y * s + dy, x * s + dx]``: the channels of the input run fastest, as in
    ONNX's SpaceToDepth; in ``pixel_unshuffle`` they run slowest. Published 6D networks were trained with this order.
    """
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // stride, stride, width // stride, stride)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * stride**2, height // stride, width // stride)


def start_tensors(path: str | Path, cfg: Cfg, start: bool = True) -> dict[str, Tensor]:
    """All of ``cfg``'s tensors in a file or, to ``start`` from, the part of them that fits.

    Other files than Darknet's (``is_darknet``) are state dicts. Raises as :meth:`CfgNetwork.load`.
    """
    if is_darknet(Path(path)):
        _, arrays = read_weights(path, cfg, start)
        return {name: torch.from_numpy(values) for name, values in arrays.items()}
    return check_tensors(path, cfg, read_state_dict(path), start)


def _sources(layer: Layer) -> tuple[int, ...]:
    """Layers whose outputs this one looks back at."""
    match layer:
        case Route(sources):
            return sources
        case Shortcut(source):
            return (source,)
    return ()


def _module(layer: Layer, channels: int) -> nn.Module:
    """What a layer computes besides looking back."""
    match layer:
        case Convolutional():
            return _convolution(layer, channels)
        case MaxPool(size, stride):
            pool = nn.MaxPool2d(size, stride)
            before, after = layer.padding // 2, layer.padding - layer.padding // 2
            # Copies of the edge change no maximum, as each lies in one window with its original.
            return nn.Sequential(nn.ReplicationPad2d((before, after) * 2), pool) if layer.padding else pool
        case AvgPool():
            return nn.AdaptiveAvgPool2d(1)
        case Dropout(probability):
            return nn.Dropout(probability)
        case Upsample(stride):
            return nn.Upsample(scale_factor=stride, mode="nearest")
        case Shortcut(_, activation):
            return _activation(activation)
    return nn.Identity()


def _convolution(layer: Convolutional, channels: int) -> nn.Sequential:
    block = nn.Sequential()
    block.conv = nn.Conv2d(
        channels,
        layer.filters,
        layer.size,
        layer.stride,
        layer.padding,
        groups=layer.groups,
        bias=not layer.batch_normalize,
    )
    if layer.activation != "linear":  # He et al. 2015; networks without batch normalisation fade with torch's default
        nn.init.kaiming_uniform_(block.conv.weight, LEAK)
    if layer.batch_normalize:
        block.bn = nn.BatchNorm2d(layer.filters, eps=BATCH_NORM_EPS)
    block.activation = _activation(layer.activation)
    return block


def _activation(name: str) -> nn.Module:
    match name:
        case "leaky":
            return nn.LeakyReLU(LEAK, inplace=True)
        case "relu":
            return nn.ReLU(inplace=True)
    return nn.Identity()
