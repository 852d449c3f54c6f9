"""Parsing of BOP json files into columns; every fault is worded with file, key, found and expected."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.data.faults import Fault, FaultKind, OnFault, fault, raise_fault
from posedistill.data.formats.bop_scene import Annotations, Scene
from posedistill.data.images import IMAGE_SUFFIXES
from posedistill.errors import DataError
from posedistill.files import read_json
from posedistill.geometry.cameras import Array

ROTATION_TOLERANCE = 0.02
"""Largest entry of ``|R Rᵀ - I|`` that is still taken for rounding; the published LM-O annotations reach 0.0096."""
LARGEST_ID = 2**31

Entry = tuple[str, Any]
"""A label such as ``3[0]`` (image 3, first instance) and the json object it stands for."""


def load_json(path: Path, on_fault: OnFault = raise_fault) -> Any:
    """The content of a json file; ``DataError`` (or None where ``on_fault`` returns) for anything else."""
    try:
        return read_json(path)
    except DataError as error:
        on_fault(Fault(FaultKind.JSON if path.exists() else FaultKind.MISSING_FOLDER, path, str(error)))
    return None


def load_keyed_json(path: Path, on_fault: OnFault = raise_fault) -> dict[int, Any]:
    """A json object whose keys are integers, ordered by key."""
    content = load_json(path, on_fault)
    if content is not None and not isinstance(content, dict):
        on_fault(fault(FaultKind.JSON, path, "top level", type(content).__name__, "an object with integer keys"))
    keyed = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        if key.isdecimal() and len(key) < 10:
            keyed[int(key)] = value
        else:
            on_fault(fault(FaultKind.JSON, path, key[:80], "another key", "an integer below 10^9"))
    return dict(sorted(keyed.items()))


def load_json_list(path: Path, on_fault: OnFault = raise_fault) -> list[Entry]:
    """The entries of a json list, labelled ``[0]``, ``[1]``, ..."""
    content = load_json(path, on_fault)
    if content is not None and not isinstance(content, list):
        on_fault(fault(FaultKind.JSON, path, "top level", type(content).__name__, "a list"))
    return [(f"[{index}]", entry) for index, entry in enumerate(content if isinstance(content, list) else ())]


def load_scene(folder: Path, on_fault: OnFault = raise_fault) -> Scene:
    """Parse a scene folder, each of its json files once.

    Where ``on_fault`` returns, damaged cameras and instances are left out and the rest is kept.
    """
    image_folder = "gray" if (folder / "gray").is_dir() and not (folder / "rgb").is_dir() else "rgb"
    if not (folder / image_folder).is_dir():
        on_fault(fault(FaultKind.MISSING_FOLDER, folder, "rgb", "no such folder", "a folder rgb or gray"))
    listed, camera_rows, K, depth_scales = _parse_cameras(folder / "scene_camera.json", on_fault)
    ground_truth = folder / "scene_gt.json"
    annotations, annotated = None, frozenset[int]()
    if ground_truth.exists():
        annotations, annotated = _parse_annotations(ground_truth, folder / "scene_gt_info.json", on_fault)
    return Scene(
        scene_id=int(folder.name),
        folder=folder,
        image_folder=image_folder,
        image_names=_numbered_files(folder / image_folder, on_fault),
        depth_names=_numbered_files(folder / "depth", on_fault),
        has_mask=(folder / "mask").is_dir(),
        has_mask_visib=(folder / "mask_visib").is_dir(),
        listed=listed,
        camera_rows=camera_rows,
        K=K,
        depth_scales=depth_scales,
        annotations=annotations,
        annotated=annotated,
    )


def _numbered_files(folder: Path, on_fault: OnFault) -> dict[int, str]:
    """Image id -> file name for the images of a folder; empty where there is no such folder."""
    if not folder.is_dir():
        return {}
    names: dict[int, str] = {}
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 (a Path for each of 100,000 names is slow)
        stem, suffix = os.path.splitext(name)  # noqa: PTH122
        if suffix.lower() not in IMAGE_SUFFIXES or not stem.isdecimal():
            continue
        if (first := names.setdefault(int(stem), name)) != name:
            on_fault(fault(FaultKind.SAME_ID, folder, stem, f"{first} and {name}", "one image of each id"))
    return names


def _parse_cameras(path: Path, on_fault: OnFault) -> tuple[frozenset[int], dict[int, int], Array, Array]:
    """All image ids, those of sound cameras with their rows, ``K [F, 3, 3]``, ``depth_scales [F]`` (1 where absent)."""
    content = load_keyed_json(path, on_fault)
    entries = [(str(im_id), value) for im_id, value in content.items()]
    K = parse_numbers(path, entries, "cam_K", 9, on_fault).reshape(-1, 3, 3)
    depth_scales = parse_numbers(path, entries, "depth_scale", 1, on_fault, default=1.0)[:, 0]
    upright = (K[:, 0, 0] > 0) & (K[:, 1, 1] > 0) & (np.abs(K[:, 2] - [0.0, 0.0, 1.0]) < 1e-6).all(axis=1)
    known = ~np.isnan(K).any(axis=(1, 2))
    for row in np.flatnonzero(known & ~upright).tolist():
        key, expected = f"{entries[row][0]}.cam_K", "focal lengths > 0 and a last row 0 0 1"
        on_fault(fault(FaultKind.CAMERA, path, key, K[row].round(3).tolist(), expected))
    kept = known & upright & ~np.isnan(depth_scales)
    im_ids = [im_id for im_id, keep in zip(content, kept, strict=True) if keep]
    return frozenset(content), {im_id: row for row, im_id in enumerate(im_ids)}, K[kept], depth_scales[kept]


def _parse_annotations(path: Path, info_path: Path, on_fault: OnFault) -> tuple[Annotations, frozenset[int]]:
    """The instances of ``scene_gt.json`` with what ``scene_gt_info.json``, where it exists, says of them."""
    content = load_keyed_json(path, on_fault)
    entries: list[Entry] = []
    ids: list[tuple[int, int]] = []
    for im_id, instances in content.items():
        if not isinstance(instances, list):
            on_fault(fault(FaultKind.JSON, path, str(im_id), type(instances).__name__, "a list of instances"))
            continue
        for gt_id, instance in enumerate(instances):
            entries.append((f"{im_id}[{gt_id}]", instance))
            ids.append((im_id, gt_id))
    R = parse_numbers(path, entries, "cam_R_m2c", 9, on_fault).reshape(-1, 3, 3)
    t = parse_numbers(path, entries, "cam_t_m2c", 3, on_fault)
    obj_ids = parse_numbers(path, entries, "obj_id", 1, on_fault, whole=True)[:, 0]
    kept = ~(np.isnan(R).any(axis=(1, 2)) | np.isnan(t).any(axis=1) | np.isnan(obj_ids))
    scores = parse_numbers(path, entries, "score", 1, on_fault, default=1.0)[:, 0]
    kept &= ~np.isnan(scores) & _check_rotations(path, entries, R, on_fault)
    boxes, visible_boxes, visib_fract = _parse_info(info_path, content, ids, on_fault)
    im_ids, gt_ids = np.array(ids, dtype=np.int64).reshape(-1, 2).T
    objects = np.nan_to_num(obj_ids).astype(np.int64)
    table = Annotations(im_ids, gt_ids, objects, R, t, boxes, visible_boxes, visib_fract, scores)
    return table if kept.all() else table.select(kept), frozenset(content)


def _check_rotations(path: Path, entries: Sequence[Entry], R: Array, on_fault: OnFault) -> NDArray[np.bool_]:
    """``[M]`` True for rotations (and for NaN, which has been reported before)."""
    with np.errstate(over="ignore", invalid="ignore"):
        defect = np.abs(R @ R.swapaxes(1, 2) - np.eye(3)).max(axis=(1, 2), initial=0.0)
        determinant = np.linalg.det(R)
    missing = np.isnan(R).any(axis=(1, 2))
    sound: NDArray[np.bool_] = missing | ((defect <= ROTATION_TOLERANCE) & (determinant > 0))
    for row in np.flatnonzero(~sound).tolist():
        found = f"a matrix with |R Rᵀ - I| = {defect[row]:.3g} and determinant {determinant[row]:.3g}"
        on_fault(fault(FaultKind.ROTATION, path, f"{entries[row][0]}.cam_R_m2c", found, "a rotation"))
    return sound


def _parse_info(
    path: Path, ground_truth: dict[int, Any], ids: Sequence[tuple[int, int]], on_fault: OnFault
) -> tuple[Array, Array, Array]:
    """``bbox_obj [M, 4]``, ``bbox_visib [M, 4]`` and ``visib_fract [M]``; NaN where the file says nothing."""
    count = len(ids)
    boxes, visible, fraction = np.full((count, 4), np.nan), np.full((count, 4), np.nan), np.full(count, np.nan)
    if not path.exists():
        return boxes, visible, fraction
    content = load_keyed_json(path, on_fault)
    entries: list[Entry] = []
    rows: list[int] = []
    for row, (im_id, gt_id) in enumerate(ids):
        infos = content.get(im_id)
        if isinstance(infos, list) and gt_id < len(infos):
            entries.append((f"{im_id}[{gt_id}]", infos[gt_id]))
            rows.append(row)
    for im_id, instances in ground_truth.items():
        infos = content.get(im_id)
        expected = len(instances) if isinstance(instances, list) else 0
        if content and (not isinstance(infos, list) or len(infos) != expected):
            found = f"{len(infos)} entries" if isinstance(infos, list) else "no list"
            on_fault(fault(FaultKind.INFO_LENGTH, path, str(im_id), found, f"{expected} as in scene_gt.json"))
    boxes[rows] = parse_numbers(path, entries, "bbox_obj", 4, on_fault)
    visible[rows] = parse_numbers(path, entries, "bbox_visib", 4, on_fault)
    fraction[rows] = parse_numbers(path, entries, "visib_fract", 1, on_fault)[:, 0]
    return boxes, visible, fraction


def parse_numbers(
    path: Path,
    entries: Sequence[Entry],
    key: str,
    count: int,
    on_fault: OnFault = raise_fault,
    default: float | None = None,
    whole: bool = False,
) -> Array:
    """``[len(entries), count]`` the numbers under ``key`` of each entry; NaN rows where there is a fault.

    Args:
        default: what an entry without the key has; its absence is a fault where None. whole: ids, from 0.
    """
    try:
        found = [entry[key] if default is None else entry.get(key, default) for _, entry in entries]
        values = np.array(found, dtype=np.float64).reshape(len(entries), count)
        if _sound(values, whole):
            return values
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        pass
    values = np.full((len(entries), count), np.nan)
    for row, (label, entry) in enumerate(entries):
        try:
            values[row] = _numbers(path, label, entry, key, count, default, whole)
        except Fault as error:
            on_fault(error)
    return values


def _numbers(path: Path, label: str, entry: Any, key: str, count: int, default: float | None, whole: bool) -> Array:
    """One entry's numbers, or a ``Fault``."""
    name = f"{label}.{key}"
    expected = ("a whole number" if whole else "a number") if count == 1 else f"{count} numbers"
    if not isinstance(entry, dict):
        raise fault(FaultKind.JSON, path, label, type(entry).__name__, f"an object with '{key}'")
    if key not in entry and default is None:
        raise fault(FaultKind.MISSING_KEY, path, name, "no such key", expected)
    try:
        numbers = np.array(entry.get(key, default), dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        raise fault(FaultKind.WRONG_COUNT, path, name, repr(entry[key])[:80], expected) from None
    if len(numbers) != count:
        raise fault(FaultKind.WRONG_COUNT, path, name, f"{len(numbers)} numbers", expected)
    if not _sound(numbers, whole):
        raise fault(FaultKind.WRONG_COUNT, path, name, numbers.tolist(), f"{expected}, finite")
    return numbers


def _sound(values: Array, whole: bool) -> bool:
    if not np.isfinite(values).all():
        return False
    return not whole or bool(((values >= 0) & (values < LARGEST_ID) & (values == np.floor(values))).all())
