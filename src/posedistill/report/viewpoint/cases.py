"""Best and worst viewpoints: the photograph, and beside it the shape in the true and in the predicted pose."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from posedistill.data.formats.viewpoint.clouds import read_shape
from posedistill.data.images import read_image
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.meshes.parts import Faces
from posedistill.geometry.viewpoint import rotation_viewpoint
from posedistill.report.cases import GUESS, TRUTH, save_pictures

SIDE = 260
"""Of each of the three panels, pixels."""
_LIGHT = np.array([0.3, -0.6, -0.75])
_PAPER = 245
_MOST_FACES = 20_000
"""Of larger meshes so many are drawn, evenly taken from the list."""

Shape = Array | tuple[Array, Faces]
"""A cloud ``[N, 3]``, or vertices and faces."""


@dataclass(frozen=True)
class ViewCase:
    """One prediction beside its truth.

    Attributes:
        image: the file. box: left, upper, right, lower, pixels. shape: a file; None draws a block whose front is red.
        R_gt, R: ``[3, 3]`` category to camera. error: degrees. name: of the target. category: its.
    """

    image: Path
    box: tuple[float, float, float, float]
    shape: Path | None
    R_gt: Array
    R: Array
    error: float
    name: str = ""
    category: str = ""

    def caption(self) -> str:
        """Category, picture, both viewpoints and the error, in one line."""
        true, found = (_angles(R) for R in (self.R_gt, self.R))
        return f"{self.category}, {self.name}: true {true}, found {found}: {self.error:.1f}° off"


def save_view_cases(folder: Path, stage: str, cases: Sequence[ViewCase], count: int = 4) -> list[Path]:
    """Draw the ``count`` best and worst into ``folder``, as :func:`report.cases.save_cases` does."""
    about = [{"caption": case.caption(), "name": case.name, "unit": "deg"} for case in cases]
    return save_pictures(folder, stage, [case.error for case in cases], lambda i: draw_view(cases[i]), about, count)


def draw_view(case: ViewCase) -> Image:
    """``[SIDE, 3 SIDE, 3]`` RGB: the crop, the shape as it is, and the shape as it was thought to be.

    Raises:
        DataError: the photograph or the shape cannot be read.
    """
    shape = block() if case.shape is None else read_shape(case.shape)
    panels = [_crop(read_image(case.image), case.box)]
    for R, colour in ((case.R_gt, TRUTH), (case.R, GUESS)):
        panel = draw_shape(shape, R)
        cv2.rectangle(panel, (1, 1), (SIDE - 2, SIDE - 2), colour, 3)
        panels.append(panel)
    return np.concatenate(panels, axis=1)


def draw_shape(shape: Shape, R: Array) -> Image:
    """``[SIDE, SIDE, 3]`` the shape under a rotation, from far away: faces lit and sorted by depth, or points."""
    canvas = np.full((SIDE, SIDE, 3), _PAPER, np.uint8)
    vertices = shape[0] if isinstance(shape, tuple) else shape
    points = (vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2) @ R.T
    if not np.isfinite(points).all():
        return canvas  # nothing was found
    # One scale for every pose of a shape: the ball around it fills the panel.
    pixels = SIDE / 2 + 0.46 * SIDE * points[:, :2] / max(float(np.linalg.norm(points, axis=1).max()), 1e-12)
    if isinstance(shape, tuple):
        _fill_faces(canvas, points, pixels, shape[1])
    else:
        shades = _shades(-points[:, 2])
        for place in np.argsort(-points[:, 2]).tolist():
            x, y = pixels[place].round().astype(int).tolist()
            cv2.circle(canvas, (x, y), 1, (int(shades[place]),) * 3, -1)
    return canvas


def block() -> tuple[Array, Faces]:
    """A block, longer than wide and high, with a wedge on its front (towards -y) that tells front from rear."""
    corners = np.array([[x, y, z] for x in (-0.25, 0.25) for y in (-0.3, 0.5) for z in (-0.2, 0.2)])
    vertices = np.concatenate([corners, [[0.0, -0.5, -0.1]]])
    quads = ((0, 1, 3, 2), (4, 6, 7, 5), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    sides = [(a, b, c) for a, b, c, d in quads] + [(a, c, d) for a, b, c, d in quads]
    return vertices, np.array([*sides, *((first, second, 8) for first, second in ((0, 1), (1, 5), (5, 4), (4, 0)))])


def _fill_faces(canvas: Image, points: Array, pixels: Array, faces: Faces) -> None:
    """Triangles from far to near, each as bright as it faces the light (both of its sides alike)."""
    faces = np.asarray(faces)[:: -(-len(faces) // _MOST_FACES)]
    corners = points[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    facing = np.abs(normals @ (_LIGHT / np.linalg.norm(_LIGHT))) / np.maximum(lengths, 1e-12)
    shades = (60 + 170 * facing).astype(int)
    outlines = (pixels[faces] * 8).round().astype(np.int32)
    for place in np.argsort(-corners[..., 2].mean(axis=1)).tolist():
        cv2.fillConvexPoly(canvas, outlines[place], (int(shades[place]),) * 3, cv2.LINE_AA, shift=3)


def _shades(nearness: Array) -> Array:
    """Grey values: near points dark, far ones pale."""
    low, high = float(nearness.min()), float(nearness.max())
    return np.asarray(200 - 160 * (nearness - low) / max(high - low, 1e-12))


def _crop(image: Image, box: tuple[float, float, float, float]) -> Image:
    """The square about a box, black where it leaves the picture."""
    left, upper, right, lower = box
    side = 1.1 * max(right - left, lower - upper)
    scale = SIDE / side
    middle = np.array([left + right, upper + lower]) / 2
    affine = np.column_stack([np.eye(2) * scale, SIDE / 2 - scale * middle])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.warpAffine(np.ascontiguousarray(image), affine, (SIDE, SIDE), flags=method), np.uint8)


def _angles(R: Array) -> str:
    if not np.isfinite(R).all():
        return "nothing"
    azimuth, elevation, inplane = rotation_viewpoint(R).round().astype(int).tolist()
    return f"{azimuth % 360}°/{elevation}°/{inplane}°"
