"""Readers of annotated viewpoints: tables (csv) of several columns and names, the fine-grained cars, and Pix3D.

PASCAL3D+ and ObjectNet3D as they are handed out are read by ``mat``.

Tables are read by the names of their columns, whatever their order: those of PoseFromShape, PoseContrast and 3DAug-Pose
(19 columns, made from PASCAL3D+ and ObjectNet3D), those of Click-Here CNN (Szeto and Corso, ICCV 2017), and one's own.
"""

import csv
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from posedistill.data.faults import Fault, FaultKind, OnFault, fault, raise_fault, reported
from posedistill.data.formats.viewpoint.categories import AnnotatedView, CategoryDataset
from posedistill.data.formats.viewpoint.checks import checked_box, checked_viewpoint, entry_of
from posedistill.data.formats.viewpoint.mat import VOC_VAL, read_objectnet3d, read_pascal3d
from posedistill.errors import DataError, describe
from posedistill.files import read_json, read_text
from posedistill.geometry.viewpoint import cars_viewpoint, pix3d_viewpoint

COLUMNS = {
    "image": ("im_path", "image"),
    "category": ("cat", "cls_name", "category"),
    "azimuth": ("azimuth",),
    "elevation": ("elevation",),
    "inplane": ("inplane_rotation", "inplane", "theta"),
    "shape": ("cad_index", "shape"),
    "split": ("set", "split"),
    "number": ("object", "number"),
    **{name: (name,) for name in ("left", "upper", "right", "lower", "truncated", "occluded", "difficult")},
    "keypoints": ("has_keypoints", "keypoints"),
}
"""What a table may hold, and the names its column may have."""
REQUIRED = ("image", "category", "azimuth", "elevation")
CLICK_HERE = "imgPath"
"""First column of Click-Here CNN's tables, whose header has 12 names for 9 columns."""
OLD_PIX3D = ("cat_id", "example_id", "slightly_occluded", "image_path", "model_name", "inplane_rotation")
"""Of PoseFromShape's table of Pix3D, whose pictures are cut out: label azimuths, and in-plane rotations in radians."""
_BOX = ("left", "upper", "right", "lower")
_YES_OR_NO = {"0": False, "1": True, "false": False, "true": True, "": False}
_TURN = 2 * math.pi
_TELLING = 12
"""Rows from which on angles of less than one radian turn are no accident."""


def read_table(path: str | Path, on_fault: OnFault = raise_fault) -> CategoryDataset:
    """Read a table of viewpoints in degrees; pictures are sought from its folder on.

    Args:
        on_fault: called at a row that cannot be read, which is then left out; raises by default.

    Raises:
        DataError: no table; a column is missing or there twice; an angle is no number, out of range, or in radians; a
            box is empty or a side of it missing; no row.
    """
    path = Path(path)
    expected = "a table (csv) of viewpoints"
    try:
        rows = list(csv.reader(io.StringIO(read_text(path, expected)), skipinitialspace=True))
    except csv.Error as error:
        raise DataError(describe(path, "file", error, expected)) from None
    header = [name.strip() for name in rows[0]] if rows else []
    parse = _row_parser(path, header)
    views: list[AnnotatedView] = []
    for line, cells in enumerate(rows[1:], start=2):
        if not any(cells):
            continue
        with reported(on_fault), entry_of(path, f"line {line}", "an annotated object"):
            views.append(parse(path.parent, cells))
    _refuse_radians(path, views)
    return CategoryDataset(path.parent, tuple(views))


def _row_parser(path: Path, header: list[str]) -> Callable[[Path, list[str]], AnnotatedView]:
    """What reads a row of the table, by the names of its columns."""
    if header[:1] == [CLICK_HERE]:
        return _click_here
    return _old_pix3d(header) if set(OLD_PIX3D) <= set(header) else _by_name(path, header)


