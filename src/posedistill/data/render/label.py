"""label_dataset: the poses of any estimator, as a csv holds them, become the labels of images that have none.

The result is a BOP folder like any other: images linked, ``scene_gt.json`` with the csv's poses and their scores, masks
ray-cast from the models, where nearer objects hide the farther ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.bop import BopDataset, Frame
from posedistill.data.formats.bop_models import EVAL_FOLDERS
from posedistill.data.formats.bop_writer import BopWriter, Pose
from posedistill.data.images import image_size
from posedistill.data.render.dataset import claim
from posedistill.data.render.raycast import Model, build_model, cast, compose, pixel_rays
from posedistill.errors import DataError, describe
from posedistill.files import link_file
from posedistill.geometry.meshes import Mesh
from posedistill.geometry.rotations import mean_rotation
from posedistill.poses import Poses

LABELS = "labels.json"
"""What a folder was labelled from."""
_SHOWN = 10

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LabelReport:
    """What became of a csv's poses.

    Attributes:
        frames: labelled frames. poses: their labels. unlabelled: frames without one.
        surplus: poses of an object that had a better one in the same image. rejected: poses below the least score.
        elsewhere: poses of images that are not among the chosen ones, or that are unknown.
        ranked: whether the scores left 0..1 and were replaced by ranks.
    """

    frames: int
    poses: int
    unlabelled: int
    surplus: int
    rejected: int
    elsewhere: int
    ranked: bool

    def __str__(self) -> str:
        """One line for people."""
        counts = {"surplus": self.surplus, "below the least score": self.rejected, "of other images": self.elsewhere}
        left_out = "".join(f", {count} {what}" for what, count in counts.items() if count)
        ranked = "; scores are ranks, for the csv's leave 0..1" if self.ranked else ""
        return f"{self.poses} poses label {self.frames} frames, {self.unlabelled} have none{left_out}{ranked}"


def label_dataset(
    dataset: BopDataset,
    csv: Path,
    out: Path,
    *,
    min_score: float = 0.0,
    ignore_unknown: bool = False,
    progress: Progress | None = None,
) -> LabelReport:
    """Label the frames of a data set with the poses of a BOP results csv, in a BOP folder of its own.

    Of each object the best-scored pose in an image counts. Frames without a pose are left out. An interrupted call goes
    on with what it left.

    Args:
        dataset: gives images, cameras and models; its annotations, where it has any, are not looked at.
        min_score: poses below it are left out (of the csv's scores; of ranks where these are outside 0..1).
        ignore_unknown: leave out poses of images and objects that the data set does not have.

    Raises:
        DataError: a damaged csv; poses of unknown images or objects (named); no pose for any frame; a folder that holds
            something else; a full disk.
    """
    estimates = Poses.from_bop_csv(csv)
    known = _known(dataset, estimates)
    if not known.all() and not ignore_unknown:
        raise DataError(describe(csv, "rows", _unknown(dataset, estimates.select(~known)), _expected(dataset)))
    scores, ranked = unit_scores(estimates.score)
    table = replace(estimates, score=scores).select(known)
    chosen = {(frame.scene_id, frame.im_id): frame for frame in dataset.frames}
    here = np.array([pair in chosen for pair in zip(table.scene_id.tolist(), table.im_id.tolist(), strict=True)], bool)
    good = here & (table.score >= min_score)
    best = best_of_each(table.select(good))
    rows: dict[Frame, list[int]] = {}
    for row, pair in enumerate(zip(best.scene_id.tolist(), best.im_id.tolist(), strict=True)):
        rows.setdefault(chosen[pair], []).append(row)
    if not rows:
        found = f"no pose of score {min_score} or more for any of {len(dataset.frames)} images"
        raise DataError(describe(csv, "rows", found, "poses of these images"))
    obj_ids = np.unique(best.obj_id).tolist()
    meshes = {obj_id: dataset.mesh(obj_id, looks=False) for obj_id in obj_ids}
    _claim(out, dataset, csv, min_score, meshes)
    models = {obj_id: build_model(mesh, obj_id, ambient_rays=0) for obj_id, mesh in meshes.items()}
    _write(dataset, best, rows, models, out, progress)
    rejected = int((here & ~good).sum())
    surplus, elsewhere = int(good.sum()) - len(best), len(estimates) - int(here.sum())
    return LabelReport(len(rows), len(best), len(dataset) - len(rows), surplus, rejected, elsewhere, ranked)


def best_of_each(estimates: Poses) -> Poses:
    """Of each object in each image the pose with the best score (the first of equals), ordered by image and object."""
    order = np.lexsort((-estimates.score, estimates.obj_id, estimates.im_id, estimates.scene_id))
    ids = np.column_stack([estimates.scene_id, estimates.im_id, estimates.obj_id])[order]
    return estimates.select(order[np.unique(ids, axis=0, return_index=True)[1]])


def unit_scores(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Scores in 0..1 as they are; others (logits, counts of inliers) as ranks, and whether that was needed.

    A score's rank is the share of all scores that are no better.

    >>> unit_scores(np.array([12.0, 3.0, 40.0, 3.0]))[0].tolist()
    [0.75, 0.5, 1.0, 0.5]
    """
    if not len(scores) or (scores.min() >= 0 and scores.max() <= 1):
        return scores, False
    return np.searchsorted(np.sort(scores), scores, side="right") / len(scores), True


def _write(
    dataset: BopDataset,
    table: Poses,
    rows: dict[Frame, list[int]],
    models: dict[int, Model],
    out: Path,
    progress: Progress | None,
) -> None:
    writer = BopWriter(out, dataset.split)
    for done, (frame, members) in enumerate(rows.items(), start=1):
        if not writer.has_frame(frame.scene_id, frame.im_id):
            # Rotations were rounded on their way through the csv.
            poses = [(int(table.obj_id[row]), mean_rotation(table.R[row][None]), table.t[row]) for row in members]
            masks, visible = cast_masks(frame, poses, models)
            scores = table.score[members].tolist()
            writer.add_frame(frame.scene_id, frame.im_id, frame.rgb, frame.K, poses, None, masks, visible, scores)
        if progress is not None:
            progress(done, len(rows))
    for scene_id in {frame.scene_id for frame in rows}:
        writer.finish_scene(scene_id)
    _link_models(dataset, out)


def cast_masks(
    frame: Frame, poses: Sequence[Pose], models: Mapping[int, Model]
) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]]:
    """The silhouettes of the posed models, and what of each no nearer one hides."""
    width, height = image_size(frame.rgb)
    rays = pixel_rays(frame.K, width, height)
    merged = compose([cast(models[obj_id], R, t, frame.K, rays) for obj_id, R, t in poses], width, height)
    count = range(len(poses))
    return [merged.silhouette(index) for index in count], [merged.owner == index for index in count]


