"""What a data set of viewpoints holds, and what is wrong with it: pictures, boxes, angles, shapes."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from posedistill.data.check.overlays import SHEET_TILES, draw_box, read_or_black, write_sheet
from posedistill.data.check.report import CheckReport, Summary
from posedistill.data.check.walk import Contents, Picture, Size
from posedistill.data.faults import Fault, FaultKind, fault, reported
from posedistill.data.formats.viewpoint.annotations import categories_file, open_categories
from posedistill.data.formats.viewpoint.categories import AnnotatedView, CategoryDataset
from posedistill.data.formats.viewpoint.clouds import ShapeFolder, read_cloud
from posedistill.data.packs.category_frames import checked_box
from posedistill.errors import DataError, describe
from posedistill.geometry.cameras import Array
from posedistill.geometry.draw.poses import Image
from posedistill.geometry.viewpoint import from_pix3d, viewpoint_rotation

SHAPE_FOLDERS = ("shapes", "pointcloud")
"""Where a data set's own shapes are looked for; Pix3D's, which have its own axes, in ``PIX3D_SHAPES``."""
PIX3D_SHAPES = "model"
_POINTS = 400
_GREEN = (40, 230, 90)


def open_annotated(root: Path, split: str | None, report: CheckReport, shapes: Path | None = None) -> Contents:
    """Read all splits, or one; faults are reported, what merely looks wrong is told.

    Args:
        shapes: folder of the clouds or CAD models; default: the data set's own.

    Raises:
        DataError: no object of the split.
    """
    dataset = open_categories(root, report.add)
    if split is not None:
        if split not in (known := {view.split for view in dataset}):
            raise DataError(describe(root, "split", repr(split), f"one of {', '.join(sorted(known))}"))
        dataset = dataset.take([row for row, view in enumerate(dataset) if view.split == split])
    objects: dict[Path, list[AnnotatedView]] = {}
    for view in dataset:
        objects.setdefault(view.image, []).append(view)
    clouds = _clouds(dataset, report, shapes)
    report.warnings += _odd(dataset)
    return Contents(
        {name: _summarise(dataset, name) for name in sorted({view.split for view in dataset})},
        [
            Picture(image, views[0], tuple({view.split: None for view in views}), inspect=partial(_boxes, views))
            for image, views in objects.items()
        ],
        lambda shown, _, path: write_sheet(
            [(_drawn(picture.path, objects[picture.path], clouds), picture.path.name, bad) for picture, bad in shown],
            path,
        ),
        tiles=SHEET_TILES,
    )


def _boxes(views: Sequence[AnnotatedView], size: Size | None, decoded: bool) -> list[Fault]:
    """Boxes beyond the picture."""
    found: list[Fault] = []
    for view in views if size is not None else ():
        with reported(found.append, FaultKind.BOX, view.image):
            checked_box(view, size or (0, 0))
    return found


def _clouds(dataset: CategoryDataset, report: CheckReport, folder: Path | None) -> dict[tuple[str, str], Array]:
    """The shapes in a folder, or that the data set has itself; one that is named and is not there is a fault."""
    is_pix3d = folder is None and (dataset.root / PIX3D_SHAPES).is_dir()
    own = (dataset.root / name for name in SHAPE_FOLDERS)
    folder = folder or (dataset.root if is_pix3d else next((path for path in own if path.is_dir()), None))
    clouds: dict[tuple[str, str], Array] = {}
    if folder is None:
        return clouds
    shapes = ShapeFolder(folder)
    for category, shape in sorted({(view.category, view.shape) for view in dataset if view.shape}):
        path = shapes.find(category, shape)
        if path is None:
            expected = f"a cloud or CAD model {category}/{shape}"
            report.add(fault(FaultKind.MODEL_FILE, folder / category / shape, "shape", "no such file", expected))
            continue
        with reported(report.add, FaultKind.MODEL_FILE, path):
            cloud = read_cloud(path, _POINTS)
            clouds[category, shape] = from_pix3d(cloud) if is_pix3d else cloud
    return clouds


def _odd(dataset: CategoryDataset) -> list[str]:
    """Angles that nobody measured, and categories that only one split has."""
    found = []
    if zeros := sum(not view.viewpoint.any() for view in dataset):
        told = f"{zeros} objects whose angles are all 0"
        found.append(
            describe(dataset.root, "angles", told, "measured ones; PASCAL3D+ writes so what it did not annotate")
        )
    splits = {name: {view.category for view in dataset if view.split == name} for name in ("train", "val")}
    for name, others in (("train", "val"), ("val", "train")):
        if splits[name] and (lonely := sorted(splits[others] - splits[name])):
            told = f"no object of {', '.join(lonely)}"
            found.append(describe(dataset.root, f"split {name}", told, f"those of {others}, unless they are novel"))
    return found


def _summarise(dataset: CategoryDataset, split: str) -> Summary:
    views = [view for view in dataset if view.split == split]
    counts = Counter(view.category for view in views)
    low, high = np.percentile([view.viewpoint[1] for view in views], [5, 95])
    shown = ", ".join(f"{name} ({count})" for name, count in counts.most_common(12))
    more = f" and {len(counts) - 12} more" if len(counts) > 12 else ""
    clean = sum(view.clean for view in views)
    form = categories_file(dataset.root)
    lines = [f"{shown}{more}", f"{clean} whole and unhidden; elevation {low:.0f} to {high:.0f} degrees (90 % of them)"]
    head = f"{form[1] if form else 'viewpoints'}, {len(counts)} categories, {len(views)} objects"
    return Summary(head, len({view.image for view in views}), lines)


def _drawn(path: Path, views: Sequence[AnnotatedView], clouds: dict[tuple[str, str], Array]) -> Image:
    """A picture with its boxes, and in each the shape as the viewpoint has it."""
    image = read_or_black(path).copy()
    for view in views:
        left, upper, right, lower = view.edges((image.shape[1], image.shape[0]))
        draw_box(image, np.array([[left, upper], [right, lower]]))
        cloud = clouds.get((view.category, view.shape))
        if cloud is None:
            continue
        points = (cloud @ viewpoint_rotation(view.viewpoint).T)[:, :2]
        extent = np.ptp(points, axis=0)
        middle = np.array([left + right, upper + lower]) / 2
        scale = max(right - left, lower - upper) / extent.max()
        for x, y in np.rint(middle + scale * (points - points.min(axis=0) - extent / 2)).astype(int).tolist():
            cv2.circle(image, (x, y), 1, _GREEN, -1)
    return image
