"""Reader of COLMAP's sparse models (Schönberger and Frahm, CVPR 2016), text and binary."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posedistill.data.faults import FaultKind, OnFault, raise_fault
from posedistill.data.formats.scene import CameraDataset, CameraFrame, hold_out_every, natural_order
from posedistill.data.formats.scene_parse import (
    FrameFault,
    Split,
    image_size,
    numbers,
    read_text,
    reported,
    rotation_from_quaternion,
)
from posedistill.data.images import IMAGE_SUFFIXES
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array

FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", ".")
"""Where a model may lie, below the folder of a capture."""
_MODELS = (
    *("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV"),
    *("FOV", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE"),
)
"""Names of the camera models, at their numbers."""
_LENSES = {"SIMPLE_PINHOLE": 0, "PINHOLE": 0, "SIMPLE_RADIAL": 1, "RADIAL": 2, "OPENCV": 4, "FULL_OPENCV": 8}
"""Lens parameters of the models that OpenCV's distortion can express; they come last, in its order."""
_PARAMETERS = (3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12)
_ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")


@dataclass(frozen=True)
class _Camera:
    K: Array
    size: tuple[int, int]
    distortion: tuple[float, ...]


@dataclass(frozen=True)
class _Image:
    name: str
    camera: int
    quaternion: Array
    t: Array
    key: str


def find_colmap(root: Path) -> Path | None:
    """The folder of the model below a capture's folder, or None."""
    models = (root / folder for folder in FOLDERS)
    return next((model for model in models for end in ("bin", "txt") if (model / f"images.{end}").is_file()), None)


def read_colmap(
    root: str | Path,
    split: Split = "train",
    images: str | Path | None = None,
    every: int = 8,
    on_fault: OnFault = raise_fault,
) -> CameraDataset:
    """Read a capture: the model in ``root`` (or ``sparse/0`` and the like below it) and its photographs.

    Principal points are moved by half a pixel: COLMAP has the corner of the first pixel at (0, 0).

    Args:
        split: each ``every``-th image is for testing, in the order of names.
        images: folder of the photographs. Default: ``images`` beside the model or up to three folders above.
        on_fault: called at a fault of a frame, which is then left out; raises by default.

    Raises:
        DataError: no model; a truncated or damaged file; a lens that OpenCV's model cannot express; a pose that is
            none; a pose without image; an image of another size than its camera's.
    """
    root = Path(root)
    model = find_colmap(root)
    if model is None:
        raise DataError(describe(root, "model", "no images.bin or images.txt", f"one in {', '.join(FOLDERS)}"))
    folder = Path(images) if images is not None else _image_folder(model)
    binary = (model / "images.bin").is_file()
    file = model / ("images.bin" if binary else "images.txt")
    cameras = _binary_cameras(model / "cameras.bin") if binary else _text_cameras(model / "cameras.txt")
    entries = sorted(_binary_images(file) if binary else _text_images(file), key=lambda i: natural_order(i.name))
    frames = []
    for entry in entries:
        with reported(on_fault):
            frames.append(_frame(entry, file, folder, cameras))
    beside = {path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES}
    unposed = sorted(beside - {folder / entry.name for entry in entries})
    notes = (f"{len(unposed)} images without a pose (first: {unposed[0].name})",) if unposed else ()
    chosen = tuple(frames[row] for row in hold_out_every(len(frames), split, every))
    return CameraDataset(root, split, chosen, notes, metric=False)


def _image_folder(model: Path) -> Path:
    folders = [folder / "images" for folder in (model, *model.absolute().parents[:3])]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise DataError(describe(model, "images", "no folder images near the model", "the photographs' folder"))
    return found


def _frame(entry: _Image, file: Path, folder: Path, cameras: dict[int, _Camera]) -> CameraFrame:
    if entry.camera not in cameras:
        found, expected = f"camera {entry.camera}", f"one of {sorted(cameras)}"
        raise FrameFault(FaultKind.NO_CAMERA, file, entry.key, found, expected)
    if not (np.isfinite(entry.quaternion).all() and np.isfinite(entry.t).all()):
        raise FrameFault(FaultKind.POSE, file, entry.key, "a pose with nan or inf", "finite numbers")
    R, _ = rotation_from_quaternion(entry.quaternion, file, entry.key)
    camera, path = cameras[entry.camera], folder / entry.name
    size = image_size(path)
    if size != camera.size:
        expected = f"{camera.size[0]}x{camera.size[1]}, as camera {entry.camera} has"
        raise FrameFault(FaultKind.IMAGE_SIZE, path, "image size", f"{size[0]}x{size[1]}", expected)
    sequence = Path(entry.name).parent.as_posix()
    return CameraFrame(path, sequence, camera.K, *size, R, entry.t, camera.distortion)


