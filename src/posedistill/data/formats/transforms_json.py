"""Reader of ``transforms.json`` (NeRF, instant-ngp, nerfstudio): camera-to-world matrices with OpenGL's axes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from posedistill.data.faults import FaultKind, OnFault, fault, raise_fault, reported
from posedistill.data.formats.scene import CameraDataset, CameraFrame, hold_out_every, natural_order
from posedistill.data.formats.scene_parse import (
    Split,
    images_in,
    lens_notes,
    numbers,
    pose_from_camera_to_world,
    posix,
    require_lens,
    require_size,
    unposed_notes,
)
from posedistill.data.images import IMAGE_SUFFIXES, image_size
from posedistill.errors import DataError, describe
from posedistill.files import is_there, kept, read_json
from posedistill.geometry.cameras import Array

FILE = "transforms.json"
_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""OpenGL's camera has y up and looks along -z."""
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "PERSPECTIVE")
_NO_PINHOLES = ("is_fisheye", "latlong", "equirectangular")
"""Keys that name another kind of camera."""
_LENS = ("k1", "k2", "p1", "p2", "k3")
_AMBIGUOUS = ("k4", "k5", "k6")
"""Terms of a denominator to OpenCV; nerfstudio's k4 is the next term of the polynomial."""
_UNREAD = ("s1", "s2", "s3", "s4", "distortion_params", "ftheta_p0", "rolling_shutter")
"""Further terms of lenses and shutters, refused unless they are 0."""
_SCENE = ("applied_transform", "applied_scale")
"""What nerfstudio did to the reconstruction's world before it wrote the poses."""
_KNOWN = {
    *("frames", "file_path", "transform_matrix", "train_filenames", "val_filenames", "test_filenames", "camera_model"),
    *("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov"),
    *(*_NO_PINHOLES, *_LENS, *_AMBIGUOUS, *_UNREAD, *_SCENE),
    # These change no picture's camera or pose.
    *("aabb_scale", "scale", "offset", "from_na", "sharpness", "rotation", "colmap_im_id", "orientation_override"),
    *("depth_file_path", "normal_file_path", "mask_path", "ply_file_path", "integer_depth_scale", "timestamp", "time"),
}
_ENDINGS = tuple(ending for suffix in IMAGE_SUFFIXES for ending in (suffix, suffix.upper()))


def read_transforms(path: str | Path, split: Split = "train", on_fault: OnFault = raise_fault) -> CameraDataset:
    """Read a capture.

    Principal points are moved by half a pixel: this format has the corner of the first pixel at (0, 0).

    Args:
        path: the file, or the folder that holds ``transforms.json`` (or ``transforms_train.json`` and the like).
        split: by the file's ``train_filenames`` and ``test_filenames``, or one file for each split, where there are
            such; else every eighth image is for testing, in the order of names.
        on_fault: called at a fault of a frame, which is then left out; raises by default.

    Raises:
        DataError: no such file, broken json, a missing key; another camera than a pinhole with k1, k2, p1, p2, k3; an
            invalid pose; a pose without image; an image of another size than stated; a split that names no frame.
    """
    contents = {file: _load(file) for file in _files(Path(path), split)}
    frames, listed = [], set[Path]()
    for file, content in contents.items():
        listed |= _listed(file, content)
        for number, entry in enumerate(content["frames"]):
            with reported(on_fault):
                frames.append(_frame(file, content, entry, f"frames[{number}]"))
    frames.sort(key=lambda frame: natural_order(frame.image.as_posix()))
    file, content = next(iter(contents.items()))
    notes = unposed_notes(images_in({image.parent for image in listed}), listed) + lens_notes(frames) + _notes(content)
    if len(contents) == 1 and file.stem == Path(FILE).stem:
        frames = _chosen(frames, content, file, split, on_fault)
    return CameraDataset(file.parent, split, tuple(frames), tuple(notes), metric=False)


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


@kept
def _load(file: Path) -> dict[str, Any]:
    content = read_json(file, "json")
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(describe(file, "frames", found, "a list of frames"))
    return content


