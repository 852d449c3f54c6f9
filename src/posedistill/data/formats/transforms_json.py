"""Reader of ``transforms.json`` (NeRF, instant-ngp, nerfstudio): camera-to-world matrices with OpenGL's axes."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.data.faults import FaultKind, OnFault, raise_fault
from posedistill.data.formats.scene import CameraDataset, CameraFrame, hold_out_every, natural_order
from posedistill.data.formats.scene_parse import (
    FrameFault,
    Split,
    image_size,
    images_in,
    numbers,
    pose_from_camera_to_world,
    read_text,
    reported,
)
from posedistill.data.images import IMAGE_SUFFIXES
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array

FILE = "transforms.json"
_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""OpenGL's camera has y up and looks along -z."""
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "PERSPECTIVE")
_LENS = ("k1", "k2", "p1", "p2", "k3")
_AMBIGUOUS = ("k4", "k5", "k6")
"""Terms of a denominator to OpenCV; nerfstudio's k4 is the next term of the polynomial."""
_ENDINGS = tuple(ending for suffix in IMAGE_SUFFIXES for ending in (suffix, suffix.upper()))


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
        DataError: no such file, broken json, a missing key; a camera with a fisheye lens, or with k4 to k6; a pose that
            is none; a pose without image; an image of another size than stated; a split that names what has no pose.
    """
    contents = {file: _load(file) for file in _files(Path(path), split)}
    frames, listed = [], set[Path]()
    for file, content in contents.items():
        listed |= _listed(file, content)
        for number, entry in enumerate(content["frames"]):
            with reported(on_fault):
                frames.append(_frame(file, content, entry, f"frames[{number}]"))
    frames.sort(key=lambda frame: natural_order(frame.image.as_posix()))
    # Captures drop what the reconstruction could not place.
    unposed = sorted(images_in({image.parent for image in listed}) - listed)
    notes = (f"{len(unposed)} images without a pose (first: {unposed[0].name})",) if unposed else ()
    file, content = next(iter(contents.items()))
    if len(contents) == 1 and file.stem == Path(FILE).stem:
        frames = _chosen(frames, content, file, split, every, on_fault)
    return CameraDataset(file.parent, split, tuple(frames), notes, metric=False)


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
    except (ValueError, RecursionError) as error:  # brackets nested deeply; integers of thousands of digits
        raise DataError(describe(file, "json", str(error), "json")) from None
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(describe(file, "frames", found, "a list of frames"))
    return content


def _listed(file: Path, content: Mapping[str, Any]) -> set[Path]:
    """The images of all frames, whatever else is wrong with them."""
    entries = [entry for entry in content["frames"] if isinstance(entry, dict) and "file_path" in entry]
    return {_image(file.parent, str(entry["file_path"])) for entry in entries}


def _frame(file: Path, content: Mapping[str, Any], entry: Any, key: str) -> CameraFrame:
    if not isinstance(entry, dict) or not {"file_path", "transform_matrix"} <= entry.keys():
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise FrameFault(FaultKind.MISSING_KEY, file, key, found, "file_path and transform_matrix")
    image = _image(file.parent, str(entry["file_path"]))
    key = f"{key}.transform_matrix"
    R, t = pose_from_camera_to_world(_matrix(file, entry["transform_matrix"], key) @ _OPENGL_TO_OPENCV, file, key)
    settings = {**content, **entry}
    size = image_size(image)
    if (stated := _stated_size(file, settings, size)) != size:
        found, expected = f"{size[0]}x{size[1]}", f"{stated[0]}x{stated[1]}, as {file.name} states"
        raise FrameFault(FaultKind.IMAGE_SIZE, image, "image size", found, expected)
    sequence = Path(str(entry["file_path"])).parent.as_posix()
    return CameraFrame(image, sequence, _intrinsics(file, settings, size), *size, R, t, _lens(file, settings))


def _image(folder: Path, name: str) -> Path:
    """The image of a frame; the synthetic scenes of NeRF name it without an ending."""
    path = folder / name
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return path
    return next((found for end in ("", *_ENDINGS) if _is_file(found := Path(f"{path}{end}"))), path)


def _is_file(path: Path) -> bool:
    """Whether there is such a file; no file has a name that is too long to ask for."""
    try:
        return path.is_file()
    except OSError:
        return False


def _numbers(values: Sequence[Any], file: Path, key: str, kind: FaultKind) -> Array:
    """Numbers as json has them: a text or a truth value is none."""
    if wrong := [value for value in values if isinstance(value, str | bool)]:
        raise FrameFault(kind, file, key, repr(wrong[0])[:80], "numbers")
    return numbers(values, file, key, kind)


def _matrix(file: Path, rows: Any, key: str) -> Array:
    """``[4, 4]`` camera to world; the file may leave out the last row."""
    whole = isinstance(rows, list) and len(rows) in (3, 4) and all(isinstance(r, list) and len(r) == 4 for r in rows)
    if not whole:
        raise FrameFault(FaultKind.POSE, file, key, repr(rows)[:80], "4x4 or 3x4 numbers")
    values = _numbers([value for row in rows for value in row], file, key, FaultKind.POSE).reshape(-1, 4)
    return np.vstack([values[:3], values[3:] if len(values) == 4 else [[0.0, 0.0, 0.0, 1.0]]])


def _stated_size(file: Path, settings: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    """``w`` and ``h``, which instant-ngp writes as 64.0; the image's own where nothing is said of them."""
    stated = [settings.get(name, length) for name, length in zip("wh", size, strict=True)]
    for name, value in zip("wh", stated, strict=True):
        if not (type(value) is int or (isinstance(value, float) and value.is_integer())):
            raise FrameFault(FaultKind.CAMERA_MODEL, file, name, repr(value)[:80], "a whole number of pixels")
    return int(stated[0]), int(stated[1])


