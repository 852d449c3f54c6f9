"""BopDataset: reads data sets in the BOP format (scenewise folders of images, poses, models, targets, detections)."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedistill.data.faults import OnFault, raise_fault
from posedistill.data.formats.bop_models import (
    EVAL_FOLDERS,
    TRAIN_FOLDERS,
    find_models,
    load_models_info,
    mesh_path,
    require_objects,
)
from posedistill.data.formats.bop_parse import load_json_list, load_scene, parse_numbers
from posedistill.data.formats.bop_scene import Frame, Instance, Scene
from posedistill.data.images import read_depth_image
from posedistill.errors import DataError, describe
from posedistill.files import kept, read_text, shipped
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes import Mesh, load_mesh
from posedistill.geometry.objects import ObjectTable

__all__ = ["BopDataset", "Detection", "Frame", "Instance", "Target", "read_depth", "read_detections"]

TARGET_FILES = ("test_targets_bop19.json", "test_targets_bop24.json")
TARGET_VISIBILITY = 0.1
"""BOP-19 asks for the instances of which at least this share is visible."""


@dataclass(frozen=True, slots=True)
class Target:
    """``inst_count`` poses of an object are to be found in an image."""

    scene_id: int
    im_id: int
    obj_id: int
    inst_count: int


@dataclass(frozen=True, slots=True)
class Detection:
    """A detector's box ``[4]`` x, y, width, height in pixels; ``time`` in seconds, -1 where not known."""

    scene_id: int
    im_id: int
    obj_id: int
    score: float
    bbox: Array
    time: float


_models_info = kept(load_models_info)


