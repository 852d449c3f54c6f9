"""Readers of PASCAL3D+ (Xiang et al., WACV 2014) and ObjectNet3D (Xiang et al., ECCV 2016) as they are handed out.

A .mat file beside each picture holds a record of its objects. The splits are those that published figures rest on
(PoseFromShape): of PASCAL3D+ the pictures of VOC 2012's list ``val`` are measured and all others train, those of
ImageNet included; ObjectNet3D has lists of its own.
"""

import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.data.faults import FaultKind, OnFault, fault, raise_fault, reported
from posedistill.data.formats.viewpoint.categories import AnnotatedView, CategoryDataset
from posedistill.data.formats.viewpoint.checks import checked_box, checked_viewpoint, entry_of
from posedistill.errors import DataError, describe
from posedistill.files import is_there, read_text

VOC_VAL = "PASCAL/VOCdevkit/VOC2012/ImageSets/Main/val.txt"
"""Of PASCAL3D+: the pictures that are measured."""
SOURCES = ("imagenet", "pascal")
SPLITS = ("train", "val", "test")
_ENDINGS = (".JPEG", ".jpg", ".png")
_VERSION, _MATRIX, _COMPRESSED = 0x0100, 14, 15
_SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, _MATRIX: 1, _COMPRESSED: 1, 16: 1, 17: 2, 18: 4}
"""Types of elements of a MATLAB 5 file, and bytes of each value."""
_CELL, _STRUCT, _NUMBERS, _COMPLEX = 1, 2, range(6, 16), 0x0800


def read_pascal3d(folder: str | Path, on_fault: OnFault = raise_fault) -> CategoryDataset:
    """Read ``Annotations/CATEGORY_imagenet`` and ``CATEGORY_pascal``, each its own category's objects alone.

    Objects whose three angles are 0 were not annotated and are left out.

    Args:
        on_fault: called at a record that cannot be read, which is then left out; raises by default.

    Raises:
        DataError: no list of VOC 2012's ``val``, no object, or a damaged record.
    """
    root = Path(folder)
    measured = set(_listed(root / VOC_VAL))
    views: list[AnnotatedView] = []
    for place in sorted(path for path in (root / "Annotations").iterdir() if path.is_dir()):
        category, _, source = place.name.rpartition("_")
        if source not in SOURCES:
            continue
        for path in sorted(place.glob("*.mat")):
            split = "val" if source == "pascal" and path.stem in measured else "train"
            image = _picture(root / "Images" / place.name / path.stem)
            found = _objects(path, image, split, on_fault)
            views += [view for view in found if view.category == category and view.viewpoint.any()]
    return CategoryDataset(root, tuple(views))


def read_objectnet3d(folder: str | Path, on_fault: OnFault = raise_fault) -> CategoryDataset:
    """Read ``Annotations/*.mat`` of the pictures that ``Image_sets`` lists; coarse angles stand in for missing ones.

    Raises:
        DataError: no list of pictures, no object, or a damaged record.
    """
    root = Path(folder)
    lists = {split: root / "Image_sets" / f"{split}.txt" for split in SPLITS}
    if not any(path.is_file() for path in lists.values()):
        raise DataError(describe(root / "Image_sets", "lists", "none", "train.txt, val.txt or test.txt"))
    views: list[AnnotatedView] = []
    for split, path in lists.items():
        for stem in _listed(path) if path.is_file() else ():
            image = _picture(root / "Images" / stem)
            views += _objects(root / "Annotations" / f"{stem}.mat", image, split, on_fault)
    return CategoryDataset(root, tuple(views))


def _objects(path: Path, image: Path, split: str, on_fault: OnFault) -> list[AnnotatedView]:
    """The annotated objects of a record; those without a viewpoint are passed over."""
    views: list[AnnotatedView] = []
    with reported(on_fault, FaultKind.POSE, path):
        try:
            from scipy.io import loadmat  # a heavy import that few data sets need

            data = path.read_bytes()
            _require_whole(data)
            record = loadmat(BytesIO(data), squeeze_me=True, struct_as_record=False)["record"]
            objects = list(np.atleast_1d(record.objects))
        except Exception as error:  # a damaged file may break any assumption
            raise fault(FaultKind.POSE, path, "record", f"{type(error).__name__}: {error}", "objects") from None
        for number, entry in enumerate(objects):
            with reported(on_fault), entry_of(path, f"object {number}", "an annotated object"):
                view = _view(entry, image, number, split)
                views += [] if view is None else [view]
    return views


