"""The overlay picture of ``data check``: frames with the projected models, their axes and boxes, as a contact sheet."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.check.models import CheckedModel
from posedistill.data.formats.bop import Frame, Instance, read_image
from posedistill.data.images import contact_sheet, write_image
from posedistill.errors import DataError
from posedistill.geometry.draw import NEAR, Shape, color_of, draw_pose
from posedistill.geometry.objects import box_corners

TILES, COLUMNS, TILE_WIDTH = 9, 3, 640
LABEL_HEIGHT = 24


def draw_sheet(frames: Sequence[tuple[Frame, bool]], models: dict[int, CheckedModel], path: Path) -> None:
    """Write a contact sheet (png or jpg) of frames; the flag marks those with a fault, whose title is red.

    Raises:
        DataError: an ending OpenCV cannot write, or a disk that refuses the file.
    """
    tiles = [_tile(frame, faulty, models) for frame, faulty in frames[:TILES]]
    write_image(path, contact_sheet(tiles, COLUMNS))


def _tile(frame: Frame, faulty: bool, models: dict[int, CheckedModel]) -> NDArray[np.uint8]:
    """One frame with all its instances, farthest first, ``TILE_WIDTH`` wide with a title line above."""
    try:
        image = read_image(frame.rgb)
    except DataError:
        image = np.zeros((TILE_WIDTH * 3 // 4, TILE_WIDTH, 3), dtype=np.uint8)
    for instance in sorted(frame.instances, key=lambda item: -item.t[2]):
        if instance.t[2] > NEAR:
            image = _draw_instance(image, frame, instance, models.get(instance.obj_id))
    scale = TILE_WIDTH / image.shape[1]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(image, (TILE_WIDTH, round(image.shape[0] * scale)), interpolation=interpolation)
    title = np.full((LABEL_HEIGHT, TILE_WIDTH, 3), (150, 30, 30) if faulty else (40, 40, 40), dtype=np.uint8)
    text = f"{frame.scene.folder.parent.name}/{frame.scene_id:06d}/{frame.im_id:06d}"
    cv2.putText(title, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack([title, image])


def _draw_instance(
    image: NDArray[np.uint8], frame: Frame, instance: Instance, model: CheckedModel | None
) -> NDArray[np.uint8]:
    """The projected contour, box and axes of an instance, and its annotated box as a white rectangle."""
    if model is not None:
        shape = Shape(model.mesh.vertices, model.mesh.faces)
        corners = box_corners(model.mesh.vertices.min(axis=0), model.mesh.vertices.max(axis=0))
        color, label = color_of(instance.obj_id), str(instance.obj_id)
        image = draw_pose(image, instance.R, instance.t, frame.K, corners, color, label, shape)
    if instance.bbox_obj is not None:
        ends = np.stack([instance.bbox_obj[:2], instance.bbox_obj[:2] + instance.bbox_obj[2:]])
        # Boxes under suspicion may lie anywhere, and OpenCV takes 32 bits.
        low, high = np.clip(np.rint(ends), -9, max(image.shape) + 9).astype(int).tolist()
        cv2.rectangle(image, low, high, (255, 255, 255), 1)
    return image