def _notes(content: Mapping[str, Any]) -> list[str]:
    """Keys that are not read and may change the geometry."""
    notes = []
    if applied := [key for key in _SCENE if key in content]:
        notes.append(f"{' and '.join(applied)}: the poses stand in this changed world, not in the reconstruction's own")
    keys = set(content).union(*(entry for entry in content["frames"] if isinstance(entry, dict)))
    if unknown := sorted(keys - _KNOWN):
        notes.append(f"{len(unknown)} unknown keys, which are not read: {', '.join(unknown[:8])[:200]}")
    return notes


def _listed(file: Path, content: Mapping[str, Any]) -> set[Path]:
    """The images of all frames, whatever else is wrong with them."""
    entries = [entry for entry in content["frames"] if isinstance(entry, dict) and "file_path" in entry]
    return {_image(file.parent, str(entry["file_path"])) for entry in entries}


def _frame(file: Path, content: Mapping[str, Any], entry: Any, key: str) -> CameraFrame:
    if not isinstance(entry, dict) or not {"file_path", "transform_matrix"} <= entry.keys():
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise fault(FaultKind.MISSING_KEY, file, key, found, "file_path and transform_matrix")
    name = posix(str(entry["file_path"]))
    image, *others = _images(file.parent, name)
    if others:
        found = " and ".join(path.name for path in (image, *others))
        raise fault(FaultKind.SAME_ID, file, f"{key}.file_path", found, "one image of this name, or its ending")
    key = f"{key}.transform_matrix"
    R, t = pose_from_camera_to_world(_matrix(file, entry["transform_matrix"], key) @ _OPENGL_TO_OPENCV, file, key)
    settings = {**content, **entry}
    size = image_size(image)
    require_size(image, _stated_size(file, settings, size), f"as {file.name} states")
    K, lens = _intrinsics(file, entry, content, size), _lens(file, settings)
    require_lens(K, lens, size, file, ", ".join(_LENS))
    return CameraFrame(image, PurePosixPath(name).parent.as_posix(), K, *size, R, t, lens)


def _image(folder: Path, name: str) -> Path:
    return _images(folder, posix(name))[0]


def _images(folder: Path, name: str) -> list[Path]:
    """What a frame's name can mean, existing or not; the synthetic scenes of NeRF leave out the ending."""
    path = folder / name
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return [path]
    return [found for end in ("", *_ENDINGS) if is_there(found := Path(f"{path}{end}")) and found.is_file()] or [path]


def _numbers(values: Sequence[Any], file: Path, key: str, kind: FaultKind) -> Array:
    """Numbers as json has them; a text or a truth value is refused."""
    if wrong := [value for value in values if isinstance(value, str | bool)]:
        raise fault(kind, file, key, repr(wrong[0])[:80], "numbers")
    return numbers(values, file, key, kind)


def _matrix(file: Path, rows: Any, key: str) -> Array:
    """``[4, 4]`` camera to world; the file may leave out the last row."""
    whole = isinstance(rows, list) and len(rows) in (3, 4) and all(isinstance(r, list) and len(r) == 4 for r in rows)
    if not whole:
        raise fault(FaultKind.POSE, file, key, repr(rows)[:80], "4x4 or 3x4 numbers")
    values = _numbers([value for row in rows for value in row], file, key, FaultKind.POSE).reshape(-1, 4)
    return np.vstack([values[:3], values[3:] if len(values) == 4 else [[0.0, 0.0, 0.0, 1.0]]])