def _by_name(path: Path, header: list[str]) -> Callable[[Path, list[str]], AnnotatedView]:
    """What reads a row under this header."""
    places = {key: [header.index(n) for n in names for _ in range(header.count(n))] for key, names in COLUMNS.items()}
    place = {key: columns[0] for key, columns in places.items() if columns}
    required = (*REQUIRED, *_BOX) if any(side in place for side in _BOX) else REQUIRED
    if missing := [" or ".join(COLUMNS[key]) for key in required if key not in place]:
        raise DataError(describe(path, "columns", ", ".join(header)[:200] or "none", f"{', '.join(missing)} too"))
    if repeated := [" or ".join(COLUMNS[key]) for key, columns in places.items() if len(columns) > 1]:
        raise DataError(describe(path, "columns", f"several of {', '.join(repeated)}", "one of each"))

    def parse(root: Path, cells: list[str]) -> AnnotatedView:
        if len(cells) != len(header):
            raise ValueError(f"{len(cells)} columns under a header of {len(header)}")
        row = {key: cells[column].strip() for key, column in place.items()}
        angles = [float(row["azimuth"]), float(row["elevation"]), float(row.get("inplane") or 0)]
        sides = [row.get(side) for side in _BOX]
        if any(sides) and not all(sides):
            raise ValueError(f"a box of {', '.join(_BOX)} {sides}: all four, or none")
        box = tuple(float(side) for side in sides if side) or None
        flags = {name: _flag(name, row[name]) for name in ("truncated", "occluded", "difficult") if name in row}
        if not row["category"] or not row["image"]:
            raise ValueError("a row without a category or a picture")
        return AnnotatedView(
            image=root / row["image"],
            category=row["category"],
            viewpoint=checked_viewpoint(angles),
            shape=row.get("shape", ""),
            box=checked_box(box),
            number=int(row.get("number") or 0),
            split=row.get("split") or "train",
            keypoints=_flag("keypoints", row["keypoints"]) if "keypoints" in row else True,
            **flags,
        )

    return parse


def _click_here(root: Path, cells: list[str]) -> AnnotatedView:
    """A row of picture, box, 0, azimuth, elevation, in-plane rotation; angles are whole degrees, modulo 360."""
    image = PureWindowsPath(cells[0]).as_posix()
    azimuth, elevation, inplane = (float(cell) for cell in cells[6:9])
    angles = [azimuth, (elevation + 180) % 360 - 180, (inplane + 180) % 360 - 180]
    box = tuple(float(cell) for cell in cells[1:5])
    category = PureWindowsPath(image).parent.name.partition("_")[0]
    return AnnotatedView(root / image, category, checked_viewpoint(angles), box=checked_box(box))


def _old_pix3d(header: list[str]) -> Callable[[Path, list[str]], AnnotatedView]:
    """A row of PoseFromShape's table: its azimuth counts the other way about, its camera turns clockwise."""

    def parse(root: Path, cells: list[str]) -> AnnotatedView:
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        azimuth, elevation, turn = (float(row[key]) for key in ("azimuth", "elevation", "inplane_rotation"))
        if abs(turn) > math.pi + 0.01:
            raise ValueError(f"inplane_rotation {turn:g}, beyond pi: this table has radians")
        return AnnotatedView(
            image=root / row["image_path"],
            category=row["cat_id"],
            viewpoint=checked_viewpoint([-azimuth, elevation, -math.degrees(turn)]),
            shape=row["model_name"],
            split="val",
            truncated=_flag("truncated", row["truncated"]),
            occluded=any(_flag(key, row[key]) for key in ("occluded", "slightly_occluded")),
        )

    return parse


def _flag(name: str, text: str) -> bool:
    if text.lower() not in _YES_OR_NO:
        raise ValueError(f"{name} {text!r}, neither 0 nor 1")
    return _YES_OR_NO[text.lower()]


def _refuse_radians(path: Path, views: list[AnnotatedView]) -> None:
    """Refuse a table all of whose azimuths lie within 0..6.3, not all of them whole."""
    azimuths = np.array([view.viewpoint[0] for view in views])
    azimuths = np.where(azimuths > 180, azimuths - 360, azimuths)
    if len(views) >= _TELLING and np.abs(azimuths).max() <= _TURN + 0.01 and (azimuths % 1 != 0).any():
        found = f"azimuths of {azimuths.min():.2f} to {azimuths.max():.2f} in {len(views)} rows"
        raise DataError(describe(path, "azimuth", found, "degrees; these look like radians"))


def read_cars(path: str | Path, on_fault: OnFault = raise_fault) -> CategoryDataset:
    """Read the fine-grained cars (Wang et al., 2018): a json of radians by picture, the pictures whole in ``images``.

    A picture's split ``test`` is called ``val``, its ``model_id`` names its shape; the category is ``car``.

    Raises:
        DataError: no such file, a key that is missing, angles that are no numbers or in degrees.
    """
    path = Path(path)
    views: list[AnnotatedView] = []
    for name, entry in _entries(path, dict).items():
        with reported(on_fault), entry_of(path, name, "azimuth, elevation and theta"):
            angles = [float(entry[key]) for key in ("azimuth", "elevation", "theta")]
            split, shape = str(entry.get("split", "train")), str(entry.get("model_id", ""))
            views.append(
                AnnotatedView(
                    path.parent / "images" / name,
                    "car",
                    cars_viewpoint(_radians(path, name, angles)),
                    shape,
                    split="val" if split == "test" else split,
                )
            )
    return CategoryDataset(path.parent, tuple(views))


