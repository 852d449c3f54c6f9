"""Checks of a frame of a BOP data set: each pose against units, boxes, masks and depth."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posedistill.data.check.models import CheckedModel
from posedistill.data.faults import Fault, FaultKind, fault, reported
from posedistill.data.formats.bop import Frame, Instance, read_depth
from posedistill.data.formats.bop_writer import mask_box
from posedistill.data.images import read_mask
from posedistill.geometry.cameras import Array, pixel_box, project

MIN_DISTANCE = 10.0
"""mm; a camera this near to an object's origin means a translation in metres."""
MIN_IOU = 0.8
BOX_SLACK = 3.0
"""Pixels that every side of two boxes may differ by, whatever their IoU: a thin object loses a fifth to rounding."""
MIN_VISIBLE = 0.01
"""Visible share from which a visible mask must hold a pixel."""
MAX_OUTSIDE = 0.02
"""Share of a visible mask that may lie outside of the whole mask."""


@dataclass
class _Result:
    """What is wrong with a frame; ``size`` (width, height) is None where its image is not decoded or damaged."""

    frame: Frame
    size: tuple[int, int] | None
    faults: list[Fault] = field(default_factory=list)

    def add(self, kind: FaultKind, file: Path, key: str, found: object, expected: object) -> None:
        """Note a fault, worded as everywhere."""
        self.faults.append(fault(kind, file, key, found, expected))


def check_frame(
    frame: Frame, models: dict[int, CheckedModel], size: tuple[int, int] | None, decode: bool
) -> list[Fault]:
    """Check a frame against the models; its depth and masks are only read where ``decode`` is set."""
    result = _Result(frame, size)
    depth = _layer(result, frame.depth, FaultKind.DAMAGED_IMAGE, partial(read_depth, frame)) if decode else None
    for instance in frame.instances:
        projected = _check_pose(result, instance, models.get(instance.obj_id))
        _check_visible_box(result, instance)
        if decode:
            visible = _check_masks(result, instance, projected)
            if depth is not None and visible is not None and projected is not None:
                _check_depth(result, instance, depth, visible, models[instance.obj_id].diameter)
    return result.faults


def box_iou(a: Array, b: Array) -> float:
    """Intersection over union of two boxes x, y, width, height."""
    sides = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.clip(sides, 0.0, None)))
    return shared / max(float(np.prod(a[2:]) + np.prod(b[2:])) - shared, 1e-12)


def _layer(result: _Result, path: Path | None, kind: FaultKind, read: Callable[[], NDArray]) -> NDArray | None:
    """Depth or a mask, None where there is none, or none of the image's size."""
    if path is None:
        return None
    layer = None
    with reported(result.faults.append, kind, path):
        layer = read()
    if layer is not None and result.size is not None and layer.shape != result.size[::-1]:
        found, expected = f"{layer.shape[1]}x{layer.shape[0]}", f"{result.size[0]}x{result.size[1]} as the image has"
        result.add(FaultKind.IMAGE_SIZE, path, "size", found, expected)
        return None
    return layer


def _check_pose(result: _Result, instance: Instance, model: CheckedModel | None) -> Array | None:
    """Check a pose's units and box; returns the box of the projected model, None where there can be none."""
    frame, file, key = result.frame, result.frame.scene.folder / "scene_gt.json", _name(result.frame, instance)
    distance = float(np.linalg.norm(instance.t))
    if instance.t[2] <= 0:
        found = f"depth {instance.t[2]:.4g}"
        result.add(FaultKind.BEHIND_CAMERA, file, f"{key}.cam_t_m2c", found, "an object before the camera")
        return None
    if distance < MIN_DISTANCE:
        found = f"a distance of {distance:.4g}"
        result.add(FaultKind.UNITS, file, f"{key}.cam_t_m2c", found, f"millimetres, {MIN_DISTANCE:g} or more")
        return None
    if model is None:
        return None
    depths = model.hull @ instance.R[2] + instance.t[2]
    if depths.min() <= 0:
        found = f"a distance of {distance:.4g} to an object of {model.diameter:.4g}"
        result.add(FaultKind.UNITS, file, f"{key}.cam_t_m2c", found, "millimetres, the camera outside of the object")
        return None
    projected = pixel_box(project(model.hull, instance.R, instance.t, frame.K))
    if instance.bbox_obj is not None and not _agree(instance.bbox_obj, projected, result.size):
        found = f"{_show(instance.bbox_obj)}, IoU {box_iou(instance.bbox_obj, projected):.2f} with the projected model"
        info = frame.scene.folder / "scene_gt_info.json"
        result.add(FaultKind.BOX, info, f"{key}.bbox_obj", found, f"about {_show(projected)}")
    return projected


