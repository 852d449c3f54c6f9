"""BopWriter: makes a BOP data set frame by frame, from several processes, and goes on where a killed run stopped."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posedistill.data.formats.bop_parse import load_json, load_keyed_json
from posedistill.data.images import encode_image, write_image
from posedistill.errors import DataError, describe
from posedistill.files import link_file, write_file
from posedistill.geometry.cameras import Array
from posedistill.geometry.meshes import Mesh, model_info, save_ply

DEPTH_SCALE = 0.1
"""Millimetres per unit of the 16-bit depth images: 0.1 mm steps up to 6.5 m; frames that reach further use 1 mm."""

SCENE_FILES = {"gt_info": "scene_gt_info.json", "gt": "scene_gt.json", "camera": "scene_camera.json"}
"""Annotation key -> file, in the order of writing: a frame counts as merged once ``scene_camera.json`` lists it."""

SHARDS = ".annotations"


def _png_options(row_filter: int, *others: int) -> list[int]:
    """Fast compression with one fixed row filter, which older OpenCV cannot choose; newer tries all, far slower."""
    chosen = [cv2.IMWRITE_PNG_FILTER, row_filter] if hasattr(cv2, "IMWRITE_PNG_FILTER") else []
    return [cv2.IMWRITE_PNG_COMPRESSION, 1, *others, *chosen]


PNG_OPTIONS = _png_options(16)  # PNG_FILTER_SUB
# Flat areas are runs of equal bytes: PNG_FILTER_NONE, and run lengths in place of a search.
MASK_OPTIONS = _png_options(8, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)

Pose = tuple[int, Array, Array]
"""``(obj_id, R [3, 3] object to camera, t [3] mm)``"""


class BopWriter:
    """Writes the frames of a split.

    A frame's images come first, each under its name only once it is whole; a small annotation file comes last and
    marks the frame as complete. ``finish_scene`` merges these files into the scene's three json files. So processes
    may write different frames of one scene at once, and after a ``kill -9`` ``has_frame`` tells what is left to do.

    Args:
        root: the data set's folder. split: the folder of scenes under it, such as ``train``.
        jpeg_quality: of the ``rgb`` images; None writes png.
    """

    def __init__(self, root: str | Path, split: str, jpeg_quality: int | None = 95) -> None:
        self.split = Path(root) / split
        self.jpeg_quality = jpeg_quality
        self._merged: dict[int, frozenset[int]] = {}

    def scene_folder(self, scene_id: int) -> Path:
        """The folder of a scene."""
        return self.split / f"{scene_id:06d}"

    def has_frame(self, scene_id: int, im_id: int) -> bool:
        """Whether the frame is complete."""
        return self._shard(scene_id, im_id).exists() or im_id in self._merged_frames(scene_id)

    def add_frame(
        self,
        scene_id: int,
        im_id: int,
        image: NDArray[np.uint8] | Path,
        K: Array,
        poses: Sequence[Pose],
        depth_mm: NDArray[np.float32] | None,
        masks: Sequence[NDArray[np.bool_]],
        masks_visib: Sequence[NDArray[np.bool_]],
        scores: Sequence[float] | None = None,
    ) -> None:
        """Write one frame; an earlier frame with the same ids is replaced.

        Args:
            image: uint8 ``[H, W, 3]`` RGB, or a file to link to. K: ``[3, 3]``.
            depth_mm: ``[H, W]``, 0 or less where there is nothing.
            masks: per pose, bool ``[H, W]``, the whole silhouette inside the image. masks_visib: its visible part.
            scores: per pose 0..1, of the estimator that made it; None where people did.

        Raises:
            ValueError: shapes or counts that do not fit together.
            DataError: the disk is full or refuses the write; complete frames stay as they are.
        """
        _require_shapes(image, poses, depth_mm, masks, masks_visib)
        scene = self.scene_folder(scene_id)
        if isinstance(image, Path):
            link_file(image, scene / "rgb" / f"{im_id:06d}{image.suffix}")
        elif self.jpeg_quality is None:
            write_image(scene / "rgb" / f"{im_id:06d}.png", image, PNG_OPTIONS)
        else:
            quality = [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality]
            write_image(scene / "rgb" / f"{im_id:06d}.jpg", image, quality)
        scale = DEPTH_SCALE
        if depth_mm is not None:
            scale = DEPTH_SCALE if depth_mm.max(initial=0.0) <= DEPTH_SCALE * 65535 else 1.0
            depth = np.clip(np.rint(depth_mm / scale), 0, 65535).astype(np.uint16)
            write_image(scene / "depth" / f"{im_id:06d}.png", depth, PNG_OPTIONS)
        for gt_id, (mask, visible) in enumerate(zip(masks, masks_visib, strict=True)):
            name = f"{im_id:06d}_{gt_id:06d}.png"
            whole = _encode_mask(scene / "mask" / name, mask)
            write_file(scene / "mask" / name, whole)
            hidden = not np.array_equal(mask, visible)
            write_file(scene / "mask_visib" / name, _encode_mask(scene / name, visible) if hidden else whole)
        entries = [_pose_entry(*pose) for pose in poses]
        for entry, score in zip(entries, scores or [], strict=scores is not None):
            entry["score"] = float(score)
        annotation = {
            "camera": {"cam_K": np.asarray(K, dtype=np.float64).ravel().tolist(), "depth_scale": scale},
            "gt": entries,
            "gt_info": [_info_entry(*pair, depth_mm) for pair in zip(masks, masks_visib, strict=True)],
        }
        write_file(self._shard(scene_id, im_id), json.dumps(annotation))

    def finish_scene(self, scene_id: int) -> int:
        """Merge the scene's annotation files into its three json files and return its number of frames.

        Call it when nobody writes to the scene any more. It may be run again at any time, also after a kill in the
        middle and after further frames.
        """
        scene, shards = self.scene_folder(scene_id), sorted((self.scene_folder(scene_id) / SHARDS).glob("*.json"))
        added = {int(path.stem): load_json(path) for path in shards}
        count = 0
        for key, name in SCENE_FILES.items():
            merged = load_keyed_json(scene / name) if (scene / name).exists() else {}
            merged.update({im_id: annotation[key] for im_id, annotation in added.items()})
            write_file(scene / name, one_line_each(sorted(merged.items())))
            count = len(merged)
        shutil.rmtree(scene / SHARDS, ignore_errors=True)
        for leftover in scene.glob("*/.*.part"):  # of killed writers
            leftover.unlink()
        self._merged.pop(scene_id, None)
        return count

    def _shard(self, scene_id: int, im_id: int) -> Path:
        return self.scene_folder(scene_id) / SHARDS / f"{im_id:06d}.json"

    def _merged_frames(self, scene_id: int) -> frozenset[int]:
        if scene_id not in self._merged:
            path = self.scene_folder(scene_id) / SCENE_FILES["camera"]
            self._merged[scene_id] = frozenset(load_keyed_json(path) if path.exists() else ())
        return self._merged[scene_id]


def write_models(
    root: str | Path,
    meshes: Mapping[int, Mesh],
    folder: str = "models",
    infos: Mapping[int, Mapping[str, Any]] | None = None,
) -> None:
    """Write meshes as ``obj_XXXXXX.ply`` and their ``models_info.json``; they appear once all of them are whole.

    Args:
        infos: per object, keys to add to what follows from the mesh, above all BOP's ``symmetries_discrete`` and
            ``symmetries_continuous``.

    Raises:
        DataError: the disk is full or refuses the write.
    """
    target, partial = Path(root) / folder, Path(root) / f".{folder}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    table = [(obj_id, {**model_info(mesh), **(infos or {}).get(obj_id, {})}) for obj_id, mesh in sorted(meshes.items())]
    try:
        partial.mkdir(parents=True)
        for obj_id, mesh in meshes.items():
            save_ply(mesh, partial / f"obj_{obj_id:06d}.ply")
        names = [path.name for path in partial.iterdir()]  # textures lie beside their meshes
        write_file(partial / "models_info.json", one_line_each(table))
        target.mkdir(exist_ok=True)
        for name in [*names, "models_info.json"]:
            (partial / name).replace(target / name)
    except OSError as error:
        raise DataError(describe(target, "models", error.strerror, "a writable disk with free space")) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_camera(root: str | Path, K: Array, width: int, height: int) -> None:
    """Write ``camera.json``: the intrinsics most images of the data set share."""
    camera = {"fx": float(K[0, 0]), "fy": float(K[1, 1]), "cx": float(K[0, 2]), "cy": float(K[1, 2])}
    camera |= {"width": width, "height": height, "depth_scale": DEPTH_SCALE}
    write_file(Path(root) / "camera.json", json.dumps(camera, indent=2))


def _encode_mask(path: Path, mask: NDArray[np.bool_]) -> bytes:
    return encode_image(path, mask.astype(np.uint8) * 255, MASK_OPTIONS)


def _require_shapes(
    image: NDArray | Path,
    poses: Sequence[Pose],
    depth: NDArray | None,
    masks: Sequence[NDArray],
    masks_visib: Sequence[NDArray],
) -> None:
    if not isinstance(image, Path) and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3):
        raise ValueError(f"image: expected uint8 [H, W, 3], found {image.dtype} {list(image.shape)}")
    if not len(poses) == len(masks) == len(masks_visib):
        raise ValueError(f"{len(poses)} poses, {len(masks)} masks and {len(masks_visib)} visible masks")
    layers = [*masks, *masks_visib, *([] if depth is None else [depth])]
    shape = layers[0].shape if isinstance(image, Path) and layers else getattr(image, "shape", ())[:2]
    if any(layer.shape != shape for layer in layers):
        raise ValueError(f"masks and depth: expected {shape}, found {[layer.shape for layer in layers]}")


def _pose_entry(obj_id: int, R: Array, t: Array) -> dict[str, Any]:
    rotation, translation = np.asarray(R, dtype=np.float64), np.asarray(t, dtype=np.float64)
    if rotation.size != 9 or translation.size != 3:
        raise ValueError(f"object {obj_id}: R {rotation.shape}, t {translation.shape}")
    return {"cam_R_m2c": rotation.ravel().tolist(), "cam_t_m2c": translation.ravel().tolist(), "obj_id": int(obj_id)}


def _info_entry(mask: NDArray, visible: NDArray, depth: NDArray | None) -> dict[str, Any]:
    count, seen = int(np.count_nonzero(mask)), int(np.count_nonzero(visible))
    measured = count if depth is None else int(np.count_nonzero(mask & (depth > 0)))
    return {
        "bbox_obj": mask_box(mask),
        "bbox_visib": mask_box(visible),
        "px_count_all": count,
        "px_count_valid": measured,
        "px_count_visib": seen,
        "visib_fract": seen / count if count else 0.0,
    }


def mask_box(mask: NDArray) -> list[int]:
    """BOP's box of a mask: x, y of its first pixel, and from there to its last; ``-1 -1 -1 -1`` for an empty mask.

    >>> mask_box(np.pad(np.ones((2, 3), dtype=bool), 1))
    [1, 1, 2, 1]
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return [-1, -1, -1, -1]
    return [int(v) for v in (columns[0], rows[0], columns[-1] - columns[0], rows[-1] - rows[0])]


def one_line_each(items: Iterable[tuple[int, Any]]) -> str:
    """A json object with one line an entry, as BOP files are laid out."""
    return "{\n" + ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in items) + "\n}"
