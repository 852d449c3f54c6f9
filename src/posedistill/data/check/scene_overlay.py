"""The overlay picture of ``data check`` for scenes: where cameras stand and look, and photographs of both splits."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.check.poses import far_off
from posedistill.data.formats.scene import CameraDataset, CameraFrame
from posedistill.data.images import contact_sheet, read_image, write_image
from posedistill.errors import DataError
from posedistill.geometry.draw import Color, Image
from posedistill.geometry.draw_cameras import (
    INK,
    PAPER,
    VIEWS,
    View,
    camera_views,
    draw_cameras,
    new_panel,
    side_by_side,
)

PANEL, MARGIN = (960, 640), 70
"""Width and height of each of the two views, and room around the cameras, pixels."""
TILES, TILE = 6, (320, 240)
"""Photographs below the views; width and height of each."""
TITLE = 24
COLORS: dict[str, Color] = {"train": (0, 114, 178), "test": (230, 120, 0), "all": (0, 114, 178)}
FAULT: Color = (200, 0, 60)
_ARROWS, _ARROW = 60, 40.0
"""Arrows of a split, evenly thinned; their length, pixels."""


def draw_scene(splits: Mapping[str, CameraDataset], flagged: Sequence[Path], path: Path, unit: str) -> None:
    """Write the picture (png or jpg): views from above and from the side, then photographs, numbered in both.

    Args:
        flagged: photographs with a fault or a doubtful pose: ringed, and shown first. unit: of the world, for a scale.

    Raises:
        DataError: an ending OpenCV cannot write, or a disk that refuses the file.
    """
    tiles = _chosen(splits, flagged)
    frames = [frame for dataset in splits.values() for frame in dataset]
    R, centers = np.stack([frame.R for frame in frames]), np.stack([frame.center for frame in frames])
    kept = ~far_off(centers)  # one pose that is lost must not make a dot of all others
    rings = np.array([frame.center for frame in frames if frame.image in set(flagged)]).reshape(-1, 3)
    panels = []
    for title, view in zip(VIEWS, camera_views(R[kept], centers[kept], PANEL, MARGIN), strict=True):
        panel = new_panel(view, title, unit)
        for name, dataset in splits.items():
            _draw_split(panel, view, dataset, COLORS[name])
        for x, y in _within(view.pixels(rings)):
            cv2.circle(panel, (round(x), round(y)), 9, FAULT, 2, cv2.LINE_AA)
        _draw_numbers(panel, view, [frame for _, frame in tiles])
        _draw_legend(panel, splits)
        panels.append(panel)
    top = side_by_side(panels)
    photographs = [_tile(number, *tile, flagged) for number, tile in enumerate(tiles, 1)]
    below = contact_sheet(photographs, TILES)
    room = top.shape[1] - below.shape[1]
    write_image(path, np.vstack([top, np.pad(below, ((0, 0), (0, room), (0, 0)), constant_values=255)]))


def _chosen(splits: Mapping[str, CameraDataset], flagged: Sequence[Path]) -> list[tuple[str, CameraFrame]]:
    """Split and frame of the photographs shown: up to half of them flagged ones, the others spread over the splits."""
    frames = [(name, frame) for name, dataset in splits.items() for frame in dataset]
    doubtful = set(flagged)
    found = {frame.image: (name, frame) for name, frame in frames if frame.image in doubtful}
    first = [found[image] for image in dict.fromkeys(flagged) if image in found][: TILES // 2]
    sound = {name: [frame for frame in dataset if frame.image not in doubtful] for name, dataset in splits.items()}
    share = -(-(TILES - len(first)) // len(splits))
    others = [
        (name, some[row])
        for name, some in sound.items()
        for row in np.unique(np.linspace(0, len(some) - 1, min(share, len(some))).astype(int))
    ]
    return (first + others)[:TILES]


def _draw_split(panel: Image, view: View, dataset: CameraDataset, color: Color) -> None:
    """All cameras as dots, some with arrows."""
    R, centers = dataset.R, dataset.centers
    draw_cameras(panel, view, R, centers, [color] * len(R), arrow=0.0, radius=2)
    rows = np.unique(np.linspace(0, len(R) - 1, min(_ARROWS, len(R))).astype(int))
    draw_cameras(panel, view, R[rows], centers[rows], [color] * len(rows), arrow=_ARROW, radius=3)


def _draw_numbers(panel: Image, view: View, frames: Sequence[CameraFrame]) -> None:
    """The numbers of the photographs, where they were taken."""
    centers = np.array([frame.center for frame in frames])
    for number, (x, y) in enumerate(view.pixels(centers), 1):
        if len(_within(np.array([[x, y]]))):
            place = (round(x) + 10, round(y) - 8)
            for color, width in ((PAPER, 4), (INK, 2)):
                cv2.putText(panel, str(number), place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, color, width, cv2.LINE_AA)


def _draw_legend(panel: Image, splits: Mapping[str, CameraDataset]) -> None:
    for row, (name, dataset) in enumerate(splits.items()):
        y = 26 + 24 * row
        cv2.circle(panel, (PANEL[0] - 130, y - 5), 5, COLORS[name], cv2.FILLED, cv2.LINE_AA)
        text = f"{name} {len(dataset)}"
        cv2.putText(panel, text, (PANEL[0] - 116, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)


def _tile(number: int, split: str, frame: CameraFrame, flagged: Sequence[Path]) -> Image:
    """A photograph under a line that names it, in its split's colour; the name of a faulty one is red."""
    try:
        image = read_image(frame.image)
    except DataError:
        image = np.zeros((*TILE[::-1], 3), dtype=np.uint8)
    scale = min(TILE[0] / image.shape[1], TILE[1] / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    left, above = (TILE[0] - size[0]) // 2, (TILE[1] - size[1]) // 2
    tile: NDArray[np.uint8] = np.zeros((TITLE + TILE[1], TILE[0], 3), dtype=np.uint8)
    tile[:TITLE] = FAULT if frame.image in flagged else COLORS[split]
    tile[TITLE + above : TITLE + above + size[1], left : left + size[0]] = image
    text = f"{number}  {split}  {frame.image.parent.name}/{frame.image.name}"
    cv2.putText(tile, text[:46], (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return tile


def _within(pixels: np.ndarray) -> np.ndarray:
    """Of ``[N, 2]`` those that lie in a panel."""
    return pixels[((pixels >= 0) & (pixels < PANEL)).all(axis=1)]
