"""CameraPredictor: a photograph of a known scene -> where the camera stood. onnxruntime, numpy and OpenCV alone."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.errors import CheckpointError, DataError, describe
from posedistill.geometry.cameras import Array, scaled_camera
from posedistill.geometry.draw import Image
from posedistill.geometry.photographs import middle_crop, scale, scaled_size, undistort
from posedistill.runtime.camera_metadata import CameraMetadata
from posedistill.runtime.crops import check_image
from posedistill.runtime.model_file import check_graph, find_decoder, open_session, record_of

CameraOutputs = tuple[np.ndarray, np.ndarray]
CameraRun = Callable[[NDArray[np.float32]], CameraOutputs]
"""Images ``[B, 3, H, W]`` -> camera centres ``[B, 3]`` (m) and the numbers of rotations ``[B, k]``."""

ASPECT_TOLERANCE = 0.01
"""Share by which a photograph's aspect may differ from that of the camera whose lens is taken out."""


@dataclass(frozen=True)
class PredictedCamera:
    """The pose of the camera that took a photograph.

    Attributes:
        R: ``[3, 3]`` world to camera. t: ``[3]``, likewise, in the scene's unit (metres).
        center: ``[3]`` where the camera stands in the world, ``-R.T @ t``.
        seconds: photograph to pose; in a batch, the image's share of the network's time.
    """

    R: Array
    t: Array
    center: Array
    seconds: float

    @property
    def direction(self) -> Array:
        """``[3]`` where the camera looks, of length 1, in the world."""
        return self.R[2]


class CameraPredictor:
    """Runs any network with the outputs of ``CameraRun`` and turns what it says into poses.

    Args:
        run: an ONNX session (``from_onnx``) or a PyTorch network wrapped by the caller.
        metadata: of that network.
        batch: images per call of ``run``.

    Raises:
        CheckpointError: the metadata name a decoder or an option of it that this version does not have.
    """

    def __init__(self, run: CameraRun, metadata: CameraMetadata, batch: int = 16) -> None:
        self.run = run
        self.metadata = metadata
        self.batch = batch
        self.decoder, self.settings = find_decoder(metadata.decoder, metadata.decode_settings)
        self._mean = 255 * np.array(metadata.mean, dtype=np.float32)
        self._std = 255 * np.array(metadata.std, dtype=np.float32)

    @classmethod
    def from_onnx(
        cls, path: str | Path, threads: int | None = None, providers: Sequence[str] | None = None, batch: int = 16
    ) -> "CameraPredictor":
        """Load a file that ``posedistill export`` wrote; the file is all that is needed.

        Args:
            path: the ``.onnx`` file. threads, providers: see ``open_session``. batch: images per call of the network.

        Raises:
            CheckpointError: no such file, not an ONNX model, or none of a network that tells poses of cameras.
        """
        return cls.from_session(open_session(path, threads, providers), path, batch)

    @classmethod
    def from_session(cls, session: Any, path: str | Path, batch: int = 16) -> "CameraPredictor":
        """The predictor of an opened file, whose ``path`` is named in errors."""
        metadata = CameraMetadata.from_json(record_of(session, path), str(path))
        check_graph(session, path, metadata.shape, ("position", "rotation"))

        def run(images: NDArray[np.float32]) -> CameraOutputs:
            position, rotation = session.run(["position", "rotation"], {"images": images})
            return position, rotation

        return cls(run, metadata, batch)

    def predict(self, image: Image) -> PredictedCamera:
        """The pose of the camera that took ``image``, ``[H, W, 3]`` uint8 RGB; errors are those of ``prepare``."""
        return next(self.predict_many([image]))

    def predict_many(self, images: Iterable[Image]) -> Iterator[PredictedCamera]:
        """Like ``predict`` for a stream of images, ``batch`` of them in a call of the network; one pose for each."""
        waiting: list[tuple[NDArray[np.float32], float]] = []
        for image in images:
            start = time.perf_counter()
            prepared = self.prepare(image)
            waiting.append((prepared, time.perf_counter() - start))
            if len(waiting) == self.batch:
                yield from self._flush(waiting)
                waiting = []
        yield from self._flush(waiting)

    def _flush(self, waiting: list[tuple[NDArray[np.float32], float]]) -> Iterator[PredictedCamera]:
        """Run the network over prepared images, given with the seconds already spent on each."""
        if not waiting:
            return
        start = time.perf_counter()
        outputs = self.run_network(np.stack([prepared for prepared, _ in waiting]))
        R, t = self.decoder(*outputs, self.settings)
        share = (time.perf_counter() - start) / len(waiting)
        for row, (_, seconds) in enumerate(waiting):
            yield PredictedCamera(R[row], t[row], -R[row].T @ t[row], seconds + share)

    def prepare(self, image: Image) -> NDArray[np.float32]:
        """``[3, h, w]`` float32: a photograph without the lens, scaled, cut out of its middle and normalised.

        The same pixels as ``SceneView`` gives without augmentation. A photograph of another resolution is taken for
        one by the same camera.

        Args:
            image: ``[H, W, 3]`` uint8 RGB.

        Raises:
            DataError: no such image, one of another aspect than the lens was measured for, or smaller than the
                network's input once it is scaled.
        """
        check_image(image)
        image = self._without_lens(image)
        size = scaled_size(image.shape[1], image.shape[0], self.metadata.size)
        height, width = self.metadata.shape
        if size[0] < width or size[1] < height:
            found = f"{image.shape[1]}x{image.shape[0]}, scaled to {size[0]}x{size[1]}"
            raise DataError(describe("request", "image", found, f"{width}x{height} at least (width x height)"))
        picture = middle_crop(scale(image, size), self.metadata.shape)
        prepared = np.empty((3, height, width), dtype=np.float32)
        # Channel by channel: contiguous planes are written twenty times faster than interleaved pixels.
        for channel, plane in enumerate(cv2.split(picture)):
            np.subtract(plane, self._mean[channel], out=prepared[channel], dtype=np.float32)
            prepared[channel] /= self._std[channel]
        return prepared

    def _without_lens(self, image: Image) -> Image:
        camera, distortion = self.metadata.camera, self.metadata.distortion
        if camera is None or not distortion:
            return image
        height, width = image.shape[:2]
        if abs(width * camera.height / (height * camera.width) - 1) > ASPECT_TOLERANCE:
            expected = f"the aspect of {camera.width}x{camera.height}, the camera whose lens the model knows"
            raise DataError(describe("request", "image", f"{width}x{height}", expected))
        K = scaled_camera(camera.K, (camera.width, camera.height), (width, height))
        return undistort(image, K, distortion)[0]

    def run_network(self, images: NDArray[np.float32]) -> CameraOutputs:
        """The network's raw outputs for any number of prepared images, ``batch`` at a time.

        Raises:
            CheckpointError: they are not a position and a rotation for each image.
        """
        parts = [self.run(images[first : first + self.batch]) for first in range(0, len(images), self.batch)]
        position, rotation = (np.concatenate(side) for side in zip(*parts, strict=True))
        for key, found, wanted in (("position", position, (len(images), 3)), ("rotation", rotation, (len(images),))):
            if found.shape[: len(wanted)] != wanted:
                raise CheckpointError(describe("network output", key, f"shape {found.shape}", f"{wanted}"))
        return position, rotation