def _check_visible_box(result: _Result, instance: Instance) -> None:
    info, key = result.frame.scene.folder / "scene_gt_info.json", _name(result.frame, instance)
    if not 0.0 <= instance.visib_fract <= 1.0:
        found = instance.visib_fract
        result.add(FaultKind.VISIBLE_BOX, info, f"{key}.visib_fract", found, "a share from 0 to 1")
    whole, part = instance.bbox_obj, instance.bbox_visib
    if whole is None or part is None:
        return
    beyond = np.concatenate([whole[:2] - part[:2], (part[:2] + part[2:]) - (whole[:2] + whole[2:])])
    if beyond.max() > BOX_SLACK:
        result.add(FaultKind.VISIBLE_BOX, info, f"{key}.bbox_visib", _show(part), f"a part of {_show(whole)}")


def _check_masks(result: _Result, instance: Instance, projected: Array | None) -> NDArray[np.bool_] | None:
    """Check both masks against the projected model, the box and each other; returns the visible one."""
    whole = _decoded_mask(result, instance.mask)
    if whole is not None:
        inside = projected is None or result.size is None or _clip(projected, result.size)[2:].min() > BOX_SLACK
        if not whole.any() and inside:
            result.add(FaultKind.EMPTY_MASK, _path(instance.mask), "mask", "no pixel set", "the silhouette")
        elif whole.any():
            _compare_mask(result, _path(instance.mask), whole, projected, instance.bbox_obj)
    visible = _decoded_mask(result, instance.mask_visib)
    if visible is None:
        return None
    path = _path(instance.mask_visib)
    if not visible.any():
        if instance.visib_fract >= MIN_VISIBLE:
            expected = f"the visible share of {instance.visib_fract:.2f}"
            result.add(FaultKind.EMPTY_MASK, path, "mask_visib", "no pixel set", expected)
        return None
    if whole is not None and np.count_nonzero(visible & ~whole) > MAX_OUTSIDE * np.count_nonzero(visible):
        share = np.count_nonzero(visible & ~whole) / np.count_nonzero(visible)
        result.add(FaultKind.MASK, path, "mask_visib", f"{share:.0%} outside of the whole mask", "a part of it")
    if instance.visib_fract >= 1.0 and projected is not None and instance.mask is None:
        _compare_mask(result, path, visible, projected, instance.bbox_visib)
    return visible


def _decoded_mask(result: _Result, path: Path | None) -> NDArray[np.bool_] | None:
    return _layer(result, path, FaultKind.MISSING_MASK, lambda: read_mask(_path(path), allow_empty=True))


def _compare_mask(
    result: _Result, path: Path, mask: NDArray[np.bool_], projected: Array | None, annotated: Array | None
) -> None:
    box = np.array(mask_box(mask), dtype=np.float64)
    size = (mask.shape[1], mask.shape[0])
    for other, name in ((projected, "the projected model"), (annotated, "the annotated box")):
        if other is not None and not _agree(box, other, size):
            result.add(FaultKind.MASK, path, "mask", f"a mask in {_show(box)}", f"{name}, {_show(other)}")
            return


def _check_depth(
    result: _Result, instance: Instance, depth: NDArray[np.float32], visible: NDArray[np.bool_], diameter: float
) -> None:
    measured = depth[visible & (depth > 0)]
    if len(measured) < 20:
        return
    middle = float(np.median(measured))
    if abs(middle - instance.t[2]) > diameter:
        key = f"{_name(result.frame, instance)}.cam_t_m2c"
        expected = f"{instance.t[2]:.4g} mm as the pose says (depth_scale {result.frame.depth_scale:g})"
        result.add(FaultKind.DEPTH, _path(result.frame.depth), key, f"a median depth of {middle:.4g} mm", expected)


def _agree(box: Array, projected: Array, size: tuple[int, int] | None) -> bool:
    """Whether a box is that of the projected model, or inside of it where the image's border cuts the object.

    Boxes of masks end at the border, and a cut silhouette may fill any part of the cut box.
    """
    beyond = np.concatenate([projected[:2] - box[:2], box[:2] + box[2:] - projected[:2] - projected[2:]])
    if box_iou(box, projected) >= MIN_IOU or np.abs(beyond).max() <= BOX_SLACK:
        return True
    if size is None:
        return False
    cut = _clip(projected, size)
    return not np.allclose(cut, projected) and bool(beyond.max() <= BOX_SLACK) and _touches_border(box, size)


def _touches_border(box: Array, size: tuple[int, int]) -> bool:
    low, high = box[:2], box[:2] + box[2:]
    return bool(low.min() <= BOX_SLACK or (np.array(size) - high).min() <= BOX_SLACK + 1)


def _clip(box: Array, size: tuple[int, int]) -> Array:
    limit = np.array(size, dtype=np.float64) - 1.0
    low, high = np.clip(box[:2], 0.0, limit), np.clip(box[:2] + box[2:], 0.0, limit)
    return np.concatenate([low, high - low])


def _name(frame: Frame, instance: Instance) -> str:
    return f"{frame.im_id}.object {instance.obj_id}"


def _show(box: Array) -> str:
    return "[" + ", ".join(f"{value:.0f}" for value in box) + "]"


def _path(path: Path | None) -> Path:
    assert path is not None
    return path
