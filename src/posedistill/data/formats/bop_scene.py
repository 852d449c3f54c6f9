"""One scene folder of a BOP data set: its annotation files parsed once into columns, frames as views of them.

Format: https://github.com/thodan/bop_toolkit/blob/master/docs/bop_datasets_format.md
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posedistill.geometry.cameras import Array


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotated object in one frame.

    Attributes:
        obj_id: BOP object id.
        R: ``[3, 3]`` object to camera. t: ``[3]`` mm.
        bbox_obj: ``[4]`` x, y, width, height in pixels of the whole silhouette; None where not known.
        bbox_visib: the same of the visible part; None where not known or where nothing is visible.
        visib_fract: visible share of the silhouette; 1 where not known.
        mask: file of the whole silhouette; None where the scene has no such masks.
        mask_visib: file of the visible part (rightly empty at ``visib_fract`` 0); None where the scene has none.
        score: 0..1, how sure the estimator was that made this pose; 1 where a person annotated it.
    """

    obj_id: int
    R: Array
    t: Array
    bbox_obj: Array | None
    bbox_visib: Array | None
    visib_fract: float
    mask: Path | None
    mask_visib: Path | None
    score: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image with its camera and annotations; everything is looked up in the scene's columns when asked for."""

    scene: "Scene"
    im_id: int

    @property
    def scene_id(self) -> int:
        """Number of the scene folder."""
        return self.scene.scene_id

    @property
    def rgb(self) -> Path:
        """The image file; a path that does not exist where the image is missing."""
        return self.scene.image_path(self.im_id)

    @property
    def depth(self) -> Path | None:
        """The depth image, where there is one."""
        name = self.scene.depth_names.get(self.im_id)
        return None if name is None else self.scene.folder / "depth" / name

    @property
    def K(self) -> Array:
        """``[3, 3]`` intrinsics in pixels."""
        return self.scene.K[self.scene.camera_rows[self.im_id]]

    @property
    def depth_scale(self) -> float:
        """Millimetres per unit of the depth image."""
        return float(self.scene.depth_scales[self.scene.camera_rows[self.im_id]])

    @property
    def is_annotated(self) -> bool:
        """Whether the annotations list the frame, be it without an instance."""
        return self.im_id in self.scene.annotated

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The annotated objects, in the order of ``scene_gt.json``."""
        return tuple(self.scene.instance(row) for row in self.scene.rows_of(self.im_id))


@dataclass(frozen=True)
class Annotations:
    """The instances of a scene in ``M`` rows, ordered by image.

    Attributes:
        im_ids: ``[M]`` image. gt_ids: ``[M]`` position in the image's list, which names the mask files.
        obj_ids: ``[M]``. R: ``[M, 3, 3]``. t: ``[M, 3]`` mm.
        boxes, visible_boxes: ``[M, 4]`` x, y, width, height; NaN where not known.
        visib_fract: ``[M]``; NaN where not known. scores: ``[M]``; 1 where not known.
    """

    im_ids: NDArray[np.int64]
    gt_ids: NDArray[np.int64]
    obj_ids: NDArray[np.int64]
    R: Array
    t: Array
    boxes: Array
    visible_boxes: Array
    visib_fract: Array
    scores: Array

    def __len__(self) -> int:
        return len(self.im_ids)

    def select(self, rows: NDArray[np.bool_]) -> "Annotations":
        """Only the rows where ``rows`` is True."""
        return Annotations(*(column[rows] for column in vars(self).values()))


@dataclass(frozen=True, eq=False)
class Scene:
    """One scene folder.

    Attributes:
        image_folder: ``rgb`` or ``gray``.
        image_names, depth_names: image id -> file name, of the files that exist.
        has_mask, has_mask_visib: whether the mask folders exist.
        listed: image ids that ``scene_camera.json`` lists.
        camera_rows: image id -> row of ``K [F, 3, 3]`` and ``depth_scales [F]``, ordered by id.
        annotations: None where the scene has no ``scene_gt.json`` (a pure test set).
        annotated: image ids that ``scene_gt.json`` lists.
    """

    scene_id: int
    folder: Path
    image_folder: str
    image_names: dict[int, str]
    depth_names: dict[int, str]
    has_mask: bool
    has_mask_visib: bool
    listed: frozenset[int]
    camera_rows: dict[int, int]
    K: Array
    depth_scales: Array
    annotations: Annotations | None
    annotated: frozenset[int]

    def frames(self) -> list[Frame]:
        """All images that ``scene_camera.json`` lists, ordered by id."""
        return [Frame(self, im_id) for im_id in self.camera_rows]

    def image_path(self, im_id: int) -> Path:
        """The image file of an id, existing or not."""
        return self.folder / self.image_folder / self.image_names.get(im_id, f"{im_id:06d}.png")

    def rows_of(self, im_id: int) -> range:
        """Rows of the annotations that belong to an image."""
        if self.annotations is None:
            return range(0)
        start, stop = np.searchsorted(self.annotations.im_ids, [im_id, im_id + 1])
        return range(int(start), int(stop))

    def instance(self, row: int) -> Instance:
        """The instance in a row of the annotations."""
        table = self.annotations
        assert table is not None
        name = f"{table.im_ids[row]:06d}_{table.gt_ids[row]:06d}.png"
        fraction = float(table.visib_fract[row])
        return Instance(
            obj_id=int(table.obj_ids[row]),
            R=table.R[row],
            t=table.t[row],
            bbox_obj=_known_box(table.boxes[row]),
            bbox_visib=_known_box(table.visible_boxes[row]),
            visib_fract=1.0 if np.isnan(fraction) else fraction,
            mask=self.folder / "mask" / name if self.has_mask else None,
            mask_visib=self.folder / "mask_visib" / name if self.has_mask_visib else None,
            score=float(table.scores[row]),
        )

    def with_objects(self, obj_ids: Collection[int]) -> "Scene":
        """The scene with the instances of these objects alone, and without frames that hold none of them."""
        if self.annotations is None:
            return self
        table = self.annotations.select(np.isin(self.annotations.obj_ids, list(obj_ids)))
        kept = set(table.im_ids.tolist())
        cameras = {im_id: row for im_id, row in self.camera_rows.items() if im_id in kept}
        return replace(self, annotations=table, camera_rows=cameras)


def _known_box(box: Array) -> Array | None:
    """The box, or None for NaN (not known) and BOP's ``-1 -1 -1 -1`` (nothing to see)."""
    return box if box[2] > 0 and box[3] > 0 else None
