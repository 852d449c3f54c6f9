"""Export: a network becomes one ONNX file that holds all the runtime needs, proven to give the same poses."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from posedistill.decode.base import Arrays, Decoder, Pose, Request, Tolerance
from posedistill.errors import CheckpointError, describe
from posedistill.files import write_file
from posedistill.geometry.rotations import angle_between
from posedistill.runtime.predictor import Predictor, Run
from posedistill.runtime.record import Frames, Record

OPSET = 18
IR_VERSION = 9
"""The newest that every onnxruntime we allow can read; the exporter writes a later one without need."""


@dataclass(frozen=True)
class Parity:
    """How far an exported file strays from its network, at most.

    Attributes:
        rows: inputs that were compared. poses: that both gave.
        outputs: between raw outputs, by name (``Decoder.differences``).
        degrees: between rotations. shift: between poses, in ``unit``; both 0 without any pose.
    """

    rows: int
    poses: int
    outputs: dict[str, float]
    degrees: float
    shift: float
    unit: str

    def __str__(self) -> str:
        told = [f"{name} to {value:.1e}" for name, value in self.outputs.items()]
        told.append(f"{self.poses} poses to {self.degrees:.1e} deg, {self.shift:.1e} {self.unit}")
        return f"agrees with its network on {self.rows} inputs: {', '.join(told)}"


def export_onnx(
    network: nn.Module,
    path: str | Path,
    decoder: Decoder,
    training: str = "",
    frames: Frames | None = None,
    places: np.ndarray | None = None,
) -> Path:
    """Write a network as one ONNX file: weights and record inside, any batch size.

    Batch normalisation is folded into the convolutions. The file appears whole or not at all.

    Args:
        network: takes ``decoder.inputs`` and returns ``decoder.outputs``, both in their order. Left as it is: a float32
            copy on the CPU is exported.
        path: where to write.
        training: in words, what the network was trained on. frames: the real ones of it, if known.
        places: see ``Record``.

    Raises:
        CheckpointError: the file cannot be written; an older one of that name is left as it was.
    """
    network = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    # Two rows: a batch of one would be burnt into the graph as a constant.
    model = trace(network, example_inputs(decoder, 2), list(decoder.outputs))
    parameters = sum(weight.numel() for weight in network.parameters())
    return write_model(model, path, Record(decoder, training, parameters, frames=frames, places=places))


def example_inputs(decoder: Decoder, count: int = 1) -> dict[str, Tensor]:
    """Inputs that a decoder's network takes, by name, of ``count`` rows."""
    inputs = decoder.prepare(decoder.example()[0]).inputs
    return {name: torch.from_numpy(np.repeat(value[:1], count, axis=0)) for name, value in inputs.items()}


def write_model(model: Any, path: str | Path, record: Record) -> Path:
    """Write an ONNX ``ModelProto`` with its record inside; ``CheckpointError`` where the disk refuses."""
    path = Path(path)
    model.ir_version = min(model.ir_version, IR_VERSION)
    model.producer_name, model.producer_version = "posedistill", record.version
    onnx.helper.set_model_props(model, record.to_properties())
    onnx.checker.check_model(model)
    write_file(path, model.SerializeToString(), CheckpointError)
    return path


def trace(network: nn.Module, example: Mapping[str, Tensor], outputs: Sequence[str]) -> Any:
    """A network as an ONNX ``ModelProto`` with a free batch axis.

    Args:
        example: an input of each name, of two rows. outputs: names for what the network returns.
    """
    batch = torch.export.Dim("batch", min=1, max=4096)
    with torch.no_grad(), warnings.catch_warnings():
        # About several inputs sharing one batch axis, which is meant.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            tuple(example.values()),
            input_names=list(example),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in example),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise CheckpointError("torch.onnx.export gave no model")
    return without_traces(program.model_proto)


def without_traces(model: Any) -> Any:
    """The model without what the exporter notes at its nodes: stack traces, and with them paths of this machine."""
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
    return model


def torch_run(network: nn.Module, decoder: Decoder, device: torch.device | str = "cpu") -> Run:
    """A network as the ``run`` of a ``Predictor``, so that evaluation treats checkpoints and exported files alike."""
    network = network.to(device).eval()

    @torch.inference_mode()
    def run(arrays: Arrays) -> Arrays:
        outputs = network(*(torch.from_numpy(arrays[name]).to(device) for name in decoder.inputs))
        return {name: value.float().cpu().numpy() for name, value in zip(decoder.outputs, outputs, strict=True)}

    return run


def torch_predictor(network: nn.Module, decoder: Decoder, device: torch.device | str = "cpu") -> Predictor:
    """The predictor of a network that is still in PyTorch."""
    return Predictor(torch_run(network, decoder, device), decoder)


def check_parity(
    network: nn.Module, path: str | Path, requests: Sequence[Request] = (), tolerance: Tolerance | None = None
) -> Parity:
    """Compare an exported file with its network on images, from the raw outputs to the final poses.

    Args:
        network: what was exported (it is moved to the CPU in float32 as a copy).
        path: of the exported file.
        requests: images with what to look for; noise where there are none.
        tolerance: by how much anything may differ; default: the decoder's.

    Raises:
        CheckpointError: beyond a tolerance, or only one of the two finds a pose.
    """
    exported = Predictor.from_onnx(path)
    decoder = exported.decoder
    reference = torch_predictor(copy.deepcopy(network).float(), decoder)
    tolerance = tolerance or decoder.tolerance
    prepared = [decoder.prepare(request) for request in requests or decoder.example(2)]
    sides = [side.outputs_of(prepared) for side in (reference, exported)]
    differences = [decoder.differences(ours, theirs) for ours, theirs in zip(*sides, strict=True)]
    outputs = {name: max(entry[name] for entry in differences) for name in differences[0]}
    pairs: list[tuple[Pose, Pose]] = []
    for entry, ours, theirs in zip(prepared, *sides, strict=True):
        pairs += _paired(decoder.decode(ours, entry), decoder.decode(theirs, entry), path)
    degrees = max((float(np.rad2deg(angle_between(ours.R, theirs.R))) for ours, theirs in pairs), default=0.0)
    shift = max((decoder.shift(*pair) for pair in pairs), default=0.0)
    farthest = max((float(np.linalg.norm(ours.center)) for ours, _ in pairs), default=0.0)
    limits = [(name, outputs[name], limit, "") for name, limit in tolerance.outputs.items()]
    limits.append(("position", shift, max(tolerance.shift, tolerance.rounding * farthest), f" {decoder.unit}"))
    limits.append(("rotation", degrees, tolerance.degrees, " degrees"))
    for key, found, limit, unit in limits:
        if not found <= limit:
            raise CheckpointError(describe(path, key, f"{found:.4g}{unit} off", f"at most {limit:.4g}{unit}"))
    return Parity(sum(map(len, prepared)), len(pairs), outputs, degrees, shift, decoder.unit)


def _paired(ours: Sequence[Pose], theirs: Sequence[Pose], path: str | Path) -> list[tuple[Pose, Pose]]:
    """Two networks' poses for one request, row by row; ``CheckpointError`` where only one of them found any."""
    rows = [[pose.row for pose in side] for side in (ours, theirs)]
    if rows[0] != rows[1]:
        raise CheckpointError(describe(path, "poses", f"those of rows {rows[1]}", f"{rows[0]}, as its network finds"))
    return list(zip(ours, theirs, strict=True))
