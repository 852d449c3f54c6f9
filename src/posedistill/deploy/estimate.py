"""Running a predictor over test frames: what is sought in each, and the table of what was found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.data.formats.bop import Frame
from posedistill.data.formats.scene import CameraDataset
from posedistill.data.images import read_image
from posedistill.decode.base import Pose, Request
from posedistill.errors import DataError
from posedistill.geometry.cameras import Array
from posedistill.log import console, progress_bar
from posedistill.poses import Poses
from posedistill.runtime.predictor import Predictor

NO_POSE = Pose(np.full((3, 3), np.nan), np.full(3, np.nan), score=0.0, seconds=-1.0)
"""What stands in a table for the camera of a photograph in which nothing was recognised."""


@dataclass(frozen=True, eq=False)
class FrameQuery:
    """What is sought in one frame.

    Attributes:
        path: of its image. scene_id, im_id: of BOP, -1 where it has a ``name``.
        K: ``[3, 3]``, and distortion of its lens; None where the model knows the camera.
        boxes: ``[n, 4]``. labels: the object id expected in each, or where there are no boxes those sought in the whole
            image. scores: ``[n]`` of the boxes. None in a scene.
    """

    path: Path
    scene_id: int = -1
    im_id: int = -1
    name: str = ""
    K: Array | None = None
    boxes: Array = field(default_factory=lambda: np.empty((0, 4)))
    labels: Sequence[int] = ()
    scores: Array = field(default_factory=lambda: np.empty(0))
    distortion: tuple[float, ...] | None = None

    @classmethod
    def of_objects(
        cls, frame: Frame, boxes: Sequence[Array], labels: Sequence[int], scores: Sequence[float]
    ) -> "FrameQuery":
        """Objects in the boxes of a BOP frame; without boxes, anywhere in it."""
        rows = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        return cls(frame.rgb, frame.scene_id, frame.im_id, "", frame.K, rows, list(labels), np.array(scores))

    def facts(self) -> list[Any]:
        """What poses depend on, as plain values: the image by its size in bytes, wherever it lies."""
        size = self.path.stat().st_size if self.path.exists() else None
        K = None if self.K is None else self.K.tolist()
        ids = [self.scene_id, self.im_id, self.name, *self.labels]
        return [size, ids, K, self.boxes.tolist(), self.scores.tolist(), self.distortion]

    def request(self) -> Request:
        """With its pixels; boxes that begin beyond them are left out."""
        image = read_image(self.path)
        if not len(self.boxes):
            return Request(image, self.K, labels=self.labels, distortion=self.distortion)
        inside = np.flatnonzero((self.boxes[:, :2] < [image.shape[1], image.shape[0]]).all(axis=1))
        labels = [self.labels[row] for row in inside.tolist()]
        return Request(image, self.K, self.boxes[inside], labels, self.scores[inside])


def queries_of(photographs: CameraDataset) -> list[FrameQuery]:
    """The camera of each photograph of a scene."""
    return [
        FrameQuery(frame.image, name=name, K=frame.K, distortion=frame.distortion)
        for frame, name in zip(photographs, photographs.names, strict=True)
    ]


def estimate(predictor: Predictor, queries: Sequence[FrameQuery], title: str = "evaluate") -> Poses:
    """Poses of everything sought, with the time from pixels to poses: reading files is not counted.

    Boxes that begin right of or below their image are left out, and counted on the terminal.

    Raises:
        DataError: an image cannot be read or looked at.
    """
    found, outside = [], []
    with progress_bar() as bar:
        task = bar.add_task(title, total=len(queries), note="")
        for query in queries:
            request = query.request()
            outside += [query.path] * (len(query.boxes) - len(request.boxes))
            try:
                found.append((query, next(predictor.predict_many([request]))))
            except DataError as error:
                raise DataError(f"{query.path}: {error}") from None
            bar.advance(task)
    if outside:
        told = f"{len(outside)} boxes begin right of or below their image and were left out, first in {outside[0]}"
        console.print(f"[yellow]{title}: {told}", highlight=False)
    return table_of(found)


def table_of(found: Iterable[tuple[FrameQuery, Sequence[Pose]]]) -> Poses:
    """Poses of several frames as rows of one table; a named photograph without any has a row of NaN."""
    rows = [
        (query.scene_id, query.im_id, pose.label, pose.score, pose.R, pose.t, pose.seconds, query.name)
        for query, poses in found
        for pose in (poses or [NO_POSE] * bool(query.name))
    ]
    return Poses(*map(np.array, zip(*rows, strict=True))) if rows else Poses.empty()
