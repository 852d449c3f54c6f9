"""Reader of COLMAP's sparse models (Schönberger and Frahm, CVPR 2016), text and binary.

Not pycolmap: its wheel is 134 MB when installed, and a file cut short is taken without a word or refused without
its name.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from posedistill.data.faults import FaultKind, OnFault, fault, raise_fault, reported
from posedistill.data.formats.scene import CameraDataset, CameraFrame, hold_out_every, natural_order
from posedistill.data.formats.scene_parse import (
    Split,
    lens_notes,
    numbers,
    posix,
    require_lens,
    require_size,
    rotation_from_quaternion,
    unposed_notes,
)
from posedistill.data.images import IMAGE_SUFFIXES
from posedistill.errors import DataError, describe
from posedistill.files import kept, read_text
from posedistill.geometry.cameras import Array

FOLDERS = ("sparse", "colmap/sparse", ".")
"""Where models may lie, below the folder of a capture: right there, or in numbered folders."""
_MODELS = {
    **{"SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8, "OPENCV_FISHEYE": 8},
    **{"FULL_OPENCV": 12, "FOV": 5, "SIMPLE_RADIAL_FISHEYE": 4, "RADIAL_FISHEYE": 5, "THIN_PRISM_FISHEYE": 12},
}
"""Parameters of the camera models, which are numbered in this order."""
_USABLE = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
"""The models that OpenCV's distortion can express; their lens parameters come last, in its order."""
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


def colmap_models(root: Path) -> list[Path]:
    """The folders of the models below a capture's folder; several where COLMAP could not connect all images."""
    for place in FOLDERS:
        names = ("images.bin", "images.txt")
        below = {path.parent for name in names for path in (root / place).glob(f"*/{name}") if path.is_file()}
        here = [root / place] if any((root / place / name).is_file() for name in names) else []
        if found := here if place == "." and here else sorted(below, key=lambda m: natural_order(m.name)) or here:
            return found
    return []


def read_colmap(
    root: str | Path, split: Split = "train", images: str | Path | None = None, on_fault: OnFault = raise_fault
) -> CameraDataset:
    """Read a capture: the model in ``root`` (or ``sparse/0`` and the like below it) and its photographs.

    Of several models the one with the most images is read, which ``notes`` tells. Principal points are moved by half a
    pixel: COLMAP has the corner of the first pixel at (0, 0).

    Args:
        split: every eighth image is for testing, in the order of names.
        images: folder of the photographs. Default: ``images`` beside the model or up to three folders above.
        on_fault: called at a fault of a frame, which is then left out; raises by default.

    Raises:
        DataError: no model, or several equally large ones; a truncated or damaged file; a lens that OpenCV's model
            cannot express, or that folds the picture; an invalid pose; a pose without image; an image of another size
            than its camera's.
    """
    root = Path(root)
    model, notes = _largest(root, colmap_models(root))
    folder = Path(images) if images is not None else _image_folder(model)
    file = _images_file(model)
    cameras = _cameras(model / f"cameras{file.suffix}")
    entries = sorted(_images(file), key=lambda entry: natural_order(entry.name))
    frames: list[CameraFrame] = []
    for entry in entries:
        with reported(on_fault):
            frames.append(_frame(entry, file, folder, cameras))
    beside = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    notes += unposed_notes(beside, (folder / entry.name for entry in entries)) + lens_notes(frames)
    chosen = tuple(frames[row] for row in hold_out_every(len(frames), split))
    return CameraDataset(root, split, chosen, tuple(notes), metric=False)


def _largest(root: Path, models: list[Path]) -> tuple[Path, list[str]]:
    """The model with the most images, and what to say of the others."""
    if not models:
        places = ", ".join(f"{place}/0" for place in FOLDERS)
        raise DataError(describe(root, "model", "no images.bin or images.txt", f"one in {places}, or here"))
    if len(models) == 1:
        return models[0], []
    counts = {model.relative_to(root).as_posix(): len(_images(_images_file(model))) for model in models}
    largest = max(counts, key=lambda name: counts[name])
    shown = [f"{name} ({count} images)" for name, count in counts.items() if name != largest]
    if list(counts.values()).count(counts[largest]) > 1:
        found = f"several models of the same size: {largest} ({counts[largest]} images), {', '.join(shown)}"
        raise DataError(describe(root, "model", found, "the folder of one of them as path"))
    return root / largest, [
        f"{len(models)} COLMAP models: {largest} is read ({counts[largest]} images), left out: {', '.join(shown)}"
    ]


def _images_file(model: Path) -> Path:
    return model / ("images.bin" if (model / "images.bin").is_file() else "images.txt")


@kept
def _images(file: Path) -> list[_Image]:
    return _binary_images(file) if file.suffix == ".bin" else _text_images(file)