def _link_models(dataset: BopDataset, out: Path) -> None:
    for name in EVAL_FOLDERS:
        for path in sorted((dataset.root / name).glob("*")):
            if path.is_file():
                link_file(path, out / name / path.name)
    if (camera := dataset.root / "camera.json").exists():
        link_file(camera, out / "camera.json")


def _claim(out: Path, dataset: BopDataset, csv: Path, min_score: float, meshes: Mapping[int, Mesh]) -> None:
    """Note what the folder is labelled from, or refuse one that holds something else."""
    if not (out / LABELS).exists() and out.exists() and any(out.iterdir()):
        raise DataError(describe(out, "folder", "one that is not empty", "a new folder"))
    frames = [(frame.scene_id, frame.im_id) for frame in dataset.frames]
    about: dict[str, Any] = {
        "images": str((dataset.root / dataset.split).resolve()),
        "csv": sha256(csv.read_bytes()).hexdigest(),
        "min_score": min_score,
        "frames": f"{len(frames)}, {sha256(repr(frames).encode()).hexdigest()[:16]}",
    }
    claim(out / LABELS, about | {f"shape of object {obj_id}": mesh.shape_digest() for obj_id, mesh in meshes.items()})


def _known(dataset: BopDataset, estimates: Poses) -> NDArray[np.bool_]:
    """``[N]`` whether the data set has the image and the object; scenes it was not opened with are not judged."""
    images = {scene.scene_id: scene.camera_rows for scene in dataset.scenes}
    folders = {int(path.name) for path in (dataset.root / dataset.split).iterdir() if path.name.isdecimal()}
    others = folders - images.keys()
    ids = zip(estimates.scene_id.tolist(), estimates.im_id.tolist(), estimates.obj_id.tolist(), strict=True)
    known = [obj in dataset.models_info and (scene in others or im in images.get(scene, ())) for scene, im, obj in ids]
    return np.array(known, dtype=bool)


def _unknown(dataset: BopDataset, estimates: Poses) -> str:
    objects = sorted(set(estimates.obj_id.tolist()) - dataset.models_info.keys())
    rows = estimates.select(np.isin(estimates.obj_id, list(dataset.models_info)))
    images = sorted(set(zip(rows.scene_id.tolist(), rows.im_id.tolist(), strict=True)))
    named = [f"{scene}/{im}" for scene, im in images[:_SHOWN]] + (["..."] if len(images) > _SHOWN else [])
    parts = [f"unknown objects {objects}"] * bool(objects) + [
        f"{len(images)} unknown images ({', '.join(named)})"
    ] * bool(images)
    return f"{len(estimates)} poses of {' and of '.join(parts)}"


def _expected(dataset: BopDataset) -> str:
    objects = sorted(dataset.models_info)
    return f"images of {dataset.root / dataset.split} and objects of {objects} (--ignore-unknown leaves others out)"
