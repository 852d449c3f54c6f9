"""Quantise: an exported model with 16-bit weights, or of a scene in 8-bit whole numbers, and what that changes.

16 bits are for storage alone: weights are widened when the file is loaded, and all is computed in float32. 8 bits are
static post-training quantisation (Jacob et al., CVPR 2018) by onnxruntime: weights with a scale for each channel,
activations with one for each tensor, measured on photographs. docs/deploy.md says where that is faster.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from posedistill.data.images import read_image
from posedistill.decode.base import Arrays, Request
from posedistill.deploy.export import write_model
from posedistill.errors import CheckpointError, DataError, describe
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.rotations import angle_between
from posedistill.runtime.predictor import Predictor

QUANTISED = ("Conv", "Gemm")
"""The operators that compute in int8. Sums between them are as fast in float, and nearer to the network."""
WORTHWHILE = 256
"""Numbers in a tensor from which on it is stored in 16 bits."""
SHARE_LEFT_OUT = 4
"""One in so many photographs is left out of the calibration and compared instead."""


@dataclass(frozen=True)
class Drift:
    """How far the poses of one model lie from another's, over photographs.

    Attributes:
        images: compared. median_shift, max_shift: between camera centres, in ``unit``: ``m``, or ``units`` of a scene
            without metres. median_deg, max_deg: between rotations.
    """

    images: int
    median_shift: float
    max_shift: float
    median_deg: float
    max_deg: float
    unit: str = "m"

    def __str__(self) -> str:
        return (
            f"poses move by {self.median_shift:.3f} {self.unit}, {self.median_deg:.2f} deg "
            f"(median of {self.images} photographs), {self.max_shift:.3f} {self.unit}, {self.max_deg:.2f} deg at most"
        )


def halve(path: str | Path, out: str | Path) -> dict[str, float]:
    """Write an exported model of any family with weights of 16 bits, which are widened when it is loaded.

    A tensor with a number too large for 16 bits stays as it is.

    Args:
        path: what ``export_onnx`` wrote. out: where to write.

    Returns:
        How far the network's outputs for noise differ at most, by name (``Decoder.differences``).

    Raises:
        CheckpointError: no exported model, one of 8 or 16 bits already, or the file cannot be written.
    """
    ours = Predictor.from_onnx(path, threads=1)
    model = whole_model(path)
    graph, widened = model.graph, []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < WORTHWHILE or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name, stored = tensor.name, f"{tensor.name}.half"
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), stored))
        widened.append(onnx.helper.make_node("Cast", [stored], [name], f"{name}.widen", to=onnx.TensorProto.FLOAT))
    nodes = [*widened, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    record = replace(ours.record, decoder=ours.decoder.halved())
    theirs = Predictor.from_onnx(write_model(model, out, record), threads=1)
    prepared = [ours.decoder.prepare(request) for request in ours.decoder.example(2)]
    pairs = zip(ours.outputs_of(prepared), theirs.outputs_of(prepared), strict=True)
    differences = [ours.decoder.differences(*pair) for pair in pairs]
    return {name: max(entry[name] for entry in differences) for name in differences[0]}


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """A network's inputs by name, as onnxruntime's calibration asks for them."""

    def __init__(self, batches: Iterable[Arrays]) -> None:
        self.batches, self.count = iter(batches), 0

    def get_next(self) -> Arrays | None:
        batch = next(self.batches, None)
        self.count += batch is not None
        return batch


def quantise(path: str | Path, out: str | Path, batches: Iterable[Arrays]) -> Path:
    """Write an exported model of a scene with 8-bit weights and activations; the record stays as it is.

    Kept in float: the layers that give position and rotation, and depthwise convolutions, which are slower in int8 and
    whose few weights take up the whole error of their channel.

    Args:
        path: what ``export_onnx`` wrote. out: where to write.
        batches: inputs by name, as ``Decoder.prepare`` makes them, of the kind that the model will see: their ranges
            become those of the 8-bit numbers. A hundred training photographs do.

    Raises:
        CheckpointError: no exported model of a scene, or the file cannot be written. DataError: there is no image.
    """
    record = scene_model(path).record
    whole_model(path)  # refuses one of fewer bits
    reader = _Batches(batches)
    with tempfile.TemporaryDirectory() as folder:
        shaped, made = Path(folder) / "shaped.onnx", Path(folder) / "made.onnx"
        quant_pre_process(str(path), str(shaped), skip_optimization=True, skip_symbolic_shape=True)
        graph = onnx.load(shaped).graph
        try:
            quantize_static(
                str(shaped),
                str(made),
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                per_channel=True,
                activation_type=QuantType.QUInt8,  # signed activations have no fast kernel on x86
                weight_type=QuantType.QInt8,
                nodes_to_exclude=kept_in_float(graph),
            )
        except ValueError as error:
            if reader.count:
                raise
            raise DataError(describe("calibration", "images", "none", "photographs of the scene")) from error
        model = onnx.load(made)
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]  # onnxruntime lists every domain it knows; an older one would refuse the file
    model.opset_import.extend(kept)
    return write_model(model, out, record)


def scene_model(path: str | Path) -> Predictor:
    """An exported model of a scene; ``CheckpointError`` for one of another task: votes and codes do not bear 8 bits."""
    predictor = Predictor.from_onnx(path, threads=1)
    if predictor.decoder.task != "scene":
        found = f"{predictor.decoder.family}, of {predictor.decoder.task}"
        raise CheckpointError(describe(path, "family", found, "one of a scene: others are not quantised"))
    return predictor


def whole_model(path: str | Path) -> Any:
    """An ONNX ``ModelProto``; ``CheckpointError`` for one with weights of 8 or 16 bits."""
    model = onnx.load(path)
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    for kind, bits in ((onnx.TensorProto.FLOAT16, 16), (onnx.TensorProto.INT8, 8)):
        if kind in kinds:
            raise CheckpointError(describe(path, "weights", f"weights of {bits} bits", "the model as it was exported"))
    return model


def kept_in_float(graph: Any) -> list[str]:
    """Names of the nodes that give the network's outputs, and of depthwise (grouped) convolutions."""
    grouped = {node.name for node in graph.node for entry in node.attribute if entry.name == "group" and entry.i > 1}
    return sorted(grouped | _last_layers(graph))


