"""The layers of Darknet's ``.cfg`` files: what each section means, and what comes out of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from posedistill.backbones.cfg.sections import Section

ACTIVATIONS: Final = ("leaky", "linear", "relu")
LEAK: Final = 0.1
"""Slope of ``leaky`` below 0."""
BATCH_NORM_EPS: Final = 1e-4
"""Of the published 6D networks; Darknet itself adds 1e-6 to the deviation."""


class Map(NamedTuple):
    """A layer's output at the size that the file names; ``stride`` is 0 after global pooling."""

    width: int
    height: int
    channels: int
    stride: int

    def __str__(self) -> str:
        return f"{self.width:3d} x {self.height:3d} x{self.channels:4d}"


@dataclass(frozen=True)
class Convolutional:
    """A convolution, batch normalisation if wanted, and an activation."""

    filters: int
    size: int
    stride: int
    padding: int
    groups: int
    batch_normalize: bool
    activation: str


@dataclass(frozen=True)
class MaxPool:
    """A maximum over ``size`` x ``size``; ``padding`` rows and columns in all, the odd one at the end."""

    size: int
    stride: int

    @property
    def padding(self) -> int:
        """A pooling of stride 1 keeps the size (Tiny-YOLO's last); one of disjoint windows adds nothing."""
        return 0 if self.size == self.stride else self.size - 1


@dataclass(frozen=True)
class AvgPool:
    """The mean of each channel."""


@dataclass(frozen=True)
class Dropout:
    """Zeros in training."""

    probability: float


@dataclass(frozen=True)
class Reorg:
    """Space to depth."""

    stride: int


@dataclass(frozen=True)
class Upsample:
    """Nearest neighbour."""

    stride: int


@dataclass(frozen=True)
class Route:
    """The outputs of ``layers``, in this order; of each, the ``group``-th of ``groups`` equal parts."""

    layers: tuple[int, ...]
    groups: int
    group: int


@dataclass(frozen=True)
class Shortcut:
    """The layer before plus the one of index ``source``."""

    source: int
    activation: str


@dataclass(frozen=True)
class Region:
    """How the last layer's channels are to be read, and the weights of the region loss."""

    anchors: tuple[tuple[float, float], ...]
    """Width and height, in cells."""
    num: int
    classes: int
    coords: int
    """Numbers of a predictor before its confidence: two a keypoint."""
    object_scale: float
    noobject_scale: float
    class_scale: float
    coord_scale: float

    @property
    def channels(self) -> int:
        """What the layer before must have."""
        return self.num * (self.coords + 1 + self.classes)


Layer = Convolutional | MaxPool | AvgPool | Dropout | Reorg | Upsample | Route | Shortcut | Region


Built = tuple[Layer, Map]


