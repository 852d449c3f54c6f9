"""Readers of PASCAL3D+ (Xiang et al., WACV 2014) and ObjectNet3D (Xiang et al., ECCV 2016) as they are handed out.

A .mat file beside each picture holds a record of its objects. The splits are those that published figures rest on
(PoseFromShape): of PASCAL3D+ the pictures of VOC 2012's list ``val`` are measured and all others train, those of
ImageNet included; ObjectNet3D has lists of its own.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from posedistill.data.faults import FaultKind, OnFault, fault, raise_fault, reported
from posedistill.data.formats.viewpoint.categories import AnnotatedView, CategoryDataset
from posedistill.data.formats.viewpoint.checks import checked_box, checked_viewpoint
from posedistill.errors import DataError, describe
from posedistill.files import is_there, read_text

VOC_VAL = "PASCAL/VOCdevkit/VOC2012/ImageSets/Main/val.txt"
"""Of PASCAL3D+: the pictures that are measured."""
SOURCES = ("imagenet", "pascal")
SPLITS = ("train", "val", "test")
_ENDINGS = (".JPEG", ".jpg", ".png")


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

            record = loadmat(path, squeeze_me=True, struct_as_record=False)["record"]
            objects = list(np.atleast_1d(record.objects))
        except Exception as error:  # a damaged file may break any assumption
            raise fault(FaultKind.POSE, path, "record", f"{type(error).__name__}: {error}", "objects") from None
        for number, entry in enumerate(objects):
            with reported(on_fault, FaultKind.POSE, path):
                try:
                    view = _view(entry, image, number, split)
                except (AttributeError, ValueError, TypeError, OverflowError) as error:
                    raise fault(FaultKind.POSE, path, f"object {number}", error, "an annotated object") from None
                views += [] if view is None else [view]
    return views


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
        keypoints=_filled(getattr(entry, "anchors", None)),
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


def _filled(anchors: Any) -> bool:
    """Whether a struct of keypoints holds any."""
    return bool(getattr(anchors, "_fieldnames", None))


def _listed(path: Path) -> Iterable[str]:
    """The names in a list, a line each (of PASCAL's lists the first word)."""
    return [line.split()[0] for line in read_text(path, "a list of pictures").splitlines() if line.strip()]


def _picture(stem: Path) -> Path:
    """The picture of that name, whatever its ending; the first ending where there is none."""
    paths = [stem.with_name(stem.name + ending) for ending in _ENDINGS]
    return next((path for path in paths if is_there(path)), paths[0])
