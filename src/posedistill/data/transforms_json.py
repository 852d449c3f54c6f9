"""Reader of ``transforms.json`` (NeRF, instant-ngp, nerfstudio): camera-to-world matrices with OpenGL's axes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.data.camera_dataset import CameraDataset, CameraFrame, hold_out_every, natural_order
from posedistill.data.camera_parse import (
    FrameFault,
    Split,
    image_size,
    numbers,
    pose_from_camera_to_world,
    read_text,
    reported,
)
from posedistill.data.faults import FaultKind, OnFault, raise_fault
from posedistill.data.images import IMAGE_SUFFIXES
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array

FILE = "transforms.json"
_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""OpenGL's camera has y up and looks along -z."""
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "PERSPECTIVE")
_LENS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")


def read_transforms(
    path: str | Path, split: Split = "train", every: int = 8, on_fault: OnFault = raise_fault
) -> CameraDataset:
    """Read a capture.

    Principal points are moved by half a pixel: this format has the corner of the first pixel at (0, 0).

    Args:
        path: the file, or the folder that holds ``transforms.json`` (or ``transforms_train.json`` and the like).
        split: by the file's ``train_filenames`` and ``test_filenames``, or one file for each split, where there are
            such; else each ``every``-th image is for testing, in the order of names.
        on_fault: called at a fault of a frame, which is then left out; raises by default.

    Raises:
        DataError: no such file, broken json, a missing key; a camera with a fisheye lens; a pose that is none; a pose
            without image; an image of another size than stated.
    """
    files = _files(Path(path), split)
    frames, listed, notes = [], set[Path](), []
    for file in files:
        content = _load(file)
        for number, entry in enumerate(content["frames"]):
            with reported(on_fault):
                frame = _frame(file, content, entry, f"frames[{number}]")
                listed.add(frame.image)
                frames.append(frame)
    if unposed := _without_pose(listed):
        notes.append(f"{len(unposed)} images without a pose (first: {unposed[0].name})")
    root = files[0].parent
    frames.sort(key=lambda frame: natural_order(frame.image.as_posix()))
    if len(files) == 1 and files[0].stem == Path(FILE).stem:
        frames = _chosen(frames, _load(files[0]), files[0], split, every)
    return CameraDataset(root, split, tuple(frames), tuple(notes), metric=False)


def _files(path: Path, split: Split) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / FILE).is_file():
        return [path / FILE]
    wanted = ("train", "test") if split == "all" else (split,)
    files = [path / f"transforms_{part}.json" for part in wanted]
    if not all(file.is_file() for file in files):
        raise DataError(describe(path, FILE, "no such file", f"{FILE}, or {', '.join(file.name for file in files)}"))
    return files


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(file, "json"))
    except json.JSONDecodeError as error:
        raise DataError(describe(file, "json", str(error), "json")) from None
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(describe(file, "frames", found, "a list of frames"))
    return content


def _frame(file: Path, content: Mapping[str, Any], entry: Any, key: str) -> CameraFrame:
    if not isinstance(entry, dict) or not {"file_path", "transform_matrix"} <= entry.keys():
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise FrameFault(FaultKind.MISSING_KEY, file, key, found, "file_path and transform_matrix")
    image = _image(file.parent, str(entry["file_path"]))
    rows = entry["transform_matrix"]
    words = [word for row in rows for word in row] if isinstance(rows, list) and all(map(_is_list, rows)) else []
    key = f"{key}.transform_matrix"
    values = numbers(words, file, key)
    if values.size != 16:
        raise FrameFault(FaultKind.POSE, file, key, f"{values.size} numbers", "4x4")
    R, t = pose_from_camera_to_world(values.reshape(4, 4) @ _OPENGL_TO_OPENCV, file, key)
    settings = {**content, **entry}
    size = image_size(image)
    stated = tuple(int(settings.get(name, length)) for name, length in zip("wh", size, strict=True))
    if stated != size:
        found, expected = f"{size[0]}x{size[1]}", f"{stated[0]}x{stated[1]}, as {file.name} states"
        raise FrameFault(FaultKind.IMAGE_SIZE, image, "image size", found, expected)
    sequence = Path(str(entry["file_path"])).parent.as_posix()
    return CameraFrame(image, sequence, _intrinsics(file, settings, size), *size, R, t, _lens(file, settings))


def _is_list(row: Any) -> bool:
    return isinstance(row, list)


def _image(folder: Path, name: str) -> Path:
    """The image of a frame; the synthetic scenes of NeRF name it without an ending."""
    path = folder / name
    if path.is_file() or path.suffix.lower() in IMAGE_SUFFIXES:
        return path
    return next((found for end in IMAGE_SUFFIXES if (found := path.with_name(path.name + end)).is_file()), path)


def _intrinsics(file: Path, settings: Mapping[str, Any], size: tuple[int, int]) -> Array:
    """``fl_x`` or the horizontal field of view; the principal point in the middle where nothing is said of it."""
    width, height = size
    if "fl_x" in settings:
        fx = float(numbers([settings["fl_x"]], file, "fl_x")[0])
    elif "camera_angle_x" in settings:
        fx = width / 2 / math.tan(float(numbers([settings["camera_angle_x"]], file, "camera_angle_x")[0]) / 2)
    else:
        raise FrameFault(FaultKind.MISSING_KEY, file, "fl_x", "neither fl_x nor camera_angle_x", "one of them")
    stated = [settings.get("fl_y", fx), settings.get("cx", width / 2), settings.get("cy", height / 2)]
    fy, cx, cy = numbers(stated, file, "fl_y, cx, cy")
    if not (fx > 0 and fy > 0):
        raise FrameFault(FaultKind.CAMERA, file, "fl_x, fl_y", f"{fx}, {fy}", "focal lengths above 0 px")
    return np.array([[fx, 0.0, cx - 0.5], [0.0, fy, cy - 0.5], [0.0, 0.0, 1.0]])


def _lens(file: Path, settings: Mapping[str, Any]) -> tuple[float, ...]:
    model = settings.get("camera_model", "OPENCV")
    if model not in _PINHOLES or settings.get("is_fisheye"):
        found = "is_fisheye" if settings.get("is_fisheye") else model
        raise FrameFault(FaultKind.CAMERA_MODEL, file, "camera_model", found, f"one of {', '.join(_PINHOLES)}")
    values = numbers([settings.get(name, 0.0) for name in _LENS], file, ", ".join(_LENS))
    return tuple(values.tolist()) if values.any() else ()


def _without_pose(listed: set[Path]) -> list[Path]:
    """Images beside those that have a pose; captures drop what the reconstruction could not place."""
    beside = {path for folder in {image.parent for image in listed} for path in folder.iterdir()}
    return sorted(path for path in beside - listed if path.suffix.lower() in IMAGE_SUFFIXES)


def _chosen(
    frames: list[CameraFrame], content: Mapping[str, Any], file: Path, split: Split, every: int
) -> list[CameraFrame]:
    lists = {part: content.get(f"{part}_filenames") for part in ("train", "test")}
    if split == "all" or not any(lists.values()):
        return [frames[row] for row in hold_out_every(len(frames), split, every)]
    by_name = {frame.image: frame for frame in frames}
    wanted = [_image(file.parent, str(name)) for name in lists[split] or ()]
    if missing := [path for path in wanted if path not in by_name]:
        raise DataError(describe(file, f"{split}_filenames", f"{missing[0]}, which has no pose", "images of frames"))
    return [by_name[path] for path in wanted]
