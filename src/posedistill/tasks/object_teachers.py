"""What a teacher that is no single network says of the test frames: an ensemble's best poses, or the rows of a csv."""

from pathlib import Path

import numpy as np

from posedistill.data.formats.bop import BopDataset
from posedistill.deploy.estimate import FrameQuery
from posedistill.geometry.objects import ObjectTable
from posedistill.poses import Poses
from posedistill.recipe.data import BopSource, DataSettings

SAME_PLACE = 0.5
"""Two poses of an object closer than this, in diameters, are taken for the same instance."""


def csv_poses(csv: Path | None, data: DataSettings, dataset: BopDataset) -> Poses | None:
    """The rows of the teacher's csv for the test frames; None where it says nothing of them.

    A csv names images by number. It is about the test frames where they lie in a folder that it labels for training.
    """
    test = data.test.source
    trained = [source for source in data.train if isinstance(source, BopSource) and source.poses == csv]
    if csv is None or not isinstance(test, BopSource) or all(_place(test) != _place(source) for source in trained):
        return None
    table = Poses.from_bop_csv(csv)
    frames = {(frame.scene_id, frame.im_id) for frame in dataset.frames}
    pairs = zip(table.scene_id.tolist(), table.im_id.tolist(), strict=True)
    chosen = np.array([pair in frames for pair in pairs], dtype=bool) & np.isin(table.obj_id, data.objects)
    return table.select(chosen) if chosen.any() else None


def best_poses(table: Poses, wanted: list[FrameQuery], objects: ObjectTable) -> Poses:
    """The best-scored poses, no two of one object in one place, and no more of it than there are boxes."""
    sought = {
        (entry.scene_id, entry.im_id, obj_id): list(entry.labels).count(obj_id)
        for entry in wanted
        for obj_id in set(entry.labels)
    }
    kept: dict[tuple[int, int, int], list[int]] = {}
    for row in np.argsort(-table.score, kind="stable").tolist():
        key = (int(table.scene_id[row]), int(table.im_id[row]), int(table.obj_id[row]))
        rows = kept.setdefault(key, [])
        reach = SAME_PLACE * objects.diameters[objects.index(key[2])]
        apart = (np.linalg.norm(table.t[rows] - table.t[row], axis=1) > reach).all() if rows else True
        if apart and len(rows) < sought.get(key, 0):
            rows.append(row)
    return table.select(np.array(sorted(row for rows in kept.values() for row in rows), dtype=np.int64))


def _place(source: BopSource) -> Path:
    return (source.bop / source.split).resolve()