def _intrinsics(file: Path, settings: Mapping[str, Any], size: tuple[int, int]) -> Array:
    """``fl_x`` or the horizontal field of view; the principal point in the middle where nothing is said of it."""
    width, height = size
    if "fl_x" in settings:
        fx = float(_numbers([settings["fl_x"]], file, "fl_x", FaultKind.CAMERA)[0])
    elif "camera_angle_x" in settings:
        angle = float(_numbers([settings["camera_angle_x"]], file, "camera_angle_x", FaultKind.CAMERA)[0])
        if not 0 < angle / 2 < math.pi / 2:  # halved: the smallest number there is becomes 0
            raise FrameFault(FaultKind.CAMERA, file, "camera_angle_x", angle, "radians between 0 and pi")
        fx = width / 2 / math.tan(angle / 2)
    else:
        raise FrameFault(FaultKind.MISSING_KEY, file, "fl_x", "neither fl_x nor camera_angle_x", "one of them")
    stated = [settings.get("fl_y", fx), settings.get("cx", width / 2), settings.get("cy", height / 2)]
    fy, cx, cy = _numbers(stated, file, "fl_y, cx, cy", FaultKind.CAMERA)
    if not (0 < fx < math.inf and fy > 0):
        raise FrameFault(FaultKind.CAMERA, file, "fl_x, fl_y", f"{fx}, {fy}", "focal lengths above 0 px")
    return np.array([[fx, 0.0, cx - 0.5], [0.0, fy, cy - 0.5], [0.0, 0.0, 1.0]])


def _lens(file: Path, settings: Mapping[str, Any]) -> tuple[float, ...]:
    model = settings.get("camera_model", "OPENCV")
    if model not in _PINHOLES or settings.get("is_fisheye"):
        found = "is_fisheye" if settings.get("is_fisheye") else model
        raise FrameFault(FaultKind.CAMERA_MODEL, file, "camera_model", found, f"one of {', '.join(_PINHOLES)}")
    names = (*_LENS, *_AMBIGUOUS)
    values = _numbers([settings.get(name, 0.0) for name in names], file, ", ".join(names), FaultKind.CAMERA_MODEL)
    for name, value in zip(_AMBIGUOUS, values[len(_LENS) :].tolist(), strict=True):
        if value:
            expected = "0, for programs mean different terms by it (undistort the images first)"
            raise FrameFault(FaultKind.CAMERA_MODEL, file, name, value, expected)
    return tuple(values[: len(_LENS)].tolist()) if values.any() else ()


def _chosen(
    frames: list[CameraFrame], content: Mapping[str, Any], file: Path, split: Split, every: int, on_fault: OnFault
) -> list[CameraFrame]:
    """The frames of a split: those that the file's own lists name, else every so many."""
    lists = {part: _names(file, content, f"{part}_filenames") for part in ("train", "test")}
    if split == "all" or not any(lists.values()):
        return [frames[row] for row in hold_out_every(len(frames), split, every)]
    by_name, listed = {frame.image: frame for frame in frames}, _listed(file, content)
    wanted = [_image(file.parent, name) for name in lists[split]]
    for path in wanted:
        with reported(on_fault):
            if path not in listed:
                found = f"{path}, which has no pose"
                raise FrameFault(FaultKind.SPLIT, file, f"{split}_filenames", found, "images of frames")
    return [by_name[path] for path in wanted if path in by_name]  # a frame with a fault is reported already


def _names(file: Path, content: Mapping[str, Any], key: str) -> list[str]:
    names = content.get(key)
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(describe(file, key, repr(names)[:80], "a list of file names"))
    return names