def _last_layers(graph: Any) -> set[str]:
    """From the outputs back to the first layers with weights, those included."""
    maker = {name: node for node in graph.node for name in node.output}
    found, waiting = set[str](), [maker[value.name] for value in graph.output]
    while waiting:
        node = waiting.pop()
        found.add(node.name)
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            waiting += [maker[name] for name in node.input if name in maker]
    return found


def drift(first: Predictor, second: Predictor, images: Iterable[Image]) -> Drift:
    """How far the poses of the second model lie from those of the first, over photographs ``[H, W, 3]``."""
    pairs = [
        (ours, theirs)
        for image in images
        for ours, theirs in zip(first.predict(image), second.predict(image), strict=True)
    ]
    shifts = [first.decoder.shift(*pair) for pair in pairs]
    degrees = [float(np.rad2deg(angle_between(ours.R, theirs.R))) for ours, theirs in pairs]
    medians = float(np.median(shifts)), float(np.median(degrees))
    return Drift(len(pairs), medians[0], max(shifts), medians[1], max(degrees), first.decoder.unit)


def quantise_for(path: str | Path, out: str | Path, photographs: Sequence[Path]) -> Drift:
    """``quantise`` with photographs of the scene, all but every fourth; poses are compared on those left out.

    Raises:
        CheckpointError, DataError: see ``quantise``; a photograph cannot be read or is too small.
    """
    model = scene_model(path)
    compared = photographs[::SHARE_LEFT_OUT]
    measured = [photo for place, photo in enumerate(photographs) if place % SHARE_LEFT_OUT] or compared
    quantise(path, out, (model.decoder.prepare(Request(read_image(photo))).inputs for photo in measured))
    return drift(model, Predictor.from_onnx(out), (read_image(photo) for photo in compared))
