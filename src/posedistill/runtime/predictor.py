"""Predictor: an image and a request -> poses, for every family, with onnxruntime, numpy and OpenCV alone."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from posedistill.decode.base import Arrays, Decoder, Pose, Prepared, Request
from posedistill.errors import CheckpointError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.runtime.record import Record, open_session, record_of

Run = Callable[[Arrays], Arrays]
"""A network: its inputs by name, with a batch axis -> its outputs by name. An ONNX session, a torch network, ..."""


class Predictor:
    """Runs a network and turns what it says into poses.

    Args:
        run: an ONNX session (``from_onnx``) or a network of another runtime.
        decoder: of that network's family.
        batch: rows (crops, photographs) per call of ``run``.
        record: of the file that the network comes from, if it does.
    """

    def __init__(self, run: Run, decoder: Decoder, batch: int = 16, record: Record | None = None) -> None:
        self.run, self.decoder, self.batch, self.record = run, decoder, batch, record or Record(decoder)

    @classmethod
    def from_onnx(
        cls, path: str | Path, threads: int | None = None, providers: Sequence[str] | None = None, batch: int = 16
    ) -> "Predictor":
        """Load a file that ``posedistill export`` wrote; the file is all that is needed.

        Args:
            path: the ``.onnx`` file. threads, providers: see ``open_session``. batch: rows per call of the network.

        Raises:
            CheckpointError: no such file, not an ONNX model, or one that posedistill did not export.
        """
        session = open_session(path, threads, providers)
        record = record_of(session, path)
        inputs, outputs = [entry.name for entry in session.get_inputs()], list(record.decoder.outputs)

        def run(arrays: Arrays) -> Arrays:
            return dict(zip(outputs, session.run(outputs, {name: arrays[name] for name in inputs}), strict=True))

        return cls(run, record.decoder, batch, record)

    def predict(
        self, image: Image, K: Array | None = None, boxes: Array | None = None, labels: Sequence[int] = ()
    ) -> list[Pose]:
        """Poses in one image; see ``Request`` for the arguments. A scene's is one pose, from the image alone.

        A box in which nothing is recognised yields none.

        Raises:
            DataError: the image, camera or a box is impossible, or a label is none of the network's.
        """
        boxes = np.empty((0, 4)) if boxes is None else boxes
        return next(self.predict_many([Request(image, K, boxes, labels)]))

    def predict_many(self, requests: Iterable[Request]) -> Iterator[list[Pose]]:
        """Like ``predict`` for a stream of requests, with network calls that span images; a list for each request."""
        waiting: list[tuple[Prepared, float]] = []
        for request in requests:
            start = time.perf_counter()
            prepared = self.decoder.prepare(request)
            waiting.append((prepared, time.perf_counter() - start))
            if sum(len(entry) for entry, _ in waiting) >= self.batch:
                yield from self._flush(waiting)
                waiting = []
        yield from self._flush(waiting)

    def _flush(self, waiting: list[tuple[Prepared, float]]) -> Iterator[list[Pose]]:
        """Run the network over several images, given with the seconds spent on each, and decode each one's share."""
        start = time.perf_counter()
        outputs = self.outputs_of([prepared for prepared, _ in waiting])
        per_row = (time.perf_counter() - start) / max(sum(len(prepared) for prepared, _ in waiting), 1)
        for share, (prepared, seconds) in zip(outputs, waiting, strict=True):
            start = time.perf_counter()
            poses = self.decoder.decode(share, prepared)
            seconds += per_row * len(prepared) + time.perf_counter() - start
            yield [replace(pose, seconds=seconds) for pose in poses]

    def outputs_of(self, prepared: Sequence[Prepared]) -> list[Arrays]:
        """The network's raw outputs for each of several prepared requests, with calls that span them."""
        if not prepared:
            return []
        names, ends = prepared[0].inputs, np.cumsum([len(entry) for entry in prepared])
        whole = self.run_network({name: np.concatenate([entry.inputs[name] for entry in prepared]) for name in names})
        starts = [0, *ends[:-1]]
        return [
            {name: value[start:end] for name, value in whole.items()} for start, end in zip(starts, ends, strict=True)
        ]

    def run_network(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The network's raw outputs for any number of rows, ``batch`` at a time.

        Raises:
            CheckpointError: they are not of the shapes that the decoder takes.
        """
        count = len(next(iter(inputs.values())))
        whole = {name: np.empty((count, *shape), np.float32) for name, shape in self.decoder.outputs.items()}
        for first in range(0, count, self.batch):
            rows = slice(first, first + self.batch)
            parts = self.run({name: value[rows] for name, value in inputs.items()})
            for name, array in whole.items():
                if parts[name].shape != array[rows].shape:
                    raise CheckpointError(
                        describe("network output", name, f"shape {parts[name].shape}", array[rows].shape)
                    )
                array[rows] = parts[name]
        return whole