def _radians(path: Path, name: str, angles: list[float]) -> np.ndarray:
    azimuth, elevation, theta = angles
    if not all(map(math.isfinite, angles)):
        raise fault(FaultKind.POSE, path, name, f"angles {angles}", "numbers")
    if abs(azimuth) > _TURN + 1 or abs(elevation) > math.pi / 2 or abs(theta) > math.pi:
        found = f"azimuth {azimuth:g}, elevation {elevation:g}, theta {theta:g}"
        raise fault(FaultKind.POSE, path, name, found, "radians: within 2 pi, pi / 2 and pi; these look like degrees")
    return np.array(angles)


def read_pix3d(path: str | Path, on_fault: OnFault = raise_fault) -> CategoryDataset:
    """Read ``pix3d.json`` (Sun et al., CVPR 2018), which is for testing alone: every object is of split ``val``.

    Raises:
        DataError: no such file, a key that is missing, or numbers that cannot be.
    """
    path = Path(path)
    views: list[AnnotatedView] = []
    expected = "img, category, cam_position, inplane_rotation, bbox, model, truncated, occluded"
    for number, entry in enumerate(_entries(path, list)):
        with reported(on_fault), entry_of(path, f"entry {number}", expected):
            camera, turn = np.array(entry["cam_position"], float), float(entry["inplane_rotation"])
            if not camera.any():
                raise ValueError("cam_position 0, 0, 0: a camera within the model has no viewpoint")
            if abs(turn) > math.pi + 0.01:
                raise ValueError(f"inplane_rotation {turn:g}, beyond pi: this file has radians")
            viewpoint = pix3d_viewpoint(camera, turn)
            occluded = bool(entry["occluded"]) or bool(entry.get("slightly_occluded", False))
            views.append(
                AnnotatedView(
                    path.parent / entry["img"],
                    str(entry["category"]),
                    checked_viewpoint(viewpoint.tolist()),
                    str(entry["model"]),
                    checked_box(entry["bbox"]),
                    split="val",
                    truncated=bool(entry["truncated"]),
                    occluded=occluded,
                )
            )
    return CategoryDataset(path.parent, tuple(views))


def _entries(path: Path, kind: type) -> Any:
    entries = read_json(path, "annotations of viewpoints")
    if not isinstance(entries, kind):
        raise Fault(FaultKind.JSON, path, describe(path, "file", type(entries).__name__, f"a json {kind.__name__}"))
    return entries


FORMATS: Mapping[str, tuple[str, Callable[..., CategoryDataset]]] = {
    "cars": ("annotations.json", read_cars),
    "Pix3D": ("pix3d.json", read_pix3d),
    "table": ("annotations.csv, or FOLDER.txt in a folder of that name", read_table),
    "PASCAL3D+": (f"Annotations/CATEGORY_pascal and {VOC_VAL}", read_pascal3d),
    "ObjectNet3D": ("Annotations/*.mat and Image_sets", read_objectnet3d),
}
"""The formats: the file that tells each, and its reader."""


def categories_file(path: str | Path) -> tuple[Path, str] | None:
    """The file of annotations in a folder (or the file, or folder, itself) and which of ``FORMATS`` it is, if any."""
    path = Path(path)
    if path.is_file():
        form = "table" if path.suffix in (".csv", ".txt") else "Pix3D" if path.name == "pix3d.json" else "cars"
        return (path, form) if path.suffix in (".csv", ".txt", ".json") else None
    names = {"annotations.csv": "table", "annotations.json": "cars", "pix3d.json": "Pix3D"}
    found = [(path / name, form) for name, form in {**names, f"{path.name}.txt": "table"}.items()]
    if (path / VOC_VAL).is_file():
        found.append((path, "PASCAL3D+"))
    elif (path / "Annotations").is_dir() and (path / "Image_sets").is_dir():
        found.append((path, "ObjectNet3D"))
    return next((pair for pair in found if pair[0].exists()), None)


def open_categories(path: str | Path, on_fault: OnFault = raise_fault) -> CategoryDataset:
    """Read annotated viewpoints, of whichever of ``FORMATS`` they are.

    Raises:
        DataError: a folder of none of the formats, or any fault of the data.
    """
    found = categories_file(path)
    if found is not None:
        return FORMATS[found[1]][1](found[0], on_fault=on_fault)
    expected = "; ".join(f"{name}: {sign}" for name, (sign, _) in FORMATS.items())
    missing = "no such folder" if not Path(path).exists() else "files of another kind"
    raise DataError(describe(path, "annotations", missing, expected))