@kept
def _cameras(file: Path) -> dict[int, _Camera]:
    return _binary_cameras(file) if file.suffix == ".bin" else _text_cameras(file)


def _image_folder(model: Path) -> Path:
    folders = [folder / "images" for folder in (model, *model.absolute().parents[:3])]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise DataError(describe(model, "images", "no folder images near the model", "the photographs' folder"))
    return found


def _frame(entry: _Image, file: Path, folder: Path, cameras: dict[int, _Camera]) -> CameraFrame:
    if entry.camera not in cameras:
        found, expected = f"camera {entry.camera}", f"one of {sorted(cameras)}"
        raise fault(FaultKind.NO_CAMERA, file, entry.key, found, expected)
    if not (np.isfinite(entry.quaternion).all() and np.isfinite(entry.t).all()):
        raise fault(FaultKind.POSE, file, entry.key, "a pose with nan or inf", "finite numbers")
    R, _ = rotation_from_quaternion(entry.quaternion, file, entry.key)
    camera, path = cameras[entry.camera], folder / entry.name
    require_size(path, camera.size, f"as camera {entry.camera} has")
    require_lens(camera.K, camera.distortion, camera.size, file, f"camera {entry.camera}")
    sequence = PurePosixPath(entry.name).parent.as_posix()
    return CameraFrame(path, sequence, camera.K, *camera.size, R, entry.t, camera.distortion)


def _camera(model: str, size: tuple[int, int], parameters: Array, file: Path, key: str) -> _Camera:
    if model not in _USABLE:
        expected = f"one of {', '.join(_USABLE)} (undistort the images with colmap image_undistorter)"
        raise DataError(describe(file, key, f"camera model {model}", expected))
    if len(parameters) != _MODELS[model]:
        raise DataError(describe(file, key, f"{len(parameters)} parameters", f"{_MODELS[model]} of {model}"))
    focals = 1 if model in _ONE_FOCAL else 2
    fx, fy, (cx, cy) = parameters[0], parameters[focals - 1], parameters[focals : focals + 2]
    if not (np.isfinite(parameters).all() and fx > 0 and fy > 0):
        raise DataError(describe(file, key, parameters.tolist(), "finite parameters, focal lengths above 0"))
    K = np.array([[fx, 0.0, cx - 0.5], [0.0, fy, cy - 0.5], [0.0, 0.0, 1.0]])
    lens = parameters[focals + 2 :]
    return _Camera(K, size, tuple(lens.tolist()) if lens.any() else ())


def _text_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The words of each line that is no comment, with its key; empty lines too, for an image may have no points."""
    for number, line in enumerate(read_text(path, "a COLMAP text file").split("\n"), 1):
        if not line.startswith("#"):
            yield f"line {number}", line.split()


def _text_cameras(path: Path) -> dict[int, _Camera]:
    cameras = {}
    for key, words in _text_lines(path):
        if not words:
            continue
        if len(words) < 5:
            raise DataError(describe(path, key, f"{len(words)} words", "CAMERA_ID MODEL WIDTH HEIGHT PARAMS..."))
        identity, width, height, *parameters = numbers([words[0], *words[2:]], path, key).tolist()
        cameras[int(identity)] = _camera(words[1], (int(width), int(height)), np.array(parameters), path, key)
    return cameras


def _text_images(path: Path) -> list[_Image]:
    """The images: a line of the pose and, as COLMAP writes them, one of the points seen, which people leave out."""
    images: list[_Image] = []
    points_may_follow = False
    for key, words in _text_lines(path):
        if not words:
            continue
        if points_may_follow and len(words) % 3 == 0 and (len(words) < 10 or _is_number(words[9])):
            points_may_follow = False
            continue
        if len(words) < 10:
            expected = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            raise DataError(describe(path, key, f"{len(words)} words", expected))
        try:
            int(words[0])  # a line of points begins with a fraction
            values, camera = np.array([float(word) for word in words[1:8]]), int(words[8])
        except ValueError as error:
            raise DataError(describe(path, key, error, "numbers")) from None
        images.append(_Image(posix(" ".join(words[9:])), camera, values[:4], values[4:], key))
        points_may_follow = True
    return images


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


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
        return struct.unpack_from(f"<{layout}", self.data, self.skip(struct.calcsize(f"<{layout}"), key))

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
        name, length = list(_MODELS.items())[number]
        cameras[identity] = _camera(name, (width, height), np.array(data.take(f"{length}d", key)), path, key)
    return cameras


def _binary_images(path: Path) -> list[_Image]:
    data, images = _Bytes(path), []
    for key in data.records("image"):
        _, *pose, camera = data.take("i7di", key)
        name = posix(data.name(key))
        (points,) = data.take("Q", key)
        data.skip(24 * points, key)
        images.append(_Image(name, camera, np.array(pose[:4]), np.array(pose[4:]), key))
    return images
