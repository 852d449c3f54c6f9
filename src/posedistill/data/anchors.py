"""Anchors of single-shot networks: the typical sizes of objects in pictures, by k-means under the IoU of boxes.

Redmon and Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017.
"""

from typing import NamedTuple

import numpy as np

from posedistill.data.formats.bop import TARGET_VISIBILITY, BopDataset
from posedistill.data.images import image_size
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array, pixel_box, project

ROUNDS = 300
RESTARTS = 10


class Anchors(NamedTuple):
    """Widths and heights, small to large, and how well they fit."""

    sizes: Array
    """``[A, 2]``, in the units of the boxes."""
    iou: float
    """Mean over the boxes of the overlap with the most similar anchor, about one centre."""

    def __str__(self) -> str:
        return "[" + ", ".join(f"[{width:.3f}, {height:.3f}]" for width, height in self.sizes) + "]"


def fit_anchors(boxes: Array, count: int, seed: int = 0) -> Anchors:
    """The anchors that fit boxes best: the best of several runs of k-means, started as k-means++ does.

    Args:
        boxes: ``[N, 2]`` positive widths and heights.

    Raises:
        DataError: fewer different boxes than anchors, or a side of a box that is no length.

    >>> print(fit_anchors(np.array([[1.0, 2.0], [1.0, 2.0], [4.0, 3.0]]), 2))
    [[1.000, 2.000], [4.000, 3.000]]
    """
    if bad := np.count_nonzero(~(np.isfinite(boxes) & (boxes > 0)).all(axis=1)):
        found = f"{bad} of {len(boxes)} boxes with a side that is 0, negative or not finite"
        raise DataError(describe("boxes", "sides", found, "widths and heights above 0"))
    different = len(np.unique(boxes, axis=0))
    if not 1 <= count <= different:
        raise DataError(
            describe("boxes", "anchors", f"{count} for {different} different boxes", "fewer, and at least 1")
        )
    rng = np.random.default_rng(seed)
    best = max((_k_means(boxes, count, rng) for _ in range(RESTARTS)), key=lambda anchors: anchors.iou)
    return Anchors(best.sizes[np.argsort(best.sizes.prod(1))], best.iou)


def dataset_boxes(dataset: BopDataset, columns: int, rows: int) -> Array:
    """``[N, 2]`` width and height of the objects in a data set, in cells of a grid over each picture.

    They are those of the boxes around the projected corners of the objects' boxes, of instances of which a tenth is
    visible.

    Raises:
        DataError: no such instance, or damaged files.
    """
    objects, sizes = dataset.objects(), []
    for frame in dataset.frames:
        visible = [entry for entry in frame.instances if entry.visib_fract >= TARGET_VISIBILITY]
        if not visible:
            continue
        size = image_size(frame.rgb)
        for entry in visible:
            corners = objects.keypoints[objects.index(entry.obj_id)]
            sizes.append(pixel_box(project(corners, entry.R, entry.t, frame.K))[2:] / size * (columns, rows))
    if not sizes:
        raise DataError(describe(dataset.root / dataset.split, "instances", "none", "visible instances of the objects"))
    return np.array(sizes)


def _k_means(boxes: Array, count: int, rng: np.random.Generator) -> Anchors:
    """One run, from a random start."""
    sizes = boxes[rng.integers(len(boxes), size=1)]
    while len(sizes) < count:
        distance = 1 - _overlaps(boxes, sizes).max(1)
        sizes = np.concatenate([sizes, boxes[rng.choice(len(boxes), size=1, p=distance / distance.sum())]])
    chosen = np.full(len(boxes), -1)
    for _ in range(ROUNDS):
        overlaps = _overlaps(boxes, sizes)
        if np.array_equal(chosen, chosen := overlaps.argmax(1)):
            break
        members = np.arange(count)[:, None] == chosen
        means = members @ boxes / np.maximum(members.sum(1), 1)[:, None]
        sizes = np.where(members.any(1)[:, None], means, sizes)
    return Anchors(sizes, float(_overlaps(boxes, sizes).max(1).mean()))


def _overlaps(boxes: Array, sizes: Array) -> Array:
    """``[N, A]`` IoU of boxes about one centre."""
    shared = np.minimum(boxes[:, None], sizes).prod(2)
    return shared / (boxes.prod(1)[:, None] + sizes.prod(1) - shared)