class BopDataset:
    """A split of a BOP data set; every annotation file is parsed once, images are read when asked for.

    Args:
        root: the folder that holds the split and the models.
        split: the folder of scenes, such as ``test`` or ``train_pbr``.
        scenes: scene numbers to read; all where None.
        frames: a text file with one frame a line: an image id (``000003``), ``scene/id``, or the image's path. The
            frames come in its order. A relative path may also start from ``root``, and lists
            of the shipped recipes are found wherever one is.
        obj_ids: keep the instances of these objects alone, and of annotated scenes the frames that hold one.

    Raises:
        DataError: a missing folder or file, json that cannot be read, a missing key, a wrong count of numbers, an
            invalid rotation, two images of one id, a listed frame that does not exist, an object absent from
            ``models_info.json``.
    """

    root: Path
    split: str
    obj_ids: tuple[int, ...] | None
    scenes: list[Scene]
    frames: list[Frame]

    def __init__(
        self,
        root: str | Path,
        split: str = "test",
        scenes: Iterable[int] | None = None,
        frames: str | Path | None = None,
        obj_ids: Collection[int] | None = None,
    ) -> None:
        root = Path(root)
        self._hold(root, split, [load_scene(folder) for folder in scene_folders(root / split, scenes)], obj_ids)
        if frames is not None:
            path = shipped(Path(frames), "recipes/frames", ".txt") if Path(frames).suffix else Path(frames)
            self.frames = _listed_frames(path if path.exists() else self.root / path, self.frames)
        self._is_part = scenes is not None or frames is not None
        if find_models(self.root, EVAL_FOLDERS) is not None:
            tables = [scene.annotations for scene in self.scenes if scene.annotations is not None]
            annotated = {obj_id for table in tables for obj_id in np.unique(table.obj_ids).tolist()}
            require_objects(self.models_info, annotated, self._models_info_path)

    def _hold(self, root: Path, split: str, scenes: list[Scene], obj_ids: Collection[int] | None) -> None:
        """Take scenes that have been read, of whatever format, with the instances of the chosen objects."""
        self.root, self.split = root, split
        self.obj_ids = None if obj_ids is None else tuple(obj_ids)
        self.scenes = scenes if obj_ids is None else [scene.with_objects(obj_ids) for scene in scenes]
        self.frames = [frame for scene in self.scenes for frame in scene.frames()]
        self._is_part = False

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def models_dir(self) -> Path:
        """The folder of the coloured models; the evaluation models where there are no others."""
        return self._models_folder(TRAIN_FOLDERS)

    @property
    def eval_models_dir(self) -> Path:
        """The folder of the models that scores are defined on."""
        return self._models_folder(EVAL_FOLDERS)

    @cached_property
    def models_info(self) -> dict[int, dict[str, Any]]:
        """Object id -> diameter, box and symmetries (mm), of the evaluation models."""
        return _models_info(self._models_info_path)

    def mesh_path(self, obj_id: int, eval: bool = False) -> Path:
        """The mesh of an object, of the coloured or of the evaluation models.

        Raises:
            DataError: no such file.
        """
        return mesh_path(self.eval_models_dir if eval else self.models_dir, obj_id)

    def mesh(self, obj_id: int, eval: bool = False, looks: bool = True) -> Mesh:
        """The mesh of an object in mm; ``looks``: whether colours and textures count, see ``load_mesh``.

        Raises:
            DataError: a missing or damaged file.
        """
        return load_mesh(self.mesh_path(obj_id, eval), looks)

    def objects(self, obj_ids: Collection[int] | None = None) -> ObjectTable:
        """The object table of these objects; by default of those the data set was opened with, or of all models."""
        chosen = obj_ids or self.obj_ids or tuple(self.models_info)
        require_objects(self.models_info, set(chosen), self._models_info_path)
        return ObjectTable.from_models_info(self.models_info, tuple(chosen))

    def frame(self, scene_id: int, im_id: int) -> Frame:
        """The frame with these ids; ``DataError`` where the data set has none."""
        try:
            return self._frames_by_id[scene_id, im_id]
        except KeyError:
            found = f"no frame {im_id} in scene {scene_id}"
            raise DataError(describe(self.root / self.split, "im_id", found, "an annotated image")) from None

    def targets(self) -> list[Target]:
        """What to estimate: the data set's target file, restricted to the chosen scenes, frames and objects.

        Where there is no target file, for splits other than ``test...`` (the file is not about them), and for files
        without objects (BOP-24 detection), every annotated instance of which a tenth is visible is a target, as in
        the BOP-19 definition.
        """
        found = self._target_file
        if found is None:
            return self._targets_of(self.frames)
        if isinstance(found, set):
            found = self._targets_of(frame for frame in self.frames if (frame.scene_id, frame.im_id) in found)
        return [
            target
            for target in found
            if (not self._is_part or (target.scene_id, target.im_id) in self._frames_by_id)
            and (self.obj_ids is None or target.obj_id in self.obj_ids)
        ]

    def target_images(self) -> list[tuple[int, int]]:
        """(scene_id, im_id) of the images in which anything may be sought, where no targets are told (BOP-24).

        Those that a target file of the split names, else every frame; restricted to the chosen scenes and frames.
        """
        found = self._target_file
        named = None if found is None else found if isinstance(found, set) else {(t.scene_id, t.im_id) for t in found}
        images = [(frame.scene_id, frame.im_id) for frame in self.frames]
        return images if named is None else [image for image in images if image in named]

    @property
    def has_target_file(self) -> bool:
        """Whether a file of the data set lists what to estimate in this split."""
        return self._target_file is not None

    @cached_property
    def _target_file(self) -> "list[Target] | set[tuple[int, int]] | None":
        names = TARGET_FILES if self.split.startswith("test") else ()
        paths = [self.root / name for name in names if (self.root / name).exists()]
        return load_targets(paths[0]) if paths else None

    @cached_property
    def _frames_by_id(self) -> dict[tuple[int, int], Frame]:
        return {(frame.scene_id, frame.im_id): frame for frame in self.frames}

    @cached_property
    def _models_info_path(self) -> Path:
        return self.eval_models_dir / "models_info.json"

    def _models_folder(self, folders: tuple[str, ...]) -> Path:
        folder = find_models(self.root, folders)
        if folder is None:
            raise DataError(describe(self.root, "models", "no such folder", f"one of {', '.join(folders)}"))
        return folder

    def _targets_of(self, frames: Iterable[Frame]) -> list[Target]:
        targets = []
        for frame in frames:
            seen = [inst.obj_id for inst in frame.instances if inst.visib_fract >= TARGET_VISIBILITY]
            targets += [Target(frame.scene_id, frame.im_id, obj_id, seen.count(obj_id)) for obj_id in sorted(set(seen))]
        return targets


def scene_folders(split: Path, scenes: Iterable[int] | None = None) -> list[Path]:
    """The numbered scene folders of a split, ordered by number.

    Raises:
        DataError: no such split, no scenes in it, or a chosen scene that does not exist.
    """
    if not split.is_dir():
        raise DataError(describe(split.parent, split.name, "no such folder", "a folder of scenes"))
    folders = {int(path.name): path for path in split.iterdir() if path.name.isdecimal() and path.is_dir()}
    if not folders:
        raise DataError(describe(split, "scenes", "no numbered folder", "at least one, such as 000001"))
    if scenes is None:
        return [folders[scene] for scene in sorted(folders)]
    chosen = sorted(set(scenes))
    absent = [scene for scene in chosen if scene not in folders]
    if absent:
        raise DataError(describe(split, "scenes", f"no scene {absent}", f"some of {sorted(folders)}"))
    return [folders[scene] for scene in chosen]


