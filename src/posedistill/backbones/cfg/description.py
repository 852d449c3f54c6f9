"""Darknet's ``.cfg`` files: networks written as a list of layers (Redmon, https://pjreddie.com/darknet).

Reading is strict: a section, key or value that would be ignored or guessed at is an error that names file and line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from posedistill.backbones.cfg.layers import (
    BUILDERS,
    AvgPool,
    Convolutional,
    Dropout,
    Layer,
    Map,
    MaxPool,
    Region,
    Reorg,
    Route,
    Shortcut,
    Upsample,
)
from posedistill.backbones.cfg.library import SHIPPED, shipped_text
from posedistill.backbones.cfg.sections import join_sections, split_sections
from posedistill.backbones.cut import FINEST_STRIDE
from posedistill.errors import RecipeError, describe
from posedistill.files import read_text


@dataclass(frozen=True)
class Cfg:
    """A network as its file describes it.

    Attributes:
        name: of the file or of a shipped network, for messages. text: the file.
        picture: the input. layers: those after ``[net]``, numbered from 0. outputs: of each layer.
    """

    name: str
    text: str
    picture: Map
    layers: tuple[Layer, ...]
    outputs: tuple[Map, ...]

    @property
    def region(self) -> Region:
        """The last layer; a RecipeError where it is none."""
        layer = self.layers[-1]
        if not isinstance(layer, Region):
            raise RecipeError(describe(self.name, "[region]", "no such section at the end", "a network with a head"))
        return layer

    def inputs(self, index: int) -> Map:
        """What the layer of this index is given."""
        return self.outputs[index - 1] if index else self.picture


def read_cfg(source: str | Path) -> Cfg:
    """A network by the name of a shipped one (``library.SHIPPED``), or from a ``.cfg`` file.

    >>> [layer.filters for layer in read_cfg("yolo_lite").layers if isinstance(layer, Convolutional)]
    [16, 32, 64, 128, 128, 256, 20]

    Raises:
        RecipeError: an unknown name, no such file, or a fault in it, with its line.
    """
    if str(source) in SHIPPED:
        return parse_cfg(shipped_text(str(source)), str(source))
    if Path(source).suffix != ".cfg":
        raise RecipeError(describe(source, "cfg", "an unknown name", f"one of {', '.join(SHIPPED)}, or a .cfg file"))
    return parse_cfg(read_text(Path(source), "a Darknet .cfg file", RecipeError), str(source))


def parse_cfg(text: str, name: str = "cfg") -> Cfg:
    """The network that a text describes; ``name`` is what messages call it. Raises RecipeError."""
    first, *sections = split_sections(text, name)
    if first.name not in ("net", "network"):
        raise RecipeError(describe(f"{name}, line {first.line}", "section", f"[{first.name}]", "[net] first"))
    width, height = (first.integer(side, 416) for side in ("width", "height"))
    picture = Map(width, height, first.integer("channels", 3), 1)
    layers: list[Layer] = []
    outputs: list[Map] = []
    for section in sections:
        if section.name not in BUILDERS:
            expected = f"one of {', '.join(f'[{known}]' for known in BUILDERS)}"
            raise RecipeError(describe(f"{name}, line {section.line}", "section", f"[{section.name}]", expected))
        if layers and isinstance(layers[-1], Region):
            raise section.error(f"[{section.name}]", "a layer after [region]", "[region] last")
        layer, output = BUILDERS[section.name](section, outputs[-1] if outputs else picture, outputs)
        section.check_keys()
        if min(output[:3]) < 1:
            raise section.error(
                f"[{section.name}]", f"an output of {output}", f"a picture larger than {width} x {height}"
            )
        layers.append(layer)
        outputs.append(output)
    if not layers:
        raise RecipeError(describe(name, "section", "no layers", "layers after [net]"))
    return Cfg(name, text, picture, tuple(layers), tuple(outputs))


def with_head(cfg: Cfg, classes: int, keypoints: int, anchors: Sequence[tuple[float, float]] = ()) -> Cfg:
    """The network with the head of so many classes and keypoints, one predictor an anchor, or one without any.

    The filters of the last convolution follow; nothing else changes.

    >>> with_head(read_cfg("yolo_lite"), 13, 9, [(1.0, 2.0)] * 5).outputs[-1].channels
    160

    Raises:
        RecipeError: the network does not end in a convolution and a region.
    """
    num, before = max(1, len(anchors)), cfg.region.channels
    *_, convolution, region = sections = split_sections(cfg.text, cfg.name)
    if convolution.name != "convolutional":
        found = f"{before} channels of a layer that is none"
        raise convolution.error(f"[{convolution.name}]", found, "[convolutional] before [region]")
    written = ", ".join(f"{side:.7g}" for anchor in anchors for side in anchor)
    region.values |= {"anchors": written, "num": f"{num}", "classes": f"{classes}", "coords": f"{2 * keypoints}"}
    convolution.values["filters"] = f"{num * (2 * keypoints + 1 + classes)}"
    return parse_cfg(join_sections(sections), cfg.name)


def without_head(cfg: Cfg) -> Cfg:
    """The network without its region and the layer before it; as it is where it has no region."""
    if not isinstance(cfg.layers[-1], Region):
        return cfg
    return parse_cfg(join_sections(split_sections(cfg.text, cfg.name)[:-2]), cfg.name)


def before_coarser(cfg: Cfg, stride: int) -> Cfg:
    """The network without its head and without all that follows its first layer of a coarser stride.

    >>> before_coarser(read_cfg("yolo_lite"), 8).outputs[-1].channels
    128
    """
    body = without_head(cfg)
    coarser = [index for index, output in enumerate(body.outputs) if output.stride > stride]
    sections = split_sections(body.text, body.name)
    return parse_cfg(join_sections(sections[: 1 + coarser[0]]), cfg.name) if coarser else body


def feature_layers(cfg: Cfg) -> dict[int, int]:
    """Stride -> index of the layer whose map stands for it, fine to coarse, from stride 8 on; the head is left out.

    It is the last layer of its stride on the way down. What comes back to a finer stride later is a branch, except
    for the very last map, which stands for its stride.

    >>> feature_layers(read_cfg("yolo_pose"))
    {8: 10, 16: 16, 32: 29}
    """
    strides = [output.stride for output in cfg.outputs[: -2 if isinstance(cfg.layers[-1], Region) else None]]
    found: dict[int, int] = {}
    for index, stride in enumerate(strides):
        if stride >= max(found, default=1):
            found[stride] = index
    if strides:
        found[strides[-1]] = len(strides) - 1
    return {stride: index for stride, index in sorted(found.items()) if stride >= FINEST_STRIDE}


def layer_table(cfg: Cfg) -> str:
    """The table that Darknet prints: index, layer, filters, window and stride, input and output of each layer.

    >>> print("\\n".join(layer_table(read_cfg("tiny_yolo")).splitlines()[:3]))
    layer     filters    size              input                output
        0 conv     16  3 x 3 / 1   416 x 416 x   3   ->   416 x 416 x  16
        1 max          2 x 2 / 2   416 x 416 x  16   ->   208 x 208 x  16
    """
    rows = ["layer     filters    size              input                output"]
    for index, (layer, output) in enumerate(zip(cfg.layers, cfg.outputs, strict=True)):
        rows.append(f"{index:5d} {_row(layer, cfg.inputs(index), output)}".rstrip())
    return "\n".join(rows)


def _row(layer: Layer, before: Map, after: Map) -> str:
    change = f"   {before}   ->   {after}"
    match layer:
        case Convolutional(filters, size, stride):
            return f"{'conv':6} {filters:4d}  {size} x {size} / {stride}{change}"
        case MaxPool(size, stride):
            return f"{'max':6} {'':4}  {size} x {size} / {stride}{change}"
        case Reorg(stride):
            return f"{'reorg':6} {'':11} / {stride}{change}"
        case Upsample(stride):
            return f"{'upsample':8} {'':9} * {stride}{change}"
        case Route(layers, groups, group):
            part = f" part {group + 1}/{groups}" if groups > 1 else ""
            return f"{'route':6} {' '.join(map(str, layers))}{part}"
        case Shortcut(source):
            return f"shortcut {source}"
        case Dropout(probability):
            return f"dropout p = {probability:g}"
        case AvgPool():
            return f"{'avg':6} {'':13}{change}"
        case Region():
            return "detection"
