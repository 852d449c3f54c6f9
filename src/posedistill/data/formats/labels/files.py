"""The files of single-shot pose (YOLO6D, Tekin et al., CVPR 2018): .data files, lists of images, lines of 21 numbers.

A line of a label file is the class, the projections of the model's origin and of the 8 corners of its box (x, y
relative to the picture; minimum or maximum of x, then y, then z, as ``box_corners`` has them), and width and height of
their extent. YOLOv5-6D appends fx, fy, the sensor's width and height, u0, v0 and the picture's width and height (29
numbers), and may end with a rotation vector and a translation in metres (35 and more).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.faults import Fault, FaultKind, OnFault, fault, raise_fault, reported
from posedistill.errors import DataError
from posedistill.files import is_there, read_text
from posedistill.geometry.cameras import Array
from posedistill.geometry.rotations import is_rotation

LABEL, WITH_CAMERA, WITH_POSE = 21, 29, 35
"""Numbers in a line: of a label, with intrinsics, with a pose too."""
FARTHEST = 10.0
"""Picture widths beyond which a point is no relative coordinate."""
OTHER_ORDER = (0, 1, 3, 5, 7, 2, 4, 6, 8)
"""Where the points of the OCCLUSION labels stand, whose corners come in another order."""
LINEMOD = np.array([[572.4114, 0.0, 325.2611], [0.0, 573.5704, 242.0489], [0.0, 0.0, 1.0]])
"""Intrinsics that the original's code holds, for .data files that state none; of 640x480 pictures."""
LINEMOD_SIZE = (640, 480)
_INTRINSICS = ("fx", "fy", "u0", "v0")
Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class LabelledObject:
    """An object of a .data file: its mesh in metres, and its diameter in metres where the file states one."""

    mesh: Path
    diameter: float | None


@dataclass(frozen=True)
class DataFile:
    """A .data file.

    Attributes:
        lists: split (``train``, ``valid``, or of several objects ``valid5``) to its list of images.
        objects: by class; the one of a file with a single object is under None, whatever class its labels have.
        K: ``[3, 3]``, None where the file states none. size: of the pictures that ``K`` belongs to, None likewise.
    """

    path: Path
    name: str
    lists: Mapping[str, Path]
    objects: Mapping[int | None, LabelledObject]
    K: Array | None
    size: Size | None

    def list_of(self, split: str) -> Path:
        """The list of images of a split; ``Fault`` where the file names none."""
        if split not in self.lists:
            raise fault(FaultKind.DATA_FILE, self.path, split, sorted(self.lists), "a list of images of that name")
        return self.lists[split]


@dataclass(frozen=True)
class Labels:
    """The ``n`` instances in one picture.

    Attributes:
        classes: ``[n]``. points: ``[n, 9, 2]`` relative to the picture's width and height: origin and corners.
        camera: intrinsics ``[3, 3]`` with the size of their pictures, where the lines state them.
        poses: ``R [3, 3]`` and ``t [3]`` in metres of each instance, where lines state them.
    """

    classes: NDArray[np.int64]
    points: Array
    camera: tuple[Array, Size] | None
    poses: list[tuple[Array, Array] | None]


def resolved(name: str, near: Path) -> Path:
    """A path as the original has them: from the working directory, or from any folder above the file that names it."""
    path = Path(name.strip().replace("\\", "/"))
    found = next((above / path for above in (Path(), *near.resolve().parents) if is_there(above / path)), None)
    return found or near.parent / path


def read_data_file(path: Path, on_fault: OnFault = raise_fault) -> DataFile:
    """Read ``key = value`` lines; keys of the original that say nothing of the data are passed over.

    Raises:
        Fault: a line without a value, no mesh, a number that is none, or intrinsics of which a part is missing.
    """
    values: dict[str, str] = {}
    for place, line in enumerate(map(str.strip, read_text(path, "a .data file").splitlines()), start=1):
        key, equals, value = line.partition("=")
        if line and not line.startswith("#"):
            if not equals:
                on_fault(fault(FaultKind.DATA_FILE, path, f"line {place}", repr(line)[:80], "key = value"))
            if value.strip():
                values[key.strip()] = value.strip()
    lists = {key: resolved(value, path) for key, value in values.items() if names_list(key)}
    objects: dict[int | None, LabelledObject] = {}
    for key, value in values.items():
        if match := re.fullmatch(r"mesh(\d*)", key):
            number = match[1]
            diameter = _number(path, values, f"diam{number}", on_fault)
            objects[int(number) - 1 if number else None] = LabelledObject(resolved(value, path), diameter)
    if not objects:
        on_fault(fault(FaultKind.DATA_FILE, path, "mesh", "none", "the object's mesh (.ply, in metres)"))
    name = values.get("name") or path.stem
    return DataFile(path, name, lists, objects, *_camera(path, values, on_fault))


