"""check_dataset: reports every fault of a data set, with counts, file names and an overlay picture."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from posedistill.data.check.categories import open_annotated
from posedistill.data.check.labels import open_labels
from posedistill.data.check.objects import open_objects
from posedistill.data.check.report import CheckReport
from posedistill.data.check.scenes import open_scenes
from posedistill.data.check.walk import Contents, Progress, choose, walk
from posedistill.data.formats.open_scene import scene_format
from posedistill.data.formats.viewpoint.annotations import categories_file
from posedistill.data.images import encode_image
from posedistill.errors import DataError, describe


def check_dataset(
    root: str | Path,
    split: str | None = None,
    overlay: str | Path | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    shapes: str | Path | None = None,
) -> CheckReport:
    """Check a data set, and report every fault instead of the first.

    ``root`` is a folder in the BOP format, the .data file of label folders, a scene in any known format, or annotated
    viewpoints of categories.

    Annotations are checked whole; images, depth and masks are decoded, and compared with the projected models.

    Args:
        split: the folder of scenes of a BOP data set, or a list of a .data file, all where None; of a scene train, test
            or all (whatever is there, whether a split names it or not), train and test where None; of viewpoints any
            that is stated, all where None.
        overlay: write a picture (png or jpg): frames with the projected models, or where the cameras stand and some of
            their photographs; those with a fault come first.
        limit: decode the files of so many frames alone, spread evenly; all where None.
        progress: called with the number of frames done and their total.
        shapes: of viewpoints: folder of the clouds or CAD models, where they lie outside of ``root``.

    Raises:
        DataError: ``root`` is no folder, has no split, ``limit`` is below 1, the overlay cannot be written, or
            ``shapes`` is no folder or named beside data of another kind.
    """
    root = Path(root)
    if limit is not None and limit < 1:  # the report would say that there are no faults
        raise DataError(describe(root, "limit", limit, "at least 1 frame to decode"))
    if overlay is not None:
        encode_image(Path(overlay), np.zeros((1, 1, 3), np.uint8))  # another ending is refused before hours of reading
    report = CheckReport(root)
    contents = _opener(root, shapes)(root, split, report)
    report.splits = contents.summaries
    flagged = [*walk(contents, report, limit, progress), *contents.flagged]
    if overlay is not None and contents.pictures:
        report.overlay = Path(overlay)
        contents.draw(choose(contents.pictures, flagged, contents.tiles), flagged, report.overlay)
    return report


def _opener(root: Path, shapes: str | Path | None) -> Callable[[Path, str | None, CheckReport], Contents]:
    """What reads a data set for checking, by its format."""
    if shapes is not None:
        if categories_file(root) is None:
            raise DataError(describe(root, "shapes", shapes, "none: only viewpoints of categories have them"))
        if not Path(shapes).is_dir():
            raise DataError(describe(shapes, "shapes", "no such folder", "a folder of clouds or CAD models"))
        return partial(open_annotated, shapes=Path(shapes))
    if root.suffix == ".data":
        return open_labels
    if scene_format(root) is not None:
        return open_scenes
    return open_objects if categories_file(root) is None else open_annotated