def _require_whole(data: bytes) -> None:
    """``ValueError`` for a file whose parts do not add up: scipy's reader would end the process at some of these."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or struct.unpack_from(f"{order}H", data, 124)[0] != _VERSION:
        raise ValueError("no header of a MATLAB 5 file")
    for kind, body in _elements(memoryview(data)[128:], order):
        inner = _elements(memoryview(zlib.decompress(body)), order) if kind == _COMPRESSED else [(kind, body)]
        for inside, matrix in inner:
            _require_matrix(inside, matrix, order)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Types and bytes of the elements that fill a part of a file."""
    start = 0
    while start < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, start)
        body, small = start + 8, kind >> 16
        if small:  # size and up to four bytes of data in one
            kind, size, body = kind & 0xFFFF, small, start + 4
        if kind not in _SIZES or size > (4 if small else len(data) - body):
            raise ValueError(f"an element of type {kind} and {size} bytes where {len(data) - body} are left")
        yield kind, data[body : body + size]
        start += 8 if small else 8 + size + (0 if kind == _COMPRESSED else -size % 8)


def _require_matrix(kind: int, data: memoryview, order: str) -> None:
    """Numbers, cells and fields of an array must be as many as its dimensions say."""
    if kind != _MATRIX:
        raise ValueError(f"an element of type {kind} in the place of a matrix")
    parts = list(_elements(data, order))
    if not parts:  # a matrix of nothing
        return
    (_, flags), (_, sides), _, *values = parts
    about = struct.unpack_from(f"{order}I", flags)[0]
    array = about & 0xFF
    expected = math.prod(struct.unpack(f"{order}{len(sides) // 4}i", sides))
    if array == _STRUCT:
        (_, length), (_, names), *values = values
        expected *= len(names) // struct.unpack(f"{order}i", length)[0]
    if array in (_CELL, _STRUCT):
        found = len(values)
        for inside, matrix in values:
            _require_matrix(inside, matrix, order)
    elif array in _NUMBERS:
        found = sum(len(numbers) // _SIZES[inside] for inside, numbers in values)
        expected *= 2 if about & _COMPLEX else 1
    else:
        return
    if found != expected or expected < 0:
        raise ValueError(f"{found} values in an array of {expected}")


def _view(entry: Any, image: Path, number: int, split: str) -> AnnotatedView | None:
    """An object of a record; None where nobody annotated its viewpoint."""
    viewpoint = getattr(entry, "viewpoint", None)
    angles = [] if viewpoint is None else [_angle(viewpoint, name) for name in ("azimuth", "elevation", "theta")]
    if not angles or angles[0] is None or angles[1] is None:
        return None
    azimuth, elevation, theta = angles[0], angles[1], angles[2] or 0.0
    left, upper, right, lower = (float(value) for value in np.ravel(entry.bbox))
    return AnnotatedView(
        image,
        str(getattr(entry, "class")),
        checked_viewpoint([azimuth, elevation, theta]),
        shape=str(int(_scalar(entry, "cad_index") or 0) or ""),
        box=checked_box((left, upper, right, lower)),
        number=number,
        split=split,
        truncated=bool(_scalar(entry, "truncated") or 0),
        occluded=bool(_scalar(entry, "occluded") or 0),
        difficult=bool(_scalar(entry, "difficult") or 0),
        keypoints=bool(getattr(getattr(entry, "anchors", None), "_fieldnames", None)),  # a struct that holds any
    )


def _angle(viewpoint: Any, name: str) -> float | None:
    """A fine angle, or the coarse one in its place; None where there is neither."""
    fine = _scalar(viewpoint, name)
    return fine if fine is not None else _scalar(viewpoint, f"{name}_coarse")


def _scalar(entry: Any, name: str) -> float | None:
    """A field that is one number; None where it is empty, absent or NaN."""
    values = np.ravel(np.asarray(getattr(entry, name, [])))
    if not values.size or values.dtype == object:
        return None
    value = float(values[0])
    return None if math.isnan(value) else value


def _listed(path: Path) -> Iterable[str]:
    """The names in a list, a line each (of PASCAL's lists the first word)."""
    return [line.split()[0] for line in read_text(path, "a list of pictures").splitlines() if line.strip()]


def _picture(stem: Path) -> Path:
    """The picture of that name, whatever its ending; the first ending where there is none."""
    paths = [stem.with_name(stem.name + ending) for ending in _ENDINGS]
    return next((path for path in paths if is_there(path)), paths[0])
