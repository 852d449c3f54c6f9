"""check_dataset: reports every fault of a data set, with counts, file names and an overlay picture."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from posedistill.data.check.frame import FrameResult, check_frame
from posedistill.data.check.models import CheckedModels, check_models
from posedistill.data.check.overlay import TILES, draw_sheet
from posedistill.data.check.report import VISIBILITY_BINS, CheckReport, Faults, SplitSummary, require_some
from posedistill.data.check.scene import check_scene
from posedistill.data.faults import Fault, FaultKind
from posedistill.data.formats.bop import TARGET_FILES, Frame, Target, load_targets, scene_folders
from posedistill.data.formats.bop_models import EVAL_FOLDERS
from posedistill.data.formats.bop_parse import load_scene
from posedistill.data.formats.bop_scene import Scene
from posedistill.data.formats.open_scene import FORMATS, scene_format
from posedistill.errors import DataError, describe
from posedistill.machine import cores

Progress = Callable[[int, int], None]


def check_dataset(
    root: str | Path,
    split: str | None = None,
    overlay: str | Path | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Check a data set in the BOP format and report every fault instead of stopping at the first.

    A scene of photographs with camera poses is known by its files and checked by ``check_cameras.check_scene``.
    Annotations are checked whole; images, depth and masks are decoded and compared with the projected models.

    Args:
        split: the folder of scenes; all where None.
        overlay: write a contact sheet (png or jpg) of frames with the projected models, faulty frames first.
        limit: decode the files of so many frames alone, spread evenly; all where None.
        progress: called with the number of frames done and their total.

    Raises:
        DataError: ``root`` is no folder, has no split, ``limit`` is below 1, or the overlay cannot be written.
    """
    root = Path(root)
    require_some(root, limit)
    if scene_format(root) is not None:
        return check_scene(root, split, overlay, limit, progress)
    faults = Faults()
    splits = [split] if split is not None else _splits(root)
    models = check_models(root, faults.add)
    scenes = {name: _load_scenes(root / name, models, faults) for name in splits}
    frames = [(name, frame) for name in splits for scene in scenes[name] for frame in scene.frames()]
    chosen = set(range(len(frames)) if limit is None else np.linspace(0, len(frames) - 1, limit).astype(int).tolist())
    summaries = {name: _summarise(scenes[name]) for name in splits}
    results: list[FrameResult] = []
    first_seen: dict[bytes, Path] = {}
    flagged: list[Frame] = []
    jobs = ((frame, index in chosen) for index, (_, frame) in enumerate(frames))
    for (name, frame), result in zip(frames, _checked(jobs, models), strict=True):
        before = faults.counts.total()
        for found in result.faults:
            faults.add(found)
        _note_duplicate(result, first_seen, faults)
        if faults.counts.total() > before and len(flagged) < TILES:
            flagged.append(frame)
        results.append(FrameResult(frame, size=result.size))
        if result.size is not None:
            summaries[name].sizes[f"{result.size[0]}x{result.size[1]}"] += 1
        summaries[name].checked += len(results) - 1 in chosen
        if progress is not None:
            progress(len(results), len(frames))
    _check_sizes(results, faults)
    tested = [scene for name in splits if name.startswith("test") for scene in scenes[name]]
    if tested:
        _check_targets(root, tested, faults)
    report = CheckReport(root, dict(faults.counts), faults.messages, summaries)
    if overlay is not None and frames:
        report.overlay = Path(overlay)
        draw_sheet(_overlay_frames([frame for _, frame in frames], flagged), models.models, report.overlay)
    return report


def _splits(root: Path) -> list[str]:
    """The folders under ``root`` that hold numbered scene folders."""
    if not root.is_dir():
        expected = f"a data set in the BOP format, or a scene of {', '.join(FORMATS)}"
        raise DataError(describe(root, "folder", "no such folder", expected))
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name not in EVAL_FOLDERS]
    splits = [path.name for path in folders if any(sub.name.isdecimal() and sub.is_dir() for sub in path.iterdir())]
    if not splits:
        expected = f"such as test/000001; or a scene of {', '.join(FORMATS)}"
        raise DataError(describe(root, "splits", "no folder with numbered scenes", expected))
    return splits


def _load_scenes(folder: Path, models: CheckedModels, faults: Faults) -> list[Scene]:
    scenes = []
    for scene_folder in scene_folders(folder):
        scene = load_scene(scene_folder, faults.add)
        scenes.append(scene)
        _check_lists(scene, faults)
        _check_objects(scene, models, faults)
    return scenes


def _check_lists(scene: Scene, faults: Faults) -> None:
    """Images, cameras and annotations must name the same frames."""
    cameras, ground_truth = scene.folder / "scene_camera.json", scene.folder / "scene_gt.json"
    if scene.listed or cameras not in faults.files:  # else the file cannot be read, which is reported already
        for im_id in sorted(scene.image_names.keys() - scene.listed):
            message = describe(scene.image_path(im_id), str(im_id), "no entry in scene_camera.json", "a camera")
            faults.add(Fault(FaultKind.NO_CAMERA, cameras, message))
        for im_id in sorted(scene.annotated - scene.listed - scene.image_names.keys()):
            message = describe(ground_truth, str(im_id), "annotations of an image that does not exist", "an image")
            faults.add(Fault(FaultKind.MISSING_IMAGE, ground_truth, message))
    if scene.annotations is not None and (scene.annotated or ground_truth not in faults.files):
        for im_id in sorted(scene.listed - scene.annotated):
            message = describe(ground_truth, str(im_id), "no entry", "a list of instances, empty if need be")
            faults.add(Fault(FaultKind.NO_ANNOTATION, ground_truth, message))


