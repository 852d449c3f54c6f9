"""Frames of a BOP data set as they enter a pack: with the instance's id at each of its visible pixels."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.bop import BopDataset, Frame, Instance
from posedistill.data.images import image_size, read_image, read_mask
from posedistill.data.packs.build import FrameSource
from posedistill.errors import DataError, describe
from posedistill.files import file_state
from posedistill.geometry.cameras import Array, pixel_box, project

OTHER = 255
"""Id of foreground that is no training object: distractors, objects outside the recipe."""
MIN_PIXELS = 10
"""An instance with fewer visible pixels cannot be learnt from and stays out of the table."""


class ObjectFrames(FrameSource):
    """The frames of a data set that show one of the objects.

    An instance enters when its object is in ``obj_ids``, at least ``min_visible`` of it can be seen and its mask has
    ``MIN_PIXELS``; frames without such an instance are left out.

    Args:
        others: also the annotated frames that show none of the objects, after the ones that do.

    Raises:
        DataError: no usable frame.
    """

    def __init__(
        self, dataset: BopDataset, obj_ids: Sequence[int], min_visible: float = 0.1, others: bool = False
    ) -> None:
        self.dataset, self.obj_ids, self.min_visible = dataset, frozenset(map(int, obj_ids)), min_visible
        self.frames = [frame for frame in dataset.frames if any(map(self._admits, frame.instances))]
        if self.frames and others:
            self.frames += [frame for frame in dataset.frames if self._shows_none(frame)]
        if not self.frames:
            wanted = f"a frame with one of the objects {sorted(self.obj_ids)}, visible by {min_visible} or more"
            raise DataError(describe(dataset.root, "frames", f"none among {len(dataset.frames)}", wanted))
        self.root, self.images = dataset.root, [frame.rgb for frame in self.frames]
        self.sequences = [str(frame.scene_id) for frame in self.frames]
        self._vertices: dict[int, Array] = {}
        self._lock = threading.Lock()
        self._guessed: set[Path] = set()

    def state(self) -> bytes:
        """Settings, annotations, the files of images and masks, and of the models that stand in for them."""
        parts = [json.dumps([sorted(self.obj_ids), self.min_visible, MIN_PIXELS]).encode()]
        for frame in self.frames:
            parts += [file_state(frame.rgb), np.asarray(frame.K, dtype=np.float64).tobytes()]
            for each in frame.instances:
                values = (each.obj_id, each.visib_fract, each.bbox_obj, each.bbox_visib, each.score)
                pose = np.concatenate([np.ravel(each.R), np.ravel(each.t)]).astype(np.float64)
                parts += [repr(values).encode(), pose.tobytes(), file_state(each.mask_visib)]
        drawn = {each.obj_id for frame in self.frames for each in frame.instances if self._is_guessed(each)}
        return b"".join([*parts, *(file_state(self.dataset.mesh_path(obj_id)) for obj_id in sorted(drawn))])

    def size(self, index: int) -> tuple[int, int]:
        """As the image's header states it."""
        width, height = image_size(self.images[index])
        return height, width

    def camera(self, index: int) -> Array:
        """That of the frame."""
        return self.frames[index].K

    def draw(self, index: int, target: NDArray[np.uint8]) -> None:
        """The image, and in channel 3 the ids of what can be seen."""
        frame = self.frames[index]
        target[..., :3] = read_image(frame.rgb)
        target[..., 3] = 0
        # Where masks overlap, as silhouettes do, the nearest object is the one that is seen.
        for position, instance in sorted(enumerate(frame.instances), key=lambda item: -float(item[1].t[2])):
            mask = self._mask(frame, instance, target.shape[:2])
            target[mask, 3] = self._slot(position, instance)

    def instances(self, index: int, ids: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Those with enough pixels; boxes that the annotation lacks are read off mesh and mask."""
        frame, counts = self.frames[index], np.bincount(ids.ravel(), minlength=256)
        rows = []
        for position, instance in enumerate(frame.instances):
            slot = self._slot(position, instance)
            if not self._admits(instance) or slot == OTHER or counts[slot] < MIN_PIXELS:
                continue
            names = ("obj_id", "R", "t", "bbox_obj", "bbox_visib", "visib_fract", "score")
            row = {"slot": slot, **{name: getattr(instance, name) for name in names}}
            if instance.bbox_obj is None:
                row["bbox_obj"] = pixel_box(self._pixels(frame, instance))
            if instance.bbox_visib is None:
                row["bbox_visib"] = cv2.boundingRect((ids == slot).view(np.uint8))
            rows.append(row)
        return rows

    def notes(self) -> list[str]:
        """Where masks were missing."""
        if not self._guessed:
            return []
        missing = f"{len(self._guessed)} frames lack visible masks (first: {min(self._guessed)})"
        return [f"{self.root}: {missing}; the convex hull of the projected model stands in for them"]

    def _admits(self, instance: Instance) -> bool:
        """Whether an annotated instance may enter the table (its mask is looked at later)."""
        return instance.obj_id in self.obj_ids and instance.visib_fract >= self.min_visible

    def _shows_none(self, frame: Frame) -> bool:
        """Whether somebody has looked at a frame and annotated none of the objects."""
        return frame.is_annotated and not any(instance.obj_id in self.obj_ids for instance in frame.instances)

    def _is_guessed(self, instance: Instance) -> bool:
        """Whether the projected model stands in for a mask or a box."""
        return _mask_file(instance) is None or (instance.bbox_obj is None and self._admits(instance))

    def _slot(self, position: int, instance: Instance) -> int:
        return position + 1 if instance.obj_id in self.obj_ids and position + 1 < OTHER else OTHER

    def _mask(self, frame: Frame, instance: Instance, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        path = _mask_file(instance)
        if path is None:
            self._guessed.add(frame.rgb)
            hull = cv2.convexHull(np.rint(self._pixels(frame, instance)).astype(np.int32))
            silhouette = np.zeros(shape, dtype=np.uint8)
            cv2.fillConvexPoly(silhouette, hull, 1)
            return silhouette.view(bool)
        mask = read_mask(path, allow_empty=not self._admits(instance))
        if mask.shape != shape:
            raise DataError(describe(path, "size", mask.shape, f"{shape}, the image's"))
        return mask

    def _pixels(self, frame: Frame, instance: Instance) -> Array:
        """``[V, 2]`` projections of the model's vertices."""
        with self._lock:
            if instance.obj_id not in self._vertices:
                mesh = self.dataset.mesh(instance.obj_id, looks=False)
                self._vertices[instance.obj_id] = mesh.vertices
        return project(self._vertices[instance.obj_id], instance.R, instance.t, frame.K)


def _mask_file(instance: Instance) -> Path | None:
    path = instance.mask_visib
    return path if path is not None and path.exists() else None
