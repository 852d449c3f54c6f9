"""What bench times: one call of a model from pixels to poses, for models of objects and of cameras."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from posedistill.data.images import read_image
from posedistill.geometry.cameras import Array, project
from posedistill.geometry.draw import Image
from posedistill.runtime.camera_metadata import CameraMetadata
from posedistill.runtime.camera_predictor import CameraPredictor
from posedistill.runtime.metadata import ModelMetadata
from posedistill.runtime.predictor import Outputs, Predictor, Request


class Call(NamedTuple):
    """One call of a model on fixed pixels."""

    what: str
    """In words."""
    run: Callable[[], int]
    """Makes the call and tells how many poses it gave."""


def object_call(
    predictor: Predictor, batch: int, with_pnp: bool, image: str | Path | None, box: Sequence[float] | None
) -> Call:
    """Crops of the first object in, poses (or votes) out; see ``bench`` for the arguments."""
    request = _request(predictor.metadata, batch, image, box)
    stand_in = None if image else synthetic_outputs(predictor, request)

    def run() -> int:
        prepared = predictor.prepare(*request)
        outputs = predictor.run_network(prepared.crops, prepared.classes)
        poses = predictor.decode_outputs(stand_in or outputs, prepared) if with_pnp else []
        return sum(pose is not None for pose in poses)

    size = predictor.metadata.crop_size
    return Call(f"{batch} crop(s) of {size} px, {'with' if with_pnp else 'without'} PnP", run)


def camera_call(predictor: CameraPredictor, batch: int, image: str | Path | None) -> Call:
    """Decoded photographs in, poses of the camera out; noise of the camera's size where there is no ``image``."""
    photograph = noise_photograph(predictor.metadata) if image is None else read_image(Path(image))
    height, width = predictor.metadata.shape
    taken = f"{photograph.shape[1]}x{photograph.shape[0]}"
    what = f"{batch} photograph(s) of {taken} to the camera's pose, through {width}x{height} px"
    return Call(what, lambda: len(list(predictor.predict_many([photograph] * batch))))


def noise_photograph(metadata: CameraMetadata, seed: int = 0) -> Image:
    """Noise of the size that the model's camera takes, or of the size that photographs are scaled to."""
    if metadata.camera is not None:
        width, height = metadata.camera.width, metadata.camera.height
    else:
        width, height = (metadata.size,) * 2 if isinstance(metadata.size, int) else metadata.size
        width, height = max(width, metadata.shape[1]), max(height, metadata.shape[0])
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _request(metadata: ModelMetadata, batch: int, image: str | Path | None, box: Sequence[float] | None) -> Request:
    """``batch`` crops of the first object, from the given photograph or from noise."""
    if image is None:
        pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    else:
        pixels = read_image(Path(image))
    height, width = pixels.shape[:2]
    K = metadata.default_K(width, height)
    if K is None:
        K = np.array([[width, 0.0, (width - 1) / 2], [0.0, width, (height - 1) / 2], [0.0, 0.0, 1.0]])
    if box is None:
        side = min(width, height) / 3
        box = [(width - side) / 2, (height - side) / 2, side, side]
    boxes = np.tile(np.asarray(box, dtype=np.float64), (batch, 1))
    return Request(pixels, K, boxes, metadata.objects.obj_ids[:1] * batch)


def synthetic_outputs(predictor: Predictor, request: Request, noise: float = 0.004, outliers: float = 0.4) -> Outputs:
    """Network outputs for a pose seen in the middle of each crop: logits ``[B, N]`` and votes ``[B, N, 8, 2]``.

    Args:
        predictor: tells the cells and the object.
        request: tells the crop cameras.
        noise: standard deviation of a vote, crop sides. outliers: share of votes that are anywhere.
    """
    rng = np.random.default_rng(0)
    K = predictor.prepare(*request).cameras.K
    size, cells = predictor.metadata.crop_size, predictor.cells
    corners = predictor.metadata.objects.keypoints[0]
    middle = np.array([size / 2, size / 2, 1.0])
    distance = K[0, 0, 0] * float(predictor.metadata.objects.diameters[0]) / (0.6 * size)
    t = distance * np.linalg.solve(K[0], middle) - corners.mean(axis=0)
    pixels: Array = project(corners, np.eye(3), t, K[0])
    votes = pixels + rng.normal(scale=noise * size, size=(len(K), len(cells), len(corners), 2))
    wild = rng.random((len(K), len(cells), len(corners))) < outliers
    votes[wild] = rng.uniform(0, size, (int(wild.sum()), 2))
    near = np.linalg.norm(cells.centers - size / 2, axis=1) < 0.3 * size
    logits = np.where(near, 2.0, -6.0) + rng.normal(scale=0.2, size=(len(K), len(cells)))
    return logits.astype(np.float32), votes.astype(np.float32)