def _camera(model: str, size: tuple[int, int], parameters: Array, file: Path, key: str) -> _Camera:
    if model not in _LENSES:
        usable = ", ".join(_LENSES)
        expected = f"one of {usable} (undistort the images with colmap image_undistorter)"
        raise DataError(describe(file, key, f"camera model {model}", expected))
    if len(parameters) != _PARAMETERS[_MODELS.index(model)]:
        expected = f"{_PARAMETERS[_MODELS.index(model)]} of {model}"
        raise DataError(describe(file, key, f"{len(parameters)} parameters", expected))
    focals = 1 if model in _ONE_FOCAL else 2
    fx, fy, (cx, cy) = parameters[0], parameters[focals - 1], parameters[focals : focals + 2]
    if not (np.isfinite(parameters).all() and fx > 0 and fy > 0):
        raise DataError(describe(file, key, parameters.tolist(), "finite parameters, focal lengths above 0"))
    K = np.array([[fx, 0.0, cx - 0.5], [0.0, fy, cy - 0.5], [0.0, 0.0, 1.0]])
    lens = parameters[focals + 2 :]
    return _Camera(K, size, tuple(lens.tolist()) if lens.any() else ())


def _text_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Words of each line that is no comment, with its number; empty lines are kept (an image may have no points)."""
    lines = enumerate(read_text(path, "a COLMAP text file").splitlines(), 1)
    return [(number, line.split()) for number, line in lines if not line.startswith("#")]


def _text_cameras(path: Path) -> dict[int, _Camera]:
    cameras = {}
    for number, words in _text_lines(path):
        if not words:
            continue
        key = f"line {number}"
        if len(words) < 5:
            raise DataError(describe(path, key, f"{len(words)} words", "CAMERA_ID MODEL WIDTH HEIGHT PARAMS..."))
        identity, width, height, *parameters = numbers([words[0], *words[2:]], path, key).tolist()
        cameras[int(identity)] = _camera(words[1], (int(width), int(height)), np.array(parameters), path, key)
    return cameras


def _text_images(path: Path) -> list[_Image]:
    """Images are two lines each: the pose, and the points that were seen."""
    lines, images = _text_lines(path), []
    while lines and not lines[-1][1]:  # the points of the last image, or nothing at all
        lines.pop()
    for number, words in lines[::2]:
        key = f"line {number}"
        if len(words) < 10:
            expected = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            raise DataError(describe(path, key, f"{len(words)} words", expected))
        try:
            values = [float(word) for word in words[1:8]]
            camera = int(words[8])
        except ValueError as error:
            raise DataError(describe(path, key, error, "numbers")) from None
        images.append(_Image(" ".join(words[9:]), camera, np.array(values[:4]), np.array(values[4:]), key))
    return images


class _Bytes:
    """Reads a binary file piece by piece; its end, come too early, is a fault."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0
        try:
            self.data = path.read_bytes()
        except OSError as error:
            raise DataError(describe(path, "file", error.strerror, "a COLMAP binary file")) from None

    def take(self, layout: str, key: str) -> tuple:
        """The values of a little-endian ``struct`` layout."""
        values = struct.unpack_from(f"<{layout}", self.data, self.skip(struct.calcsize(f"<{layout}"), key))
        return values

    def skip(self, size: int, key: str) -> int:
        """Go on by ``size`` bytes; where they begin."""
        start, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise DataError(describe(self.path, key, f"the file's end, {len(self.data)} bytes in", "a whole file"))
        return start

    def name(self, key: str) -> str:
        """A text that ends with a zero byte."""
        end = self.data.find(b"\0", self.position)
        start = self.skip((end if end >= 0 else len(self.data)) + 1 - self.position, key)
        return self.data[start:end].decode(errors="replace")

    def records(self, what: str) -> Iterator[str]:
        """A key for each record, as many as the file says it has; nothing may follow the last."""
        (count,) = self.take("Q", f"number of {what}s")
        for number in range(count):
            yield f"{what} {number + 1} of {count}"
        if self.position != len(self.data):
            rest = len(self.data) - self.position
            raise DataError(describe(self.path, "end", f"{rest} bytes after the last {what}", "none"))


def _binary_cameras(path: Path) -> dict[int, _Camera]:
    data, cameras = _Bytes(path), {}
    for key in data.records("camera"):
        identity, number, width, height = data.take("iiQQ", key)
        if not 0 <= number < len(_MODELS):
            raise DataError(describe(path, key, f"camera model {number}", f"0 to {len(_MODELS) - 1}"))
        parameters = np.array(data.take(f"{_PARAMETERS[number]}d", key))
        cameras[identity] = _camera(_MODELS[number], (width, height), parameters, path, key)
    return cameras


def _binary_images(path: Path) -> list[_Image]:
    data, images = _Bytes(path), []
    for key in data.records("image"):
        _, *pose, camera = data.take("i7di", key)
        name = data.name(key)
        (points,) = data.take("Q", key)
        data.skip(24 * points, key)
        images.append(_Image(name, camera, np.array(pose[:4]), np.array(pose[4:]), key))
    return images
