"""Predictor: boxes in an image -> object poses, with onnxruntime, numpy and OpenCV alone."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.decode import CellLayout, PoseCandidate
from posedistill.errors import CheckpointError, DataError, describe
from posedistill.geometry.cameras import Array, CropCameras, crop_cameras
from posedistill.geometry.draw import Image
from posedistill.runtime.crops import box_of_pose, check_request, cut, scan_boxes
from posedistill.runtime.metadata import ModelMetadata
from posedistill.runtime.model_file import check_graph, find_decoder, open_session, record_of

Outputs = tuple[np.ndarray, np.ndarray]
Run = Callable[[NDArray[np.float32], NDArray[np.int64]], Outputs]
"""Crops ``[B, 3, S, S]`` and class indices ``[B]`` -> score logits ``[B, N]``, votes ``[B, N, 8, 2]`` crop pixels."""


@dataclass(frozen=True)
class PredictedPose:
    """One object's pose in the image's own camera.

    Attributes:
        R: ``[3, 3]`` object to camera. t: ``[3]`` mm.
        score: confidence in 0..1.
        box: (x, y, w, h) pixels of the box it was sought in.
        seconds: for the whole image, crops to poses, as BOP wants it: equal for all poses of an image.
    """

    obj_id: int
    R: Array
    t: Array
    score: float
    box: tuple[float, float, float, float]
    seconds: float


class Request(NamedTuple):
    """One image and what to look for in it; see ``Predictor.predict``."""

    image: Image
    K: Array
    boxes: Array
    obj_ids: Sequence[int]


class Prepared(NamedTuple):
    """The crops of one image, ready for the network; all arrays have ``n`` rows, one for each box."""

    crops: NDArray[np.float32]
    """``[n, 3, S, S]``, normalised RGB."""
    cameras: CropCameras
    classes: NDArray[np.int64]
    boxes: Array
    """``[n, 4]`` as requested."""


class Predictor:
    """Runs any network with the outputs of ``Run`` and turns what it says into poses.

    Args:
        run: an ONNX session (``from_onnx``) or a PyTorch network wrapped by the caller.
        metadata: of that network.
        batch: crops per call of ``run``.

    Raises:
        CheckpointError: the metadata name a decoder or an option of it that this version does not have.
    """

    def __init__(self, run: Run, metadata: ModelMetadata, batch: int = 16) -> None:
        self.run = run
        self.metadata = metadata
        self.batch = batch
        self.cells = CellLayout.build(metadata.strides, metadata.crop_size)
        self.decoder, self.settings = find_decoder(metadata.decoder, metadata.decode_settings)

    @classmethod
    def from_onnx(
        cls, path: str | Path, threads: int | None = None, providers: Sequence[str] | None = None, batch: int = 16
    ) -> "Predictor":
        """Load a file that ``posedistill export`` wrote; the file is all that is needed.

        Args:
            path: the ``.onnx`` file. threads, providers: see ``open_session``. batch: crops per call of the network.

        Raises:
            CheckpointError: no such file, not an ONNX model, or none of a network that tells poses of objects.
        """
        return cls.from_session(open_session(path, threads, providers), path, batch)

    @classmethod
    def from_session(cls, session: Any, path: str | Path, batch: int = 16) -> "Predictor":
        """The predictor of an opened file, whose ``path`` is named in errors."""
        metadata = ModelMetadata.from_json(record_of(session, path), str(path))
        check_graph(session, path, (metadata.crop_size,) * 2, ("logits", "votes"))
        names = [entry.name for entry in session.get_inputs()]

        def run(crops: NDArray[np.float32], classes: NDArray[np.int64]) -> Outputs:
            # An exporter drops an input that the graph does not use: the class, where there is only one object.
            feed = {name: value for name, value in (("images", crops), ("classes", classes)) if name in names}
            logits, votes = session.run(["logits", "votes"], feed)
            return logits, votes

        return cls(run, metadata, batch)

    def predict(self, image: Image, K: Array, boxes: Array, obj_ids: Sequence[int]) -> list[PredictedPose]:
        """Poses of the objects in the given boxes; a box in which nothing is recognised yields none.

        Args:
            image: ``[H, W, 3]`` uint8 RGB.
            K: ``[3, 3]`` intrinsics of the image.
            boxes: ``[n, 4]`` (x, y, w, h) pixels, of the whole object, hidden parts included where they are known.
            obj_ids: the ``n`` object ids expected in the boxes.

        Raises:
            DataError: the image, camera or a box is impossible, or an id is none of the network's.
        """
        return next(self.predict_many([Request(image, K, boxes, obj_ids)]))

    def predict_many(self, requests: Iterable[Request]) -> Iterator[list[PredictedPose]]:
        """Like ``predict`` for a stream of images, with network calls that span images; one list for each request."""
        waiting: list[tuple[Prepared, float]] = []
        for request in requests:
            start = time.perf_counter()
            prepared = self.prepare(*request)
            waiting.append((prepared, time.perf_counter() - start))
            if sum(len(entry.classes) for entry, _ in waiting) >= self.batch:
                yield from self._flush(waiting)
                waiting = []
        yield from self._flush(waiting)

    def _flush(self, waiting: list[tuple[Prepared, float]]) -> Iterator[list[PredictedPose]]:
        """Run the network over the crops of several images and decode each image's share."""
        if not waiting:
            return
        start = time.perf_counter()
        outputs = self.run_network(
            np.concatenate([prepared.crops for prepared, _ in waiting]),
            np.concatenate([prepared.classes for prepared, _ in waiting]),
        )
        per_crop = (time.perf_counter() - start) / max(len(outputs[0]), 1)
        first = 0
        for prepared, seconds in waiting:
            share = slice(first, first + len(prepared.classes))
            first = share.stop
            spent = seconds + per_crop * len(prepared.classes)
            found = self.decode_outputs((outputs[0][share], outputs[1][share]), prepared, spent)
            yield [pose for pose in found if pose is not None]

    def prepare(self, image: Image, K: Array, boxes: Array, obj_ids: Sequence[int]) -> Prepared:
        """Cut and normalise one square crop for each box; arguments and errors are those of ``predict``."""
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        K = np.asarray(K, dtype=np.float64)
        check_request(image, K, boxes, obj_ids)
        try:
            classes = np.array([self.metadata.objects.index(int(obj_id)) for obj_id in obj_ids], dtype=np.int64)
        except KeyError as error:
            raise DataError(str(error.args[0])) from None
        size = self.metadata.crop_size
        centers = boxes[:, :2] + boxes[:, 2:] / 2
        sides = self.metadata.pad * boxes[:, 2:].max(axis=1, initial=0.0)
        cameras = crop_cameras(np.broadcast_to(K, (len(boxes), 3, 3)), centers, sides, size)
        mean = 255 * np.array(self.metadata.mean, dtype=np.float32)
        std = 255 * np.array(self.metadata.std, dtype=np.float32)
        crops = np.empty((len(boxes), 3, size, size), dtype=np.float32)
        for crop, homography in zip(crops, cameras.homography, strict=True):
            # Channel by channel: contiguous planes are written twenty times faster than interleaved pixels.
            for channel, plane in enumerate(cv2.split(cut(image, homography, size, border=mean))):
                np.subtract(plane, mean[channel], out=crop[channel], dtype=np.float32)
                crop[channel] /= std[channel]
        return Prepared(crops, cameras, classes, boxes)

    def run_network(self, crops: NDArray[np.float32], classes: NDArray[np.int64]) -> Outputs:
        """The network's raw outputs for any number of crops, ``batch`` at a time.

        Raises:
            CheckpointError: they are not those of the cells that the metadata describe.
        """
        cells, keypoints = len(self.cells), self.metadata.objects.keypoints.shape[1]
        logits = np.empty((len(crops), cells), np.float32)
        votes = np.empty((len(crops), cells, keypoints, 2), np.float32)
        for first in range(0, len(crops), self.batch):
            rows = slice(first, first + self.batch)
            parts = self.run(crops[rows], classes[rows])
            for key, part, whole in zip(("logits", "votes"), parts, (logits, votes), strict=True):
                if part.shape != whole[rows].shape:
                    expected = f"{whole[rows].shape} of strides {self.cells.strides}"
                    raise CheckpointError(describe("network output", key, f"shape {part.shape}", expected))
                whole[rows] = part
        return logits, votes

    def decode_outputs(self, outputs: Outputs, prepared: Prepared, seconds: float = 0.0) -> list[PredictedPose | None]:
        """Poses in the full image's camera, one entry for each box, None where nothing was recognised.

        Args:
            outputs: of ``run_network`` for these crops.
            prepared: of the same image.
            seconds: already spent on the image; the time of decoding is added.
        """
        start = time.perf_counter()
        candidates = [
            self.decode_crop(outputs[0][row], outputs[1][row], prepared.cameras.K[row], label)
            for row, label in enumerate(prepared.classes)
        ]
        seconds += time.perf_counter() - start
        poses: list[PredictedPose | None] = []
        for row, candidate in enumerate(candidates):
            if candidate is None:
                poses.append(None)
                continue
            obj_id = self.metadata.objects.obj_ids[prepared.classes[row]]
            back = prepared.cameras.rotation[row].T
            x, y, w, h = prepared.boxes[row].tolist()
            pose = PredictedPose(obj_id, back @ candidate.R, back @ candidate.t, candidate.score, (x, y, w, h), seconds)
            poses.append(pose)
        return poses

    def decode_crop(self, logits: np.ndarray, votes: np.ndarray, K: Array, label: int) -> PoseCandidate | None:
        """The pose of one crop in the crop's own camera.

        Args:
            logits: ``[N]``. votes: ``[N, 8, 2]`` crop pixels. K: ``[3, 3]`` of the crop. label: class index.
        """
        return self.decoder(logits, votes, self.cells, K, self.metadata.objects.keypoints[label], self.settings)

    def locate(
        self, image: Image, K: Array, obj_id: int, rounds: int = 2, keep: int = 4, threshold: float = 0.0
    ) -> PredictedPose | None:
        """Find one object without a detector: scan square windows, then zoom in where the network is surest.

        The boxes of the ``keep`` best poses become the windows of the next round; the surest pose of the last round
        is returned. Meant for a first look: a detector is faster and misses less.

        Returns:
            None where no window's pose scores above ``threshold`` or projects into the image.
        """
        start = time.perf_counter()
        boxes = scan_boxes(image.shape[1], image.shape[0], self.metadata.pad)
        best: PredictedPose | None = None
        for _ in range(rounds + 1):
            poses = self.predict(image, K, boxes, [obj_id] * len(boxes))
            poses = sorted((pose for pose in poses if pose.score > threshold), key=lambda pose: -pose.score)[:keep]
            corners = self.metadata.objects.keypoints[self.metadata.objects.index(obj_id)]
            found = [(pose, box_of_pose(pose.R, pose.t, corners, K, image.shape)) for pose in poses]
            found = [(pose, box) for pose, box in found if box is not None]
            if not found:
                break
            best = found[0][0]
            boxes = np.array([box for _, box in found])
        if best is None:
            return None
        return PredictedPose(obj_id, best.R, best.t, best.score, best.box, time.perf_counter() - start)