def _check_objects(scene: Scene, models: CheckedModels, faults: Faults) -> None:
    if scene.annotations is None or models.listed is None:
        return
    for obj_id, count in Counter(scene.annotations.obj_ids.tolist()).items():
        if obj_id not in models.listed:
            expected = f"one of {sorted(models.listed)} ({models.info_path})"
            message = describe(scene.folder / "scene_gt.json", "obj_id", f"{obj_id}, {count} times", expected)
            faults.add(Fault(FaultKind.UNKNOWN_OBJECT, scene.folder / "scene_gt.json", message))


def _checked(jobs: Iterable[tuple[Frame, bool]], models: CheckedModels) -> Iterator[FrameResult]:
    """Frame checks in order, on all cores, a bounded number ahead (OpenCV decodes outside of Python's lock)."""
    workers = cores()
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(jobs, 16 * workers)):
            yield from pool.map(lambda job: check_frame(job[0], models.models, job[1]), batch)


def _note_duplicate(result: FrameResult, first_seen: dict[bytes, Path], faults: Faults) -> None:
    if result.digest is None:
        return
    path = result.frame.rgb
    first = first_seen.setdefault(result.digest, path)
    if first is not path:
        message = describe(path, "image", f"the pixels of {first}", "a frame of its own")
        faults.add(Fault(FaultKind.DUPLICATE_FRAME, path, message))


def _check_sizes(results: list[FrameResult], faults: Faults) -> None:
    """All images of a scene come from one camera: report those of another size than most."""
    by_scene: dict[Path, list[FrameResult]] = {}
    for result in results:
        if result.size is not None:
            by_scene.setdefault(result.frame.scene.folder, []).append(result)
    for scene_results in by_scene.values():
        usual = Counter(result.size for result in scene_results).most_common(1)[0][0]
        assert usual is not None
        for result in scene_results:
            if result.size is not None and result.size != usual:
                found, expected = "{}x{}".format(*result.size), "{}x{} as the scene's other images".format(*usual)
                path = result.frame.rgb
                faults.add(Fault(FaultKind.IMAGE_SIZE, path, describe(path, "size", found, expected)))


def _check_targets(root: Path, scenes: list[Scene], faults: Faults) -> None:
    """Targets must name images of the test split and no more instances than are annotated."""
    frames = {(frame.scene_id, frame.im_id): frame for scene in scenes for frame in scene.frames()}
    annotated = {scene.scene_id for scene in scenes if scene.annotations is not None}
    for path in (root / name for name in TARGET_FILES if (root / name).exists()):
        targets = load_targets(path, faults.add)
        if isinstance(targets, set):
            images, counted = targets, []
        else:
            images, counted = {(target.scene_id, target.im_id) for target in targets}, targets
        for scene_id, im_id in sorted(images - frames.keys()):
            message = describe(path, f"scene {scene_id}, image {im_id}", "no such image", "an image of the test split")
            faults.add(Fault(FaultKind.TARGET, path, message))
        for target in counted:
            frame = frames.get((target.scene_id, target.im_id))
            if frame is not None and target.scene_id in annotated:
                _check_target(path, target, frame, faults)


def _check_target(path: Path, target: Target, frame: Frame, faults: Faults) -> None:
    count = sum(instance.obj_id == target.obj_id for instance in frame.instances)
    if count < target.inst_count:
        key = f"scene {target.scene_id}, image {target.im_id}"
        found = f"{target.inst_count} of object {target.obj_id}"
        faults.add(Fault(FaultKind.TARGET, path, describe(path, key, found, f"{count} as annotated")))


def _summarise(scenes: list[Scene]) -> SplitSummary:
    summary = SplitSummary(scenes=len(scenes), frames=sum(len(scene.camera_rows) for scene in scenes))
    for scene in scenes:
        if scene.annotations is None:
            continue
        summary.instances.update(scene.annotations.obj_ids.tolist())
        known = scene.annotations.visib_fract[~np.isnan(scene.annotations.visib_fract)]
        counts, _ = np.histogram(np.clip(known, 0.0, 1.0), bins=VISIBILITY_BINS, range=(0.0, 1.0))
        summary.visibility = [a + int(b) for a, b in zip(summary.visibility, counts, strict=True)]
    return summary


def _overlay_frames(frames: list[Frame], flagged: list[Frame]) -> list[tuple[Frame, bool]]:
    """Up to ``TILES`` frames: faulty ones (at most half, if others exist), then others spread over the data set."""
    clean = [frame for frame in frames if all(frame is not other for other in flagged)]
    faulty = flagged[: max(TILES // 2, TILES - len(clean))]
    count = min(TILES - len(faulty), len(clean))
    spread = np.linspace(0, max(len(clean) - 1, 0), count).astype(int)
    return [(frame, True) for frame in faulty] + [(clean[index], False) for index in spread]
