"""Poses of labelled instances: stated beside the labels or in their lines, or else solved from the nine points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posedistill.data.faults import FaultKind, OnFault, fault
from posedistill.data.formats.labels.files import OTHER_ORDER, Labels, Size, read_poses
from posedistill.geometry.cameras import Array, project, scaled_camera
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.objects import box_corners
from posedistill.geometry.pnp import solve_pnp

MILLIMETRES = 1000.0
"""Of a metre, the unit of label folders."""
FITS, EXACT = 1.0, 0.05
"""Pixels (median) by which labels may miss the projections of their poses, and by which nobody need be told of it."""
_THRESHOLD, _STRAY = 20.0, 10.0
"""Pixels within which points take part in a pose; medians beyond which a single label is wrong."""


@dataclass(frozen=True, eq=False)
class LabelledPicture:
    """An image with its labels.

    Attributes:
        path: of the image. file: of its labels. size: of the image as it is stored.
        K: ``[3, 3]`` of pictures of the size ``labelled``, which may be another one.
    """

    path: Path
    file: Path
    labels: Labels
    K: Array
    labelled: Size
    size: Size

    @property
    def camera(self) -> Array:
        """``[3, 3]`` of the image as it is stored."""
        return self.K if self.labelled == self.size else scaled_camera(self.K, self.labelled, self.size)


@dataclass(frozen=True, eq=False)
class PosedLabel:
    """The pose ``R [3, 3]``, ``t [3]`` mm of one label: of the line ``row`` of the labels of a picture.

    ``error``: pixels (root mean square) by which the label misses the projections. solved: whether it was by PnP.
    """

    picture: LabelledPicture
    row: int
    obj_id: int
    R: Array
    t: Array
    error: float
    solved: bool


def labelled_points(mesh: Mesh) -> Array:
    """``[9, 3]`` what labels are projections of: the origin, and the corners of the mesh's box."""
    return np.concatenate([np.zeros((1, 3)), box_corners(mesh.vertices.min(axis=0), mesh.vertices.max(axis=0))])


def pose_labels(
    pictures: Sequence[LabelledPicture], objects: Mapping[int, int], points: Mapping[int, Array], on_fault: OnFault
) -> tuple[list[PosedLabel], list[str]]:
    """The poses of all labels, and what a user should know of them.

    Labels in another order of corners (OCCLUSION) are told by their poses.

    Args:
        objects: object id of each class; labels of other classes are left out.
        points: ``[9, 3]`` mm of each object, see ``labelled_points``.

    Raises:
        Fault: damaged files of poses, or labels that no pose explains: mesh, intrinsics and labels do not belong
            together.
    """
    found = _posed(pictures, objects, points, tuple(range(9)), on_fault)
    notes: list[str] = []
    if _median(found) > FITS:
        turned = _posed(pictures, objects, points, OTHER_ORDER, on_fault)
        if _median(turned) <= FITS:
            found, notes = (
                turned,
                ["the corners of the labels come in the order of OCCLUSION and were put into the usual one"],
            )
    if not found:
        return found, notes
    median, first = _median(found), found[0].picture.file
    if median > FITS:
        shown = f"labels that miss the best poses by {median:.1f} px (median of {len(found)})"
        expected = f"{FITS:g} px at most: mesh, fx, fy, u0, v0 and width, height must be those of the labels"
        on_fault(fault(FaultKind.LABEL, first, "points", shown, expected))
    solved = sum(label.solved for label in found)
    if solved:
        notes.append(
            f"{solved} of {len(found)} poses come from the labels by PnP (no file states them), {median:.2g} px off"
        )
    elif median > EXACT:
        notes.append(f"the labels miss the stated poses by {median:.2g} px (median)")
    kept = []
    for label in found:
        if label.error > _STRAY * max(median, EXACT) + FITS:
            key, shown = f"line {label.row + 1}", f"points that no pose explains, {label.error:.1f} px off"
            on_fault(fault(FaultKind.LABEL, label.picture.file, key, shown, f"about {median:.1g} px, as the others"))
        else:
            kept.append(label)
    return kept, notes


def _posed(
    pictures: Sequence[LabelledPicture],
    objects: Mapping[int, int],
    points: Mapping[int, Array],
    order: tuple[int, ...],
    on_fault: OnFault,
) -> list[PosedLabel]:
    """The poses of all labels, whose points are put into an ``order`` first."""
    found = []
    for picture in pictures:
        stated = _stated(picture, on_fault)
        for row, label in enumerate(picture.labels.classes.tolist()):
            if (obj_id := objects.get(label)) is None:
                continue
            pixels, pose = picture.labels.points[row][list(order)] * picture.labelled, stated[row]
            if pose is None:
                solved = solve_pnp(pixels, points[obj_id], picture.K, threshold=_THRESHOLD)
                R, t = (np.eye(3), np.full(3, np.inf)) if solved is None else (solved.R, solved.t)
            else:
                R, t = pose[0], MILLIMETRES * pose[1]
            error = _error(points[obj_id], R, t, picture.K, pixels)
            found.append(PosedLabel(picture, row, obj_id, R, t, error, pose is None))
    return found


def _stated(picture: LabelledPicture, on_fault: OnFault) -> list[tuple[Array, Array] | None]:
    """The poses that a file beside the labels or their lines state."""
    folder, count = picture.file.parent, len(picture.labels.classes)
    path = folder.parent / "poses" / picture.file.name
    if folder.name == "labels" and count and path.exists():
        return list(read_poses(path, count, on_fault)) or [None] * count
    return picture.labels.poses


def _error(points: Array, R: Array, t: Array, K: Array, pixels: Array) -> float:
    if not np.isfinite(t).all():
        return np.inf
    return float(np.sqrt(((project(points, R, t, K) - pixels) ** 2).sum(axis=1).mean()))


def _median(found: Sequence[PosedLabel]) -> float:
    return float(np.median([label.error for label in found])) if found else 0.0
