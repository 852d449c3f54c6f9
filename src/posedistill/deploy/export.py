"""Export: an estimator becomes one ONNX file that holds all the runtime needs, proven to give the same poses."""

import copy
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from posedistill.errors import CheckpointError, describe
from posedistill.files import write_file
from posedistill.geometry.rotations import angle_between
from posedistill.runtime.camera_metadata import CameraMetadata
from posedistill.runtime.metadata import ModelMetadata
from posedistill.runtime.model_file import PROPERTY
from posedistill.runtime.predictor import Outputs, Predictor, Request, Run

OPSET = 18
IR_VERSION = 9
"""The newest that every onnxruntime we allow can read; the exporter writes a later one without need."""


@dataclass(frozen=True)
class Parity:
    """How far an exported file strays from its network; all values are over the crops that were compared.

    Attributes:
        crops: compared. poses: crops in which both found a pose.
        max_px, mean_px: between the votes of all cells, crop pixels.
        max_score: between the sigmoid scores of all cells.
        max_deg, max_mm: between the decoded poses; 0 without any.
    """

    crops: int
    poses: int
    max_px: float
    mean_px: float
    max_score: float
    max_deg: float
    max_mm: float

    def to_dict(self) -> dict[str, float]:
        """For a report's json."""
        return asdict(self)


def export_onnx(network: nn.Module, path: str | Path, metadata: ModelMetadata) -> Path:
    """Write ``network`` (an estimator's) as one ONNX file: weights and metadata inside, any batch size.

    Batch normalisation is folded into the convolutions. The file appears whole or not at all.

    Args:
        network: images ``[B, 3, S, S]`` and classes ``[B]`` -> logits ``[B, N]`` and votes ``[B, N, 8, 2]``. Left
            as it is: a float32 copy on the CPU is exported.
        path: where to write. metadata: what to put inside; ``parameters`` is filled in here.

    Raises:
        CheckpointError: the file cannot be written; an older one of that name is left as it was.
    """
    network = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    metadata = dataclasses.replace(metadata, parameters=sum(weight.numel() for weight in network.parameters()))
    size = metadata.crop_size
    # Two rows: a batch of one would be burnt into the graph as a constant.
    example = {"images": torch.zeros(2, 3, size, size), "classes": torch.zeros(2, dtype=torch.int64)}
    return write_model(trace(network, example, ["logits", "votes"]), path, metadata)


def write_model(model: Any, path: str | Path, metadata: ModelMetadata | CameraMetadata) -> Path:
    """Write an ONNX ``ModelProto`` with its metadata inside; ``CheckpointError`` where the disk refuses."""
    path = Path(path)
    model.ir_version = min(model.ir_version, IR_VERSION)
    model.producer_name, model.producer_version = "posedistill", metadata.version
    onnx.helper.set_model_props(model, {PROPERTY: metadata.to_json()})
    onnx.checker.check_model(model)
    write_file(path, model.SerializeToString(), CheckpointError)
    return path


def trace(network: nn.Module, example: Mapping[str, torch.Tensor], outputs: Sequence[str]) -> Any:
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
    return program.model_proto


def torch_run(network: nn.Module, device: torch.device | str = "cpu") -> Run:
    """A network as the ``run`` of a ``Predictor``, so that evaluation treats checkpoints and exported files alike."""
    network = network.to(device).eval()

    @torch.inference_mode()
    def run(crops: NDArray[np.float32], classes: NDArray[np.int64]) -> Outputs:
        logits, votes = network(torch.from_numpy(crops).to(device), torch.from_numpy(classes).to(device))
        return logits.float().cpu().numpy(), votes.float().cpu().numpy()

    return run


def check_parity(
    network: nn.Module,
    path: str | Path,
    requests: Sequence[Request] = (),
    max_px: float = 0.05,
    max_deg: float = 0.1,
) -> Parity:
    """Compare an exported file with its network on images, from the raw votes to the final poses.

    Args:
        network: what was exported (it is moved to the CPU in float32 as a copy).
        path: of the exported file.
        requests: images with boxes; noise where there are none.
        max_px: crop pixels that any vote may differ. max_deg: degrees that any pose may differ.

    Raises:
        CheckpointError: beyond a tolerance, or only one of the two finds a pose.
    """
    exported = Predictor.from_onnx(path)
    reference = Predictor(torch_run(copy.deepcopy(network).float()), exported.metadata)
    parity = _compare(reference, exported, requests or [noise_request(exported.metadata)])
    if not parity.max_px <= max_px:
        raise CheckpointError(describe(path, "votes", f"{parity.max_px:.4f} px off", f"at most {max_px} px"))
    if not parity.max_deg <= max_deg:
        raise CheckpointError(describe(path, "poses", f"{parity.max_deg:.4f} degrees off", f"at most {max_deg}"))
    return parity


def _compare(reference: Predictor, exported: Predictor, requests: Sequence[Request]) -> Parity:
    pixels, scores, degrees, shifts = [], [], [0.0], [0.0]
    crops = poses = 0
    for request in requests:
        prepared = reference.prepare(*request)
        outputs = [side.run_network(prepared.crops, prepared.classes) for side in (reference, exported)]
        pixels.append(np.linalg.norm(outputs[0][1] - outputs[1][1], axis=-1).ravel())
        scores.append(np.abs(_sigmoid(outputs[0][0]) - _sigmoid(outputs[1][0])).ravel())
        crops += len(prepared.classes)
        decoded = [reference.decode_outputs(output, prepared) for output in outputs]
        for row, (ours, theirs) in enumerate(zip(*decoded, strict=True)):
            if (ours is None) != (theirs is None):
                found = f"box {row}: {'no ' if theirs is None else 'a '}pose"
                raise CheckpointError(describe("exported model", "poses", found, "the same as the network"))
            if ours is not None and theirs is not None:
                poses += 1
                degrees.append(float(np.rad2deg(angle_between(ours.R, theirs.R))))
                shifts.append(float(np.linalg.norm(ours.t - theirs.t)))
    pixel, score = np.concatenate(pixels), np.concatenate(scores)
    return Parity(crops, poses, float(pixel.max()), float(pixel.mean()), float(score.max()), max(degrees), max(shifts))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))


def noise_request(metadata: ModelMetadata, seed: int = 0) -> Request:
    """An image of noise with one box for each object: enough to compare votes, though no pose is in it."""
    size = metadata.crop_size
    image = np.random.default_rng(seed).integers(0, 256, (2 * size, 2 * size, 3), dtype=np.uint8)
    K = np.array([[2.0 * size, 0.0, size], [0.0, 2.0 * size, size], [0.0, 0.0, 1.0]])
    boxes = np.tile([size * 0.6, size * 0.6, size * 0.8, size * 0.7], (len(metadata.objects), 1))
    return Request(image, K, boxes, metadata.objects.obj_ids)
