"""What a BOP data set holds, and what is wrong with its lists of images, cameras, annotations and targets."""

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from posedistill.data.check.frame import check_frame
from posedistill.data.check.models import CheckedModels, check_models
from posedistill.data.check.overlays import SHEET_TILES, draw_objects
from posedistill.data.check.report import CheckReport, Summary
from posedistill.data.check.walk import Contents, Picture
from posedistill.data.faults import FaultKind, fault
from posedistill.data.formats.bop import TARGET_FILES, Frame, Target, load_targets, scene_folders
from posedistill.data.formats.bop_models import EVAL_FOLDERS
from posedistill.data.formats.bop_parse import load_scene
from posedistill.data.formats.bop_scene import Scene
from posedistill.data.formats.open_scene import FORMATS
from posedistill.errors import DataError, describe


def open_objects(root: Path, split: str | None, report: CheckReport) -> Contents:
    """Read a split, or all; the faults of models and annotation files are reported."""
    splits = [split] if split is not None else _splits(root)
    models = check_models(root, report.add)
    scenes = {name: [load_scene(folder, report.add) for folder in scene_folders(root / name)] for name in splits}
    for scene in (scene for name in splits for scene in scenes[name]):
        _check_lists(scene, report)
        _check_objects(scene, models, report)
    if tested := [scene for name in splits if name.startswith("test") for scene in scenes[name]]:
        _check_targets(root, tested, report)
    pictures = [
        Picture(frame.rgb, frame, (name,), scene.folder, partial(check_frame, frame, models.models))
        for name in splits
        for scene in scenes[name]
        for frame in scene.frames()
    ]
    summaries = {name: summarise(scenes[name]) for name in splits}
    return Contents(
        summaries, pictures, lambda shown, _, path: draw_objects(shown, models.models, path), tiles=SHEET_TILES
    )


def _splits(root: Path) -> list[str]:
    """The folders under ``root`` that hold numbered scene folders."""
    if not root.is_dir():
        expected = f"a data set in the BOP format, a .data file, viewpoints, or a scene of {', '.join(FORMATS)}"
        raise DataError(describe(root, "folder", "no such folder", expected))
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name not in EVAL_FOLDERS]
    splits = [path.name for path in folders if any(sub.name.isdecimal() and sub.is_dir() for sub in path.iterdir())]
    if not splits:
        expected = f"such as test/000001; or a scene of {', '.join(FORMATS)}"
        raise DataError(describe(root, "splits", "no folder with numbered scenes", expected))
    return splits


def _check_lists(scene: Scene, report: CheckReport) -> None:
    """Images, cameras and annotations must name the same frames."""
    cameras, ground_truth = scene.folder / "scene_camera.json", scene.folder / "scene_gt.json"
    if scene.listed or cameras not in report.files:  # else the file cannot be read, which is reported already
        for im_id in sorted(scene.image_names.keys() - scene.listed):
            found = f"no camera of {scene.image_path(im_id)}"
            report.add(fault(FaultKind.NO_CAMERA, cameras, str(im_id), found, "one for each image"))
        for im_id in sorted(scene.annotated - scene.listed - scene.image_names.keys()):
            found = "annotations of an image that does not exist"
            report.add(fault(FaultKind.MISSING_IMAGE, ground_truth, str(im_id), found, "an image"))
    if scene.annotations is not None and (scene.annotated or ground_truth not in report.files):
        for im_id in sorted(scene.listed - scene.annotated):
            expected = "a list of instances, empty if need be"
            report.add(fault(FaultKind.NO_ANNOTATION, ground_truth, str(im_id), "no entry", expected))


def _check_objects(scene: Scene, models: CheckedModels, report: CheckReport) -> None:
    if scene.annotations is None or models.listed is None:
        return
    for obj_id, count in Counter(scene.annotations.obj_ids.tolist()).items():
        if obj_id not in models.listed:
            path, found = scene.folder / "scene_gt.json", f"{obj_id}, {count} times"
            expected = f"one of {sorted(models.listed)} ({models.info_path})"
            report.add(fault(FaultKind.UNKNOWN_OBJECT, path, "obj_id", found, expected))


def _check_targets(root: Path, scenes: list[Scene], report: CheckReport) -> None:
    """Targets must name images of the test split and no more instances than are annotated."""
    frames = {(frame.scene_id, frame.im_id): frame for scene in scenes for frame in scene.frames()}
    annotated = {scene.scene_id for scene in scenes if scene.annotations is not None}
    for path in (root / name for name in TARGET_FILES if (root / name).exists()):
        targets = load_targets(path, report.add)
        images = {t if isinstance(t, tuple) else (t.scene_id, t.im_id) for t in targets}
        for scene_id, im_id in sorted(images - frames.keys()):
            key = f"scene {scene_id}, image {im_id}"
            report.add(fault(FaultKind.TARGET, path, key, "no such image", "an image of the test split"))
        for target in (t for t in targets if isinstance(t, Target)):
            frame = frames.get((target.scene_id, target.im_id))
            if frame is not None and target.scene_id in annotated:
                _check_target(path, target, frame, report)


def _check_target(path: Path, target: Target, frame: Frame, report: CheckReport) -> None:
    count = sum(instance.obj_id == target.obj_id for instance in frame.instances)
    if count < target.inst_count:
        key = f"scene {target.scene_id}, image {target.im_id}"
        found = f"{target.inst_count} of object {target.obj_id}"
        report.add(fault(FaultKind.TARGET, path, key, found, f"{count} as annotated"))


def summarise(scenes: list[Scene]) -> Summary:
    """Counts of frames, of objects, and of their visible shares in tenths 0-0.1, ..., 0.9-1 where these are known."""
    tables = [scene.annotations for scene in scenes if scene.annotations is not None]
    instances = Counter(obj_id for table in tables for obj_id in table.obj_ids.tolist())
    shares = np.concatenate([np.zeros(0), *(table.visib_fract for table in tables)])
    known = np.clip(shares[~np.isnan(shares)], 0.0, 1.0)
    tenths = np.histogram(known, bins=10, range=(0.0, 1.0))[0].tolist()
    objects = ", ".join(f"{obj_id}: {count}" for obj_id, count in sorted(instances.items()))
    lines = [f"{instances.total()} instances, per object  {objects or 'none (no annotations)'}"]
    lines += [f"visible share, tenths  {' '.join(map(str, tenths))}"] * bool(len(known))
    return Summary(f"{len(scenes)} scenes", sum(len(scene.camera_rows) for scene in scenes), lines)
