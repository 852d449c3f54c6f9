"""Export of networks that tell where a camera stands: one ONNX file, proven to give the same poses."""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from posedistill.deploy.bench_calls import noise_photograph
from posedistill.deploy.export import trace, write_model
from posedistill.errors import CheckpointError, describe
from posedistill.geometry.draw import Image
from posedistill.geometry.rotations import angle_between
from posedistill.runtime.camera_metadata import CameraMetadata
from posedistill.runtime.camera_predictor import CameraOutputs, CameraPredictor, CameraRun

ROUNDING = 1e-5
"""Share of a position that float32 may lose on its way through a network: scenes may be large, or in millimetres."""


@dataclass(frozen=True)
class CameraParity:
    """How far an exported file strays from its network.

    Attributes:
        images: compared. max_m: between camera centres, in the scene's unit. max_deg: between rotations.
    """

    images: int
    max_m: float
    max_deg: float

    def to_dict(self) -> dict[str, float]:
        """For a report's json."""
        return asdict(self)


class _MeanSubtracted(nn.Module):
    """A network that takes pictures in 0..255 and subtracts the mean of its training pictures first."""

    mean: Tensor

    def __init__(self, network: nn.Module, mean: NDArray[np.float32]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.from_numpy(np.ascontiguousarray(mean, np.float32)).permute(2, 0, 1)[None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        position, rotation = self.network(images - self.mean)
        return position, rotation


def export_camera_onnx(
    network: nn.Module, path: str | Path, metadata: CameraMetadata, mean_image: NDArray[np.float32] | None = None
) -> Path:
    """Write ``network`` as one ONNX file: weights and metadata inside, any batch size.

    Batch normalisation is folded into the convolutions. The file appears whole or not at all.

    Args:
        network: images ``[B, 3, h, w]`` -> positions ``[B, 3]`` and rotations ``[B, k]``. Left as it is: a float32 copy
            on the CPU is exported.
        path: where to write. metadata: what to put inside; ``parameters`` is filled in here.
        mean_image: ``[h, w, 3]`` in 0..255, of the network's own input; the graph then subtracts it from pictures in
            0..255, which is what ``metadata.mean`` 0 and ``std`` 1/255 make of them.

    Raises:
        CheckpointError: the file cannot be written (an older one of that name is left as it was), or the mean image
            is of another size.
    """
    network = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    metadata = dataclasses.replace(metadata, parameters=sum(weight.numel() for weight in network.parameters()))
    if mean_image is not None:
        if mean_image.shape != (*metadata.shape, 3):
            raise CheckpointError(describe(path, "mean image", mean_image.shape, (*metadata.shape, 3)))
        network = _MeanSubtracted(network, mean_image)
    # Two rows: a batch of one would be burnt into the graph as a constant.
    example = {"images": torch.zeros(2, 3, *metadata.shape)}
    return write_model(trace(network, example, ["position", "rotation"]), path, metadata)


def camera_run(
    network: nn.Module, device: torch.device | str = "cpu", mean_image: NDArray[np.float32] | None = None
) -> CameraRun:
    """A network as the ``run`` of a ``CameraPredictor``, so that checkpoints and exported files are treated alike.

    ``mean_image`` is that of ``export_camera_onnx``.
    """
    if mean_image is not None:
        network = _MeanSubtracted(network, mean_image)
    network = network.to(device).eval()

    @torch.inference_mode()
    def run(images: NDArray[np.float32]) -> CameraOutputs:
        position, rotation = network(torch.from_numpy(images).to(device))
        return position.float().cpu().numpy(), rotation.float().cpu().numpy()

    return run


def check_camera_parity(
    network: nn.Module,
    path: str | Path,
    images: Sequence[Image] = (),
    mean_image: NDArray[np.float32] | None = None,
    max_m: float = 1e-3,
    max_deg: float = 0.02,
) -> CameraParity:
    """Compare an exported file with its network on photographs, from pixels to poses.

    Args:
        network: what was exported (a float32 copy of it is run on the CPU).
        path: of the exported file. images: ``[H, W, 3]`` uint8 RGB; noise where there are none.
        mean_image: as it was exported. max_m, max_deg: by how much any pose may differ.

    Raises:
        CheckpointError: beyond a tolerance.
    """
    exported = CameraPredictor.from_onnx(path)
    run = camera_run(copy.deepcopy(network).float(), mean_image=mean_image)
    reference = CameraPredictor(run, exported.metadata)
    images = images or [noise_photograph(exported.metadata)]
    pairs = list(zip(reference.predict_many(images), exported.predict_many(images), strict=True))
    metres = max(float(np.linalg.norm(ours.center - theirs.center)) for ours, theirs in pairs)
    degrees = max(float(np.rad2deg(angle_between(ours.R, theirs.R))) for ours, theirs in pairs)
    farthest = max(float(np.linalg.norm(ours.center)) for ours, _ in pairs)
    limit = max(max_m, ROUNDING * farthest)
    if not metres <= limit:
        raise CheckpointError(describe(path, "position", f"{metres:.4g} m off", f"at most {limit:.4g} m"))
    if not degrees <= max_deg:
        raise CheckpointError(describe(path, "rotation", f"{degrees:.4f} degrees off", f"at most {max_deg}"))
    return CameraParity(len(pairs), metres, degrees)