def names_list(key: str) -> bool:
    """Whether a key of a .data file names a list of images: ``train``, ``valid``, or either with a number."""
    return re.fullmatch(r"(train|valid)\d*", key) is not None


def _number(path: Path, values: Mapping[str, str], key: str, on_fault: OnFault) -> float | None:
    if not values.get(key):
        return None
    try:
        number = float(values[key])
    except ValueError:
        number = np.nan
    if not (np.isfinite(number) and number > 0):
        on_fault(fault(FaultKind.DATA_FILE, path, key, repr(values[key])[:80], "a number above 0"))
        return None
    return number


def _camera(path: Path, values: Mapping[str, str], on_fault: OnFault) -> tuple[Array | None, Size | None]:
    """Intrinsics and the size they belong to, each None where the file states none."""
    numbers = {key: _number(path, values, key, on_fault) for key in _INTRINSICS}
    sides = [
        _number(path, values, one, on_fault) or _number(path, values, f"im_{one}", on_fault)
        for one in ("width", "height")
    ]
    size = None if None in sides else (int(sides[0] or 0), int(sides[1] or 0))
    missing = [key for key, value in numbers.items() if value is None]
    if 0 < len(missing) < len(_INTRINSICS):
        found = f"{', '.join(key for key in _INTRINSICS if key not in missing)} alone"
        on_fault(fault(FaultKind.DATA_FILE, path, missing[0], found, ", ".join(_INTRINSICS)))
    if missing:
        return None, size
    fx, fy, u0, v0 = (value or 0.0 for value in numbers.values())
    return np.array([[fx, 0.0, u0], [0.0, fy, v0], [0.0, 0.0, 1.0]]), size


def read_list(path: Path, on_fault: OnFault = raise_fault) -> list[Path]:
    """The images that a list names, one a line, each once; line ends of any system.

    Raises:
        Fault: no list, an empty one, or images that do not exist, counted.
    """
    try:
        lines = read_text(path, "a list of images").splitlines()
    except DataError as error:
        on_fault(Fault(FaultKind.MISSING_FOLDER, path, str(error)))
        return []
    named = {line.strip(): number for number, line in enumerate(lines, start=1) if line.strip()}
    images = {name: resolved(name, path) for name in named}
    missing = [name for name, image in images.items() if not (is_there(image) and image.is_file())]
    if missing:
        found = (
            f"{len(missing)} of {len(images)} images that do not exist (first: {missing[0]}, line {named[missing[0]]})"
        )
        expected = "images from the working directory, or from a folder above the list"
        on_fault(fault(FaultKind.MISSING_IMAGE, path, "images", found, expected))
    if not images:
        on_fault(fault(FaultKind.MISSING_IMAGE, path, "images", "none", "one image a line"))
    return list({image: None for name, image in images.items() if name not in missing})


def label_path(image: Path, listed_in: Path) -> Path:
    """The label file of an image: ``JPEGImages`` or ``images`` gives way to ``labels`` in its path.

    A list ``test_occlusion.txt`` names images of another object's folder; their labels lie beside the list.

    >>> label_path(Path("LINEMOD/cat/JPEGImages/000024.jpg"), Path("LINEMOD/cat/train.txt")).as_posix()
    'LINEMOD/cat/labels/000024.txt'
    """
    if listed_in.stem.endswith("_occlusion"):
        return listed_in.parent / "labels_occlusion" / f"{image.stem}.txt"
    parts = list(image.parts[:-1])
    for place in reversed(range(len(parts))):
        if parts[place] in ("JPEGImages", "images"):
            parts[place] = "labels"
            break
    return Path(*parts) / f"{image.stem}.txt"


