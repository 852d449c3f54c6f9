"""The pictures of ``data check``: frames with the projected models; where cameras stand, with their photographs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from posedistill.data.check.models import CheckedModel
from posedistill.data.check.poses import far_off
from posedistill.data.check.walk import Picture
from posedistill.data.formats.bop import Frame, Instance
from posedistill.data.formats.scene import CameraDataset
from posedistill.data.images import contact_sheet, fitted, read_image, write_image
from posedistill.errors import DataError
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.cameras import (
    INK,
    PAPER,
    VIEWS,
    View,
    camera_views,
    draw_cameras,
    new_panel,
    side_by_side,
)
from posedistill.geometry.draw.poses import NEAR, Color, Image, Shape, color_of, draw_pose
from posedistill.geometry.objects import box_corners

SHEET_TILES, COLUMNS, SHEET_TILE = 9, 3, (640, 480)
"""Frames of a BOP data set; width and height of each, pixels."""
SCENE_TILES, SCENE_TILE = 6, (320, 240)
"""Photographs below the views of a scene."""
PANEL, MARGIN = (960, 640), 70
"""Width and height of each of the two views, and room around the cameras, pixels."""
TITLE = 24
COLORS: dict[str, Color] = {"train": (0, 114, 178), "test": (230, 120, 0), "all": (0, 114, 178)}
FAULT: Color = (200, 0, 60)
_ARROWS, _ARROW = 60, 40.0
"""Arrows of a split, evenly thinned; their length, pixels."""


def draw_objects(shown: Sequence[tuple[Picture, bool]], models: dict[int, CheckedModel], path: Path) -> None:
    """Write a contact sheet (png or jpg) of frames of a BOP data set; the flag marks a fault, which a red title tells.

    Raises:
        DataError: an ending OpenCV cannot write, or a disk that refuses the file.
    """
    tiles: list[tuple[Image, str, bool]] = []
    for picture, faulty in shown:
        frame, image = picture.frame, read_or_black(picture.path)
        assert isinstance(frame, Frame)
        for instance in sorted(frame.instances, key=lambda item: -item.t[2]):  # the nearest over the others
            if instance.t[2] > NEAR:
                image = _draw_instance(image, frame, instance, models.get(instance.obj_id))
        title = f"{frame.scene.folder.parent.name}/{frame.scene_id:06d}/{frame.im_id:06d}"
        tiles.append((image, title, faulty))
    write_sheet(tiles, path)


def write_sheet(tiles: Sequence[tuple[Image, str, bool]], path: Path) -> None:
    """Write a contact sheet of pictures with their titles; the flag marks a fault, which a red title tells.

    Raises:
        DataError: an ending OpenCV cannot write, or a disk that refuses the file.
    """
    framed = [_tile(image, title, FAULT if faulty else INK, SHEET_TILE) for image, title, faulty in tiles]
    write_image(path, contact_sheet(framed, COLUMNS))


def draw_scene(
    splits: Mapping[str, CameraDataset],
    shown: Sequence[tuple[Picture, bool]],
    flagged: Sequence[Path],
    path: Path,
    unit: str,
) -> None:
    """Write the picture of a scene (png or jpg): views from above and the side, then photographs, numbered in both.

    Args:
        flagged: photographs with a fault or a doubtful pose, which are ringed. unit: of the world, for a scale.

    Raises:
        DataError: as :func:`draw_objects`.
    """
    frames = [frame for dataset in splits.values() for frame in dataset]
    R, centers = np.stack([frame.R for frame in frames]), np.stack([frame.center for frame in frames])
    kept = ~far_off(centers)  # one pose that is lost must not make a dot of all others
    places = {frame.image: frame.center for frame in frames}
    rings = np.array([places[image] for image in {*flagged} & places.keys()]).reshape(-1, 3)
    numbered = np.array([places[picture.path] for picture, _ in shown])
    panels = []
    for title, view in zip(VIEWS, camera_views(R[kept], centers[kept], PANEL, MARGIN), strict=True):
        panel = new_panel(view, title, unit)
        for row, (name, dataset) in enumerate(splits.items()):
            _draw_split(panel, view, dataset, COLORS[name])
            cv2.circle(panel, (PANEL[0] - 130, 21 + 24 * row), 5, COLORS[name], cv2.FILLED, cv2.LINE_AA)
            _write(panel, f"{name} {len(dataset)}", (PANEL[0] - 116, 26 + 24 * row), 0.5, INK)
        for _, x, y in _within(view.pixels(rings)):
            cv2.circle(panel, (x, y), 9, FAULT, 2, cv2.LINE_AA)
        for number, x, y in _within(view.pixels(numbered)):
            for color, width in ((PAPER, 4), (INK, 2)):
                _write(panel, str(number), (x + 10, y - 8), 0.6, color, width)
        panels.append(panel)
    top, tiles = side_by_side(panels), []
    for number, (picture, faulty) in enumerate(shown, 1):
        title = f"{number}  {picture.splits[0]}  {picture.path.parent.name}/{picture.path.name}"[:46]
        tiles.append(
            _tile(read_or_black(picture.path), title, FAULT if faulty else COLORS[picture.splits[0]], SCENE_TILE)
        )
    below = contact_sheet(tiles, SCENE_TILES)
    room = top.shape[1] - below.shape[1]
    write_image(path, np.vstack([top, np.pad(below, ((0, 0), (0, room), (0, 0)), constant_values=255)]))


def read_or_black(path: Path) -> Image:
    """A picture; black where it cannot be read."""
    try:
        return read_image(path)
    except DataError:
        return np.zeros((*SHEET_TILE[::-1], 3), dtype=np.uint8)


def _tile(image: Image, title: str, color: Color, size: tuple[int, int]) -> Image:
    """A picture scaled into ``size`` (width, height), under a line that names it."""
    tile: Image = np.vstack([np.full((TITLE, size[0], 3), color, np.uint8), fitted(image, size)])
    _write(tile, title, (6, 17), 0.45, PAPER)
    return tile


def _draw_instance(image: Image, frame: Frame, instance: Instance, model: CheckedModel | None) -> Image:
    """The projected contour, box and axes of an instance, and its annotated box as a white rectangle."""
    if model is not None:
        shape = Shape(model.mesh.vertices, model.mesh.faces)
        corners = box_corners(model.mesh.vertices.min(axis=0), model.mesh.vertices.max(axis=0))
        color, label = color_of(instance.obj_id), str(instance.obj_id)
        image = draw_pose(image, instance.R, instance.t, frame.K, corners, color, label, shape)
    if instance.bbox_obj is not None:
        draw_box(image, np.stack([instance.bbox_obj[:2], instance.bbox_obj[:2] + instance.bbox_obj[2:]]))
    return image


def draw_box(image: Image, ends: Array) -> None:
    """Draw a white rectangle between two corners ``[2, 2]`` (x, y), in place."""
    # Boxes under suspicion may lie anywhere, and OpenCV takes 32 bits.
    low, high = np.clip(np.rint(ends), -9, max(image.shape) + 9).astype(int).tolist()
    cv2.rectangle(image, low, high, PAPER, 1)


def _draw_split(panel: Image, view: View, dataset: CameraDataset, color: Color) -> None:
    """All cameras as dots, some with arrows."""
    R, centers = dataset.R, dataset.centers
    draw_cameras(panel, view, R, centers, [color] * len(R), arrow=0.0, radius=2)
    rows = np.unique(np.linspace(0, len(R) - 1, min(_ARROWS, len(R))).astype(int))
    draw_cameras(panel, view, R[rows], centers[rows], [color] * len(rows), arrow=_ARROW, radius=3)


def _write(image: Image, text: str, place: tuple[int, int], scale: float, color: Color, width: int = 1) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, color, width, cv2.LINE_AA)


def _within(pixels: Array) -> list[tuple[int, int, int]]:
    """Of ``[N, 2]`` those that lie in a panel: number from 1, x, y."""
    inside = np.flatnonzero(((pixels >= 0) & (pixels < PANEL)).all(axis=1))
    return [(row + 1, round(pixels[row, 0]), round(pixels[row, 1])) for row in inside.tolist()]