def _convolutional(section: Section, before: Map, _: Sequence[Map]) -> Built:
    size, stride, filters = section.integer("size", 1), section.integer("stride", 1), section.integer("filters", 1)
    padding = (size - 1) // 2 if section.text("pad", "0", ("0", "1")) == "1" else 0
    groups = section.integer("groups", 1)
    if before.channels % groups or filters % groups:
        raise section.error("groups", groups, f"a divisor of {before.channels} channels and {filters} filters")
    normalised = section.text("batch_normalize", "0", ("0", "1")) == "1"
    layer = Convolutional(
        filters, size, stride, padding, groups, normalised, section.text("activation", "logistic", ACTIVATIONS)
    )
    width, height = ((side + 2 * padding - size) // stride + 1 for side in before[:2])
    return layer, Map(width, height, filters, before.stride * stride)


def _maxpool(section: Section, before: Map, _: Sequence[Map]) -> Built:
    stride = section.integer("stride", 1)
    layer = MaxPool(section.integer("size", stride), stride)
    width, height = ((side + layer.padding - layer.size) // stride + 1 for side in before[:2])
    return layer, Map(width, height, before.channels, before.stride * stride)


def _avgpool(_: Section, before: Map, __: Sequence[Map]) -> Built:
    return AvgPool(), Map(1, 1, before.channels, 0)


def _dropout(section: Section, before: Map, _: Sequence[Map]) -> Built:
    probability = section.number("probability", 0.5)
    if not 0 <= probability < 1:
        raise section.error("probability", probability, "a number from 0 to below 1")
    return Dropout(probability), before


def _reorg(section: Section, before: Map, _: Sequence[Map]) -> Built:
    stride = section.integer("stride", 1)
    if before.width % stride or before.height % stride:
        raise section.error("stride", stride, f"a divisor of the map's {before.width} x {before.height}")
    width, height = before.width // stride, before.height // stride
    return Reorg(stride), Map(width, height, before.channels * stride**2, before.stride * stride)


def _upsample(section: Section, before: Map, _: Sequence[Map]) -> Built:
    stride = section.integer("stride", 2)
    if before.stride % stride or not before.stride:
        raise section.error("stride", stride, f"a divisor of the map's stride, {before.stride}")
    width, height = before.width * stride, before.height * stride
    return Upsample(stride), Map(width, height, before.channels, before.stride // stride)


def _route(section: Section, _: Map, outputs: Sequence[Map]) -> Built:
    layers = [_source(section, "layers", index, outputs) for index in section.integers("layers")]
    if not layers:
        raise section.error("layers", "none", "indices of layers between commas")
    groups, group = section.integer("groups", 1), section.integer("group_id", 0, least=0)
    parts = [outputs[layer] for layer in layers]
    if group >= groups or any(part.channels % groups for part in parts):
        channels = ", ".join(str(part.channels) for part in parts)
        raise section.error(
            "groups", f"part {group} of {groups}", f"a part that exists, and divisors of {channels} channels"
        )
    if len({part[:2] for part in parts}) > 1:
        sizes = ", ".join(f"{layer}: {part}" for layer, part in zip(layers, parts, strict=True))
        raise section.error("layers", f"maps of several sizes ({sizes})", "maps of one size")
    return Route(tuple(layers), groups, group), parts[0]._replace(
        channels=sum(part.channels for part in parts) // groups
    )


def _shortcut(section: Section, before: Map, outputs: Sequence[Map]) -> Built:
    indices = section.integers("from")
    if len(indices) != 1:
        raise section.error("from", f"{len(indices)} indices", "the index of one layer")
    source = _source(section, "from", indices[0], outputs)
    if outputs[source] != before:
        raise section.error("from", f"layer {source} of {outputs[source]}", f"one of {before}, as the layer before")
    return Shortcut(source, section.text("activation", "linear", ACTIVATIONS)), before


def _source(section: Section, key: str, index: int, outputs: Sequence[Map]) -> int:
    """Index of a layer that is named from the start (0 and up) or from here (below 0)."""
    source = index if index >= 0 else len(outputs) + index
    if not 0 <= source < len(outputs):
        raise section.error(
            key, f"layer {source} (written {index})", f"a layer before this one, which is {len(outputs)}"
        )
    return source


def _region(section: Section, before: Map, _: Sequence[Map]) -> Built:
    num, classes, coords = (section.integer(key, value) for key, value in (("num", 1), ("classes", 20), ("coords", 4)))
    sides = section.numbers("anchors")
    if len(sides) not in (0, 2 * num) or any(side <= 0 for side in sides) or (num > 1 and not sides):
        raise section.error("anchors", f"{len(sides)} numbers", f"{2 * num} positive numbers, as num is {num}")
    object_scale, noobject_scale, class_scale, coord_scale = (
        section.number(f"{name}_scale", 1.0) for name in ("object", "noobject", "class", "coord")
    )
    layer = Region(
        tuple(zip(sides[::2], sides[1::2], strict=True)),
        num,
        classes,
        coords,
        object_scale,
        noobject_scale,
        class_scale,
        coord_scale,
    )
    if before.channels != layer.channels:
        expected = f"{layer.channels} = {num} x ({coords} coords + 1 + {classes} classes)"
        raise section.error("filters", f"{before.channels} in the layer before [region]", expected)
    section.known |= section.values.keys()  # the rest is about training a detector of boxes
    return layer, before


BUILDERS: Final[dict[str, Callable[[Section, Map, Sequence[Map]], Built]]] = {
    "convolutional": _convolutional,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "dropout": _dropout,
    "reorg": _reorg,
    "upsample": _upsample,
    "route": _route,
    "shortcut": _shortcut,
    "region": _region,
}