def load_targets(path: Path, on_fault: OnFault = raise_fault) -> list[Target] | set[tuple[int, int]]:
    """A BOP target file: targets, or the (scene, image) pairs alone where it names no objects (BOP-24)."""
    entries = load_json_list(path, on_fault)
    keys = ["scene_id", "im_id", "obj_id", "inst_count"]
    names_objects = any(isinstance(entry, dict) and "obj_id" in entry for _, entry in entries)
    columns = [
        parse_numbers(path, entries, key, 1, on_fault, whole=True) for key in (keys if names_objects else keys[:2])
    ]
    table = np.concatenate(columns, axis=1)
    rows = table[~np.isnan(table).any(axis=1)].astype(np.int64).tolist()
    return [Target(*row) for row in rows] if names_objects else {(scene_id, im_id) for scene_id, im_id in rows}


def read_detections(path: str | Path) -> tuple[list[Detection], str]:
    """Read detections in the BOP (COCO) json format; segmentations are left out.

    Returns:
        The detections that can be used, and how many others there are and why, in words; empty where there are none.

    Raises:
        DataError: json that cannot be read, a missing key, a wrong count of numbers.
    """
    path = Path(path)
    entries = load_json_list(path)
    columns = [parse_numbers(path, entries, key, 1, whole=True) for key in ("scene_id", "image_id", "category_id")]
    ids = np.concatenate(columns, axis=1).astype(np.int64)
    scores, boxes = parse_numbers(path, entries, "score", 1)[:, 0], parse_numbers(path, entries, "bbox", 4)
    times = parse_numbers(path, entries, "time", 1, default=-1.0)[:, 0]
    empty, outside = boxes[:, 2:].min(axis=1) <= 0, (boxes[:, :2] + boxes[:, 2:]).min(axis=1) <= 0
    reasons = {
        "a score below 0": scores < 0,
        "a width or height of 0 or less": empty,
        "a box outside": outside & ~empty,
    }
    counts = [f"{rows.sum()} with {reason}" for reason, rows in reasons.items() if rows.any()]
    bad = np.logical_or.reduce(list(reasons.values()))
    left_out = f"{bad.sum()} of {len(bad)} detections are left out: {', '.join(counts)}" if counts else ""
    if len(bad) and bad.all():
        raise DataError(describe(path, "detections", left_out, "detections that can be used"))
    rows = zip(ids[~bad].tolist(), scores[~bad].tolist(), boxes[~bad], times[~bad].tolist(), strict=True)
    return [Detection(scene, image, obj, score, box, time) for (scene, image, obj), score, box, time in rows], left_out


def read_depth(frame: Frame) -> NDArray[np.float32]:
    """A frame's depth in mm, float32 ``[H, W]``, 0 where nothing was measured; ``DataError`` where it has none."""
    if frame.depth is None:
        path = frame.scene.folder / "depth"
        raise DataError(describe(path, f"{frame.im_id:06d}", "no such file", "a depth image"))
    return read_depth_image(frame.depth, frame.depth_scale)


def _listed_frames(path: Path, frames: list[Frame]) -> list[Frame]:
    """The frames a list names, in its order, each once."""
    candidates: dict[int, list[Frame]] = {}
    for frame in frames:
        candidates.setdefault(frame.im_id, []).append(frame)
    listed: dict[Frame, None] = {}
    for number, line in enumerate(map(str.strip, read_text(path, "a list of frames").split("\n")), start=1):
        if not line or line.startswith("#"):
            continue
        scene_id, im_id = _parse_listed(path, number, line)
        matches = [f for f in candidates.get(im_id, []) if scene_id in (None, f.scene_id)]
        if len(matches) != 1:
            found = (
                f"{line!r}, which is in scenes {[f.scene_id for f in matches]}" if matches else f"{line!r}, no frame"
            )
            expected = "one frame of the chosen scenes and objects (scene/id names the scene)"
            raise DataError(describe(path, f"line {number}", found, expected))
        listed[matches[0]] = None
    return list(listed)


def _parse_listed(path: Path, number: int, line: str) -> tuple[int | None, int]:
    """Scene (None where the line names none) and image id of a line such as ``000006/rgb/000003.jpg``."""
    *parts, name = re.sub(r"\.\w+$", "", line.replace("\\", "/")).split("/")
    if not name.isdecimal() or len(name) > 9:
        raise DataError(describe(path, f"line {number}", repr(line)[:80], "an image id or path, such as 000003"))
    if parts and not parts[-1].isdecimal():  # the image folder
        parts.pop()
    return (int(parts[-1]) if parts and parts[-1].isdecimal() and len(parts[-1]) < 10 else None), int(name)