def read_labels(path: Path, on_fault: OnFault = raise_fault) -> Labels:
    """The instances in a picture; an empty file is a picture of nothing.

    Raises:
        Fault: no file, a line of another count of numbers, NaN, or numbers that cannot be what they stand for.
    """
    lines = []
    with reported(on_fault, FaultKind.NO_ANNOTATION, path):
        lines = read_text(path, "a label file (empty where a picture shows nothing)").splitlines()
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with reported(on_fault, FaultKind.LABEL, path):
                rows.append(_label(path, number, line))
    cameras = [_stated_camera(row) for row in rows if len(row) >= WITH_CAMERA]
    return Labels(
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1:19] for row in rows]).reshape(-1, 9, 2),
        cameras[0] if cameras else None,
        [_stated_pose(row) if len(row) >= WITH_POSE else None for row in rows],
    )


def _label(path: Path, number: int, line: str) -> list[float]:
    """The numbers of a line, or a ``Fault``."""
    key, words = f"line {number}", line.split()
    if len(words) != LABEL and len(words) < WITH_CAMERA:
        expected = f"{LABEL} (or {WITH_CAMERA} and more, with intrinsics)"
        raise fault(FaultKind.LABEL, path, key, f"{len(words)} numbers", expected)
    try:
        values = np.array(words, dtype=np.float64)
    except ValueError:
        raise fault(FaultKind.LABEL, path, key, repr(line)[:80], "numbers") from None
    if not np.isfinite(values).all():
        raise fault(FaultKind.LABEL, path, key, words[int(np.argmin(np.isfinite(values)))], "finite numbers")
    if values[0] < 0 or values[0] != np.floor(values[0]):
        raise fault(FaultKind.LABEL, path, key, f"class {words[0]}", "a whole number, 0 or more")
    if (worst := np.abs(values[1:LABEL]).max()) > FARTHEST:
        expected = "coordinates relative to the picture's width and height, of which 1 is the far edge"
        raise fault(FaultKind.LABEL, path, key, f"a coordinate of {worst:g}", expected)
    if len(values) >= WITH_CAMERA and min(values[[21, 22, 27, 28]]) <= 0:
        found = f"focal lengths {values[21:23].tolist()} and a picture of {values[27:29].tolist()}"
        raise fault(FaultKind.LABEL, path, key, found, "numbers above 0")
    return values.tolist()


def _stated_camera(row: Sequence[float]) -> tuple[Array, Size]:
    fx, fy, _, _, u0, v0, width, height = row[LABEL:WITH_CAMERA]
    return np.array([[fx, 0.0, u0], [0.0, fy, v0], [0.0, 0.0, 1.0]]), (round(width), round(height))


def _stated_pose(row: Sequence[float]) -> tuple[Array, Array]:
    turn, t = np.array(row[-6:-3]), np.array(row[-3:])
    return np.asarray(cv2.Rodrigues(turn)[0], dtype=np.float64), t


def read_poses(path: Path, count: int, on_fault: OnFault = raise_fault) -> list[tuple[Array, Array]]:
    """The poses of a picture's instances, beside its labels: 12 numbers a line, R row by row and t in metres.

    Raises:
        Fault: another count of lines than of labels, or a line that is no pose.
    """
    poses: list[tuple[Array, Array]] = []
    lines = [line for line in read_text(path, "a file of poses").splitlines() if line.strip()]
    if len(lines) != count:
        on_fault(fault(FaultKind.POSE, path, "lines", len(lines), f"{count}, one for each label"))
        return []
    for number, line in enumerate(lines, start=1):
        try:
            values = np.array(line.split(), dtype=np.float64)
        except ValueError:
            values = np.zeros(0)
        R = values[:9].reshape(3, 3) if values.shape == (12,) and np.isfinite(values).all() else np.zeros((3, 3))
        if not is_rotation(R, 0.02):
            expected = "12 numbers: a rotation row by row and t in metres"
            on_fault(fault(FaultKind.POSE, path, f"line {number}", repr(line)[:80], expected))
            return []
        poses.append((R, values[9:]))
    return poses
