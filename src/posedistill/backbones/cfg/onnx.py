"""Networks of Darknet's ``.cfg`` files as ONNX graphs, one node a layer, and back. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from posedistill import __version__
from posedistill.backbones.cfg.description import Cfg, parse_cfg
from posedistill.backbones.cfg.layers import (
    BATCH_NORM_EPS,
    LEAK,
    AvgPool,
    Convolutional,
    Layer,
    MaxPool,
    Reorg,
    Route,
    Shortcut,
    Upsample,
)
from posedistill.backbones.cfg.sections import join_sections, split_sections
from posedistill.backbones.cfg.weights import Array
from posedistill.errors import CheckpointError, describe

OPSET: Final = 18
IR_VERSION: Final = 9
CFG_PROPERTY: Final = "darknet_cfg"
"""Of the metadata: the text of the network."""


def folded(cfg: Cfg, tensors: Mapping[str, Array]) -> tuple[Cfg, dict[str, Array]]:
    """The same function without batch normalisation: it goes into kernels and biases.

    Args:
        tensors: of ``cfg``, by name (``weights.layer_tensors``).
    """
    first, *sections = split_sections(cfg.text, cfg.name)
    result: dict[str, Array] = {}
    for index, (layer, section) in enumerate(zip(cfg.layers, sections, strict=True)):
        if not isinstance(layer, Convolutional):
            continue
        conv, bn = f"layers.{index}.conv", f"layers.{index}.bn"
        scale: Any = 1.0
        bias: Any = tensors.get(f"{conv}.bias")
        if layer.batch_normalize:
            section.values.pop("batch_normalize")
            beta, gamma, mean, variance = (
                tensors[f"{bn}.{name}"].astype(np.float64) for name in ("bias", "weight", "running_mean", "running_var")
            )
            scale = gamma / np.sqrt(variance + BATCH_NORM_EPS)
            bias = beta - mean * scale
        kernel = tensors[f"{conv}.weight"] * np.reshape(scale, (-1, 1, 1, 1))
        result |= {f"{conv}.bias": np.asarray(bias, np.float32), f"{conv}.weight": kernel.astype(np.float32)}
    return parse_cfg(join_sections([first, *sections]), cfg.name), result


def to_onnx(cfg: Cfg, tensors: Mapping[str, Array]) -> Any:
    """A ``ModelProto`` of a network, batch normalisation folded; any batch and any size that the strides divide.

    It takes ``images``, RGB in 0..1 ``[B, 3, H, W]``, and gives ``head``, the last layer's map. Reorg is SpaceToDepth.
    The weights keep their names.
    """
    cfg, tensors = folded(cfg, tensors)
    graph = _Graph(tensors)
    for index, layer in enumerate(cfg.layers):
        graph.add(index, layer, cfg)
    channels = cfg.outputs[-1].channels
    last = helper.make_node("Identity", [graph.names[-1]], ["head"])
    model = helper.make_model(
        helper.make_graph(
            [*graph.nodes, last],
            Path(cfg.name).stem,
            [
                helper.make_tensor_value_info(
                    "images", TensorProto.FLOAT, ["batch", cfg.picture.channels, "height", "width"]
                )
            ],
            [helper.make_tensor_value_info("head", TensorProto.FLOAT, ["batch", channels, "rows", "columns"])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="posedistill",
        producer_version=__version__,
    )
    helper.set_model_props(model, {CFG_PROPERTY: cfg.text})
    onnx.checker.check_model(model)
    return model


def from_onnx(path: Path) -> tuple[str, dict[str, Array]]:
    """The ``.cfg`` text and the tensors of a file that :func:`to_onnx` made.

    Raises:
        CheckpointError: no such file, no ONNX, or one of another origin.
    """
    try:
        model = onnx.load(path)
    except FileNotFoundError:
        raise CheckpointError(describe(path, "file", "no such file", "an ONNX file")) from None
    except Exception as error:  # protobuf's own
        raise CheckpointError(describe(path, "file", f"unreadable ({error})", "an ONNX file")) from None
    texts = {entry.key: entry.value for entry in model.metadata_props}
    if CFG_PROPERTY not in texts:
        found, expected = f"the keys {sorted(texts)}", "a file that posedistill convert made"
        raise CheckpointError(describe(path, CFG_PROPERTY, found, expected))
    tensors = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    return texts[CFG_PROPERTY], {name: values for name, values in tensors.items() if name.startswith("layers.")}


class _Graph:
    """Nodes and constants of a graph that grows by layers; ``names`` of the maps that they give."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self.nodes: list[Any] = []
        self.names: list[str] = []
        self.constants = [numpy_helper.from_array(values, name) for name, values in tensors.items()]

    def add(self, index: int, layer: Layer, cfg: Cfg) -> None:
        """One more layer."""
        before = self.names[-1] if self.names else "images"
        match layer:
            case Convolutional():
                weights = [f"layers.{index}.conv.{name}" for name in ("weight", "bias")]
                sides = {"pads": [layer.padding] * 4, "strides": [layer.stride] * 2, "group": layer.groups}
                output = self._activation(self._node("Conv", [before, *weights], **sides), layer.activation)
            case MaxPool(size, stride):
                first, last = layer.padding // 2, layer.padding - layer.padding // 2
                pads = [first, first, last, last]
                output = self._node("MaxPool", [before], kernel_shape=[size] * 2, strides=[stride] * 2, pads=pads)
            case Reorg(stride):
                output = self._node("SpaceToDepth", [before], blocksize=stride)
            case Upsample(stride):
                scales = self._constant(np.array([1, 1, stride, stride], np.float32))
                rule = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                output = self._node("Resize", [before, "", scales], mode="nearest", **rule)
            case AvgPool():
                output = self._node("GlobalAveragePool", [before])
            case Shortcut(source, activation):
                output = self._activation(self._node("Add", [before, self.names[source]]), activation)
            case Route(sources, groups, group):
                parts = [self._part(source, groups, group, cfg) for source in sources]
                output = self._node("Concat", parts, axis=1)
            case _:
                output = before
        self.names.append(output)

    def _part(self, source: int, groups: int, group: int, cfg: Cfg) -> str:
        if groups == 1:
            return self.names[source]
        width = cfg.outputs[source].channels // groups
        edges = [self._constant(np.array([edge], np.int64)) for edge in (group * width, (group + 1) * width, 1)]
        return self._node("Slice", [self.names[source], *edges])

    def _activation(self, name: str, activation: str) -> str:
        match activation:
            case "leaky":
                return self._node("LeakyRelu", [name], alpha=LEAK)
            case "relu":
                return self._node("Relu", [name])
        return name

    def _node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, values: NDArray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name
