"""Renderings of CAD models from around them, for teachers that see shapes in several views."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.viewpoint.kinds import Kind
from posedistill.data.formats.viewpoint.renderings import rendering_path
from posedistill.data.images import write_image
from posedistill.data.render.categories import DIAGONAL, Shapes
from posedistill.data.render.raycast import Model, build_model, cast, pixel_rays
from posedistill.geometry.ray_casting import Floats
from posedistill.geometry.viewpoint import viewpoint_rotation

DISTANCE = 1.5 * DIAGONAL
"""Of the camera from a shape's middle, as published."""
_FINE = 2
"""Rays for each pixel and direction, to smooth edges."""
_LIGHT = np.array([0.35, -0.7, -0.62]) / np.linalg.norm([0.35, -0.7, -0.62])
"""Where the lamp stands, beside the camera and above; camera axes."""


def render_views(
    shapes: Shapes,
    out: Path,
    angles: Sequence[tuple[int, int]],
    size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write every shape from every azimuth and elevation, before black, cut to its silhouette; returns how many.

    Args:
        shapes: centred, of one size, z up, the front towards -y. size: side of the picture before the cut, pixels.

    Raises:
        DataError: a full disk.
    """
    fine = _FINE * size
    focal = fine / 2 * DISTANCE / (0.55 * DIAGONAL)
    K = np.array([[focal, 0.0, (fine - 1) / 2], [0.0, focal, (fine - 1) / 2], [0.0, 0.0, 1.0]])
    rays, done = pixel_rays(K, fine, fine), 0
    for (category, name), mesh in sorted(shapes.items()):
        model = build_model(mesh, 1)
        for azimuth, elevation in angles:
            picture = _picture(model, np.array([azimuth, elevation, 0.0]), K, rays)
            write_image(rendering_path(out, Kind(category, name), azimuth, elevation), picture)
            done += 1
            if progress is not None:
                progress(done, len(shapes) * len(angles))
    return done


def _picture(model: Model, viewpoint: NDArray[np.float64], K: NDArray[np.float64], rays: Floats) -> NDArray[np.uint8]:
    """RGB of one view, lit by a lamp and the sky; one black pixel where nothing is seen."""
    R, t = viewpoint_rotation(viewpoint), np.array([0.0, 0.0, DISTANCE])
    view = cast(model, R, t, K, rays)
    assert view is not None
    rows, columns = np.nonzero(view.face >= 0)
    if not len(rows):  # a plate from its edge, or a needle between two rays
        return np.zeros((1, 1, 3), np.uint8)
    values = view.attributes(model, rows, columns)
    normals = values[:, :3] @ R.T
    # Models have turned faces: what is seen is lit from its own side.
    facing = np.abs(normals @ _LIGHT) / np.maximum(np.linalg.norm(normals, axis=1), 1e-9)
    light = values[:, 6:7] * (0.35 + 0.65 * facing[:, None])
    picture = np.zeros((*view.face.shape, 3), np.uint8)
    picture[rows, columns] = (255 * np.clip(values[:, 3:6] * light, 0, 1) ** (1 / 2.2)).round()
    low, high = np.stack([rows, columns]).min(axis=1), np.stack([rows, columns]).max(axis=1) + 1
    cut = picture[low[0] : high[0], low[1] : high[1]]
    size = (max(1, cut.shape[1] // _FINE), max(1, cut.shape[0] // _FINE))
    return np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), np.uint8)