def _stated_size(file: Path, settings: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    """``w`` and ``h``, which instant-ngp writes as 64.0; the image's own where nothing is said of them."""
    stated = [settings.get(name, length) for name, length in zip("wh", size, strict=True)]
    for name, value in zip("wh", stated, strict=True):
        if not (type(value) is int or (isinstance(value, float) and value.is_integer())):
            raise fault(FaultKind.CAMERA_MODEL, file, name, repr(value)[:80], "a whole number of pixels")
    return int(stated[0]), int(stated[1])


def _intrinsics(file: Path, entry: Mapping[str, Any], content: Mapping[str, Any], size: tuple[int, int]) -> Array:
    """Focal lengths or fields of view; the principal point in the middle where nothing is said of it."""
    fx, fy = (_focal(file, entry, content, axis, length) for axis, length in zip("xy", size, strict=True))
    fx, fy = fx if fx is not None else fy, fy if fy is not None else fx
    if fx is None or fy is None:
        raise fault(FaultKind.MISSING_KEY, file, "fl_x", "neither fl_x nor camera_angle_x", "one of them")
    settings = {**content, **entry}
    middle = [settings.get(name, length / 2) for name, length in zip(("cx", "cy"), size, strict=True)]
    cx, cy = _numbers(middle, file, "cx, cy", FaultKind.CAMERA)
    if not (0 < fx < math.inf and 0 < fy < math.inf):
        raise fault(FaultKind.CAMERA, file, "fl_x, fl_y", f"{fx}, {fy}", "focal lengths above 0 px")
    return np.array([[fx, 0.0, cx - 0.5], [0.0, fy, cy - 0.5], [0.0, 0.0, 1.0]])


def _focal(file: Path, entry: Mapping[str, Any], content: Mapping[str, Any], axis: str, length: int) -> float | None:
    """The focal length along an axis, in pixels: what a frame says of it in any way, else what the file says."""
    half = {f"camera_angle_{axis}": 0.5, f"{axis}_fov": math.pi / 360}
    for settings in (entry, content):
        for key in (f"fl_{axis}", *half):
            if key not in settings:
                continue
            value = float(_numbers([settings[key]], file, key, FaultKind.CAMERA)[0])
            if key not in half:
                return value
            if not 0 < (angle := half[key] * value) < math.pi / 2:  # the smallest number there is becomes 0
                expected = "degrees between 0 and 180" if key.endswith("fov") else "radians between 0 and pi"
                raise fault(FaultKind.CAMERA, file, key, value, expected)
            return length / 2 / math.tan(angle)
    return None


def _lens(file: Path, settings: Mapping[str, Any]) -> tuple[float, ...]:
    model = next((key for key in _NO_PINHOLES if settings.get(key)), settings.get("camera_model", "OPENCV"))
    if model not in _PINHOLES:
        raise fault(FaultKind.CAMERA_MODEL, file, "camera_model", model, f"one of {', '.join(_PINHOLES)}")
    for name in (*_AMBIGUOUS, *_UNREAD):
        stated = settings.get(name, 0.0)
        values = _numbers(stated if isinstance(stated, list) else [stated], file, name, FaultKind.CAMERA_MODEL)
        if values.any():
            why = "programs mean different terms by it" if name in _AMBIGUOUS else "it is not read"
            raise fault(FaultKind.CAMERA_MODEL, file, name, stated, f"0, for {why} (undistort the images first)")
    lens = _numbers([settings.get(name, 0.0) for name in _LENS], file, ", ".join(_LENS), FaultKind.CAMERA_MODEL)
    return tuple(lens.tolist()) if lens.any() else ()


def _chosen(
    frames: list[CameraFrame], content: Mapping[str, Any], file: Path, split: Split, on_fault: OnFault
) -> list[CameraFrame]:
    """The frames of a split: those that the file's own lists name, else every so many."""
    lists = {part: _names(file, content, f"{part}_filenames") for part in ("train", "test")}
    if split == "all" or not any(lists.values()):
        return [frames[row] for row in hold_out_every(len(frames), split)]
    by_name, listed = {frame.image: frame for frame in frames}, _listed(file, content)
    wanted = [_image(file.parent, name) for name in lists[split]]
    for path in wanted:
        if path not in listed:
            found = f"{path}, which has no pose"
            on_fault(fault(FaultKind.SPLIT, file, f"{split}_filenames", found, "images of frames"))
    return [by_name[path] for path in wanted if path in by_name]  # a frame with a fault is reported already


def _names(file: Path, content: Mapping[str, Any], key: str) -> list[str]:
    names = content.get(key)
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(describe(file, key, repr(names)[:80], "a list of file names"))
    return names
